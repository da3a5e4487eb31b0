"""`recover JOB`: offsets and metadata written anew from the journal's last frame of each task.

For offsets that were reset by another tool, or expired, while the journal stands: the frame holds all that the
metadata said. A frame is visible (read_committed) only if its transaction was committed, so the last one is the last
commit. In at-least-once mode frames of failed commits are visible too: the last whose chain of predecessors is whole
is taken, which repeats at most what that mode repeats anyway.

Refused while the group has members, and for an input topic that is not the one the state was built from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import LogUnavailable, OffsetsLost, TopicError
from streamcore.log.port import Admin, Committed, Log, OffsetCommit
from streamcore.runtime.status import JobTopics, refuse_members, require
from streamcore.state.frames import Frame, FrameAssembler
from streamcore.types import Offset, Partition, TaskId, TopicPartition


@dataclass(frozen=True, slots=True)
class Last:
    """A frame without its state changes: what `recover` needs of it."""

    frame: Frame
    end: Offset


@dataclass(frozen=True, slots=True)
class Recovery:
    task: TaskId
    commits: tuple[OffsetCommit, ...]
    epoch: int
    now: tuple[Committed | None, ...]
    """What is committed at present, for each of `commits`."""

    @property
    def changes(self) -> bool:
        return any(now is None or (now.offset, now.metadata) != (c.offset, c.metadata) for c, now in self._pairs())

    def lines(self) -> list[str]:
        return [
            f"{self.task}: {commit.tp} from {'nothing' if now is None else f'offset {now.offset}'} "
            f"to offset {commit.offset}, epoch {self.epoch}"
            for commit, now in self._pairs()
        ]

    def _pairs(self) -> Iterable[tuple[OffsetCommit, Committed | None]]:
        return zip(self.commits, self.now, strict=True)


def plan_recovery(log: Log, admin: Admin, job: str, clock: Clock) -> list[Recovery]:
    """One a task that has a journal; those that are as they should be have no `changes`."""
    topics = require(admin, job)
    if not topics.journals:
        raise OffsetsLost(f"job {job} has no journal to recover from", "`streamcore reset` starts it over")
    refuse_members(admin, job)
    tasks = _last_frames(log, admin, topics, clock)
    _check_inputs(admin, tasks)
    wanted = {
        task: tuple(
            OffsetCommit(TopicPartition(topic, task.partition), offset, last.frame.metadata(last.end).encode())
            for topic, offset in last.frame.offsets.items()
        )
        for task, last in tasks.items()
    }
    tps = [commit.tp for commits in wanted.values() for commit in commits]
    present = admin.committed(job, tps, limits.CALL_TIMEOUT_S, stable=False)
    return [
        Recovery(task, commits, tasks[task].frame.epoch, tuple(present.get(commit.tp) for commit in commits))
        for task, commits in wanted.items()
    ]


def recover(admin: Admin, job: str, recoveries: Iterable[Recovery]) -> None:
    admin.set_committed(job, [commit for recovery in recoveries if recovery.changes for commit in recovery.commits])


# --- the journals -----------------------------------------------------------------------------------------------


UNDECIDED_S: Final = 3 * limits.TRANSACTION_TIMEOUT_MS / 1000
"""So long a dead worker's transaction may stay open: its timeout, and until the broker looks."""
CHAIN_FRAMES: Final = 10_000
"""As far back as an at-least-once chain is judged; what it reaches beyond that was committed long ago."""


class _Journal:
    """One partition's frames, without their state changes: the last, or as many as a chain needs to be judged."""

    def __init__(self, tp: TopicPartition) -> None:
        self._assembler = FrameAssembler(str(tp), chained=True)
        self._placed: dict[Offset, Last] = {}

    def feed(self, offset: int, message: bytes) -> None:
        complete = self._assembler.feed(Offset(offset), message)
        if complete is None:
            return
        frame, first, end = complete
        if frame.mode != "alo":
            self._placed.clear()
        elif len(self._placed) >= CHAIN_FRAMES:
            del self._placed[next(iter(self._placed))]
        self._placed[first] = Last(_bare(frame), end)

    def last(self) -> Last | None:
        for first in reversed(self._placed):
            if self._is_whole(first):
                return self._placed[first]
        return None

    def _is_whole(self, at: Offset) -> bool:
        """Back to genesis, or to a frame of exactly-once mode, which was committed for sure."""
        last = self._placed.get(at)
        while last is not None:
            previous = last.frame.previous
            if previous is None or last.frame.mode != "alo":
                return True
            if previous < min(self._placed):
                return True
            last = self._placed.get(previous)
        return False


def _bare(frame: Frame) -> Frame:
    return Frame(**{name: getattr(frame, name) for name in frame.__struct_fields__ if name != "deltas"}, deltas={})


def _last_frames(log: Log, admin: Admin, topics: JobTopics, clock: Clock) -> dict[TaskId, Last]:
    stage_of = {info.name: stage for stage, info in topics.journals.items()}
    tps = [TopicPartition(i.name, Partition(p)) for i in topics.journals.values() for p in range(i.partitions)]
    journals = {tp: _Journal(tp) for tp in tps}
    ends = admin.ends(tps)  # a fetch may end earlier: at a leader that is new (KIP-207), at an open transaction
    reader = log.reader(admin.first_offsets(tps))
    quiet_since = clock.monotonic_s()
    try:
        while any(reader.position(tp) < end for tp, end in ends.items()):
            runs = reader.poll(limits.POLL_RECORDS, 0.1)
            for run in runs:
                for offset, value in zip(run.offsets, run.values, strict=True):
                    journals[run.tp].feed(offset, value or b"")
            if runs:
                quiet_since = clock.monotonic_s()
            elif clock.monotonic_s() - quiet_since > UNDECIDED_S:
                raise LogUnavailable(
                    f"the journals of job {topics.job} cannot be read to their end",
                    "a transaction is open there, or a partition has no leader: see that no worker runs, and try again",
                )
    finally:
        reader.close()
    found = {TaskId(stage_of[tp.topic], tp.partition): journal.last() for tp, journal in journals.items()}
    return {task: last for task, last in found.items() if last is not None}


def _check_inputs(admin: Admin, tasks: Mapping[TaskId, Last]) -> None:
    present = admin.topics()
    for task, last in tasks.items():
        for topic, (topic_id, *_) in (last.frame.genesis or {}).items():
            info = present.get(topic)
            if info is None or info.topic_id != topic_id:
                how = "gone" if info is None else "not the one the state was built from"
                raise TopicError(
                    f"task {task}: topic {topic} is {how}",
                    "its offsets mean nothing any more: `streamcore reset` starts the job over",
                )
