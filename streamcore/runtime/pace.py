"""When an epoch ends: by time, by records, by bytes.

By time: after the commit interval, or as much sooner as the RPO needs, or so much later that commits take no more than
their share of it. Processing thread only.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamcore import limits
from streamcore.clock import Clock
from streamcore.observe.metrics import Metrics
from streamcore.runtime.budget import Rpo
from streamcore.runtime.task import Task


class Pace:
    def __init__(self, interval_ms: int, rpo_ms: int, clock: Clock, metrics: Metrics) -> None:
        self._interval_ms = interval_ms
        self._clock = clock
        self._rpo = Rpo(rpo_ms, metrics)
        self._commit_average_s = 0.0
        self._begun_s = 0.0
        self._narrow = False
        """An epoch was undone: the next ends with its first slice, so that what cannot be done together is done at
        all (a fast task begins the transaction, and a slow slice of another outlasts its timeout, each time)."""

    def begin(self) -> None:
        """The first record of an epoch is fed."""
        self._begun_s = self._clock.monotonic_s()

    def left_s(self, now_s: float) -> float:
        """Until the epoch is due by time."""
        return self._begun_s + self._interval_s() - now_s

    def due(self, touched: Sequence[Task]) -> bool:
        """`touched`: the tasks that have an open epoch."""
        if not touched:
            return False
        if self._narrow or self._clock.monotonic_s() - self._begun_s >= self._interval_s():
            return True
        records = sum(task.records for task in touched)
        return records >= limits.EPOCH_RECORDS or sum(t.runner.epoch_bytes for t in touched) >= limits.EPOCH_BYTES

    def committed(self, begun_s: float, *, fed: bool) -> None:
        """`begun_s`: when the commit began. `fed`: it was not of words alone."""
        taken_s = self._clock.monotonic_s() - begun_s
        self._commit_average_s += (taken_s - self._commit_average_s) / 8
        if fed:
            self._rpo.committed(self._begun_s, begun_s + taken_s)

    def ended(self, *, undone: bool, fed: bool = True) -> None:
        """An epoch is over, and whether a part of it at least was undone."""
        if undone and fed:
            self._rpo.undone(self._begun_s)
        self._narrow = undone

    def forget(self) -> None:
        """The tasks are let go."""
        self._rpo.forget()

    def _interval_s(self) -> float:
        wanted_s = max(self._interval_ms / 1000, limits.COMMIT_TIME_RATIO * self._commit_average_s)
        return self._rpo.interval_s(min(wanted_s, limits.COMMIT_INTERVAL_MAX_MS / 1000), self._commit_average_s)
