"""Time and chance, injected.

Nothing in the package reads a clock or draws a random number but through these two, so that a simulator can own
both. `SystemClock` and `SystemEntropy` are the only places that touch the operating system's.
"""

from __future__ import annotations

import os
import time
from random import Random
from typing import Protocol


class Clock(Protocol):
    def monotonic_s(self) -> float:
        """Seconds that never go back: durations, deadlines, timers."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch: what records and people are told. May go back."""
        ...

    def sleep_s(self, seconds: float) -> None:
        """Let `seconds` pass: back-off between retries. Never called while records wait in the same thread."""
        ...


class SystemClock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def sleep_s(self, seconds: float) -> None:
        time.sleep(seconds)


class Entropy(Protocol):
    """Where nonces, lineages and jitter come from."""

    def token(self) -> str:
        """16 hexadecimal digits, never the same twice."""
        ...

    def random(self) -> Random:
        """A generator of its own for the caller, seeded from here."""
        ...


class SystemEntropy:
    def token(self) -> str:
        return os.urandom(8).hex()

    def random(self) -> Random:
        return Random(os.urandom(16))


class SeededEntropy:
    """The same seed gives the same tokens and generators, in the order of the calls."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def token(self) -> str:
        return f"{self._random.getrandbits(64):016x}"

    def random(self) -> Random:
        return Random(self._random.getrandbits(128))
