"""The logs that the port's suite runs against, and what a test may do to them.

A `Backend` is one cluster and its time. A `Process` is one client of it, whose link can be cut, and whose next request
of a kind can be held back while the client, as librdkafka does, sends it again.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from streamcore import limits
from streamcore.clock import Clock, SystemClock
from streamcore.errors import LogUnavailable
from streamcore.log.kafka import KafkaLog
from streamcore.log.local import LocalLog
from streamcore.log.local.wire import Request
from streamcore.log.port import Consumer, Log, Run
from streamcore.types import Offset, Partition, TopicPartition
from tests.kafka import proxy

T = TypeVar("T")
Late = Literal["EndTxn", "TxnOffsetCommit"]

SESSION_MS = 6_000
"""The shortest that brokers allow by default."""
_DEADLINE_S = 30.0
_numbers = itertools.count()


def unique(name: str) -> str:
    """A name that nobody else on this broker uses."""
    return f"{name}-{os.getpid()}-{time.time_ns() // 1_000_000:x}-{next(_numbers)}"


def eventually(what: Callable[[], T | None], within_s: float = _DEADLINE_S) -> T:
    """The first answer with something in it. `what` itself waits (a poll, a call)."""
    deadline = time.monotonic() + within_s
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, "did not happen in time"


class LateRequest(Protocol):
    def wait(self) -> None:
        """Until it was caught."""
        ...

    def deliver(self) -> None:
        """It reaches the broker now; what the broker makes of it nobody hears."""
        ...


class Process(Protocol):
    log: Log

    def hold(self, request: Late) -> LateRequest: ...

    def cut(self) -> None: ...

    def restore(self) -> None: ...


class Backend(Protocol):
    name: str
    log: Log
    clock: Clock

    def process(self) -> Process: ...

    def close(self) -> None: ...


# --- the broker itself -----------------------------------------------------------------------------------------------


class KafkaBackend:
    name = "kafka"

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self.clock: Clock = SystemClock()
        self.log: Log = KafkaLog(bootstrap, session_timeout_ms=SESSION_MS)
        self._proxies: list[proxy.Proxy] = []

    def process(self) -> Process:
        self._proxies.append(proxy.Proxy(self._bootstrap.split(",")[0]))
        return _KafkaProcess(self._proxies[-1])

    def close(self) -> None:
        for each in self._proxies:
            each.close()


class _KafkaProcess:
    _API: Mapping[Late, int] = {"EndTxn": proxy.END_TXN, "TxnOffsetCommit": proxy.TXN_OFFSET_COMMIT}

    def __init__(self, link: proxy.Proxy) -> None:
        self.log: Log = KafkaLog(link.bootstrap, session_timeout_ms=SESSION_MS)
        self._link = link

    def hold(self, request: Late) -> LateRequest:
        return _KafkaLate(self._link.hold(self._API[request], cut=True))

    def cut(self) -> None:
        self._link.cut()

    def restore(self) -> None:
        self._link.restore()


class _KafkaLate:
    def __init__(self, held: proxy.Held) -> None:
        self._held = held

    def wait(self) -> None:
        self._held.wait()

    def deliver(self) -> None:
        self._held.deliver()


# --- the model --------------------------------------------------------------------------------------------------------


class ManualClock:
    """Moves by its own sleeps only."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def sleep_s(self, seconds: float) -> None:
        self.now_s += seconds


class LocalBackend:
    def __init__(self, path: Path | None) -> None:
        """In memory when there is no path."""
        self.name = "memory" if path is None else "rocks"
        self.clock: Clock = ManualClock()
        self._made = (
            LocalLog.memory(self.clock, auto_create_partitions=None, session_timeout_ms=SESSION_MS)
            if path is None
            else LocalLog.open(path, self.clock, auto_create_partitions=None, session_timeout_ms=SESSION_MS)
        )
        self.log: Log = self._made

    def process(self) -> Process:
        return _LocalProcess(self._made, self.clock)

    def close(self) -> None:
        self._made.close()


