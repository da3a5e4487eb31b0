"""Several workers of one job on one in-memory log, stepped by hand, each behind a wire that a test can bend.

    cluster = Cluster(job)
    cluster.send(lines, ...)
    a, b = cluster.start(0), cluster.start(1)
    a.wire.at("EndTxn", lose_answer)      # the next EndTxn of slot 0 happens, and its answer is lost
    cluster.settle()

Nothing sleeps; time passes when the clock is told, or when the engine waits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from streamcore import Job
from streamcore.clock import SeededEntropy
from streamcore.errors import LogUnavailable, OutcomeUnknown
from streamcore.log import metadata
from streamcore.log.local import LocalLog
from streamcore.log.local.wire import Request
from streamcore.log.metadata import Metadata
from streamcore.observe import catalog
from streamcore.observe.metrics import Metrics
from streamcore.runtime.points import Crash
from streamcore.runtime.statedir import MemoryStores
from streamcore.runtime.worker import Mode, Worker, WorkerSettings
from streamcore.state.frames import Frame, FrameAssembler
from streamcore.testing.clock import ManualClock
from streamcore.types import Offset, Partition, Slot, TopicPartition

T = TypeVar("T")
Fault = Callable[[Callable[[], Any]], Any]
"""Given the request's delivery, does what it likes with it and answers, or raises."""


def lose_answer(deliver: Callable[[], Any]) -> Any:
    deliver()
    raise OutcomeUnknown("the answer was lost")


def lose_request(deliver: Callable[[], Any]) -> Any:
    raise OutcomeUnknown("the request was lost")


def cut_off(deliver: Callable[[], Any]) -> Any:
    raise LogUnavailable("the connection is cut")


class FaultyWire:
    """One process's connection. `at` queues a fault for the next request of a name."""

    def __init__(self) -> None:
        self.suspended = False
        self.calls: Counter[Request] = Counter()
        self._faults: defaultdict[Request, list[Fault]] = defaultdict(list)

    def at(self, request: Request, *faults: Fault) -> None:
        self._faults[request] += faults

    def call(self, request: Request, deliver: Callable[[], T]) -> T:
        self.calls[request] += 1
        if self._faults[request]:
            return self._faults[request].pop(0)(deliver)
        return deliver()

    def alive(self) -> bool:
        return not self.suspended


@dataclass
class Process:
    """A worker and all that dies with it."""

    worker: Worker
    wire: FaultyWire
    metrics: Metrics
    dies_at: str = ""
    points: list[str] = field(default_factory=list[str])
    on_point: Callable[[str], None] | None = None

    def metrics_undone(self) -> int:
        return int(self.metrics.registry.get_sample_value(f"{catalog.ABORTED.name}_total") or 0)

    def metrics_unknown(self) -> int:
        return int(self.metrics.registry.get_sample_value(f"{catalog.UNKNOWN.name}_total") or 0)

    def metrics_fenced(self) -> int:
        """Producers that had to be replaced."""
        return int(self.metrics.registry.get_sample_value(f"{catalog.PRODUCERS.name}_total") or 0)

    def probe(self, point: str) -> None:
        self.points.append(point)
        if self.on_point is not None:
            self.on_point(point)
        if point == self.dies_at:
            self.dies_at = ""
            raise Crash(point)


