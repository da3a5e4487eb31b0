"""A worker that kills itself (SIGKILL) in one phase of a barrier or of an upload, the first time that it comes there.

    TRAPPED=PHASE python -m tests.kafka.trapped run FILE.py:JOB ...     what stands behind it is `streamcore`'s

The engine runs as it is, but for the trap.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Final

import pytest

from streamcore.checkpoint.objects import ObjectStore
from streamcore.cli.main import app
from streamcore.runtime import checkpoints
from streamcore.runtime.control import Complete, Cut, Resume, Start, Stored
from streamcore.runtime.cutting import Cutting

COMMITTED: Final = {
    "the start is committed": Start,
    "a cut is committed, and no snapshot taken": Cut,
    "markers are committed": Resume,
    "a stored checkpoint is named": Stored,
    "complete is committed": Complete,
}
SNAPSHOT: Final = "a snapshot is taken, and nothing uploaded"
OBJECT: Final = "a first object is uploaded"
BEFORE: Final = "all is uploaded but the manifest"
MANIFEST: Final = "the manifest is uploaded, and not named"
PHASES: Final = (*COMMITTED, SNAPSHOT, OBJECT, BEFORE, MANIFEST)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def when_committed(patch: pytest.MonkeyPatch, kind: type) -> None:
    """As the commit is decided, before anybody of this worker hears of it."""
    settled = Cutting.settled

    def dies(self: Any, decided: Any) -> None:
        said = [*(self._decision.said if self._decision else ())]
        said += [word for task in decided for word in self._said.get(task.id, ())]
        if decided and any(isinstance(word, kind) for word in said):
            die()
        settled(self, decided)

    patch.setattr(Cutting, "settled", dies)


def at_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    take = checkpoints.take

    def dies(*given: Any) -> None:
        take(*given)
        die()

    patch.setattr(checkpoints, "take", dies)


def at_the_store(patch: pytest.MonkeyPatch, part: str, *, before: bool) -> None:
    put = ObjectStore.put_once

    def dies(self: Any, key: str, data: bytes) -> bool:
        if part in key and before:
            die()
        created = put(self, key, data)
        if part in key:
            die()
        return created

    patch.setattr(ObjectStore, "put_once", dies)


def main() -> None:
    phase = os.environ["TRAPPED"]
    with pytest.MonkeyPatch.context() as patch:
        if phase in COMMITTED:
            when_committed(patch, COMMITTED[phase])
        elif phase == SNAPSHOT:
            at_a_snapshot(patch)
        else:
            at_the_store(patch, "/objects/" if phase == OBJECT else "/manifests/", before=phase == BEFORE)
        app()


if __name__ == "__main__":
    main()
