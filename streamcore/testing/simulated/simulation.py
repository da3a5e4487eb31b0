"""A run: one broker, the slots of one job, their disks, and a schedule of faults; from a seed to a History.

    1 feed     the inputs are appended while the job runs
    2 chaos    until the horizon, the schedule's faults happen
    3 heal     nothing new goes wrong; who is dead is started, who sleeps wakes when its time comes
    4 rest     until everything is processed and committed, or the bound of simulated time
    5 record   what stands in topics, journals, offsets and on disks

Everything happens in the calling thread and in simulated time; the same seed gives the same History.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from streamcore import limits
from streamcore.checkpoint.collect import Retention
from streamcore.checkpoint.memory import Fault, MemoryObjects
from streamcore.checkpoint.snapshot import memory, rocks
from streamcore.errors import LogUnavailable, OffsetsLost, StepAsideError, StopError, StreamcoreError, TopicError
from streamcore.log.local.log import LocalLog
from streamcore.log.local.wire import DirectWire
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.points import Crash
from streamcore.runtime.recover import plan_recovery, recover
from streamcore.state.store import EpochMark
from streamcore.testing.history import (
    History,
    Level,
)
from streamcore.testing.simulated.disk import Disk, MemoryDisk, RocksDisk
from streamcore.testing.simulated.faults import COORDINATED, Injection, Schedule
from streamcore.testing.simulated.process import Process
from streamcore.testing.simulated.recorder import RecordingBroker
from streamcore.testing.simulated.scheduler import Scheduler, SimulatedClock
from streamcore.testing.simulated.standing import Standing
from streamcore.topology.plan import Plan
from streamcore.types import Partition, TaskId, TopicPartition

REST_S: Final = 150.0
"""Simulated time in which a healed job must come to rest: sessions, transactions and outages time out within it."""
REST_CALLS: Final = 20_000
"""And port calls: a job that does the same again and again, at full speed, is not at rest. (Most make some 400.)"""
LOOK_EVERY_S: Final = 0.25
RESTART_S: Final = 0.5
RECOVERY_S: Final = 12.0
"""After a stop, the group's members are gone by then."""


@dataclass(frozen=True, slots=True)
class Feeding:
    """Records of one topic at one moment."""

    at_s: float
    topic: str
    keys: tuple[bytes | None, ...]
    values: tuple[bytes | None, ...]
    times_ms: tuple[int, ...]


