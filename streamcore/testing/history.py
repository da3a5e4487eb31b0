"""What happened in a run, as plain values: recorded first, judged afterwards.

A simulated run records everything. A run of real processes records what an outside observer can read (inputs, outputs,
journals, committed offsets); what it cannot know is None, and the checkers that need it answer "unknown".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streamcore.log.metadata import Metadata
from streamcore.state.frames import Frame
from streamcore.state.store import EpochMark
from streamcore.types import Offset, TaskId, TopicPartition


@dataclass(frozen=True, slots=True)
class Record:
    """One record as a read_committed reader found it."""

    tp: TopicPartition
    offset: int
    key: bytes | None
    value: bytes | None
    time_ms: int
    origin: str = ""
    """Its correlation id, where it has one: the input that it comes from, as TOPIC-PARTITION-OFFSET."""


@dataclass(frozen=True, slots=True)
class JournalFrame:
    """A frame that a read_committed reader found in a task's journal."""

    task: TaskId
    first: Offset
    end: Offset
    frame: Frame


@dataclass(frozen=True, slots=True)
class Shuffled:
    """A message that stands in a shuffle's partition: a source task's frame, or a barrier's marker."""

    tp: TopicPartition
    offset: int
    source: TaskId | None
    """None: a marker."""
    epoch: int
    """Of the source task; of a marker the barrier."""


@dataclass(frozen=True, slots=True)
class OffsetTold:
    """An offset with metadata, as one decided transaction committed it."""

    tp: TopicPartition
    offset: int
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Transaction:
    """One decided transaction of a worker's producer."""

    name: str
    """The transactional id."""
    producer: tuple[int, int]
    """Producer id and epoch."""
    committed: bool
    begun_step: int
    ended_step: int
    actor: str
    """Who wrote it: the worker whose request opened it."""
    offsets: tuple[OffsetTold, ...]


@dataclass(frozen=True, slots=True)
class OffsetsSent:
    """A TxnOffsetCommit that the coordinator took: whose, and what the group had assigned to it just then."""

    step: int
    actor: str
    producer: tuple[int, int]
    tps: frozenset[TopicPartition]
    assigned: frozenset[TopicPartition] | None
    """None while a rebalance was under way: the generation before it is still good."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a worker: `assigned`, `revoked`, `lost`, `killed`, `ended`, …"""

    step: int
    at_s: float
    actor: str
    what: str
    tps: frozenset[TopicPartition] = frozenset()
    told: str = ""


@dataclass(frozen=True, slots=True)
class DoubtfulCall:
    """A send_offsets or commit that failed or was slow (law 4): its producer must not open another transaction."""

    step: int
    actor: str
    producer: tuple[int, int]
    request: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A transaction was opened by a producer."""

    step: int
    actor: str
    producer: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TaskState:
    """What stood on a disk after the run: `owner` when the task was that worker's at the end."""

    machine: str
    task: TaskId
    owner: bool
    mark: EpochMark | None
    rows: dict[str, dict[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class CheckpointSeen:
    """A manifest that stood in the checkpoint store after the run."""

    key: str
    task: TaskId
    lineage: str
    epoch: int
    wrong: str
    """What of it is missing or wrong, by no doing of the store."""
    rows: dict[str, dict[bytes, bytes]] | None
    """Its state by step; None where it is not whole."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """Records below `before` of a journal were deleted, when the task's committed metadata named `named`."""

    step: int
    task: TaskId
    before: int
    named: str | None


@dataclass(frozen=True, slots=True)
class Level:
    """How full a buffer was at most, and how full it may be."""

    buffer: str
    most: int
    bound: int


@dataclass
class History:
    job: str
    partitions: dict[str, int]
    """Of each input topic of a stage."""
    stages: dict[str, str]
    """Each stage's input topic."""
    inputs: dict[str, list[Record]] = field(default_factory=dict[str, list[Record]])
    outputs: dict[str, list[Record]] = field(default_factory=dict[str, list[Record]])
    frames: dict[TaskId, list[JournalFrame]] = field(default_factory=dict[TaskId, list[JournalFrame]])
    begun: dict[TaskId, dict[str, dict[bytes, bytes]]] = field(
        default_factory=dict[TaskId, dict[str, dict[bytes, bytes]]]
    )
    """Rows that tasks began with, by step: of a job that was resumed from a savepoint."""
    committed: dict[TopicPartition, OffsetTold] = field(default_factory=dict[TopicPartition, OffsetTold])
    """At the end."""
    unprocessed: int | None = None
    """Input and shuffle records behind no commit, at the end."""
    open_transactions: list[str] | None = None
    stopped: list[str] = field(default_factory=list[str])
    """Errors that ended a worker for good, and that no fault explains."""
    transactions: list[Transaction] | None = None
    offsets_sent: list[OffsetsSent] | None = None
    opened: list[Opened] | None = None
    doubtful: list[DoubtfulCall] | None = None
    written: dict[tuple[TopicPartition, int], tuple[tuple[int, int], int]] | None = None
    """For each output's place the transaction that wrote it: its producer, and the step at which it was begun."""
    events: list[Event] | None = None
    states: list[TaskState] | None = None
    levels: list[Level] | None = None
    shuffled: list[Shuffled] | None = None
    """In the order of each partition; what was trimmed is missing at the beginning."""
    barriers: list[tuple[int, str]] | None = None
    """What the control topic says last of each barrier: `open`, `complete`, `abandoned`."""
    decisions: list[tuple[int, str]] | None = None
    """Every `complete` and `abandoned` that the control topic holds, in order."""
    stored_cuts: list[tuple[int, TaskId, int, int]] | None = None
    """Of complete barriers: the barrier, a task, the epoch of its cut, the epoch of what it stored for it."""
    checkpoints: list[CheckpointSeen] | None = None
    journals_trimmed: list[Trimmed] | None = None
    cut_short: bool = False
    """The job was stopped by name, as it had to be: what it had not come to is not missing."""
    watermarks: dict[TaskId, list[int]] | None = None
    """None where the job has none."""

    def digest(self) -> str:
        """The same for the same history, on any machine."""
        return hashlib.sha256(b"\n".join(self.lines())).hexdigest()

    def lines(self) -> Iterable[bytes]:
        for name in sorted(self.inputs):
            yield from map(_line, self.inputs[name])
        for name in sorted(self.outputs):
            yield from map(_line, self.outputs[name])
        for task in sorted(self.frames):
            yield from (_line((f.first, f.end, f.frame)) for f in self.frames[task])
        for tp in sorted(self.committed):
            yield _line(self.committed[tp])
        for part in (self.transactions, self.offsets_sent, self.events, self.doubtful):
            yield from map(_line, part or ())


def _line(value: Any) -> bytes:
    return msgspec.msgpack.encode(value, enc_hook=_plain, order="deterministic")


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return str(value)
