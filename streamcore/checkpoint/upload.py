"""From a snapshot to the store: what the store lacks, each object named by its content, the manifest last.

Law 7 rests on this order, and law 8 on what is taken as uploaded without being put:

1. What the last manifest of this lineage names (the base). It is the newest, so it is kept, and what it names with it.
2. What stands in the store under the content's name and is young: somebody's upload that did not end, or another
   task's. It is not collected before CHECKPOINT_GRACE_S, and this upload ends before that or gives up.

Anything else that stands under the name may be about to be collected by someone who has not seen us: the content is put
once more, under a name of its own. The same goes for an object that a restore or a drill found wrong (`distrust`).

Not for two threads at a time; runs on `background.Beside`, off the processing thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streamcore import limits
from streamcore.checkpoint.known import Base, Known
from streamcore.checkpoint.manifest import File, Layout, Manifest, load
from streamcore.checkpoint.retry import Retry
from streamcore.checkpoint.snapshot import Form, Snapshot, rocks
from streamcore.checkpoint.store import CheckpointStore
from streamcore.clock import Clock, Entropy
from streamcore.errors import CheckpointStoreUnavailable, invariant
from streamcore.state import directory
from streamcore.types import TaskId


@dataclass(frozen=True, slots=True)
class Facts:
    """What a manifest tells of the code and the moment, beside what the snapshot itself says."""

    topology: str
    steps: Mapping[str, int | None] = field(default_factory=dict[str, int | None])
    """Version of each step's State class."""
    barrier: int | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Uploaded:
    manifest: Manifest
    key: str
    """What the next commit's metadata names."""
    objects_new: int
    bytes_new: int
    bytes_total: int
    seconds: float


class Uploader:
    """One task's; lives as long as its owner has the task."""

    def __init__(
        self, store: CheckpointStore, job: str, task: TaskId, clock: Clock, entropy: Entropy, form: Form = rocks
    ) -> None:
        self._store = store
        self._layout = Layout(job)
        self._task = task
        self._clock = clock
        self._entropy = entropy
        self._random = entropy.random()
        self._form = form
        self._known = Known(store, self._layout, task)

    def distrust(self, objects: frozenset[str]) -> None:
        """Names (as in `File.object`) that a restore or a drill found missing or wrong: no later manifest has them."""
        self._known.distrust(objects)

    def upload(self, snapshot: Snapshot, facts: Facts) -> Uploaded:
        """Deletes the snapshot, whatever happens. Raises CheckpointStoreUnavailable (not within the bound),
        CheckpointStoreError, CheckpointDamaged (this epoch's manifest stands there, unreadable), StateDirError,
        StateDamaged; nothing counts then, and the next upload goes on from what was put."""
        began_s = self._clock.monotonic_s()
        retry = Retry(self._clock, self._random, began_s + limits.CHECKPOINT_UPLOAD_S)
        run = _Run(
            snapshot, facts, self._store, self._layout, self._task, self._clock, self._entropy, self._known, retry
        )
        try:
            self._read_back(snapshot)
            manifest = run.manifest(began_s)
        except OSError as error:
            raise directory.unusable(snapshot.path, "reading", error.strerror or str(error)) from error
        finally:
            snapshot.delete()
        seconds = self._clock.monotonic_s() - began_s
        return Uploaded(manifest, manifest.key, run.objects_new, run.bytes_new, manifest.size_bytes, seconds)

    def _read_back(self, snapshot: Snapshot) -> None:
        """What is uploaded is what the store was: the commit's state, and not the overlay's."""
        read_back = self._form(snapshot.path)
        try:
            mark, steps = read_back.mark(), read_back.steps
        finally:
            read_back.close()
        invariant(mark == snapshot.mark, f"the snapshot {snapshot.path} is not of {snapshot.mark}")
        invariant(steps == snapshot.steps, f"the snapshot {snapshot.path} has not the steps of its store")


