"""Before a cut, beside the loop: what its tasks have in memory goes to files, so that the snapshot on the processing
thread finds some milliseconds' work left, and not a tenth of a second's.

Nothing rests on it: a flush that fails or takes too long leaves more to the snapshot, which tells what is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from streamcore import limits
from streamcore.checkpoint.background import Done, Failed, Work
from streamcore.clock import Clock
from streamcore.runtime.task import Task

logger = logging.getLogger(__name__)


class Flushing:
    """Of one worker; processing thread only."""

    def __init__(self, work: Callable[[], Work[object]], clock: Clock) -> None:
        self._work = work
        self._clock = clock
        self._barrier = 0
        self._running: Work[object] | None = None
        self._begun_s = 0.0

    def over(self, barrier: int, tasks: Sequence[Task]) -> bool:
        """Whether these tasks may be cut for the barrier now. The first call for it begins their flushes."""
        if barrier != self._barrier:
            self._begin(barrier, tasks)
        if self._running is not None:
            self._look(self._running)
        return self._running is None or self._clock.monotonic_s() - self._begun_s > limits.FLUSH_BEFORE_CUT_S

    def _begin(self, barrier: int, tasks: Sequence[Task]) -> None:
        """A store that is closed meanwhile waits for its flush, and is not flushed afterwards."""
        self._barrier, self._begun_s = barrier, self._clock.monotonic_s()
        stores = [task.store for task in tasks]

        def flush() -> None:
            for store in stores:
                store.flush(wait=True)

        self._running = self._work()
        self._running.submit(flush)

    def _look(self, running: Work[object]) -> None:
        match running.poll():
            case Done():
                self._running = None
            case Failed(error):
                self._running = None
                logger.warning("a flush before the cut for barrier %d failed: %s", self._barrier, error)
            case None:
                pass
