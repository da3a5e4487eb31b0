"""A slot's place on disk, and the lock that keeps a second process out.

    STATE_DIR/JOB/slot-N.lock            flock, held while the worker lives
    STATE_DIR/JOB/slot-N/STAGE-P/        one task's RocksDB (see state.rocks)

A slot has directories of its own: two slots on one machine never wait for each other's database locks, and a slot
that comes back finds its own tasks. What is in them is only trusted after takeover has judged it by its nonce.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from streamcore.errors import StateDirError
from streamcore.state import directory
from streamcore.state.memory import MemoryStore, Tables
from streamcore.state.rocks import RocksStore
from streamcore.state.store import Store
from streamcore.types import Slot, TaskId


class StoreFactory(Protocol):
    """Makes and unmakes the stores of one slot's tasks. Processing thread only."""

    def open(self, task: TaskId, steps: Sequence[str]) -> Store: ...

    def set_aside(self, task: TaskId, why: str) -> None:
        """The task's local state is damaged or of another line: out of the way, so that `open` starts empty. The
        store has been closed. Without a `why` nothing is in it."""
        ...

    def close(self) -> None: ...


class RocksStores:
    """Raises StateDirError when the slot is taken on this machine, or the directory cannot be written."""

    def __init__(self, state_dir: Path, job: str, slot: Slot) -> None:
        self._job = job
        self._root = state_dir / job / f"slot-{slot}"
        self._lock = _locked(state_dir / job / f"slot-{slot}.lock", job, slot)

    def open(self, task: TaskId, steps: Sequence[str]) -> Store:
        return RocksStore.open(self._path(task), steps, job=self._job, task=task)

    def set_aside(self, task: TaskId, why: str) -> None:
        if why:
            RocksStore.set_aside(self._path(task), why)
        else:
            directory.remove(self._path(task))

    def close(self) -> None:
        self._lock.close()

    def folder(self, task: TaskId) -> Path:
        return self._path(task)

    def adopt(self, task: TaskId) -> None:
        """The directory is the state."""

    def _path(self, task: TaskId) -> Path:
        return self._root / f"{task.stage}-{task.partition}"


def _locked(path: Path, job: str, slot: Slot) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+")
    except OSError as error:
        raise StateDirError(
            f"job {job}, slot {slot}: the state directory {path.parent} cannot be written ({error.strerror})",
            "give a directory of this user's with --state-dir, or free some disk",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.seek(0)
        holder = handle.read(20).strip() or "unknown"
        handle.close()
        raise StateDirError(
            f"job {job}: slot {slot} is taken on this machine (process {holder} holds {path})",
            "give each worker a slot of its own with --slot, or stop the other one",
        ) from error
    handle.seek(0)
    handle.truncate()
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


class MemoryStores:
    """For tests: state that outlives a worker's crash, as a disk would, but not the process."""

    def __init__(self) -> None:
        self._disk: dict[TaskId, Tables] = {}

    def open(self, task: TaskId, steps: Sequence[str]) -> Store:
        return MemoryStore(steps, self._disk.setdefault(task, {}))

    def set_aside(self, task: TaskId, why: str) -> None:
        self._disk.pop(task, None)

    def lose_disk(self) -> None:
        self._disk.clear()

    def close(self) -> None:
        """What was written stays: that is what it is for."""
