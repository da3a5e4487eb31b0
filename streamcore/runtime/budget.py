"""What a takeover would take now, held against the RTO; and what a failure would have done again, against the RPO.

A takeover on a machine that has no local state:

    fence      limits.TAKEOVER_S
    restore    the newest checkpoints' bytes, at the rate of this job's restores
    replay     the journals' bytes behind them, at the rate of its replays

A worker's tasks are taken over together, by whoever gets its slot: their times add up. What is left of the RTO once all
is restored is the room for replays; a barrier is wanted when half of it is used, so that it has as long again to come
about. Where restoring alone takes as long as the RTO no barrier helps: that is told, and the timer goes on.

Rates are what takeovers and drills have shown: of this worker, or of another of the job before, by the control topic.
Until there is one, limits has a slow one.

Processing thread only; no clock, no log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streamcore import limits
from streamcore.observe.metrics import Metrics
from streamcore.runtime.control import Recovery
from streamcore.types import TaskId

logger = logging.getLogger(__name__)

LEAST: Final = 0.02
"""Of the RTO, in replay: where a restore leaves little room, a barrier's own frames must not make another one due."""


@dataclass
class Rates:
    restore_bytes_s: float = 0.0
    replay_bytes_s: float = 0.0
    """0: not measured."""

    def restored(self, size_bytes: int, seconds: float) -> None:
        self.restore_bytes_s = _measured(self.restore_bytes_s, size_bytes, seconds)

    def replayed(self, size_bytes: int, seconds: float) -> None:
        self.replay_bytes_s = _measured(self.replay_bytes_s, size_bytes, seconds)

    def adopt(self, restore_bytes_s: float, replay_bytes_s: float) -> None:
        """Of another worker: where there is none of our own."""
        self.restore_bytes_s = self.restore_bytes_s or restore_bytes_s
        self.replay_bytes_s = self.replay_bytes_s or replay_bytes_s

    @property
    def measured(self) -> bool:
        return self.restore_bytes_s > 0 and self.replay_bytes_s > 0

    def restore_s(self, size_bytes: float) -> float:
        return size_bytes / (self.restore_bytes_s or limits.RESTORE_BYTES_S)

    def replay_s(self, size_bytes: float) -> float:
        return size_bytes / (self.replay_bytes_s or limits.REPLAY_BYTES_S)

    def takeover_s(self, state_bytes: float, tail_bytes: float) -> float:
        """On a machine without local state."""
        return limits.TAKEOVER_S + self.restore_s(state_bytes) + self.replay_s(tail_bytes)


def _measured(before: float, size_bytes: int, seconds: float) -> float:
    """Half of the newest and half of what was: one takeover on a busy machine is not all there is to know."""
    if size_bytes < limits.RATE_SAMPLE_BYTES or seconds < limits.RATE_SAMPLE_S:
        return before
    rate = size_bytes / seconds
    return (before + rate) / 2 if before else rate


@dataclass(frozen=True, slots=True)
class Promised:
    """What the job's settings say. 0: no such bound."""

    rpo_ms: int = 0
    rto_ms: int = 0


@dataclass(frozen=True, slots=True)
class Behind:
    """Of one task, in bytes."""

    state: int
    """Of its newest checkpoint."""
    tail: int
    """Of its journal behind that."""
    uncut: int
    """Of its journal since its last cut: what the next one makes shorter."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """What a takeover of one task takes, as its worker has told the rates and sizes."""

    state_bytes: int
    tail_bytes: int
    local_s: float
    other_s: float
    rto_s: float
    """0: no budget."""
    measured: bool
    """Else at rates that are assumed."""


def foretold(told: Recovery, epochs: int) -> Foretold:
    """`epochs`: committed behind the task's newest checkpoint."""
    rates, tail = Rates(told.restore_bytes_s, told.replay_bytes_s), epochs * told.epoch_bytes
    other_s = rates.takeover_s(told.state_bytes, tail)
    return Foretold(told.state_bytes, tail, limits.TAKEOVER_S, other_s, told.rto_ms / 1000, rates.measured)


