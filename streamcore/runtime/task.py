"""A task: one stage over one partition, with its state, its position and its open epoch.

    ACQUIRED ──▶ RUNNING ──▶ CLOSED
        └──────────────────────▲

ACQUIRED: assigned, being taken over; touches nothing. RUNNING: positions stand, records may be fed. CLOSED: revoked,
lost or dropped; its store may live on in the worker for the next takeover to judge.

Invariants: `committed` and `mark` are what the last decided transaction says and nothing else; the store is at `mark`;
`position` runs ahead of `committed` only while `touched`; everything uncommitted is in the program's overlay and the
outbox, so dropping these two and seeking back undoes the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from streamcore.errors import invariant
from streamcore.runtime.tail import Tail
from streamcore.state.frames import Origin
from streamcore.state.store import EpochMark, Store
from streamcore.topology.plan import Stage
from streamcore.types import Epoch, Offset, TaskId, TopicPartition

if TYPE_CHECKING:
    from streamcore.runtime.slices import SliceRunner


class TaskState(Enum):
    ACQUIRED = "acquired"
    RUNNING = "running"
    CLOSED = "closed"


LEGAL: Final = {
    TaskState.ACQUIRED: {TaskState.RUNNING, TaskState.CLOSED},
    TaskState.RUNNING: {TaskState.CLOSED},
    TaskState.CLOSED: frozenset[TaskState](),
}


@dataclass(eq=False)
class Task:
    id: TaskId
    stage: Stage
    inputs: tuple[TopicPartition, ...]
    store: Store
    runner: SliceRunner
    origin: Origin
    """Facts of genesis, repeated in every frame: topic ids, partition counts, start positions."""
    lineage: str
    mark: EpochMark | None
    committed: dict[TopicPartition, Offset]
    position: dict[TopicPartition, Offset] = field(default_factory=dict[TopicPartition, Offset])
    touched: bool = False
    records: int = 0
    """Fed since the last commit."""
    cut: int | None = None
    """The newest barrier that a commit of this task has cut for."""
    cutting: int | None = None
    """The barrier that the open epoch ends for."""
    just_cut: int | None = None
    """The last commit was a cut; its checkpoint has not begun."""
    checkpoint: str | None = None
    """The newest checkpoint (its manifest) that is stored whole; the next commit names it."""
    to_say: object = None
    """What the next commit says on the control topic, if anything."""
    distrusted: frozenset[str] = frozenset()
    """Objects of the checkpoint store that its restore found missing or wrong."""
    tail: Tail = field(default_factory=Tail)
    held: bool = False
    """It has cut, and waits for markers: fed nothing."""
    held_since_s: float = 0.0
    state: TaskState = TaskState.ACQUIRED

    def move(self, to: TaskState) -> None:
        invariant(to in LEGAL[self.state], f"task {self.id}: {self.state.value} -> {to.value} is not a legal step")
        self.state = to

    @property
    def next_epoch(self) -> Epoch:
        return Epoch(self.mark.epoch + 1 if self.mark else 0)

    def advance(self, tp: TopicPartition, after: Offset, records: int) -> None:
        """The records below `after` are in the open epoch."""
        invariant(after >= self.position[tp], f"task {self.id}: position of {tp} would go back to {after}")
        self.position[tp] = after
        self.records += records
        self.touched = True

    def committed_as(self, mark: EpochMark) -> None:
        self.mark = mark
        self.committed = dict(self.position)
        if self.cutting is not None:
            self.cut = self.just_cut = self.cutting
            self.cutting = None
        self.touched = False
        self.records = 0

    def forget_epoch(self) -> None:
        """Law 5's half without the log: overlay, outbox and position back to the commit."""
        self.runner.drop()
        self.position = dict(self.committed)
        self.cutting = None
        self.touched = False
        self.records = 0
