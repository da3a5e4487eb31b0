"""How much of a task's journal lies behind its newest checkpoint: what a takeover without it would have to replay.

Counted in bytes, as written by this worker. What was written before it had the task is estimated from the number of
epochs, at the mean size of those that it has seen.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tail:
    epochs_before: int = 0
    """Committed since the newest checkpoint when this worker took the task over."""
    since_cut: int = 0
    """Bytes since the last cut (or the takeover)."""
    _cut: int = 0
    """Bytes between the newest checkpoint's epoch and the last cut's."""
    _bytes: int = 0
    _epochs: int = 0

    @property
    def size_bytes(self) -> int:
        mean = self._bytes // self._epochs if self._epochs else 0
        return self.epochs_before * mean + self._cut + self.since_cut

    def wrote(self, size_bytes: int) -> None:
        self.since_cut += size_bytes
        self._bytes += size_bytes
        self._epochs += 1

    def cut(self) -> None:
        """A snapshot was taken here; nobody knows yet whether it will be stored."""
        self._cut += self.since_cut
        self.since_cut = 0

    def stored(self) -> None:
        """The snapshot of the last cut is a checkpoint."""
        self.epochs_before = self._cut = 0
