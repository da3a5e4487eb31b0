"""A drill: now and then a worker restores one retained checkpoint of a task of its own into a scratch directory.

What it finds is told and counted, and changes nothing but this: objects that are missing or wrong are not built upon
again, so that the next checkpoint has them anew. On a thread of its own; the scratch directory lies beside the task's
and is as large as its state.

    STAGE-P.drill/…    deleted at the drill's end, or by the next one
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from streamcore.checkpoint.background import Done, Failed, Work
from streamcore.checkpoint.manifest import Layout, parsed
from streamcore.checkpoint.store import CheckpointStore
from streamcore.checkpoint.verify import Verdict, Verifier
from streamcore.clock import Clock
from streamcore.observe.metrics import Metrics
from streamcore.runtime.budget import Rates
from streamcore.types import TaskId

logger = logging.getLogger(__name__)

SUFFIX: Final = ".drill"


@dataclass(frozen=True, slots=True)
class _Drilled:
    task: TaskId
    verdict: Verdict | None
    """None: there was nothing to drill."""


class Drill:
    def __init__(
        self,
        job: str,
        store: CheckpointStore,
        verifier: Verifier,
        work: Work[object],
        every_s: float,
        clock: Clock,
        draw: Random,
        metrics: Metrics,
        rates: Rates,
    ) -> None:
        """`every_s` 0: never."""
        self._rates = rates
        self._layout = Layout(job)
        self._store = store
        self._verifier = verifier
        self._work = work
        self._every_s = every_s
        self._clock = clock
        self._random = draw
        self._metrics = metrics
        self._due_s = clock.monotonic_s() + every_s * (0.5 + draw.random()) if every_s else 0.0

    def step(self, tasks: Sequence[tuple[TaskId, Path]]) -> tuple[TaskId, frozenset[str]] | None:
        """Called often; never blocks. `tasks` with their directories. Gives a task's wrong objects, once."""
        if not self._every_s:
            return None
        match self._work.poll():
            case Done(_Drilled(task, Verdict() as verdict)):
                return self._told(task, verdict)
            case Failed(error):
                self._metrics.drilled("unknown")
                logger.warning("a drill came to no result: %s", error)
            case _:
                pass
        now_s = self._clock.monotonic_s()
        if tasks and now_s >= self._due_s and not self._work.busy:
            self._due_s = now_s + self._every_s
            task, folder = self._random.choice(tasks)
            self._work.submit(lambda: self._drill(task, folder))
        return None

    def _drill(self, task: TaskId, folder: Path) -> _Drilled:
        """On the other thread."""
        keys = [stat.key for stat in self._store.list(self._layout.of_task(task)) if parsed(stat.key)]
        if not keys:
            return _Drilled(task, None)
        key = self._random.choice(keys)
        verdict = self._verifier.verify(key, folder.with_name(folder.name + SUFFIX), digest=False)
        if not verdict.whole and self._store.stat(key) is None:
            return _Drilled(task, None)  # its owner collected it meanwhile
        return _Drilled(task, verdict)

    def _told(self, task: TaskId, verdict: Verdict) -> tuple[TaskId, frozenset[str]] | None:
        self._metrics.drilled("whole" if verdict.whole else "damaged")
        if verdict.whole:
            self._rates.restored(verdict.manifest.size_bytes if verdict.manifest else 0, verdict.seconds)
            logger.info("drill: %s is whole, %.1f s", verdict.key, verdict.seconds)
            return None
        logger.error("drill: checkpoint %s cannot be restored: %s", verdict.key, "; ".join(verdict.wrong))
        return task, verdict.objects
