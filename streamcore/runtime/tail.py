"""How much of a task's journal lies behind its newest checkpoint: what a takeover without it would have to replay.

Counted in bytes, as written by this worker. What was written before it had the task is estimated from the number of
epochs, at the mean size of those that it has seen, or else of those that the owner before it has told of.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tail:
    epochs_before: int = 0
    """Committed since the newest checkpoint when this worker took the task over."""
    mean_before: int = 0
    """Bytes of an epoch, as its owner before has told."""
    since_cut: int = 0
    """Bytes since the last cut (or the takeover)."""
    records_since_cut: int = 0
    _cut: int = 0
    """Bytes between the newest checkpoint's epoch and the last snapshot's."""
    _behind: int = 0
    """Bytes between the last snapshot and a later cut, of which none was taken."""
    _was_cut: bool = False
    """By this worker."""
    _wanted: tuple[int, int] | None = None
    """Bytes and records since the last cut when the next one was wanted."""
    _bytes: int = 0
    _epochs: int = 0

    @property
    def epoch_bytes(self) -> int:
        """The mean."""
        return self._bytes // self._epochs if self._epochs else self.mean_before

    @property
    def size_bytes(self) -> int:
        return self._before_bytes + self._cut + self._behind + self.since_cut

    @property
    def uncut_bytes(self) -> int:
        """Since the last cut, by whomever."""
        return self.since_cut + (0 if self._was_cut else self._before_bytes)

    @property
    def _before_bytes(self) -> int:
        return self.epochs_before * self.epoch_bytes

    @property
    def since_wanted(self) -> tuple[int, int]:
        """Bytes and records since a cut was wanted, which has not come."""
        if self._wanted is None:
            return 0, 0
        return max(0, self.uncut_bytes - self._wanted[0]), self.records_since_cut - self._wanted[1]

    def want_cut(self) -> None:
        """Saying so again changes nothing."""
        if self._wanted is None:
            self._wanted = self.uncut_bytes, self.records_since_cut

    def wrote(self, size_bytes: int, records: int = 0) -> None:
        self.since_cut += size_bytes
        self.records_since_cut += records
        self._bytes += size_bytes
        self._epochs += 1

    def cut(self, *, taken: bool = True) -> None:
        """`taken`: a snapshot was, and nobody knows yet whether it will be stored."""
        if taken:
            self._cut += self._behind + self.since_cut
            self._behind = 0
        else:
            self._behind += self.since_cut
        self.since_cut = self.records_since_cut = 0
        self._wanted = None
        self._was_cut = True

    def stored(self) -> None:
        """The last snapshot is a checkpoint."""
        self.epochs_before = self._cut = 0
