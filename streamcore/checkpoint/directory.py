"""A checkpoint store in a directory: of a local disk, or of one that several machines mount.

    DIR/KEY          an object; the key's segments are directories
    DIR/.new/NAME    one being written; hard-linked to its key once it is synced, so creation is atomic and exclusive

What a killed process leaves in `.new` is deleted by a later process's first write, when it is older than the grace.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from streamcore import limits
from streamcore.checkpoint.store import Stat, checked, checked_prefix, missing
from streamcore.errors import CheckpointStoreError, CheckpointStoreUnavailable, StreamcoreError

_NEW: Final = ".new"


class DirectoryStore:
    """`root`, or at least its parent, must exist: a disk that is not mounted is not taken for an empty store."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._known: set[Path] = set()

    def __repr__(self) -> str:
        return f"DirectoryStore({self.place})"

    @property
    def place(self) -> str:
        return f"file://{self._root}"

    def put_once(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        try:
            self._prepare(target.parent)
            return self._create(target, data)
        except OSError as error:
            raise self._mapped(error, f"writing {key}") from error

    def get(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        try:
            with path.open("rb", buffering=0) as file:
                while chunk := file.read(limits.CHECKPOINT_CHUNK_BYTES):
                    yield chunk
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise missing(key, self.place) from None
        except OSError as error:
            raise self._mapped(error, f"reading {key}") from error

    def stat(self, key: str) -> Stat | None:
        path = self._path(key)
        try:
            return _stat(key, path) if path.is_file() else None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._mapped(error, f"looking for {key}") from error

    def list(self, prefix: str) -> list[Stat]:
        found: list[Stat] = []
        top = self._root / checked_prefix(prefix)
        try:
            if not self._root.is_dir():
                return self._none_yet()
            for directory, names, files in os.walk(top, onerror=_unless_gone):
                if directory == str(self._root):
                    names[:] = [name for name in names if name != _NEW]
                for file in files:
                    path = Path(directory, file)
                    try:
                        found.append(_stat(path.relative_to(self._root).as_posix(), path))
                    except FileNotFoundError:
                        continue  # deleted while we looked
        except OSError as error:
            raise self._mapped(error, f"listing {prefix or 'it'}") from error
        return sorted(found)

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise self._mapped(error, f"deleting {key}") from error

    def _none_yet(self) -> list[Stat]:
        os.stat(self._root.parent)
        if self._root.exists():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return []

    def _create(self, target: Path, data: bytes) -> bool:
        if target.exists():
            return False
        handle, name = tempfile.mkstemp(dir=self._root / _NEW)
        try:
            with open(handle, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.link(name, target)
        except FileExistsError:
            return False
        finally:
            os.unlink(name)
        _sync(target.parent)
        return True

    def _prepare(self, directory: Path) -> None:
        if directory in self._known and directory.is_dir() and (self._root / _NEW).is_dir():
            return
        if not self._known or not (self._root / _NEW).is_dir():
            self._root.mkdir(exist_ok=True)
            (self._root / _NEW).mkdir(exist_ok=True)
            self._clean()
        missing_ones = [path for path in (directory, *directory.parents) if not path.is_dir()]
        for path in reversed(missing_ones):
            path.mkdir(exist_ok=True)
            _sync(path.parent)
        self._known.add(directory)

    def _clean(self) -> None:
        """By the disk's own clock: the directory was just written or is older, so nothing young is taken for old."""
        handle, probe = tempfile.mkstemp(dir=self._root / _NEW)
        os.close(handle)
        oldest = os.stat(probe).st_mtime - limits.CHECKPOINT_GRACE_S
        os.unlink(probe)
        for left in (self._root / _NEW).iterdir():
            try:
                if left.stat().st_mtime < oldest:
                    left.unlink()
            except FileNotFoundError:
                continue  # its own process was faster

    def _path(self, key: str) -> Path:
        path = self._root / checked(key)
        try:
            if not path.parent.resolve().is_relative_to(self._root.resolve()):
                raise CheckpointStoreError(
                    f"{key} lies outside of the checkpoint store {self.place}: a symbolic link leads there",
                    "take the link out of the directory",
                )
        except OSError as error:
            raise self._mapped(error, f"looking for {key}") from error
        return path

    def _mapped(self, error: OSError, doing: str) -> StreamcoreError:
        what = f"checkpoint store {self.place}: {doing} failed: {error.strerror or error}"
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None:
            return CheckpointStoreUnavailable(what, "it is tried again; see that the disk answers")
        return CheckpointStoreError(what, remedy)


_FULL: Final = "free some space there, or keep fewer checkpoints"
_READ_ONLY: Final = "give this user the right to write there, or another directory with --checkpoints"
_ABSENT: Final = "create the directory, or mount its disk, or correct --checkpoints"
_REMEDIES: Final = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.ENOENT: _ABSENT,
    errno.ENOTDIR: _ABSENT,
    errno.EEXIST: _ABSENT,
    errno.EXDEV: "the directory must be one file system",
    errno.ENOTSUP: "the file system must know hard links",
}


def _stat(key: str, path: Path) -> Stat:
    found = path.stat()
    return Stat(key, found.st_size, found.st_mtime_ns // 1_000_000)


def _unless_gone(error: OSError) -> None:
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        raise error


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