class Rto:
    def __init__(self, rto_ms: int, rates: Rates, metrics: Metrics) -> None:
        self._rto_s = rto_ms / 1000
        self._rates = rates
        self._metrics = metrics
        self._room_s = 0.0
        self._over = False

    def judge(self, tasks: Mapping[TaskId, Behind], trouble: str) -> str:
        """Of all that this worker runs. Why a checkpoint is wanted now; "": none is. `trouble`: the last failure of the
        checkpoint store, if the newest checkpoint failed."""
        rates = self._rates
        state, tail = sum(task.state for task in tasks.values()), sum(task.tail for task in tasks.values())
        other_s = rates.takeover_s(state, tail)
        self._metrics.recovery(other_s, self._rto_s)
        self._room_s = self._rto_s - rates.takeover_s(state, 0)
        if self._rto_s:
            self._tell(tasks, other_s, trouble)
        uncut_s = rates.replay_s(sum(task.uncut for task in tasks.values()))
        if not self._is_due(uncut_s):
            return ""
        return (
            f"the journals of {len(tasks)} tasks would take {uncut_s:.1f} s to replay, and the RTO of "
            f"{self._rto_s:g} s leaves {self._room_s:.1f} s for it"
        )

    def alone(self, since_wanted_bytes: int) -> bool:
        """The barrier that was wanted does not come to this task, and its journal alone has used as much again."""
        return self._is_due(self._rates.replay_s(since_wanted_bytes))

    def _is_due(self, uncut_s: float) -> bool:
        return self._room_s > 0 and uncut_s >= max(self._room_s / 2, LEAST * self._rto_s)

    def _tell(self, tasks: Mapping[TaskId, Behind], other_s: float, trouble: str) -> None:
        over = other_s > self._rto_s
        if over == self._over:
            return
        self._over = over
        if not over:
            logger.info("within the RTO of %g s again: a takeover would take %.1f s", self._rto_s, other_s)
            return
        self._metrics.over_rto()
        longest = max(tasks, key=lambda task: self._rates.takeover_s(tasks[task].state, tasks[task].tail))
        logger.warning(
            "over the RTO of %g s: a takeover of this worker's %d tasks on another machine would take about %.0f s "
            "(%s rates); the largest is %s, %.0f MB to restore and %.0f MB of journal. %s The job goes on committing. "
            "See `streamcore replay-estimate`, and docs/operations.md for what to do",
            self._rto_s,
            len(tasks),
            other_s,
            "measured" if self._rates.measured else "assumed",
            longest,
            tasks[longest].state / 1e6,
            tasks[longest].tail / 1e6,
            f"No checkpoint can be made: {trouble}." if trouble else "",
        )


class Rpo:
    """How long the input of an epoch, and of those undone before it, stayed uncommitted."""

    def __init__(self, rpo_ms: int, metrics: Metrics) -> None:
        self._rpo_s = rpo_ms / 1000
        self._metrics = metrics
        self._since_s: float | None = None
        self._over = False

    def interval_s(self, wanted_s: float, commit_s: float) -> float:
        """The budget ends with the commit, whose own time it has to hold too."""
        return min(wanted_s, max(0.0, self._rpo_s - commit_s)) if self._rpo_s else wanted_s

    def undone(self, begun_s: float) -> None:
        """An epoch that began then is done again."""
        if self._since_s is None:
            self._since_s = begun_s

    def committed(self, begun_s: float, now_s: float) -> None:
        redone_s = now_s - (begun_s if self._since_s is None else self._since_s)
        self._since_s = None
        self._metrics.uncommitted(redone_s)
        over = 0 < self._rpo_s < redone_s
        if over:
            self._metrics.over_rpo()
            if not self._over:
                logger.warning(
                    "over the RPO of %g s: input stayed uncommitted for %.2f s. See the commit's own time, and "
                    "docs/operations.md for what to do",
                    self._rpo_s,
                    redone_s,
                )
        self._over = over

    def forget(self) -> None:
        """The tasks are let go."""
        self._since_s = None
