"""Ends the process when the loop hangs past the transaction's own timeout in a call of the transaction protocol.

The client's calls have timeouts; this is for the day when one does not keep its own. The slot starts again and takes
over from the commit, which is all that a hung process could hope for. One daemon thread wakes a few times a limit and
compares two numbers; the processing thread writes one of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from streamcore import limits
from streamcore.clock import Clock

logger = logging.getLogger(__name__)


class Watchdog:
    def __init__(self, clock: Clock, end: Callable[[], None], limit_s: float = limits.HANG_S) -> None:
        """`end` is called on the watchdog's thread and is expected to end the process (os._exit)."""
        self._clock = clock
        self._end = end
        self._limit_s = limit_s
        self._begun_s: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="streamcore-watchdog", daemon=True)
        self._thread.start()

    def enter(self) -> None:
        """A guarded call begins (processing thread)."""
        self._begun_s = self._clock.monotonic_s()

    def leave(self) -> None:
        self._begun_s = None

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(self._limit_s / 4):
            begun = self._begun_s
            if begun is not None and self._clock.monotonic_s() - begun > self._limit_s:
                logger.critical("a call of the transaction protocol has hung for over %.0f s", self._limit_s)
                self._end()