class Cluster:
    def __init__(self, job: Job, *, partitions: int = 2, mode: Mode = "exactly-once", seed: int = 0) -> None:
        self.plan = job.plan()
        self.clock = ManualClock()
        self.log = LocalLog.memory(self.clock, seed=seed, auto_create_partitions=partitions)
        self.entropy = SeededEntropy(seed)
        self.mode: Mode = mode
        self.partitions = partitions
        self.disks: dict[int, MemoryStores] = defaultdict(MemoryStores)
        self.processes: dict[int, Process] = {}
        self.admin = self.log.admin()
        self._feeder = self.log.producer(None)
        self._feeder.init(1.0)

    # --- processes --------------------------------------------------------------------------------------------

    def start(self, slot: int, dies_at: str = "") -> Process:
        wire = FaultyWire()
        metrics = Metrics()
        settings = WorkerSettings(slot=Slot(slot), mode=self.mode, auto_partitions=self.partitions)
        process: Process

        def probe(point: str) -> None:
            process.probe(point)

        worker = Worker(
            self.plan, self.log.connect(wire), settings, clock=self.clock, entropy=self.entropy, metrics=metrics,
            stores=self.disks[slot], probe=probe,
        )  # fmt: skip
        process = Process(worker, wire, metrics, dies_at)
        self.processes[slot] = process
        worker.open()
        return process

    def kill(self, slot: int) -> None:
        """kill -9: the connection is dead, nothing is closed."""
        self.processes.pop(slot).wire.suspended = True

    def turn(self, slot: int) -> bool:
        """One turn; False when the process died at its point."""
        process = self.processes.get(slot)
        if process is None or process.wire.suspended:
            return False
        try:
            process.worker.turn()
        except Crash:
            self.kill(slot)
            return False
        return True

    def run(self, turns: int = 60) -> None:
        """All live processes in turn; time passes a little with each round, so that epochs come due."""
        for _ in range(turns):
            for slot in list(self.processes):
                self.turn(slot)
            self.clock.sleep_s(0.02)

    def settle(self, rounds: int = 40) -> None:
        """Until a stretch of rounds commits nothing new."""
        for _ in range(rounds):
            before = self.ends()
            self.run(30)
            if self.ends() == before and all(self._rests(p) for p in self.processes.values()):
                return
        raise AssertionError("the cluster does not come to rest")

    def _rests(self, process: Process) -> bool:
        if process.wire.suspended:
            return True
        progress = process.worker.progress()
        return bool(progress.tasks) and not progress.taking_over and not progress.uncommitted

    def ends(self) -> dict[TopicPartition, Offset]:
        tps = [
            TopicPartition(name, Partition(p))
            for name, info in self.admin.topics().items()
            for p in range(info.partitions)
        ]
        return self.admin.stable_ends(tps)

    # --- records ----------------------------------------------------------------------------------------------

    def send(self, topic: Any, *values: Any, key: Any = None) -> None:
        spec = topic.spec
        keys = None if spec.key is None else spec.key.encode([key] * len(values))
        self._feeder.produce(
            spec.name, None, spec.value.encode(list(values)), keys, [self.clock.wall_ms()] * len(values)
        )
        self._feeder.flush(1.0)

    def read(self, topic: Any) -> list[tuple[Any, Any]]:
        """What a read_committed reader sees, whole, partition by partition."""
        spec = topic.spec
        items: list[tuple[Any, Any]] = []
        for run in self.runs(spec.name):
            values = spec.value.decode([value for value in run.values if value is not None])
            keys = spec.key.decode(run.keys) if spec.key else [None] * len(run)
            items += zip(keys, values, strict=True)
        return items

    def runs(self, topic: str, committed: bool = True) -> list[Any]:
        info = self.admin.topics([topic]).get(topic)
        if info is None:
            return []
        starts = {TopicPartition(topic, Partition(p)): Offset(0) for p in range(info.partitions)}
        reader = self.log.reader(starts, committed=committed)
        runs: list[Any] = []
        while len(reader.ended()) < len(starts):
            runs += reader.poll(10_000, 0.0)
        reader.close()
        return sorted(runs, key=lambda run: (run.tp, run.offsets[0]))

    def frames(self, stage: str, partition: int, committed: bool = True) -> list[Frame]:
        assembler = FrameAssembler("test", chained=not committed)
        found: list[Frame] = []
        for run in self.runs(self.plan.journal_topic(stage), committed):
            if run.tp.partition == partition:
                done = [assembler.feed(o, v) for o, v in zip(run.offsets, run.values, strict=True)]
                found += [one.frame for one in done if one is not None]
        return found

    def committed(self) -> dict[TopicPartition, tuple[Offset, Metadata]]:
        """As any takeover would read it now, without waiting."""
        tps = [TopicPartition(s.topic, Partition(p)) for s in self.plan.stages for p in range(self.partitions)]
        found = self.admin.committed(self.plan.job, tps, 1.0, stable=False)
        return {tp: (at.offset, metadata.decode(at.metadata, str(tp))) for tp, at in found.items()}

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))