class Simulation:
    def __init__(
        self,
        plan: Plan,
        feedings: Sequence[Feeding],
        schedule: Schedule,
        *,
        seed: str,
        workers: int = 3,
        partitions: int = 2,
        horizon_s: float = 10.0,
        rocks: Path | None = None,
        scratch: Path | None = None,
        checkpoint_every_s: float = 2.0,
        retention: Retention | None = None,
        shuffled: int | None = None,
        before: Simulation | None = None,
    ) -> None:
        """With `scratch`, a directory for snapshots, the job has barriers, and a checkpoint store in memory.
        `rocks`: local state on the real RocksDB, under this directory. `shuffled`: partitions of the shuffles, where
        not `partitions`. `before`: the life of the job that this one follows, on the same cluster; its feed goes on."""
        self.scheduler = Scheduler(f"{seed}/order") if before is None else before.scheduler
        self.broker = RecordingBroker(self.scheduler, seed, partitions) if before is None else before.broker
        self._begun_s = self.scheduler.now_s
        self._plan = plan
        self._feedings = feedings
        self._schedule = schedule
        self._seed = seed
        self._workers = workers
        self._partitions = partitions
        self._counts = {
            stage.name: shuffled if shuffled is not None and stage.is_shuffle else partitions for stage in plan.stages
        }
        self._horizon_s = self._begun_s + horizon_s
        self._rocks = rocks
        self._scratch = scratch
        self._checkpoint_every_s = checkpoint_every_s
        self._retention = retention or Retention()
        self._spoilt: set[str] = set() if before is None else before._spoilt
        """Keys that the store keeps wrongly."""
        self._store_calls: defaultdict[int, int] = defaultdict(int)
        self._clock = SimulatedClock(self.scheduler, lambda: None)
        self._log = LocalLog(self.broker, self._clock, DirectWire(), Random(f"{seed}/log"))
        self.store = MemoryObjects(self._clock) if before is None else before.store
        self.store.faults = self._at_store
        self._slots: dict[int, Process] = {}
        self._processes: list[Process] = []
        self._disks: list[tuple[str, Disk]] = []
        self._wanted: set[int] = set(range(workers))
        self._lives: defaultdict[int, int] = defaultdict(int) if before is None else before._lives
        self._calls: defaultdict[int, int] = defaultdict(int)
        self._visits: defaultdict[tuple[int, str], int] = defaultdict(int)
        self._stopping: StopError | None = None
        self._stops: list[str] = []
        self.applied: dict[tuple[TaskId, EpochMark], str] = {}
        """What any store has taken, and whose."""
        self._expired = self._recreated = False
        self._quiet = 0
        self._calls_made = 0
        self._calls_at_heal = 0
        self.cut_short = False

    # --- the run --------------------------------------------------------------------------------------------------

    def run(self) -> History:
        self.begin()
        try:
            self.scheduler.run(self._horizon_s + REST_S, self._enough)
            if self._quiet < 2 and not self.cut_short:
                self._stops.append("the job does not come to rest")
            owners = {task: p for p in self._processes if self._lives_now(p) for task in self._tasks_of(p)}
        finally:
            self.scheduler.end()
        self.broker.heal()  # what is read from here on is the truth
        for _, disk in self._disks:
            disk.killed()
        return self.recorded(owners)

    def begin(self) -> None:
        """Everything is set up, and nothing has happened yet."""
        feeder = self._log.producer(None)
        feeder.init(1.0)
        self._log.admin().topics()
        for topic in self._sources():
            self.broker.ensure([topic])

        def feed(feeding: Feeding) -> None:
            feeder.produce(feeding.topic, None, list(feeding.values), list(feeding.keys), list(feeding.times_ms))
            feeder.flush(1.0)

        for feeding in self._feedings:
            self.scheduler.at(self._begun_s + feeding.at_s, partial(feed, feeding))
        for injection in self._schedule.at_times():
            self.scheduler.at(self._begun_s + injection.nth, partial(self._timed, injection))
        for slot in range(self._workers):
            self._start(slot, self._new_disk(slot))
        self.scheduler.at(self._horizon_s, self._heal)

    def _sources(self) -> list[str]:
        return [stage.topic for stage in self._plan.stages if not stage.is_shuffle]

    def _enough(self) -> bool:
        return self._quiet >= 2 or self.cut_short or self._tireless()

    def _tireless(self) -> bool:
        return self._calls_at_heal > 0 and self._calls_made - self._calls_at_heal > REST_CALLS

    def _heal(self) -> None:
        self._schedule.over = True
        self._calls_at_heal = self._calls_made
        self.broker.heal()
        if self._expired:
            self._end_all()  # only a takeover sees that offsets are gone, and asks for the remedy
        for slot in sorted(self._wanted):
            self.scheduler.at(self.scheduler.now_s + RESTART_S, partial(self._back, slot, None))
        self._look()

    def _look(self) -> None:
        self._quiet = self._quiet + 1 if self._rests() else 0
        self.scheduler.at(self.scheduler.now_s + LOOK_EVERY_S, self._look)

    def _rests(self) -> bool:
        if self._stopping is not None or self.broker.open_transactions() or self._unprocessed(at_least=1):
            return False
        live = [p for p in self._processes if self._lives_now(p)]
        if any(p.actor is not None and p.actor.paused for p in live):
            return False  # a sleeper may believe in tasks that are nobody's
        owned = [task for p in live for task in self._tasks_of(p)]
        return len(owned) == sum(self._counts.values()) and not any(
            p.worker is None
            or not p.worker.joined
            or p.worker.progress().taking_over
            or p.worker.progress().uncommitted
            for p in live
        )

    def _unprocessed(self, at_least: int = 1 << 30) -> int:
        """Records that wait for the job; where there are more than `at_least`, perhaps not all."""
        count = 0
        for stage in self._plan.stages:
            tps = [TopicPartition(stage.topic, Partition(p)) for p in range(self._counts[stage.name])]
            told = self.broker.committed(self._plan.job, tps, stable=False) or {}
            first = self.broker.first_offsets(tps)
            positions = {tp: max(told[tp].offset if tp in told else 0, first[tp]) for tp in tps}
            for fetched, position in zip(self.broker.fetch(positions, at_least, True), positions.values(), strict=True):
                count += sum(chunk.end - max(chunk.base, position) for chunk in fetched.chunks)
            if count >= at_least:
                break
        return count

    # --- processes --------------------------------------------------------------------------------------------------

    def _new_disk(self, slot: int) -> Disk:
        number = len(self._disks)
        disk: Disk = (
            MemoryDisk(self._scratch and self._scratch / f"{number}")
            if self._rocks is None
            else RocksDisk(self._rocks / f"{number}", self._plan.job)
        )
        self._disks.append((f"slot {slot}, disk {number}", disk))
        return disk

    def _start(self, slot: int, disk: Disk) -> Process:
        self._lives[slot] += 1
        process = Process(self, slot, self._lives[slot], disk)
        process.actor = self.scheduler.start(process.name, partial(self._body, process))
        self._slots[slot] = process
        self._processes.append(process)
        return process

    def _body(self, process: Process) -> None:
        told = ""
        try:
            process.run(
                self._plan, self._seed, self._partitions, self._checkpointing(process), self._checkpoint_every_s
            )
            what = "ended"
        except Crash:
            raise
        except StepAsideError as error:
            what, told = "stepped aside", error.what
        except StopError as error:
            what, told = "stopped", error.what
            self._stopped(error)
        except StreamcoreError as error:
            what, told = "gave up", error.what
        except Exception as error:
            what, told = "failed", f"{type(error).__name__}: {error}"
            self._stops.append(f"{process.name} failed: {told}")
        self.broker.tell(process.name, what, (), told)
        process.disk.killed()
        if self._slots.get(process.slot) is process and process.slot in self._wanted and what != "stopped":
            self.scheduler.at(self.scheduler.now_s + RESTART_S, partial(self._back, process.slot, None))

    def _back(self, slot: int, disk: Disk | None) -> None:
        """The slot's worker is started again, unless one runs, or the job has stopped."""
        current = self._slots.get(slot)
        if self._stopping is not None or slot not in self._wanted or (current is not None and self._lives_now(current)):
            return
        self._start(slot, disk or (current.disk if current is not None else self._new_disk(slot)))

    def _lives_now(self, process: Process) -> bool:
        return process.actor is not None and not process.actor.dead and not process.actor.done

    def _tasks_of(self, process: Process) -> list[TaskId]:
        return list(process.worker.progress().tasks) if process.worker is not None and process.worker.joined else []

    def _checkpointing(self, process: Process) -> Checkpointing | None:
        if self._scratch is None:
            return None
        form = rocks if self._rocks else memory
        return Checkpointing(self.store, process.disk, form, beside=False, retention=self._retention)

    def _at_store(self, call: str, key: str) -> Fault | None:
        """None asks in the judge's name."""
        current = self.scheduler.current
        process = next((p for p in self._processes if p.actor is current), None) if current is not None else None
        fault = None if process is None else process.store_call(call)
        only_objects = bool(self._schedule.rates.store_kinds)  # what is under seal is another story
        if fault is not None and fault.kind == "corrupt" and only_objects and "/objects/" not in key:
            return None
        if fault is None or call != "put_once" or fault.kind not in ("torn", "corrupt"):
            return fault
        if fault.kind == "corrupt" and self._rocks is not None:
            return None  # checkpoints share RocksDB's files: one that is spoilt may leave nothing to restore from
        if key.endswith("owner.json") or (fault.kind == "corrupt" and self._spoilt):
            return None  # a store that spoils everything leaves nothing to restore from
        self._spoilt.add(key)
        return fault

    def fault_at_store(self, process: Process, call: str) -> Injection | None:
        self._store_calls[process.slot] += 1
        return self._schedule.at_store(process.slot, self._store_calls[process.slot], call)

    # --- faults -----------------------------------------------------------------------------------------------------

    def fault_at_call(self, process: Process, request: str) -> Injection | None:
        self._calls_made += 1
        self._calls[process.slot] += 1
        return self._schedule.at_call(process.slot, self._calls[process.slot], request)

    def fault_at_point(self, process: Process, point: str) -> Injection | None:
        at = process.slot, point
        self._visits[at] += 1
        return self._schedule.at_point(process.slot, self._visits[at], point)

    def kill(self, process: Process, fault: Injection) -> None:
        """As the fault says. Raises Crash when the process is the one that runs now."""
        after_s, slot, disk_kind = float(fault.how[0]), int(fault.how[1]), fault.how[2]
        self.broker.tell(process.name, "killed", (), str(fault))
        disk: Disk = process.disk
        disk.killed()
        if fault.kind == "power":
            disk.power_cut(int(fault.how[3]), fault.how[4] != "cleanly")
        if disk_kind in ("an old copy of its", "a strange", "a mistaken"):
            disk = disk.old_copy() if disk_kind == "an old copy of its" else disk.estranged(disk_kind == "a strange")
            self._disks.append((f"slot {slot}, disk {len(self._disks)}", disk))
        elif disk_kind == "a bare" or slot != process.slot:
            disk = self._new_disk(slot)
        if slot != process.slot:
            self._wanted.discard(process.slot)
            self._wanted.add(slot)
        self.scheduler.at(self.scheduler.now_s + after_s, partial(self._back, slot, disk))
        assert process.actor is not None
        process.actor.kill()

    def pause(self, process: Process, seconds: float) -> None:
        self.broker.tell(process.name, "paused", (), f"{seconds:.1f} s")
        process.actor_of().pause(seconds)
        self.broker.tell(process.name, "awake")

    def evict(self, process: Process) -> None:
        self.broker.tell(process.name, "evicted")
        self.broker.evict(self._plan.job, f"{self._plan.job}.{process.slot}")

    def _timed(self, fault: Injection) -> None:
        if self._schedule.over:
            return
        if fault.where == "job":
            self._happens_to_the_job(fault)
            return
        process = self._slots.get(int(fault.where.split()[1]))
        if process is None or not self._lives_now(process):
            return
        how = fault.how
        match fault.kind:
            case "kill" | "power":
                self.kill(process, fault)
            case "pause":
                self.pause(process, float(how[0]))
            case "replace":
                self.pause(process, float(how[0]))
                self._start(process.slot, self._new_disk(process.slot))
            case "leave":
                if process.worker is not None:
                    process.worker.stop()
            case "wall":
                process.clock.skew_ms += int(float(how[0]) * 1000)
            case _:
                raise AssertionError(fault)

    def _happens_to_the_job(self, fault: Injection) -> None:
        how = fault.how
        match fault.kind:
            case "join":
                slot = int(how[0])
                if slot not in self._wanted:
                    self._wanted.add(slot)
                    self._back(slot, None)
                    self.scheduler.at(self.scheduler.now_s + float(how[1]), partial(self._leave, slot))
            case "freeze":
                self.scheduler.now_s += float(how[0])
            case "stall":
                sources = self._plan.stages
                stage = sources[int(how[0]) % len(sources)]
                tp = TopicPartition(stage.topic, Partition(int(how[0]) % self._counts[stage.name]))
                self.broker.stall(tp, self.scheduler.now_s + float(how[2]))
            case "behind":
                stage = self._plan.stages[int(how[0]) % len(self._plan.stages)]
                journal, count = self._plan.journal_topic(stage.name), self._counts[stage.name]
                tp = TopicPartition(journal, Partition(int(how[0]) // 4 % count))
                self.broker.fall_behind(tp, self.scheduler.now_s + float(how[2]))
            case "move":
                self.broker.move(COORDINATED[str(how[0])], self.scheduler.now_s + float(how[1]))
            case "expire":
                self._expired = True
                self.broker.expire_offsets(self._plan.job)
            case "recreate":
                self._recreated = True
                topic = self._sources()[0]
                self.broker.delete([topic])
                self.broker.ensure([topic])
            case _:
                raise AssertionError(fault)

    def _leave(self, slot: int) -> None:
        process = self._slots.get(slot)
        self._wanted.discard(slot)
        if process is not None and process.worker is not None and self._lives_now(process):
            process.worker.stop()

    # --- named stops and their remedies -----------------------------------------------------------------------------

    def _stopped(self, error: StopError) -> None:
        """A worker stopped the job: its supervisors stop the others."""
        if self._stopping is not None:
            return
        self._stopping = error
        if self._expired and isinstance(error, OffsetsLost):
            self.scheduler.at(self.scheduler.now_s + 0.01, self._end_all)
            self.scheduler.at(self.scheduler.now_s + RECOVERY_S, self._recover)
            return
        if not (self._recreated and isinstance(error, TopicError | OffsetsLost)):
            self._stops.append(f"stopped: {error.what}")
        self.cut_short = True
        self.scheduler.at(self.scheduler.now_s, lambda: None)

    def _end_all(self) -> None:
        for process in self._processes:
            if self._lives_now(process) and process.actor is not None:
                process.disk.killed()
                process.actor.kill()

    def _recover(self) -> None:
        """The remedy that the message names, as a person would apply it."""
        admin = self._log.admin()
        try:
            recover(admin, self._plan.job, plan_recovery(self._log, admin, self._plan.job, self._clock))
        except LogUnavailable:
            self.scheduler.at(self.scheduler.now_s + RESTART_S, self._recover)
            return
        self._stopping = None
        for slot in sorted(self._wanted):
            self._back(slot, None)

    # --- the record -------------------------------------------------------------------------------------------------

    def recorded(self, owners: dict[TaskId, Process]) -> History:
        standing = Standing(self._plan, self._counts, self.broker, self.store, self._spoilt, self._disks)
        history = standing.history()
        history.stopped = self._stops
        history.cut_short = self.cut_short
        history.levels = [
            Level(f"records waiting in {p.name}", p.most_waiting, limits.POLL_RECORDS) for p in self._processes
        ]
        if not self._recreated:
            history.unprocessed = self._unprocessed()
            history.inputs = {topic: standing.read(topic) for topic in self._sources()}
        history.states = standing.states({task: process.disk for task, process in owners.items()}, self.applied)
        if self._scratch is not None:
            standing.add_barriers(history, with_rows=self._rocks is None)
        return history
