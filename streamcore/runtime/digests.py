"""Digests of states at their cuts, for drills to compare: of as many as a small share of a worker's time allows.

Measured: 1.9 µs an entry of 100 bytes (a million entries, 2 s; ten million, 1 GB, 19 s), and as it is Python's own
work, the processing thread has 0.4 to 0.5 of its speed meanwhile. So a digest is given up after DIGEST_S, one that took
T seconds is followed by none for T / share, and a state that was too large is not tried again. A small state has one at
every checkpoint; one of more than about a million entries none: there a drill compares the objects' hashes and marks.

Runs where uploads run, on the snapshot; one at a time.
"""

from __future__ import annotations

from streamcore import limits
from streamcore.checkpoint.snapshot import Form, Snapshot
from streamcore.checkpoint.verify import digest_within
from streamcore.clock import Clock
from streamcore.types import TaskId


class Digests:
    def __init__(self, form: Form, share: float, clock: Clock) -> None:
        """`share` 0: none, and the clock is not asked."""
        self._form = form
        self._share = share
        self._clock = clock
        self._next_s = 0.0
        self._too_large: dict[TaskId, int] = {}
        """The size, in files, at which a task's was given up."""

    def of(self, task: TaskId, snapshot: Snapshot) -> str | None:
        """None where it would cost too much now. Raises StateDamaged, StateDirError as the snapshot's reading does."""
        if not self._share or (begun_s := self._clock.monotonic_s()) < self._next_s:
            return None
        size = sum(path.stat().st_size for path in snapshot.files())
        if size >= self._too_large.get(task, limits.DIGEST_BYTES):
            return None
        store = self._form(snapshot.path)
        try:
            digest = digest_within(store, lambda: self._clock.monotonic_s() - begun_s > limits.DIGEST_S)
        finally:
            store.close()
        if digest is None:
            self._too_large[task] = size
        now_s = self._clock.monotonic_s()
        self._next_s = now_s + (now_s - begun_s) / self._share
        return digest
