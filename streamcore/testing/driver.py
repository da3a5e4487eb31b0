"""A topology in a unit test: one job, the in-memory log, no threads, no waiting.

What is sent waits in the log until something runs the job: `read`, `state`, `advance` or `crash`. A crash kills the
worker at a named point of its next epoch and starts it anew, with its disk (or without: `lose_disk`), exactly as
kill -9 and a restart would; the log, and whatever was committed, stay.

    with Driver(job) as driver:
        driver.send(lines, "to be or not to be")
        driver.crash(at="before-commit")
        assert dict(driver.read_items(counts)) == {"to": 2, "be": 2, "or": 1, "not": 1}
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar, overload

from streamcore.api import Job, Key, State, Topic
from streamcore.clock import SeededEntropy
from streamcore.errors import StopError
from streamcore.log.local import LocalLog
from streamcore.log.port import Headers, Run
from streamcore.observe.metrics import Metrics
from streamcore.runtime.points import POINTS, Crash
from streamcore.runtime.statedir import MemoryStores
from streamcore.runtime.worker import Mode, Worker, WorkerSettings
from streamcore.testing.clock import EPOCH, ManualClock
from streamcore.types import Offset, Partition, TopicPartition

K = TypeVar("K", bound=Key)
V = TypeVar("V")
S = TypeVar("S", bound=State)

logger = logging.getLogger(__name__)


class Driver:
    """One worker over all partitions. Not for threads."""

    def __init__(
        self,
        job: Job,
        *,
        start: datetime | None = None,
        seed: int = 0,
        partitions: int = 4,
        mode: Mode = "exactly-once",
    ) -> None:
        self._plan = job.plan()
        self.clock = ManualClock(start or EPOCH)
        self._entropy = SeededEntropy(seed)
        self._log = LocalLog.memory(self.clock, seed=seed, auto_create_partitions=partitions)
        self._stores = MemoryStores()
        self._settings = WorkerSettings(mode=mode, auto_partitions=partitions)
        self.metrics = Metrics()
        self._worker: Worker | None = None
        self._dies_at = ""
        self._read: dict[TopicPartition, Offset] = {}
        self._feeder = self._log.producer(None)
        self._feeder.init(1.0)
        self._admin = self._log.admin()

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None and kind is None:
            self._worker.close()
        self._log.close()

    # --- in ---------------------------------------------------------------------------------------------------

    @overload
    def send(self, topic: Topic[None, V], *values: V, at: datetime | None = None) -> None: ...
    @overload
    def send(self, topic: Topic[K, V], *values: V, key: K, at: datetime | None = None) -> None: ...
    def send(self, topic: Any, *values: Any, key: Any = None, at: datetime | None = None) -> None:
        """Append to the topic, as any producer would; `at` is the records' timestamp (default: now)."""
        spec = topic.spec
        keys = None if spec.key is None else spec.key.encode([key] * len(values))
        payloads: list[bytes | None] = [
            None if value is None and spec.optional_value else spec.value.encode([value])[0] for value in values
        ]
        self._append(spec.name, payloads, keys, at)

    def send_raw(
        self,
        topic: Topic[Any, Any],
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        at: datetime | None = None,
    ) -> None:
        """Bytes as they are: for records that cannot be decoded."""
        self._append(topic.spec.name, [value], [key], at, headers)

    def _append(
        self,
        topic: str,
        values: list[bytes | None],
        keys: Any,
        at: datetime | None,
        headers: Headers | None = None,
    ) -> None:
        time_ms = self.clock.wall_ms() if at is None else int(at.timestamp() * 1000)
        told = None if headers is None else [headers] * len(values)
        self._feeder.produce(topic, None, values, keys, [time_ms] * len(values), told)
        self._feeder.flush(1.0)

    # --- out --------------------------------------------------------------------------------------------------

    def read(self, topic: Topic[Any, V]) -> list[V]:
        """Runs the job until it is idle; what was committed to the topic since the last read of it."""
        return [value for _, value in self._items(topic)]

    def read_items(self, topic: Topic[K, V]) -> list[tuple[K, V]]:
        """As `read`, with keys."""
        return self._items(topic)

    def read_raw(self, topic: str) -> list[Run]:
        """As `read`, undecoded, by topic name, with headers: for dead letters."""
        self.settle()
        return self._unread(topic)

    def _items(self, topic: Any) -> list[tuple[Any, Any]]:
        self.settle()
        spec = topic.spec
        items: list[tuple[Any, Any]] = []
        for run in self._unread(spec.name):
            values = [None if value is None else spec.value.decode([value])[0] for value in run.values]
            keys = [None if key is None or spec.key is None else spec.key.decode([key])[0] for key in run.keys]
            items += zip(keys, values, strict=True)
        return items

    def _unread(self, topic: str) -> list[Run]:
        count = self._admin.topics([topic])[topic].partitions
        tps = [TopicPartition(topic, Partition(p)) for p in range(count)]
        starts = {tp: self._read.get(tp, Offset(0)) for tp in tps}
        reader = self._log.reader(starts, headers=True)
        runs: list[Run] = []
        while len(reader.ended()) < len(tps):
            runs += reader.poll(10_000, 0.0)
        for run in runs:
            self._read[run.tp] = Offset(run.offsets[-1] + 1)
        reader.close()
        return runs

    # --- running ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Run until every record is processed and committed."""
        with self._running() as worker:
            worker.drain()

    def advance(self, by: timedelta) -> None:
        """Let time pass, with the job running before and after."""
        self.settle()
        self.clock.advance(by)
        self.settle()

    def crash(self, at: str = "before-commit") -> None:
        """Kill the worker when it next comes to `at` (see streamcore.runtime.points.POINTS), and start it anew. Where
        the waiting input leads it past no such point, it is killed when idle."""
        if at not in POINTS:
            raise ValueError(f"no crash point {at!r}: one of {', '.join(POINTS)}")
        self._dies_at = at
        try:
            self.settle()
        except Crash:
            logger.debug("crashed at %s", at)
        self._dies_at = ""
        self._worker = None

    def restart(self, job: Job) -> Driver:
        """Stop the worker, if one runs, and go on with another version of the job: same log, same disk."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        self._plan = job.plan()
        return self

    def lose_disk(self) -> None:
        """Kill the worker and take its local state: a new machine."""
        self._worker = None
        self._stores.lose_disk()

    def state(self, step: str, kind: type[S], key: Key) -> S:
        """The committed state of a `process` step for a key, as the step's own function would see it. Runs the job
        until it is idle; what is assigned to the returned object goes nowhere."""
        with self._running() as worker:
            worker.drain()
            found: Any = worker.peek(step, key)
            if not isinstance(found, kind):
                raise TypeError(f"step {step!r} keeps {type(found).__name__}, not {kind.__name__}")
            return found

    @contextmanager
    def _running(self) -> Generator[Worker]:
        if self._worker is None:
            self._worker = Worker(
                self._plan,
                self._log,
                self._settings,
                clock=self.clock,
                entropy=self._entropy,
                metrics=self.metrics,
                stores=self._stores,
                probe=self._probe,
            )
            self._worker.open()
        try:
            yield self._worker
        except StopError:
            self._worker.close()
            self._worker = None
            raise

    def _probe(self, point: str) -> None:
        if point == self._dies_at:
            raise Crash(point)
