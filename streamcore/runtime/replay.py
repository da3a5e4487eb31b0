"""Bringing a task's store to the commit that the metadata names, from its journal.

A `Replay` is fed the journal's messages (read_committed) in offset order, from the frame the store stands at, or from
the first on, and applies each later epoch. It knows three things at the end: the store's mark, whether the frame at the
store's own position carried its nonce, and whether committed frames stand there that the metadata does not know.

Which frames count is judged by their own mode, whatever the job runs under now. Exactly once: every frame, for it is
only visible when its transaction was committed. At least once: frames of commits that failed, or of a zombie, stand
there too. A frame follows its `previous`, and a worker writes one only once that was committed: so a frame counts when
the next one names it, or when it is the metadata's own. Those that may still come to count are all of one epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from streamcore.errors import OffsetsLost, invariant
from streamcore.log.metadata import Metadata
from streamcore.log.port import Run
from streamcore.state.frames import Assembled, FrameAssembler, Origin
from streamcore.state.store import EpochMark, Store, refuse_dropped
from streamcore.types import Offset, TaskId, TopicPartition


class Verdict(Enum):
    MORE = "the metadata's frame is still to come"
    DONE = "the store stands at the metadata's commit"
    FOREIGN = "the frame at the store's position is not the store's: the local state is of another line"


MISSING: Final = "frames are missing, so the state cannot be rebuilt"
REMEDY: Final = (
    "`streamcore reset JOB` starts over; another tool trimmed or compacted the journal topic, or wrote to it"
)


def mark_of(placed: Assembled) -> EpochMark:
    frame = placed.frame
    return EpochMark(frame.lineage, frame.epoch, frame.nonce, placed.first, placed.end)


class Replay:
    def __init__(
        self,
        task: TaskId,
        journal: TopicPartition,
        store: Store,
        target: Metadata | None,
        check: Callable[[Origin], None],
        rejected: str = "",
        end: Offset | None = None,
    ) -> None:
        """`target` None: nothing is committed, so there may be no frame that counts up to `end`, the journal's stable
        end as its leader tells it when it is asked. `check` raises TopicError when the topics are not those of these
        facts of genesis. `rejected`: checkpoints that could not be restored before this, and why."""
        self._task = task
        self._store = store
        self._target = target
        self._check = check
        self._rejected = rejected
        self._end = end or Offset(0)
        self._assembler = FrameAssembler(str(journal), chained=True)
        self._mark = store.mark()
        self._local = self._mark is not None
        self._confirmed = not self._local
        self._candidates: dict[Offset, Assembled] = {}
        """At-least-once frames after the mark's, by their first offset: at most one of them counts."""
        self.origin: Origin | None = None
        self.frames = 0
        self.verdict = Verdict.MORE
        if target is None:
            invariant(self._mark is None, f"task {task}: a store with a mark and no committed metadata")

    @property
    def mark(self) -> EpochMark | None:
        return self._mark

    @property
    def start(self) -> Offset | None:
        """Where to read from; None: the journal's first offset."""
        return self._mark.journal if self._mark else None

    def feed(self, run: Run) -> None:
        for offset, value in zip(run.offsets, run.values, strict=True):
            complete = self._assembler.feed(offset, value or b"")
            if complete is not None and self.verdict is not Verdict.FOREIGN:
                self._take(complete)

    def ended(self, position: Offset) -> bool:
        """The journal was read to `position`, which a fetch takes for its stable end: whether the store stands at the
        commit. Raises OffsetsLost when the commit's frame lies before it and was not there."""
        if self.verdict is Verdict.DONE:
            return True
        if self._target is None:
            return position >= self._end  # a fetch from a leader that is new may end earlier
        if position < self._target.journal_end or self.verdict is Verdict.FOREIGN:
            return False
        if self._local:
            self.verdict = Verdict.FOREIGN  # no frame that counts follows the local one: the journal alone will tell
            return False
        raise OffsetsLost(
            f"task {self._task}: the journal was read to offset {position} and does not hold the commit's frame (epoch "
            f"{self._target.epoch}, before offset {self._target.journal_end}): {MISSING}",
            REMEDY,
        )

    def _take(self, placed: Assembled) -> None:
        self.frames += 1
        self.origin = placed.frame.genesis
        if not self._confirmed:
            self._confirm(placed)
            return
        named = self._candidates.get(placed.frame.previous) if placed.frame.previous is not None else None
        if named is not None:
            self._follow(named)
        if placed.frame.mode != "alo" or (self._target is not None and placed.frame.nonce == self._target.nonce):
            self._follow(placed)
        elif placed.frame.previous == self.start:
            self._candidates[placed.first] = placed

    def _confirm(self, placed: Assembled) -> None:
        mark = self._mark
        target = self._target
        other = target is not None and mark is not None and mark.epoch == target.epoch and mark.nonce != target.nonce
        if mark is None or other or mark_of(placed) != mark:
            self.verdict = Verdict.FOREIGN
            return
        self._confirmed = True
        self._judge()

    def _follow(self, placed: Assembled) -> None:
        """A frame that counts."""
        if self._target is None or self.verdict is Verdict.DONE or placed.frame.epoch > self._target.epoch:
            self._check(placed.frame.genesis or {})  # a topic made anew takes its offsets with it: say that instead
            known = f"epoch {self._target.epoch}" if self._target else "nothing"
            raise OffsetsLost(
                f"task {self._task}: the journal holds a committed frame of epoch {placed.frame.epoch} (offset "
                f"{placed.first}), but the group's offsets know {known}: they were reset or expired",
                "`streamcore recover JOB` rewrites the offsets from the journal's last frame; `streamcore reset JOB` "
                "starts over",
            )
        self._candidates.clear()
        self._apply(placed)

    def _apply(self, placed: Assembled) -> None:
        expected = self._mark.epoch + 1 if self._mark else 0
        if placed.frame.epoch != expected:
            raise OffsetsLost(
                f"task {self._task}: the journal goes from epoch {expected - 1} to {placed.frame.epoch} at offset "
                f"{placed.first}: frames are missing, so the state cannot be rebuilt",
                "`streamcore reset JOB` starts over; another tool trimmed, compacted or wrote the journal topic",
            )
        if self._mark is None and placed.frame.checkpoint is not None:
            raise OffsetsLost(
                f"task {self._task}: its state began with the checkpoint {placed.frame.checkpoint} (of a savepoint), "
                f"which was not restored ({self._rejected or 'it is not in the store'})",
                "make that one whole again (a copy of its objects), or resume from the savepoint anew"
                if self._rejected
                else "run the job with the --checkpoints that it was resumed with",
            )
        refuse_dropped(placed.frame.deltas, self._store.steps, f"the journal of task {self._task}")
        mark = mark_of(placed)
        self._store.apply(placed.frame.deltas, mark)
        self._mark = mark
        self._judge()

    def _judge(self) -> None:
        target, mark = self._target, self._mark
        if target is None or mark is None or mark.epoch < target.epoch:
            return
        if (mark.lineage, mark.epoch, mark.nonce) != (target.lineage, target.epoch, target.nonce):
            # The journal's own frame at this epoch is another one than the offsets were committed with.
            raise OffsetsLost(
                f"task {self._task}: epoch {mark.epoch} is {mark.nonce} in the journal, {target.nonce} in the offsets",
                "the offsets were changed by another tool: `streamcore recover JOB`, or `streamcore reset JOB`",
            )
        self.verdict = Verdict.DONE