class _LocalProcess:
    def __init__(self, log: LocalLog, clock: Clock) -> None:
        self._wire = _Link(clock)
        self.log: Log = log.connect(self._wire)

    def hold(self, request: Late) -> LateRequest:
        self._wire.late = _LocalLate(request)
        return self._wire.late

    def cut(self) -> None:
        self._wire.is_cut = True

    def restore(self) -> None:
        self._wire.is_cut = False


class _LocalLate:
    def __init__(self, request: Late) -> None:
        self.request = request
        self.deliveries: list[Callable[[], object]] = []

    def wait(self) -> None:
        assert self.deliveries, f"no {self.request} came by"

    def deliver(self) -> None:
        try:
            self.deliveries.pop()()
        except Exception as refusal:  # the broker's answer, which the client is not there to hear
            self.refusal = refusal


class _Link:
    """A wire as librdkafka makes one of a network: a request that gets no answer is sent again, after 100 ms."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.late: _LocalLate | None = None
        self.is_cut = False

    def call(self, request: Request, deliver: Callable[[], T]) -> T:
        if self.is_cut:
            raise LogUnavailable(f"{request}: the link is cut")
        late = self.late
        if late is not None and late.request == request:
            self.late = None
            late.deliveries.append(deliver)
            self._clock.sleep_s(0.1)
        return deliver()

    def alive(self) -> bool:
        return not self.is_cut


# --- helpers -----------------------------------------------------------------------------------------------------


class Member:
    """One worker's consumer: remembers what its listener is told, and starts nothing by itself."""

    def __init__(self, log: Log, group: str, slot: int, topics: list[str], *, headers: bool = False) -> None:
        self.told: list[tuple[str, list[TopicPartition]]] = []
        self.owned: list[TopicPartition] = []
        self.during_revoked: Callable[[], None] = lambda: None
        self.consumer: Consumer = log.consumer(group, f"{group}.{slot}", headers=headers)
        self.consumer.subscribe(topics, self)

    def assigned(self, tps: list[TopicPartition]) -> None:
        self.told.append(("assigned", sorted(tps)))
        self.owned = sorted(tps)

    def revoked(self, tps: list[TopicPartition]) -> None:
        self.told.append(("revoked", sorted(tps)))
        self.during_revoked()
        self.owned = []

    def lost(self, tps: list[TopicPartition]) -> None:
        self.told.append(("lost", sorted(tps)))
        self.owned = []

    def poll(self) -> list[Run]:
        return self.consumer.poll(1_000, 0.02)

    def events(self) -> list[str]:
        return [event for event, _ in self.told]


def settle(*members: Member, shares: list[int]) -> None:
    """Poll them in turn until they own so many partitions each."""

    def settled() -> bool:
        for member in members:
            member.poll()
        return [len(member.owned) for member in members] == shares

    eventually(settled)


def tp(topic: str, partition: int) -> TopicPartition:
    return TopicPartition(topic, Partition(partition))


def read(log: Log, *tps: TopicPartition, start: int = 0, committed: bool = True) -> list[bytes | None]:
    """All values to the stable end, partition by partition."""
    reader = log.reader({each: Offset(start) for each in tps}, committed=committed)
    found: dict[TopicPartition, list[bytes | None]] = {each: [] for each in tps}

    def at_end() -> bool:
        for run in reader.poll(1_000, 0.05):
            found[run.tp] += run.values
        return reader.ended() == frozenset(tps)

    try:
        eventually(at_end)
    finally:
        reader.close()
    return [value for each in tps for value in found[each]]


def read_from(consumer: Consumer, count: int) -> list[bytes | None]:
    """The next so many values."""
    found: list[bytes | None] = []

    def enough() -> bool:
        for run in consumer.poll(count - len(found), 0.05):
            found.extend(run.values)
        return len(found) >= count

    eventually(enough)
    return found


TIMEOUT_S = limits.CALL_TIMEOUT_S
