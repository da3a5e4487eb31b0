"""The journal behind a checkpoint, replayed for `checkpoints verify --replay`: up to its task's last commit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from streamcore import limits
from streamcore.checkpoint.manifest import Manifest
from streamcore.checkpoint.store import CheckpointStore
from streamcore.cli.connect import administered, opened
from streamcore.clock import SystemClock
from streamcore.config import Settings
from streamcore.log import metadata
from streamcore.runtime.rehearsal import Rehearsal, Rehearsed
from streamcore.runtime.status import require
from streamcore.types import TopicPartition

Rehearse = Callable[[Manifest, Path], Rehearsed]


@contextmanager
def replaying(settings: Settings, store: CheckpointStore, job: str, wanted: bool) -> Generator[Rehearse | None]:
    """Up to the commit that the group's offsets know now; beside a running job too."""
    if not wanted:
        yield None
        return
    clock = SystemClock()
    with opened(settings, clock, read_only=True) as log, administered(log) as admin:
        topics, rehearsal = require(admin, job), Rehearsal(log, store, job, clock)

        def replay(manifest: Manifest, scratch: Path) -> Rehearsed:
            tp = TopicPartition(topics.input_topic(manifest.stage), manifest.partition)
            at = admin.committed(job, [tp], limits.CALL_TIMEOUT_S, stable=False).get(tp)
            if at is None:
                return Rehearsed(unknown=f"nothing is committed of task {manifest.task}")
            return rehearsal.run(manifest, scratch, (), metadata.decode(at.metadata, str(tp)))

        yield replay


class Then:
    """What is done with a state that is whole, while it stands there."""

    def __init__(self, rehearse: Rehearse | None) -> None:
        self._rehearse = rehearse
        self.found: Rehearsed | None = None

    def __call__(self, manifest: Manifest, scratch: Path) -> Sequence[str]:
        if self._rehearse is None:
            return ()
        self.found = self._rehearse(manifest, scratch)
        return self.found.wrong
