"""From the store to a state directory: the newest checkpoint that verifies.

Candidates are the lineage's manifests with an epoch that is committed, newest first. Objects are downloaded several at
a time into a directory beside the target and hashed on the way; then the state is opened, its mark compared with the
manifest's, and the directory renamed into place. A candidate that fails any of this is named, and the next older one is
tried, with more journal to replay. A store that does not answer is no reason to take an older one: that is raised.

    STAGE-P.restoring/streamcore.json, STAGE-P.restoring/db/…    a killed process's is deleted by the next

Nothing is synced: after a power cut the state is judged like any other, and restored again if it is damaged.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from streamcore import limits
from streamcore.checkpoint.manifest import File, Layout, Manifest, listed, load
from streamcore.checkpoint.retry import Retry
from streamcore.checkpoint.snapshot import Form, rocks
from streamcore.checkpoint.store import CheckpointStore
from streamcore.clock import Clock, Entropy
from streamcore.errors import CheckpointDamaged, StateDamaged, StateDirError, StateMismatch, invariant
from streamcore.state import directory
from streamcore.state.rocks import DATABASE
from streamcore.types import Epoch, TaskId

logger = logging.getLogger(__name__)

SUFFIX: Final = ".restoring"
Progress = Callable[[int], None]
"""Bytes that were just written; from any of the threads."""


@dataclass(frozen=True, slots=True)
class Rejected:
    key: str
    why: str
    objects: frozenset[str] = frozenset()
    """Names of those that are missing or wrong: what `Uploader.distrust` takes."""


@dataclass(frozen=True, slots=True)
class Restored:
    """`manifest` None: no candidate was left, and the target is as it was."""

    manifest: Manifest | None
    rejected: tuple[Rejected, ...]
    seconds: float


class Restorer:
    """`threads` 0: everything on the calling thread, in order, for the simulator."""

    def __init__(
        self,
        store: CheckpointStore,
        clock: Clock,
        entropy: Entropy,
        *,
        form: Form = rocks,
        threads: int = limits.CHECKPOINT_THREADS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._retry = Retry(clock, entropy.random())
        self._form = form
        self._threads = threads

    def restore(
        self,
        job: str,
        task: TaskId,
        lineage: str,
        committed: Epoch,
        target: Path,
        *,
        accept: Callable[[Manifest], str | None] = lambda manifest: None,
        progress: Progress = lambda size: None,
    ) -> Restored:
        """`target` must not exist (or be empty). `accept` may refuse a manifest before anything is downloaded, by
        saying why (its journal was trimmed, its nonce is not the journal's). Raises CheckpointStoreUnavailable,
        CheckpointStoreError, StateDirError."""
        began_s = self._clock.monotonic_s()
        layout, rejected = Layout(job), list[Rejected]()
        for epoch in self.candidates(job, task, lineage, committed):
            key = layout.manifest(task, lineage, epoch)
            try:
                manifest = self._manifest(key)
                why = accept(manifest) or ""
                wrong = dict[str, str]() if why else self._into_place(manifest, target, progress)
            except (CheckpointDamaged, StateDamaged, StateMismatch) as error:
                why, wrong = error.what, {}
            else:
                if not why and not wrong:
                    return Restored(manifest, tuple(rejected), self._clock.monotonic_s() - began_s)
            rejected.append(Rejected(key, why or "; ".join(wrong.values()), frozenset(wrong)))
            logger.warning("checkpoint %s cannot be restored, an older one is tried: %s", key, rejected[-1].why)
        return Restored(None, tuple(rejected), self._clock.monotonic_s() - began_s)

    def _manifest(self, key: str) -> Manifest:
        try:
            return self._retry(lambda: load(self._store, key))
        except CheckpointDamaged:  # perhaps on the way to us
            return self._retry(lambda: load(self._store, key))

    def candidates(self, job: str, task: TaskId, lineage: str, committed: Epoch) -> list[Epoch]:
        """Newest first."""
        epochs = self._retry(lambda: listed(self._store, Layout(job), task, lineage))
        return [epoch for epoch in epochs if epoch <= committed]

    @contextmanager
    def fetched(self, manifest: Manifest, scratch: Path, progress: Progress) -> Generator[dict[str, str]]:
        """A state directory at `scratch`, gone afterwards unless it was renamed. Gives what is wrong: object -> why."""
        directory.remove(scratch)
        try:
            directory.claim(scratch, manifest.job, manifest.task)
            try:
                scratch.joinpath(DATABASE).mkdir()
                yield self._download(manifest, scratch / DATABASE, progress)
            except OSError as error:
                raise directory.unusable(scratch, "writing", error.strerror or str(error)) from error
        finally:
            directory.remove(scratch)

    def open(self, manifest: Manifest, path: Path) -> None:
        """Raises StateDamaged: it does not open, or is not what the manifest says."""
        store = self._form(path)
        try:
            mark, steps = store.mark(), store.steps
        finally:
            store.close()
        if mark != manifest.mark:
            raise StateDamaged(f"its files stand at {mark}, and its manifest says {manifest.mark}")
        if steps != manifest.steps.keys():
            raise StateDamaged(f"its files hold the steps {sorted(steps)}, its manifest says {sorted(manifest.steps)}")

    def _into_place(self, manifest: Manifest, target: Path, progress: Progress) -> dict[str, str]:
        scratch = target.with_name(target.name + SUFFIX)
        with self.fetched(manifest, scratch, progress) as wrong:
            if not wrong:
                self.open(manifest, scratch)
                try:
                    scratch.rename(target)
                except OSError as error:
                    raise StateDirError(
                        f"the restored state cannot be moved to {target}: {error.strerror}",
                        "set the directory that stands there aside",
                    ) from error
        return wrong

    def _download(self, manifest: Manifest, into: Path, progress: Progress) -> dict[str, str]:
        layout = Layout(manifest.job)

        def one(file: File) -> str | None:
            """What is wrong is asked for once more: it may be the way that spoilt it, and there may be no other."""
            fetch = partial(self._file, layout.object(file.object), file, into / file.name, progress)
            return self._retry(fetch) and self._retry(fetch)

        wrong = zip(manifest.files, self._each(one, manifest.files), strict=True)
        return {file.object: why for file, why in wrong if why}

    def _each(self, one: Callable[[File], str | None], files: tuple[File, ...]) -> Iterable[str | None]:
        if not self._threads:
            return map(one, files)
        with ThreadPoolExecutor(self._threads, "restore") as pool:
            return list(pool.map(one, files))

    def _file(self, key: str, file: File, path: Path, progress: Progress) -> str | None:
        """What is wrong with it."""
        digest, size = hashlib.sha256(), 0
        try:
            with path.open("wb", buffering=0) as out:
                for chunk in self._store.get(key):
                    digest.update(chunk)
                    size += out.write(chunk)
                    progress(len(chunk))
                    if size > file.size:
                        break
        except CheckpointDamaged as error:
            return error.what
        invariant(path.parent.name == DATABASE, "files go into the database's directory only")
        if size != file.size:
            return f"{key} has not the {file.size} bytes that its manifest says"
        return None if digest.hexdigest() == file.sha256 else f"{key} is not what its name says: its SHA-256 differs"