@dataclass
class _Run:
    """One upload."""

    snapshot: Snapshot
    facts: Facts
    store: CheckpointStore
    layout: Layout
    task: TaskId
    clock: Clock
    entropy: Entropy
    known: Known
    retry: Retry
    objects_new: int = 0
    bytes_new: int = 0
    deadline_s: float = 0.0

    def manifest(self, began_s: float) -> Manifest:
        self.deadline_s = began_s + limits.CHECKPOINT_UPLOAD_S
        mark, paths = self.snapshot.mark, self.snapshot.files()
        base = self.known.base(mark.lineage, mark.epoch, self.retry)
        files = tuple(self._file(path, base) for path in paths)
        self._in_time()
        manifest = self._put(self._manifest(files, base))
        self.known.uploaded(manifest, frozenset(path.name for path in paths))
        return manifest

    def _file(self, path: Path, base: Base) -> File:
        sha, size = self.known.sha(path), path.stat().st_size
        if sha is not None and sha in base.objects:
            return File(path.name, sha, size, base.objects[sha])
        invariant(size <= limits.CHECKPOINT_OBJECT_BYTES, f"{path} is too large for an object: {size} bytes")
        data = path.read_bytes()
        sha = self.known.hashed(path, data)
        return File(path.name, sha, len(data), base.objects.get(sha) or self._object(sha, data))

    def _object(self, sha: str, data: bytes) -> str:
        """The name under which the content stands in the store now, put or found."""
        name = sha
        while True:
            self._in_time()
            if self.known.trusted(name):
                key = self.layout.object(name)
                if self._created(key, data):
                    self.objects_new += 1
                    self.bytes_new += len(data)
                    return name
                if self._young(key, len(data)):
                    return name
            name = f"{sha}.{self.entropy.token()}"

    def _created(self, key: str, data: bytes) -> bool:
        return self.retry(lambda: self.store.put_once(key, data))

    def _young(self, key: str, size: int) -> bool:
        """A put whose answer was lost comes here too."""
        found = self.retry(lambda: self.store.stat(key))
        age_ms = self.clock.wall_ms() - found.modified_ms if found else 0
        return found is not None and found.size == size and age_ms < limits.CHECKPOINT_REUSE_S * 1000

    def _manifest(self, files: tuple[File, ...], base: Base) -> Manifest:
        mark, facts = self.snapshot.mark, self.facts
        return Manifest(
            job=self.layout.job,
            stage=self.task.stage,
            partition=self.task.partition,
            lineage=mark.lineage,
            epoch=mark.epoch,
            nonce=mark.nonce,
            journal=mark.journal,
            journal_end=mark.journal_end,
            topology=facts.topology,
            steps={step: facts.steps.get(step) for step in sorted(self.snapshot.steps)},
            files=files,
            created_ms=self.clock.wall_ms(),
            barrier=facts.barrier,
            previous=base.epoch if base.epoch != mark.epoch else None,
            digest=facts.digest,
        )

    def _put(self, manifest: Manifest) -> Manifest:
        """The manifest that counts: ours, or the one that stands there already, of the same commit. One that cannot be
        read is left standing: the checkpoint of a later epoch will count."""
        data = manifest.encode()
        if self._created(manifest.key, data):
            self._in_time()
            return manifest
        there = self.retry(lambda: load(self.store, manifest.key))
        told = f"{manifest.key} is a checkpoint of {there.mark}, not of {manifest.mark}"
        invariant(there.mark == manifest.mark, told)
        return there

    def _in_time(self) -> None:
        if self.clock.monotonic_s() > self.deadline_s:
            raise CheckpointStoreUnavailable(
                f"task {self.task}: the upload of epoch {self.snapshot.mark.epoch} to {self.store.place} took longer "
                f"than {limits.CHECKPOINT_UPLOAD_S} s and does not count",
                "the next one goes on from what was uploaded; a faster store, or more partitions with less state each",
            )
