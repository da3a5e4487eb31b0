"""The storage of the embedded log: RocksDB, one column family, raw bytes.

    DIR/           RocksDB's files
    DIR.lock       held (flock) by the process that writes; holds its process id, for the message

Durability: every batch is in the write-ahead log, handed to the operating system, when `write` returns: it outlives
the process (kill -9), and is not synced, so that a machine that loses power may lose the last moments.

A second process reads as a RocksDB secondary: it follows the writer's files and writes nothing into them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rocksdict import AccessType, DBCompressionType, Options, Rdict, ReadOptions, WriteBatch

from streamcore.clock import Clock
from streamcore.errors import StateDirError
from streamcore.log.local.storage import Batch

LOCK_TRIES = 5
LOCK_STEP_S = 0.02
"""A reader that asks whether anybody writes holds the lock for a moment."""


class RocksStorage:
    def __init__(self, path: Path, clock: Clock) -> None:
        """Raises StateDirError: in use, unwritable, damaged."""
        self._path = path
        self._write_failed = False
        self._lock_fd = _lock(path, clock)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._db = Rdict(str(path), _options())
        except Exception as error:
            os.close(self._lock_fd)
            raise _refused(path, error) from error

    def get(self, key: bytes) -> bytes | None:
        return _get(self._db, self._path, key)

    def scan(self, start: bytes, stop: bytes, floor: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._db, self._path, start, stop, floor)

    def write(self, batch: Batch) -> None:
        out = WriteBatch(raw_mode=True)
        for start, stop in batch.ranges:
            out.delete_range(start, stop)
        for key, value in batch.entries.items():
            if value is None:
                out.delete(key)
            else:
                out.put(key, value)
        try:
            self._db.write(out)
        except Exception as error:
            self._write_failed = True
            raise _refused(self._path, error) from error

    def catch_up(self) -> bool:
        return False

    def written_by_another(self) -> bool:
        return False

    def close(self) -> None:
        """Raises StateDirError, unless a write was refused before: that error says it, and this one would hide it."""
        if self._lock_fd < 0:
            return
        try:
            self._db.close()
        except Exception as error:
            if not self._write_failed:
                raise _refused(self._path, error) from error
        finally:
            os.close(self._lock_fd)
            self._lock_fd = -1


class RocksFollower:
    """Read-only, beside a writer or after one."""

    def __init__(self, path: Path) -> None:
        """Raises StateDirError: missing, unreadable."""
        self._path = path
        if not (path / "CURRENT").exists():
            raise StateDirError(
                f"there is no embedded log in {path}", "check --state-dir; a job that ran there has made one"
            )
        self._scratch = tempfile.mkdtemp(prefix="streamcore-reader-")
        try:
            self._db = Rdict(str(path), _options(), access_type=AccessType.secondary(self._scratch))
            self._db.try_catch_up_with_primary()
        except Exception as error:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise _refused(path, error) from error
        self._seen = self._db.latest_sequence_number()

    def get(self, key: bytes) -> bytes | None:
        return _get(self._db, self._path, key)

    def scan(self, start: bytes, stop: bytes, floor: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._db, self._path, start, stop, floor)

    def write(self, batch: Batch) -> None:
        raise StateDirError(f"the embedded log in {self._path} is open for reading only", "stop the job first")

    def catch_up(self) -> bool:
        try:
            self._db.try_catch_up_with_primary()
        except Exception as error:
            raise _refused(self._path, error) from error
        seen, self._seen = self._seen, self._db.latest_sequence_number()
        return seen != self._seen

    def written_by_another(self) -> bool:
        try:
            descriptor = os.open(_lock_path(self._path), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def close(self) -> None:
        self._db.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_max_open_files(-1)
    options.set_keep_log_file_num(2)
    options.set_max_total_wal_size(256 << 20)
    return options


def _get(db: Rdict, path: Path, key: bytes) -> bytes | None:
    try:
        return db.get(key)
    except Exception as error:
        raise _refused(path, error) from error


def _scan(db: Rdict, path: Path, start: bytes, stop: bytes, floor: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    try:
        yield from _entries(db, start, stop, floor)
    except Exception as error:
        raise _refused(path, error) from error


def _entries(db: Rdict, start: bytes, stop: bytes, floor: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    options = ReadOptions()
    options.set_iterate_upper_bound(stop)
    entries = db.iter(options)
    if floor is None:
        entries.seek(start)
    else:
        entries.seek_for_prev(start)
        if not entries.valid() or entries.key() < floor:
            entries.seek(start)
    while entries.valid():
        yield entries.key(), entries.value()
        entries.next()
    entries.status()  # raises what stopped the iteration, if it was not the end


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock(path: Path, clock: Clock) -> int:
    """The descriptor that holds the lock."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _refused(path, error) from error
    for left in reversed(range(LOCK_TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if left == 0:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise StateDirError(
                    f"the embedded log in {path} is in use by process {holder or '(unknown)'}: one process at a time "
                    "runs jobs on it",
                    "stop it, or give this job another --state-dir; `topics read` and `status` work beside it",
                ) from None
            clock.sleep_s(LOCK_STEP_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _refused(path: Path, error: Exception) -> StateDirError:
    """rocksdict raises plain exceptions, so their text is all there is to go by."""
    text = str(error)
    if "No space left" in text:
        return StateDirError(f"the disk of the embedded log in {path} is full: {text}", "free some space, start again")
    if "Corruption" in text:
        return StateDirError(
            f"the embedded log in {path} is damaged: {text}",
            "restore the directory from a copy, or start over with another --state-dir: the log is the only copy of "
            "what it holds",
        )
    return StateDirError(
        f"the embedded log in {path} cannot be opened, read or written: {text}",
        "check that the directory exists, belongs to this user and is writable, or name another by --state-dir",
    )
