"""A drill: now and then a worker rehearses a takeover of a task of its own, from one retained checkpoint, in a scratch
directory: restore, state digest, and the journal from there to the task's newest commit (see runtime.rehearsal).

What it finds is told and counted, and changes nothing but this: objects that are missing or wrong are not built upon
again, so that the next checkpoint has them anew. On a thread of its own; the scratch directory lies beside the task's
and is as large as its state.

    STAGE-P.drill/…    deleted at the drill's end, or by the next one

    whole      it is restored, and the journal behind it gives what the task recorded
    damaged    it cannot be restored: objects, files
    differs    it can, and what comes of it is not what the task recorded: a digest, an epoch's mark, a frame
    unknown    store or log did not answer
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from streamcore.checkpoint.background import Done, Failed, Work
from streamcore.checkpoint.manifest import Layout, Manifest, parsed
from streamcore.checkpoint.store import CheckpointStore
from streamcore.checkpoint.verify import Verdict, Verifier
from streamcore.clock import Clock
from streamcore.observe.metrics import Metrics
from streamcore.runtime.budget import Rates
from streamcore.runtime.rehearsal import Rehearsal, Rehearsed, target_of
from streamcore.state.store import EpochMark
from streamcore.types import TaskId

logger = logging.getLogger(__name__)

SUFFIX: Final = ".drill"


@dataclass(frozen=True, slots=True)
class Drilling:
    """A running task, for the other thread."""

    task: TaskId
    folder: Path
    steps: frozenset[str]
    mark: EpochMark | None
    """Its newest commit."""


@dataclass(frozen=True, slots=True)
class _Drilled:
    task: TaskId
    verdict: Verdict | None
    """None: there was nothing to drill."""
    rehearsed: Rehearsed | None = None
    """None: the restore alone."""
    restored_s: float = 0.0


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
        rehearsal: Rehearsal | None = None,
    ) -> None:
        """`rates`: learn from it. `rehearsal` None: without the journal. `every_s` 0: never."""
        self._layout = Layout(job)
        self._store = store
        self._verifier = verifier
        self._rehearsal = rehearsal
        self._work = work
        self._every_s = every_s
        self._clock = clock
        self._random = draw
        self._metrics = metrics
        self._rates = rates
        self._due_s = clock.monotonic_s() + every_s * (0.5 + draw.random()) if every_s else 0.0

    def step(self, tasks: Sequence[Drilling]) -> tuple[TaskId, frozenset[str]] | None:
        """Called often; never blocks. Gives a task's wrong objects, once."""
        if not self._every_s:
            return None
        match self._work.poll():
            case Done(_Drilled(task, Verdict() as verdict, rehearsed, restored_s)):
                if verdict.manifest is not None and verdict.whole:
                    self._rates.restored(verdict.manifest.size_bytes, restored_s)
                if rehearsed is not None:
                    self._rates.replayed(rehearsed.bytes, rehearsed.seconds)
                return self._told(task, verdict, rehearsed)
            case Failed(error):
                self._metrics.drilled("unknown")
                logger.warning("a drill came to no result: %s", error)
            case _:
                pass
        now_s = self._clock.monotonic_s()
        if tasks and now_s >= self._due_s and not self._work.busy:
            self._due_s = now_s + self._every_s
            drilling = self._random.choice(tasks)
            self._work.submit(lambda: self._drill(drilling))
        return None

    def _drill(self, drilling: Drilling) -> _Drilled:
        """On the other thread."""
        keys = [stat.key for stat in self._store.list(self._layout.of_task(drilling.task)) if parsed(stat.key)]
        if not keys:
            return _Drilled(drilling.task, None)
        key, folder = self._random.choice(keys), drilling.folder
        found: list[Rehearsed] = []
        begun_s = restored_s = self._clock.monotonic_s()

        def go_on(manifest: Manifest, scratch: Path) -> Sequence[str]:
            nonlocal restored_s
            restored_s = self._clock.monotonic_s()
            mark = drilling.mark
            if self._rehearsal is None or mark is None or mark.lineage != manifest.lineage:
                return ()
            found.append(self._rehearsal.run(manifest, scratch, drilling.steps, target_of(mark)))
            return found[0].wrong

        verdict = self._verifier.verify(key, folder.with_name(folder.name + SUFFIX), digest=False, then=go_on)
        if not verdict.whole and self._store.stat(key) is None:
            return _Drilled(drilling.task, None)  # its owner collected it meanwhile
        return _Drilled(drilling.task, verdict, found[0] if found else None, restored_s - begun_s)

    def _told(
        self, task: TaskId, verdict: Verdict, rehearsed: Rehearsed | None
    ) -> tuple[TaskId, frozenset[str]] | None:
        epochs = rehearsed.epochs if rehearsed else 0
        if verdict.whole and rehearsed is not None and rehearsed.unknown:
            self._metrics.drilled("unknown", epochs)
            logger.warning("drill: %s is whole, its journal was not replayed: %s", verdict.key, rehearsed.unknown)
        elif verdict.whole:
            self._metrics.drilled("whole", epochs)
            digest = ", with the digest that its task recorded" if verdict.digest else ""
            told = f"is whole{digest}, {epochs} epochs replayed behind it"
            logger.info("drill: %s %s, %.1f s", verdict.key, told, verdict.seconds)
        elif rehearsed is not None or (verdict.digest is not None and not verdict.objects):
            self._metrics.drilled("differs", epochs)
            logger.error(
                "drill: checkpoint %s is not what its task recorded: %s", verdict.key, "; ".join(verdict.wrong)
            )
        else:
            self._metrics.drilled("damaged")
            logger.error("drill: checkpoint %s cannot be restored: %s", verdict.key, "; ".join(verdict.wrong))
            return task, verdict.objects
        return None
