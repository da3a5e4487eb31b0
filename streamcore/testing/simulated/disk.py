"""A machine's disk: what a kill leaves, what a power cut leaves, and an old copy of it.

Writes are batches, each whole or not there. A kill loses none. A power cut loses the last ones that were never synced
(as many as the fault says), and may tear the newest that stays: then the store cannot be read, and says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from streamcore.errors import StateDamaged, invariant
from streamcore.runtime.statedir import StoreFactory
from streamcore.state.memory import MemoryStore, Tables, read_snapshot
from streamcore.state.rocks import RocksStore
from streamcore.state.store import RESERVED, Column, Delta, EpochMark, Store
from streamcore.types import TaskId

UNSYNCED: Final = 8
"""Batches a disk may hold unsynced; older ones are synced."""
Batches = list[tuple[Mapping[str, Delta], EpochMark]]
Port = Callable[[str], None]
"""Called before and after a store's call, by its name: `Open`, `Apply`."""
Witness = Callable[[TaskId, EpochMark], None]
"""Told of each epoch that a store has taken."""


class Disk(Protocol):
    def open(self, task: TaskId, steps: Sequence[str]) -> Store: ...
    def set_aside(self, task: TaskId) -> None: ...
    def killed(self) -> None:
        """The process is gone: its handles are closed."""
        ...

    def power_cut(self, lost: int, torn: bool) -> None: ...
    def old_copy(self) -> Disk: ...
    def estranged(self, lineage: bool) -> Disk:
        """A copy as of another life of the job: the same epochs with other nonces and rows, `lineage`: another one."""
        ...

    def peek(self, task: TaskId, steps: Sequence[str]) -> Store | None:
        """For the judge, after the run; None where nothing stands."""
        ...

    def tasks(self) -> list[TaskId]: ...
    def folder(self, task: TaskId) -> Path:
        """Where snapshots of it, and what is restored, lie as files."""
        ...

    def adopt(self, task: TaskId) -> None: ...


class _Files:
    """One task's: what is synced, and the batches since."""

    def __init__(self) -> None:
        self.tables: Tables = {}
        self.synced: Tables = {}
        self.since: Batches = []
        self.torn = False
        self.strange = False
        """Not written by this job's present life, and not used by it so far: the judge has no word on it."""


