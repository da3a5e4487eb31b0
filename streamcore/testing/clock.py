"""Time that moves only when told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """Both clocks in one; sleeping moves it, so nothing ever waits."""

    def __init__(self, start: datetime = EPOCH) -> None:
        self._start_ms = int(start.timestamp() * 1000)
        self._passed_s = 0.0
        self._skew_ms = 0

    def monotonic_s(self) -> float:
        return self._passed_s

    def wall_ms(self) -> int:
        return self._start_ms + int(self._passed_s * 1000) + self._skew_ms

    def sleep_s(self, seconds: float) -> None:
        self._passed_s += seconds

    def advance(self, by: timedelta) -> None:
        self._passed_s += by.total_seconds()

    def set_back(self, by: timedelta) -> None:
        """The wall clock alone: what a time server's correction does."""
        self._skew_ms -= int(by.total_seconds() * 1000)
