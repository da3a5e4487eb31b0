"""What an upload may take as there: the objects that the last manifest names, and the hashes of files read before.

The base is the newest readable manifest of the lineage: this owner's last upload, or what a former owner left. It is
asked after before each upload: once it is gone, what it named may go too.

Used by one thread at a time, the upload's.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from streamcore.checkpoint.manifest import File, Layout, Manifest, listed, load
from streamcore.checkpoint.retry import Retry
from streamcore.checkpoint.store import CheckpointStore
from streamcore.errors import CheckpointDamaged, StateMismatch
from streamcore.types import Epoch, TaskId

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Base:
    key: str
    epoch: Epoch | None
    objects: Mapping[str, str]
    """SHA-256 -> the object's name."""


_NONE = Base("", None, {})


class Known:
    def __init__(self, store: CheckpointStore, layout: Layout, task: TaskId) -> None:
        self._store = store
        self._layout = layout
        self._task = task
        self._lineage: str | None = None
        self._base = _NONE
        self._distrusted: frozenset[str] = frozenset()
        self._hashes: dict[tuple[str, int, int, int], str] = {}

    # --- objects -------------------------------------------------------------------------------------------------
    def base(self, lineage: str, epoch: Epoch, retry: Retry) -> Base:
        """Raises what the store raises."""
        if self._lineage == lineage and retry(lambda: self._store.stat(self._base.key)) is not None:
            return self._base
        self._lineage, self._base = None, _NONE
        for older in retry(lambda: listed(self._store, self._layout, self._task, lineage)):
            if older <= epoch and (manifest := self._readable(lineage, older, retry)):
                there = {stat.key: stat.size for stat in retry(lambda: self._store.list(self._layout.objects))}
                self._build(manifest, (f for f in manifest.files if there.get(self._layout.object(f.object)) == f.size))
                break
        return self._base

    def uploaded(self, manifest: Manifest, names: frozenset[str]) -> None:
        """The next base. `names`: of the files there are; what was known of others is forgotten."""
        self._build(manifest, manifest.files)
        self._hashes = {about: sha for about, sha in self._hashes.items() if about[0] in names}

    def distrust(self, objects: frozenset[str]) -> None:
        self._distrusted |= objects
        kept = {sha: name for sha, name in self._base.objects.items() if name not in objects}
        self._base = Base(self._base.key, self._base.epoch, kept)

    def trusted(self, name: str) -> bool:
        return name not in self._distrusted

    def _build(self, manifest: Manifest, files: Iterable[File]) -> None:
        self._lineage = manifest.lineage
        kept = {file.sha256: file.object for file in files if self.trusted(file.object)}
        self._base = Base(manifest.key, manifest.epoch, kept)

    def _readable(self, lineage: str, epoch: Epoch, retry: Retry) -> Manifest | None:
        key = self._layout.manifest(self._task, lineage, epoch)
        try:
            return retry(lambda: load(self._store, key))
        except (CheckpointDamaged, StateMismatch) as error:
            logger.warning("%s is not built upon: %s", key, error.what)
            return None

    # --- hashes --------------------------------------------------------------------------------------------------
    def sha(self, path: Path) -> str | None:
        """Of an SST that was read before: they never change, so name, size, inode and time say which it is."""
        return self._hashes.get(_about(path)) if path.suffix == ".sst" else None

    def hashed(self, path: Path, data: bytes) -> str:
        sha = hashlib.sha256(data).hexdigest()
        if path.suffix == ".sst":
            self._hashes[_about(path)] = sha
        return sha


def _about(path: Path) -> tuple[str, int, int, int]:
    stat = path.stat()
    return (path.name, stat.st_size, stat.st_ino, stat.st_mtime_ns)
