"""A savepoint's state, read again: downloaded a task at a time, and put together anew for tasks of another count.

A shuffle of other partitions is gathered from all old tasks, by key group; everything else is copied. What a step keeps
of its own (first bytes from 0xF0 on) comes together where two tasks become one.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from streamcore import limits
from streamcore.checkpoint.manifest import Manifest, load
from streamcore.checkpoint.restore import Restorer
from streamcore.checkpoint.savepoint import SavedStage
from streamcore.checkpoint.snapshot import SUFFIX, Form, Snapshottable, rocks, take
from streamcore.checkpoint.store import CheckpointStore
from streamcore.checkpoint.upload import Facts, Uploaded, Uploader
from streamcore.clock import Clock, Entropy
from streamcore.errors import CheckpointDamaged, StateDirError, invariant
from streamcore.inbox.buckets import TIMELINE_KEY, merged_timelines
from streamcore.runtime.mapping import StagePlan
from streamcore.state import directory
from streamcore.state.rocks import RocksStore
from streamcore.state.rows import VERSIONS_KEY, check_versions, merged_versions
from streamcore.state.store import RESERVED, Delta, EpochMark, Store
from streamcore.topology.nodes import Dedupe, Process
from streamcore.topology.plan import Plan
from streamcore.types import TaskId

CHUNK_ENTRIES: Final = 10_000
FIRST_OWN: Final = bytes((0xF0,))
"""Keys from here on are a step's own bookkeeping: what all old tasks know together belongs to every new one."""
MERGED: Final[Mapping[bytes, Callable[[bytes, bytes], bytes]]] = {
    VERSIONS_KEY: merged_versions,
    TIMELINE_KEY: merged_timelines,
}


class Builder(Protocol):
    """A task's state, anew and empty, in a directory that is not there yet."""

    def __call__(self, path: Path, job: str, task: TaskId, steps: Iterable[str]) -> Snapshottable: ...


def rocks_anew(path: Path, job: str, task: TaskId, steps: Iterable[str]) -> RocksStore:
    return RocksStore.open(path, steps, job=job, task=task)


@dataclass(frozen=True, slots=True)
class Forms:
    """What the files of checkpoints are; the simulator has its own."""

    read: Form = rocks
    build: Builder = rocks_anew
    threads: int = limits.CHECKPOINT_THREADS


ROCKS: Final = Forms()


