"""The idempotent producer of at-least-once mode.

Without a transaction every record's delivery counts, and a callback for each that arrives would cost more than the
record. So there are two clients: one for records, whose callback runs for failed ones only, and one for the few
messages whose offset is wanted. Order between the two is of no account; `flush` waits for both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException

from streamcore.clock import Clock
from streamcore.errors import AccessDenied, LogUnavailable, TransactionAborted, broken
from streamcore.log.kafka.errors import REMEDY, Events, calling_back
from streamcore.log.kafka.producer import KafkaReceipt, drop, made
from streamcore.log.kafka.queueing import Queue
from streamcore.log.kafka.settings import ClientSettings, with_events
from streamcore.log.port import Headers, Membership, OffsetCommit
from streamcore.types import Partition, TopicPartition

logger = logging.getLogger(__name__)


class IdempotentProducer:
    def __init__(self, settings: ClientSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._events = Events(settings, logger, "producer")
        self._records = self._made(only_errors=True)
        self._events.serve = self._records.poll
        self._record_queue = Queue(self._records, self._events, clock)
        self._frames: ck.Producer | None = None
        self._receipts: list[KafkaReceipt] = []
        self._failed: tuple[KafkaError, str] | None = None

    def init(self, timeout_s: float) -> None:
        """Asks for the cluster, so that one that cannot be reached is found out here."""
        try:
            self._records.list_topics(timeout=timeout_s)
        except KafkaException as error:
            raise self._events.error(error, "producer: init") from error

    def produce(
        self,
        topic: str,
        partition: Partition | None,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        times: Sequence[int] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> None:
        try:
            self._record_queue.put(topic, partition, values, keys, times, headers, self._delivered)
        except KafkaException as error:
            raise self._events.error(error, f"producing to {topic}") from error

    def send(self, tp: TopicPartition, value: bytes, key: bytes | None = None) -> KafkaReceipt:
        if self._frames is None:
            self._frames = self._made(only_errors=False)
        receipt = KafkaReceipt()
        self._receipts.append(receipt)
        queue = Queue(self._frames, self._events, self._clock)
        try:
            queue.put(tp.topic, tp.partition, [value], [key], None, None, receipt.delivered)
        except KafkaException as error:
            raise self._events.error(error, f"producing to {tp}") from error
        return receipt

    def flush(self, timeout_s: float) -> None:
        """Forgets what failed, once raised: the epoch is run again."""
        deadline = self._clock.monotonic_s() + timeout_s
        try:
            waiting = calling_back(self._records.flush, timeout_s)
            if self._frames is not None:
                waiting += calling_back(self._frames.flush, max(0.0, deadline - self._clock.monotonic_s()))
        except KafkaException as error:
            raise self._events.error(error, "producer: flush") from error
        receipts, self._receipts = self._receipts, []
        failed, self._failed = self._failed, None
        if failed is None:
            failed = next(((receipt.error, "a frame") for receipt in receipts if receipt.error is not None), None)
        if failed is not None and REMEDY.get(failed[0].code()) is AccessDenied:
            raise self._events.error(failed[0], f"producer: {failed[1]} was not taken")
        if failed is not None:
            raise TransactionAborted(f"producer: {failed[1]} was not taken: {failed[0].str()} ({failed[0].name()})")
        if waiting:
            raise LogUnavailable(
                f"producer: {waiting} messages are not acknowledged after {timeout_s:g} s",
                "look whether the brokers run, and whether the partitions have a leader and enough replicas",
            )

    def begin(self) -> None:
        broken("begin() on a producer without transactions")

    def send_offsets(self, offsets: Sequence[OffsetCommit], membership: Membership, timeout_s: float) -> None:
        broken("send_offsets() on a producer without transactions")

    def commit(self, timeout_s: float) -> None:
        broken("commit() on a producer without transactions")

    def abort(self, timeout_s: float) -> None:
        broken("abort() on a producer without transactions")

    def close(self) -> None:
        self._events.close()
        drop(self._records)
        if self._frames is not None:
            drop(self._frames)
            self._frames = None

    def _delivered(self, error: KafkaError | None, message: ck.Message) -> None:
        if error is not None and self._failed is None:
            self._failed = error, f"a record for {message.topic()}[{message.partition()}]"

    def _made(self, only_errors: bool) -> ck.Producer:
        return made(with_events(self._settings.idempotent(only_errors), logger, self._events.on_error), self._settings)
