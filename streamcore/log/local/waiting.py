"""Waiting by the injected clock, the only kind there is here."""

from __future__ import annotations

from collections.abc import Iterator

from streamcore.clock import Clock

Steps = tuple[float, float]
"""The first wait and the longest, in seconds; each is twice the one before."""
STEPS_S: Steps = (0.001, 0.01)


def attempts(clock: Clock, timeout_s: float, steps_s: Steps = STEPS_S) -> Iterator[None]:
    """Once at once, then after each of ever longer steps until the timeout; the last wait is for the caller's next
    call. A clock that stands still while it sleeps (a test's) ends it at once: nothing would change by waiting."""
    deadline_s = clock.monotonic_s() + timeout_s
    step_s, last_s = steps_s
    while True:
        yield
        now_s = clock.monotonic_s()
        if now_s >= deadline_s:
            return
        clock.sleep_s(min(step_s, deadline_s - now_s))
        if clock.monotonic_s() <= now_s or now_s + step_s >= deadline_s:
            return
        step_s = min(2 * step_s, last_s)
