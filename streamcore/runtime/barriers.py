"""Barriers, as the control topic tells of them: a state that every worker builds from the same words.

    OPEN ──complete──▶ COMPLETE
      └───abandon────▶ ABANDONED

A barrier cuts all tasks along one line. Source tasks cut at its start; a shuffle's tasks cut where they read its
marker, which is written once every task upstream of that shuffle has cut. A task that has cut and feeds shuffles is
held until each of them has its markers: so nothing from after the cut comes before a marker, and nothing from before
it after.

Invariants: one barrier is open at a time, its number is above all before it; what is said of another barrier than the
open one changes nothing; feeding the same words again changes nothing.

A pure state: no clock, no log. Processing thread only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from streamcore.runtime.control import Abandon, Complete, Cut, Failed, Recovery, Request, Resume, Said, Start, Stored
from streamcore.topology.plan import Plan, Stage
from streamcore.types import Partition, TaskId


class BarrierState(Enum):
    OPEN = "open"
    COMPLETE = "complete"
    ABANDONED = "abandoned"


@dataclass
class Barrier:
    start: Start
    state: BarrierState = BarrierState.OPEN
    cuts: dict[TaskId, Cut] = field(default_factory=dict[TaskId, Cut])
    resumed: set[str] = field(default_factory=set[str])
    """Shuffles (by their stage) whose markers are written."""
    stored: dict[TaskId, Stored] = field(default_factory=dict[TaskId, Stored])
    failed: dict[TaskId, Failed] = field(default_factory=dict[TaskId, Failed])
    """Tasks whose checkpoint came to nothing: it cannot be complete any more."""

    @property
    def number(self) -> int:
        return self.start.barrier

    @property
    def tasks(self) -> list[TaskId]:
        return [TaskId(stage, Partition(p)) for stage, count in self.start.stages.items() for p in range(count)]

    def missing_cuts(self, stages: Mapping[str, int] | None = None) -> list[TaskId]:
        return [t for t in self.tasks if t not in self.cuts and (stages is None or t.stage in stages)]

    @property
    def missing_checkpoints(self) -> list[TaskId]:
        return [task for task in self.tasks if task not in self.stored]


class Barriers:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._upstream = {shuffle.name: shuffle.upstream for shuffle in plan.shuffles}
        self.last: Barrier | None = None
        """Open or decided; None before the first."""
        self.requests: list[Request] = []
        """Asked for, and no start has served them yet."""
        self.completed: Barrier | None = None

    @property
    def open(self) -> Barrier | None:
        last = self.last
        return last if last is not None and last.state is BarrierState.OPEN else None

    @property
    def next_number(self) -> int:
        return 1 if self.last is None else self.last.number + 1

    def hear(self, said: Said) -> None:
        match said:
            case Start():
                if said.barrier >= self.next_number:
                    self.last = Barrier(said)
                self.requests = [request for request in self.requests if not said.serves(request)]
            case Request():
                self.requests.append(said)
            case Recovery():
                pass
            case _:
                self._hear_of(said)

    def _hear_of(self, said: Cut | Resume | Stored | Failed | Complete | Abandon) -> None:
        barrier = self.open
        if barrier is None or said.barrier != barrier.number:
            return
        match said:
            case Cut():
                if barrier.cuts.setdefault(said.task, said) != said:
                    why = "it went on behind its cut, in a run without barriers, and has cut again"
                    barrier.failed[said.task] = Failed(barrier.number, *said.task, why)
            case Resume():
                barrier.resumed.add(said.shuffle)
            case Stored():
                barrier.stored[said.task] = said
            case Failed():
                barrier.failed[said.task] = said
            case Complete():
                barrier.state = BarrierState.COMPLETE
                self.completed = barrier
            case Abandon():
                barrier.state = BarrierState.ABANDONED

    # --- questions ------------------------------------------------------------------------------------------------

    def must_cut(self, stage: Stage, cut: int | None) -> int | None:
        """The barrier that a running task of a source stage has to cut for now, given the last it has cut for."""
        barrier = self.open
        if barrier is None or stage.is_shuffle or (cut or 0) >= barrier.number:
            return None
        return barrier.number

    def takes(self, marker: int, cut: int | None) -> bool:
        """Whether a task that reads this marker has to cut there: not for one that is decided, nor twice. The start of
        a newer one may not have been read yet."""
        last = self.last
        if last is not None and (marker < last.number or (marker == last.number and last is not self.open)):
            return False
        return marker > (cut or 0)

    def holds(self, stage: Stage, cut: int | None) -> bool:
        """Whether a task that has cut emits nothing for now: a shuffle that it feeds has no markers yet. So also for a
        barrier whose start has not been read: the task's own commit says that there is one."""
        if not cut:
            return False
        last = self.last
        if last is None or cut > last.number:
            return bool(stage.shuffles)
        if last is not self.open or cut != last.number:
            return False
        return last.start.stops or not last.resumed.issuperset(shuffle.name for shuffle in stage.shuffles)

    def ready_shuffles(self) -> list[str]:
        """Shuffles whose markers can be written: every task upstream of them has cut."""
        barrier = self.open
        if barrier is None:
            return []
        return [
            name
            for name, upstream in self._upstream.items()
            if name not in barrier.resumed and not barrier.missing_cuts(dict.fromkeys(upstream, 0))
        ]
