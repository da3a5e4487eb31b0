"""How long the log has been away, and when to try again: while a worker runs, and when it starts.

An outage begins with the first call that fails and is over with the first takeover that is done or commit that is
decided. It may last OUTAGE_S; attempts are spread by backoff with jitter, which begins anew once something was
committed. Processing thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from streamcore import limits
from streamcore.clock import Clock, Entropy
from streamcore.errors import RetryError, StreamcoreError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Outage:
    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._jitter = entropy.random()
        self._begun_s: float | None = None
        self._again_s = 0.0
        self._delay_s = limits.RETRY_BASE_S

    def failed(self, error: StreamcoreError) -> None:
        """Raises `error` when the outage has lasted too long."""
        now = self._clock.monotonic_s()
        if self._begun_s is None:
            self._begun_s = now
        if now - self._begun_s > limits.OUTAGE_S:
            raise error
        self._again_s = now + self._delay_s * (0.5 + self._jitter.random())
        self._delay_s = min(self._delay_s * 2, limits.RETRY_CAP_S)

    @property
    def wait_s(self) -> float:
        """Until the next attempt."""
        return max(0.0, self._again_s - self._clock.monotonic_s())

    def over(self) -> None:
        self._begun_s = None

    def committed(self) -> None:
        self.over()
        self._delay_s = limits.RETRY_BASE_S


def patiently(call: Callable[[], T], clock: Clock, entropy: Entropy) -> T:
    """At start the broker may be away: back off within the start-up bound. Raises what `call` raises at last."""
    jitter = entropy.random()
    deadline = clock.monotonic_s() + limits.STARTUP_RETRY_S
    delay = limits.RETRY_BASE_S
    while True:
        try:
            return call()
        except RetryError as error:
            if clock.monotonic_s() + delay >= deadline:
                raise
            logger.warning("the log does not answer yet, trying again in %.1f s: %s", delay, error.what)
            clock.sleep_s(delay * (0.5 + jitter.random()))
            delay = min(delay * 2, limits.RETRY_CAP_S)
