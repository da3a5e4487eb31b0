"""How far a worker's restores have come, for whoever watches: several threads write, one reads."""

from __future__ import annotations

from threading import Lock


class Restores:
    """`total_bytes` 0: nothing is being restored."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.done_bytes = 0
        self.total_bytes = 0

    def began(self, size_bytes: int) -> None:
        with self._lock:
            self.total_bytes += size_bytes

    def wrote(self, size_bytes: int) -> None:
        with self._lock:
            self.done_bytes += size_bytes

    def over(self) -> None:
        """Of all tasks: they are restored, or nobody needs them any more."""
        with self._lock:
            self.done_bytes = self.total_bytes = 0
