"""Bringing a task's store to the commit that the metadata names, from its journal.

A `Replay` is fed the journal's messages in offset order, from the frame the store stands at (or from the first) on,
and applies each later epoch. It knows three things at the end: the store's mark, whether the frame at the store's own
position carried its nonce, and whether frames stand there that the metadata does not know.

Exactly once: the reader is read_committed, so every frame counts and each must follow its predecessor by one epoch.
At least once: frames of commits that failed, or of a zombie, stand there too; only those on the chain of `previous`
that leads back from the metadata's frame count, so frames are kept until the metadata's is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

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
        chained: bool,
        check: Callable[[Origin], None],
    ) -> None:
        """`target` None: nothing is committed, so there may be no frame at all. `chained`: at-least-once. `check`
        raises TopicError when the topics are not those of these facts of genesis."""
        self._task = task
        self._store = store
        self._target = target
        self._chained = chained
        self._check = check
        self._assembler = FrameAssembler(str(journal), chained)
        self._mark = store.mark()
        self._confirmed = self._mark is None
        self._waiting: dict[Offset, Assembled] = {}
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

    def _take(self, placed: Assembled) -> None:
        self.frames += 1
        self.origin = placed.frame.genesis
        if not self._confirmed:
            self._confirm(placed)
        elif self._chained and self.verdict is Verdict.DONE:
            return
        elif self._chained:
            self._waiting[placed.first] = placed
            if self._target and placed.frame.nonce == self._target.nonce:
                self._apply_chain(placed)
        else:
            self._follow(placed)

    def _confirm(self, placed: Assembled) -> None:
        mark = self._mark
        if mark is None or placed.first != mark.journal or mark_of(placed) != mark:
            self.verdict = Verdict.FOREIGN
            return
        self._confirmed = True
        self._judge()

    def _follow(self, placed: Assembled) -> None:
        if self._target is None or self.verdict is Verdict.DONE or placed.frame.epoch > self._target.epoch:
            self._check(placed.frame.genesis or {})  # a topic made anew takes its offsets with it: say that instead
            known = f"epoch {self._target.epoch}" if self._target else "nothing"
            raise OffsetsLost(
                f"task {self._task}: the journal holds a committed frame of epoch {placed.frame.epoch} (offset "
                f"{placed.first}), but the group's offsets know {known}: they were reset or expired",
                "`streamcore recover JOB` rewrites the offsets from the journal's last frame; `streamcore reset JOB` "
                "starts over",
            )
        self._apply(placed)

    def _apply_chain(self, last: Assembled) -> None:
        chain = [last]
        stop = self._mark.journal if self._mark else None
        while chain[-1].frame.previous != stop:
            previous = chain[-1].frame.previous
            if previous is None or previous not in self._waiting:
                raise OffsetsLost(
                    f"task {self._task}: the frame of epoch {chain[-1].frame.epoch} follows one at offset {previous}, "
                    "which the journal does not hold",
                    "`streamcore reset JOB` starts over; the journal topic was trimmed or changed by another tool",
                )
            chain.append(self._waiting[previous])
        for placed in reversed(chain):
            self._apply(placed)
        self._waiting.clear()

    def _apply(self, placed: Assembled) -> None:
        expected = self._mark.epoch + 1 if self._mark else 0
        if placed.frame.epoch != expected:
            raise OffsetsLost(
                f"task {self._task}: the journal goes from epoch {expected - 1} to {placed.frame.epoch} at offset "
                f"{placed.first}: frames are missing, so the state cannot be rebuilt",
                "`streamcore reset JOB` starts over; another tool trimmed, compacted or wrote the journal topic",
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
