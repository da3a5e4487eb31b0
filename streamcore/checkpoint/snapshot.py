"""A live store's files at one epoch, as a state directory of its own that nobody writes to.

RocksDB's part are hard links: it costs the disk nothing until the store compacts away from it. It lies beside the state
directory (links do not cross disks), one at a time a task; what a killed process left there is deleted first.

    STAGE-P.snapshot/streamcore.json, STAGE-P.snapshot/db/…
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from streamcore.errors import StateDirError, invariant
from streamcore.state import directory
from streamcore.state.memory import MemoryStore, read_snapshot
from streamcore.state.rocks import DATABASE, RocksStore
from streamcore.state.store import EpochMark, Store
from streamcore.types import TaskId

SUFFIX: Final = ".snapshot"


class Snapshottable(Store, Protocol):
    def snapshot(self, path: Path) -> None:
        """Creates `path`, which must not exist. Raises StateDirError, StateDamaged."""
        ...


class Form(Protocol):
    """What a snapshot's files are, for whoever reads them again."""

    def __call__(self, path: Path) -> Store:
        """Opens a snapshot, or what was restored from one, to read. Raises StateDamaged."""
        ...


class Opener(Protocol):
    """As Form, to go on with: for what was restored into a scratch directory."""

    def __call__(self, path: Path, job: str, task: TaskId, steps: Iterable[str]) -> Store: ...


def rocks(path: Path) -> Store:
    return RocksStore.open_read_only(path)


def rocks_to_go_on(path: Path, job: str, task: TaskId, steps: Iterable[str]) -> Store:
    return RocksStore.open(path, steps, job=job, task=task)


def memory(path: Path) -> Store:
    return MemoryStore.open_snapshot(path)


def memory_to_go_on(path: Path, job: str, task: TaskId, steps: Iterable[str]) -> Store:
    return MemoryStore(steps, read_snapshot(path))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Made on the processing thread; may be read and deleted on another."""

    path: Path
    mark: EpochMark
    steps: frozenset[str]

    def files(self) -> list[Path]:
        """SSTs, CURRENT, MANIFEST, OPTIONS, what is left of the WAL; in order of names."""
        return sorted(self.path.joinpath(DATABASE).iterdir())

    def delete(self) -> None:
        """May be called twice. A snapshot that cannot be deleted goes before the next one is taken."""
        shutil.rmtree(self.path, ignore_errors=True)


def take(store: Snapshottable, path: Path) -> Snapshot:
    """Between two epochs, on the processing thread: some milliseconds, and the flush of what `store.flush` left.
    `path`: the state directory's name with SUFFIX. Raises StateDirError (disk full …), StateDamaged."""
    mark = store.mark()
    invariant(mark is not None, f"a checkpoint of {path} before its first epoch")
    assert mark is not None
    directory.remove(path)
    try:
        store.snapshot(path)
    except (StateDirError, OSError) as error:
        shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise directory.unusable(path, "writing", error.strerror or str(error)) from error
        raise
    return Snapshot(path, mark, store.steps)
