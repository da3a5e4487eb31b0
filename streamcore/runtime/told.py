"""What a job's control topic tells somebody who only looks: its last barrier, and when checkpoints were stored."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import InvariantBroken, OffsetsLost
from streamcore.log.port import Admin, Log
from streamcore.runtime.control import Abandon, Complete, Cut, Recovery, Said, Start, Stored, decode
from streamcore.runtime.cutting import control_partition
from streamcore.types import Epoch, Partition, TaskId


@dataclass
class BarrierTold:
    number: int
    begun_ms: int
    tasks: frozenset[TaskId]
    savepoint: str | None
    state: str = "open"
    """open, complete or abandoned."""
    why: str = ""
    """It was abandoned."""
    decided_ms: int | None = None
    cuts: set[TaskId] = field(default_factory=set[TaskId])
    stored: set[TaskId] = field(default_factory=set[TaskId])

    def waits_for(self) -> list[str]:
        """Of an open one."""
        if uncut := self.tasks - self.cuts:
            return [f"the cut of {task}" for task in sorted(uncut)]
        return [f"the checkpoint of {task}" for task in sorted(self.tasks - self.stored)]


@dataclass
class ControlTold:
    last: BarrierTold | None = None
    stored_ms: dict[tuple[TaskId, Epoch], int] = field(default_factory=dict[tuple[TaskId, Epoch], int])
    """When the commits that name checkpoints were written."""
    recoveries: dict[TaskId, Recovery] = field(default_factory=dict[TaskId, Recovery])
    """What each task's owner has told last."""

    @property
    def rto_ms(self) -> int:
        """The shortest that a worker was given; 0: none."""
        return min((told.rto_ms for told in self.recoveries.values() if told.rto_ms), default=0)

    def hear(self, said: Said, time_ms: int) -> None:
        last = self.last
        match said:
            case Start() if last is None or said.barrier > last.number:
                tasks = frozenset(TaskId(stage, Partition(p)) for stage, n in said.stages.items() for p in range(n))
                self.last = BarrierTold(said.barrier, said.time_ms, tasks, said.savepoint)
            case Stored():
                self.stored_ms[said.task, said.epoch] = time_ms
                if last is not None and said.barrier == last.number:
                    last.stored.add(said.task)
            case Cut() if last is not None and said.barrier == last.number:
                last.cuts.add(said.task)
            case Recovery():
                self.recoveries[said.task] = said
            case Complete() if last is not None and said.barrier == last.number:
                last.state, last.decided_ms = "complete", said.time_ms
            case Abandon() if last is not None and said.barrier == last.number:
                last.state, last.decided_ms, last.why = "abandoned", time_ms, said.why
            case _:
                pass


def look(log: Log, admin: Admin, job: str, clock: Clock) -> ControlTold:
    """As far as it can be read within a bound of time; nothing of a job without barriers."""
    control, told = control_partition(job), ControlTold()
    if not admin.topics([control.topic]):
        return told
    deadline_s = clock.monotonic_s() + limits.CALL_TIMEOUT_S
    reader = log.reader(admin.first_offsets([control]))
    try:
        while control not in reader.ended() and clock.monotonic_s() < deadline_s:
            for run in reader.poll(limits.POLL_RECORDS, 0.05):
                for offset, value, time_ms in zip(run.offsets, run.values, run.times, strict=True):
                    said = decode(value or b"", f"{control} at offset {offset}")
                    if said is not None:
                        told.hear(said, time_ms)
    except (OffsetsLost, InvariantBroken):
        return told  # trimmed under our eyes, or somebody else wrote there: the job itself will say so
    finally:
        reader.close()
    return told
