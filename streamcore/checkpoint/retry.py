"""A request to a checkpoint store, repeated while the store does not answer: with backoff, jitter, and a bound."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import CheckpointStoreUnavailable

T = TypeVar("T")


class Retry:
    """Any thread; `deadline_s` (of the clock's monotonic time) ends all of its calls' repeating."""

    def __init__(self, clock: Clock, random: Random, deadline_s: float | None = None) -> None:
        self._clock = clock
        self._random = random
        self._deadline_s = deadline_s

    def __call__(self, request: Callable[[], T]) -> T:
        """Raises the last CheckpointStoreUnavailable; other errors at once."""
        until = self._clock.monotonic_s() + limits.CHECKPOINT_RETRY_S
        if self._deadline_s is not None:
            until = min(until, self._deadline_s)
        wait = limits.RETRY_BASE_S
        while True:
            try:
                return request()
            except CheckpointStoreUnavailable:
                pause = wait * (0.5 + self._random.random())
                if self._clock.monotonic_s() + pause >= until:
                    raise
                self._clock.sleep_s(pause)
                wait = min(wait * 2, limits.RETRY_CAP_S)