class MemoryDisk:
    def __init__(self, scratch: Path | None = None) -> None:
        """`scratch`: a real directory for snapshots and restores, of this disk alone."""
        self._files: dict[TaskId, _Files] = {}
        self._scratch = scratch

    def open(self, task: TaskId, steps: Sequence[str]) -> Store:
        if self._scratch is not None and self.folder(task).exists():
            self.adopt(task)  # a restore came to its end, and its worker did not live to see it
        files = self._files.setdefault(task, _Files())
        if files.torn:
            raise StateDamaged(f"the state of {task} ends in a torn write", "it is rebuilt from the journal")
        return _LoggedStore(MemoryStore(steps, files.tables), files)

    def set_aside(self, task: TaskId) -> None:
        self._files.pop(task, None)
        if self._scratch is not None:
            shutil.rmtree(self.folder(task), ignore_errors=True)

    def killed(self) -> None:
        """What was written stays."""

    def power_cut(self, lost: int, torn: bool) -> None:
        for files in self._files.values():
            kept = files.since[: max(0, len(files.since) - lost)]
            files.torn = torn and lost > 0 and bool(files.since)
            files.tables = _copied(files.synced)
            for deltas, mark in kept:
                _apply(files.tables, deltas, mark)
            files.since = kept

    def old_copy(self) -> MemoryDisk:
        """As it was some epochs ago."""
        return self._copy(lambda files: files.since[: len(files.since) // 2])

    def _copy(self, kept: Callable[[_Files], Batches]) -> MemoryDisk:
        """`kept`: of the batches since the synced ones, those that it has too."""
        copy = MemoryDisk(self._scratch and self._scratch.with_name(f"{self._scratch.name}c"))
        for task, files in self._files.items():
            copy._files[task] = old = _Files()
            old.tables = _copied(files.synced)
            for deltas, mark in kept(files):
                _apply(old.tables, deltas, mark)
            old.synced, old.strange = _copied(old.tables), files.strange
        return copy

    def estranged(self, lineage: bool) -> MemoryDisk:
        copy = self._copy(lambda files: files.since)
        for files in copy._files.values():
            _estrange(MemoryStore([name for name in files.tables if name != "default"], files.tables), lineage)
            files.synced, files.strange = _copied(files.tables), True
        return copy

    def peek(self, task: TaskId, steps: Sequence[str]) -> Store | None:
        files = self._files.get(task)
        return None if files is None or files.torn or files.strange else MemoryStore(steps, files.tables)

    def tasks(self) -> list[TaskId]:
        return list(self._files)

    def folder(self, task: TaskId) -> Path:
        invariant(self._scratch is not None, "a simulated disk without a scratch directory")
        assert self._scratch is not None
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch / f"{task.stage}-{task.partition}"

    def adopt(self, task: TaskId) -> None:
        files = self._files[task] = _Files()
        files.tables = read_snapshot(self.folder(task))
        files.synced = _copied(files.tables)
        shutil.rmtree(self.folder(task))


def _estrange(store: Store, lineage: bool) -> None:
    mark = store.mark()
    if mark is not None:
        other = EpochMark(
            f"{mark.lineage}-before" if lineage else mark.lineage, mark.epoch, "another", mark.journal, mark.journal_end
        )
        store.apply({step: Delta([], [], [(b"", RESERVED)]) for step in store.steps}, other)


def _copied(tables: Tables) -> Tables:
    return {name: dict(table) for name, table in tables.items()}


def _apply(tables: Tables, deltas: Mapping[str, Delta], mark: EpochMark) -> None:
    MemoryStore([*deltas, *(name for name in tables if name != "default")], tables).apply(deltas, mark)


class _LoggedStore:
    """A MemoryStore whose batches are remembered until they count as synced."""

    def __init__(self, store: MemoryStore, files: _Files) -> None:
        self._store = store
        self._files = files
        self.steps = store.steps

    def column(self, step: str) -> Column:
        return self._store.column(step)

    def mark(self) -> EpochMark | None:
        return self._store.mark()

    def apply(self, deltas: Mapping[str, Delta], mark: EpochMark) -> None:
        self._store.apply(deltas, mark)
        self._files.strange = False
        self._files.since.append((deltas, mark))
        if len(self._files.since) > UNSYNCED:
            oldest, at = self._files.since.pop(0)
            _apply(self._files.synced, oldest, at)

    def flush(self, wait: bool) -> None:
        self._store.flush(wait)

    def snapshot(self, path: Path) -> None:
        self._store.snapshot(path)

    def close(self) -> None:
        self._store.close()

    def destroy(self) -> None:
        self._store.destroy()


class RocksDisk:
    """The real thing, in a directory. A power cut is an old copy here: RocksDB's own tests have the rest."""

    def __init__(self, path: Path, job: str) -> None:
        self._path = path
        self._job = job
        self._open: dict[TaskId, RocksStore] = {}
        self._copies = 0
        self._strange: dict[TaskId, bool] = {}
        """Not this life's, and not set aside so far: whether it is to be made so when it is opened next."""
        self._lineage = False
        path.mkdir(parents=True, exist_ok=True)

    def _at(self, task: TaskId) -> Path:
        return self._path / f"{task.stage}-{task.partition}"

    def open(self, task: TaskId, steps: Sequence[str]) -> Store:
        self._close(task)
        store = self._open[task] = RocksStore.open(self._at(task), steps, job=self._job, task=task)
        if self._strange.get(task):
            self._strange[task] = False
            _estrange(store, self._lineage)
        return store

    def set_aside(self, task: TaskId) -> None:
        self._close(task)
        self._strange.pop(task, None)
        shutil.rmtree(self._at(task), ignore_errors=True)

    def killed(self) -> None:
        for task in list(self._open):
            self._close(task)

    def power_cut(self, lost: int, torn: bool) -> None:
        self.killed()

    def old_copy(self) -> RocksDisk:
        """Of what stands now: the worker that goes on with it is the next one."""
        self._copies += 1
        copy = RocksDisk(self._path.with_name(f"{self._path.name}c{self._copies}"), self._job)
        shutil.rmtree(copy._path)
        shutil.copytree(self._path, copy._path)
        copy._strange, copy._lineage = dict(self._strange), self._lineage
        return copy

    def estranged(self, lineage: bool) -> RocksDisk:
        copy = self.old_copy()
        copy._strange = dict.fromkeys(copy.tasks(), True)
        copy._lineage = lineage
        return copy

    def peek(self, task: TaskId, steps: Sequence[str]) -> Store | None:
        return self.open(task, steps) if self._at(task).exists() and task not in self._strange else None

    def tasks(self) -> list[TaskId]:
        names = [path.name.rpartition("-") for path in sorted(self._path.iterdir()) if path.is_dir()]
        return [TaskId(stage, int(number)) for stage, _, number in names if number.isdigit()]  # pyright: ignore[reportArgumentType]

    def folder(self, task: TaskId) -> Path:
        return self._at(task)

    def adopt(self, task: TaskId) -> None:
        """The directory is the state."""

    def _close(self, task: TaskId) -> None:
        store = self._open.pop(task, None)
        if store is not None:
            store.close()


class _PortStore:
    """A store behind a port: its owner gives way, or dies, around each write."""

    def __init__(self, store: Store, task: TaskId, port: Port, applied: Witness) -> None:
        self._store = store
        self._task = task
        self._port = port
        self._applied = applied
        self.steps = store.steps

    def column(self, step: str) -> Column:
        return self._store.column(step)

    def mark(self) -> EpochMark | None:
        return self._store.mark()

    def apply(self, deltas: Mapping[str, Delta], mark: EpochMark) -> None:
        self._port("Apply")
        self._store.apply(deltas, mark)
        self._applied(self._task, mark)
        self._port("Applied")

    def flush(self, wait: bool) -> None:
        self._store.flush(wait)

    def snapshot(self, path: Path) -> None:
        self._store.snapshot(path)

    def close(self) -> None:
        self._store.close()

    def destroy(self) -> None:
        self._store.destroy()


class SimulatedStores(StoreFactory):
    def __init__(self, disk: Disk, port: Port, applied: Witness) -> None:
        self._disk = disk
        self._port = port
        self._applied = applied

    def open(self, task: TaskId, steps: Sequence[str]) -> Store:
        self._port("Open")
        return _PortStore(self._disk.open(task, steps), task, self._port, self._applied)

    def set_aside(self, task: TaskId, why: str) -> None:
        self._port("SetAside")
        self._disk.set_aside(task)

    def close(self) -> None:
        """The disk stays."""

    # --- as checkpoints see it ------------------------------------------------------------------------------------

    def folder(self, task: TaskId) -> Path:
        return self._disk.folder(task)

    def adopt(self, task: TaskId) -> None:
        self._disk.adopt(task)