@contextmanager
def own(scratch: Path) -> Generator[None]:
    """The directory is one command's while the `with` lasts (flock on `SCRATCH.lock`), and gone afterwards: two would
    read each other's downloads. Raises StateDirError."""
    lock = scratch.with_name(f"{scratch.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("a")
    except OSError as error:
        raise directory.unusable(lock, "writing", error.strerror or str(error)) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateDirError(
                f"another command works in {scratch}", "wait for it, or give this one a --state-dir of its own"
            ) from error
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            yield
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


class Fetched:
    """A checkpoint's state, downloaded and open to read, while the `with` lasts. Raises what the store raises,
    CheckpointDamaged, StateDamaged, StateDirError."""

    def __init__(
        self, store: CheckpointStore, key: str, scratch: Path, clock: Clock, entropy: Entropy, forms: Forms = ROCKS
    ) -> None:
        self._restorer = Restorer(store, clock, entropy, form=forms.read, threads=forms.threads)
        self._read = forms.read
        self.manifest: Final[Manifest] = load(store, key)
        self._scratch = scratch
        self._opened: Store | None = None

    def __enter__(self) -> Store:
        self._context = self._restorer.fetched(self.manifest, self._scratch, lambda size: None)
        wrong = self._context.__enter__()
        try:
            if wrong:
                raise CheckpointDamaged(
                    f"the savepoint's checkpoint {self.manifest.key} is not whole: {'; '.join(wrong.values())}"
                )
            self._restorer.open(self.manifest, self._scratch)
            self._opened = self._read(self._scratch)
        except BaseException:
            self._context.__exit__(None, None, None)
            raise
        return self._opened

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()
        self._context.__exit__(None, None, None)


class Gathering:
    """The state of a plan's tasks. One thread; `scratch` is the caller's `own`."""

    def __init__(
        self,
        plan: Plan,
        source: CheckpointStore,
        target: CheckpointStore,
        scratch: Path,
        clock: Clock,
        entropy: Entropy,
        forms: Forms = ROCKS,
    ) -> None:
        self._plan = plan
        self._source = source
        self._target = target
        self._scratch = scratch
        self._clock = clock
        self._entropy = entropy
        self._forms = forms

    def upload(self, each: StagePlan, task: TaskId, mark: EpochMark) -> Uploaded:
        """One task's state, as the checkpoint of `mark`. Raises what the stores raise, and StateMismatch for rows of a
        version that the code cannot read."""
        saved = _of_savepoint(each)
        path = self._scratch / f"{task.stage}-{task.partition}"
        store = self._forms.build(path, self._plan.job, task, [node.name for node in each.stage.stateful])
        try:
            self._fill(store, each, task, mark)
            snapshot = take(store, path.with_name(path.name + SUFFIX))
        finally:
            store.close()
        uploader = Uploader(self._target, self._plan.job, task, self._clock, self._entropy, self._forms.read)
        versions = {step: saved.steps[old].version for step, old in each.steps.items()}
        uploaded = uploader.upload(snapshot, Facts(self._plan.version, versions))
        shutil.rmtree(path, ignore_errors=True)
        return uploaded

    def _fill(self, store: Store, each: StagePlan, task: TaskId, mark: EpochMark) -> None:
        saved = _of_savepoint(each)
        same = saved.partitions == each.partitions
        inboxes = {node.name for node in each.stage.stateful if isinstance(node, Dedupe)}
        store.apply({}, mark)
        own: dict[str, dict[bytes, bytes]] = {step: {} for step in each.steps}
        for old in saved.tasks:
            if same and old.partition != task.partition:
                continue
            scratch = self._scratch / "source"
            with Fetched(self._source, old.manifest, scratch, self._clock, self._entropy, self._forms) as source:
                _refuse_rows(each, source)
                for step, was in each.steps.items():
                    keep = all_keys if same or step in inboxes else _of(task.partition, each.partitions)
                    for delta in chunks(source, was, keep):
                        store.apply({step: delta}, mark)
                    _gather(own[step], source, was)
        for step, kept in own.items():
            if kept:
                store.apply({step: Delta(list(kept), list(kept.values()))}, mark)


def chunks(source: Store, step: str, keep: Callable[[bytes], bool]) -> Iterator[Delta]:
    """Everything of a step but its bookkeeping, in pieces to be applied."""
    keys: list[bytes] = []
    values: list[bytes | None] = []
    for key, value in source.column(step).scan(b"", FIRST_OWN):
        if keep(key):
            keys.append(key)
            values.append(value)
        if len(keys) >= CHUNK_ENTRIES:
            yield Delta(keys, values)
            keys, values = [], []
    if keys:
        yield Delta(keys, values)


def bookkeeping(source: Store, step: str) -> dict[bytes, bytes]:
    return dict(source.column(step).scan(FIRST_OWN, RESERVED))


def _of_savepoint(each: StagePlan) -> SavedStage:
    invariant(each.saved is not None, f"stage {each.stage.name!r} is new, and has no state to be gathered")
    assert each.saved is not None
    return each.saved


def _refuse_rows(each: StagePlan, source: Store) -> None:
    """Rows may be older than their class was: they are upgraded when they are written. Now, and not when the job that
    was begun from them is started."""
    for node in each.stage.stateful:
        if isinstance(node, Process) and node.name in each.steps:
            check_versions(source.column(each.steps[node.name]), node.state.__schema__, node.name)


def all_keys(key: bytes) -> bool:
    return True


def _of(partition: int, count: int) -> Callable[[bytes], bool]:
    def keep(key: bytes) -> bool:
        return int.from_bytes(key[:2], "big") % count == partition

    return keep


def _gather(own: dict[bytes, bytes], source: Store, step: str) -> None:
    for key, value in bookkeeping(source, step).items():
        invariant(key in MERGED, f"step {step!r} keeps {key!r}, and nobody knows how two of these become one")
        own[key] = MERGED[key](own[key], value) if key in own else value
