"""The worker's one producer, and when it must be a fresh one.

Law 4: a send_offsets, commit or abort that failed or took SLOW_CALL_MS may have been retried inside librdkafka, which
speaks the old transaction protocol; its twin can reach the next transaction (KAFKA-17754). So the producer is
`tainted`, and the next `open` replaces it: a new client with the same id, whose init fences everything older.

In exactly-once mode `open` also begins the transaction, at the first record of an epoch and not before. In
at-least-once mode there is an idempotent producer and nothing to begin. Processing thread only.
"""

from __future__ import annotations

from collections.abc import Callable

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import InvariantBroken, StreamcoreError
from streamcore.log.port import Log, Producer
from streamcore.runtime.watchdog import Watchdog


class Producers:
    def __init__(
        self,
        log: Log,
        transactional_id: str | None,
        clock: Clock,
        rebuilt: Callable[[], None],
        watchdog: Watchdog | None = None,
    ) -> None:
        self._log = log
        self._id = transactional_id
        self._clock = clock
        self._rebuilt = rebuilt
        self._watchdog = watchdog
        self._producer: Producer | None = None
        self._tainted = False
        self._made = False
        self.in_transaction = False

    @property
    def transactional(self) -> bool:
        return self._id is not None

    def fence(self) -> None:
        """A fresh producer, initialised: every earlier one of this id is fenced and its transaction ended. Raises
        RetryError when the log does not answer; the next call begins anew."""
        self._drop()
        if self._made:
            self._rebuilt()
        self._made = True
        producer = self._log.producer(self._id)
        try:
            producer.init(limits.CALL_TIMEOUT_S)
        except BaseException:
            producer.close()
            raise
        self._producer = producer
        self._tainted = False

    def fence_if_abandoned(self) -> None:
        """A transaction that was dropped open is ended now, so that nobody waits for its timeout."""
        if self._producer is None:
            self.fence()

    def open(self) -> Producer:
        """The producer, inside a transaction where there are any."""
        if self._producer is None or (self._tainted and not self.in_transaction):
            self.fence()
        producer = self._producer
        if producer is None:
            raise InvariantBroken("no producer after fence()")
        if self._id is not None and not self.in_transaction:
            producer.begin()
            self.in_transaction = True
        return producer

    def timed(self, call: Callable[[], None]) -> None:
        """A call of the transaction protocol, under law 4. Passes its error on, tainted."""
        begun = self._clock.monotonic_s()
        if self._watchdog is not None:
            self._watchdog.enter()
        try:
            call()
        except StreamcoreError:
            self._tainted = True
            raise
        finally:
            if self._watchdog is not None:
                self._watchdog.leave()
        if (self._clock.monotonic_s() - begun) * 1000 >= limits.SLOW_CALL_MS:
            self._tainted = True

    def taint(self) -> None:
        """A transaction failed: after a refused record the same client's next one would fail as well, its sequence
        numbers having skipped [measured on 4.3.1]."""
        self._tainted = True

    def ended(self) -> None:
        """The transaction is decided."""
        self.in_transaction = False

    def abandon(self) -> None:
        """Drop the producer with its transaction; the next fence() ends that one on the broker."""
        self._drop()

    def close(self) -> None:
        self._drop()

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        self.in_transaction = False
        self._tainted = False
        if producer is not None:
            producer.close()
