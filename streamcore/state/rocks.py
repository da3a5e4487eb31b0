"""A task's state in RocksDB, in a directory of its own.

    DIR/streamcore.json   whose it is (see state.directory)
    DIR/db/               RocksDB, raw mode; a column family a step, and `default` with the epoch mark alone

The epoch mark stands in every column family, written with each epoch's changes in one WriteBatch, WAL on, not synced:
a killed process loses nothing, a machine that loses power may lose its last epochs, and takeover replays them. Where
it loses them in one column family only, the marks differ, and the store says StateDamaged.

This is the one module of state/ that imports rocksdict. Its errors are plain Exceptions with RocksDB's status as text;
`mapped` turns them into ours. Block cache and memtables are bounded for the whole process.

Threads: a store belongs to the thread that opened it, except that `flush` may be called on another; RocksDB's own
threads flush and compact.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

import rocksdict

from streamcore import limits
from streamcore.errors import StateDamaged, StateDirError, StreamcoreError, broken, invariant
from streamcore.state import directory
from streamcore.state.store import MARK_KEY, Delta, EpochMark, agreed, refuse_dropped
from streamcore.types import TaskId

DATABASE: Final = "db"
DEFAULT: Final = "default"
_READ_ONLY_TRIES: Final = 3
"""A running job may delete a file between our listing and our opening it."""


class RocksColumn:
    def __init__(self, family: rocksdict.Rdict, path: Path, own: bool) -> None:
        self._family = family
        self._get: Any = family.get
        self._path = path
        self._own = own

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._get(key)
        except Exception as error:
            raise self._failed(error) from error

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        get, step = self._get, limits.GET_ENTRIES
        try:
            if len(keys) <= step:
                return get(keys)
            found: list[bytes | None] = []
            for at in range(0, len(keys), step):
                found += get(keys[at : at + step])
            return found
        except Exception as error:
            raise self._failed(error) from error

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """In pieces, so that an iterator left unfinished holds nothing of the database open."""
        size = min(32, limits.SCAN_ENTRIES)
        while start < stop:
            piece = self._piece(start, stop, size)
            yield from piece
            if len(piece) < size:
                return
            start = piece[-1][0] + b"\0"
            size = limits.SCAN_ENTRIES

    def _piece(self, start: bytes, stop: bytes, size: int) -> list[tuple[bytes, bytes]]:
        options = rocksdict.ReadOptions()
        options.set_iterate_upper_bound(stop)
        try:
            entries: Any = self._family.items(from_key=start, read_opt=options)
            return list(islice(entries, size))
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StreamcoreError:
        return failed(error, self._path, "reading", self._own)

    def release(self) -> None:
        """The database stays locked while anything of ours refers to it."""
        del self._family, self._get


class RocksStore:
    def __init__(
        self, path: Path, database: rocksdict.Rdict, steps: frozenset[str], scratch: Path | None = None
    ) -> None:
        """Use `open` or `open_read_only`. `scratch` is deleted on close."""
        self._path = path
        self._steps = steps
        self._database: rocksdict.Rdict | None = database
        self._scratch = scratch
        self._flushing = threading.Lock()
        self._columns = {step: RocksColumn(database.get_column_family(step), path, scratch is None) for step in steps}
        self._handles = {name: database.get_column_family_handle(name) for name in (DEFAULT, *steps)}

    @classmethod
    def open(cls, path: Path, steps: Iterable[str], *, job: str, task: TaskId) -> RocksStore:
        """Creates what is missing. Raises StateDirError (in use, unwritable, full, another job's or a newer
        version's), StateMismatch (it holds steps that the code has not), StateDamaged (cannot be read)."""
        wanted = frozenset(steps)
        invariant(DEFAULT not in wanted, "a step cannot be called 'default'")
        directory.claim(path, job, task)
        database_path = path / DATABASE
        saved = _families(database_path) if database_path.exists() else set[str]()
        refuse_dropped(saved - {DEFAULT}, wanted, f"the state directory {path} of job {job}, task {task},")
        try:
            database = rocksdict.Rdict(str(database_path), _options(), {step: _options() for step in wanted})
        except Exception as error:
            raise mapped(error, path, "opening") from error
        store = cls(path, database, wanted)
        if saved:
            store._adopt(wanted - saved)
        return store

    @classmethod
    def open_read_only(cls, path: Path) -> RocksStore:
        """As it is on disk now, beside a running job too; `apply` and `destroy` are not for it. Raises as `open`."""
        tried = 0
        while True:
            tried += 1
            scratch = Path(tempfile.mkdtemp(prefix="streamcore-"))
            try:
                return cls._read(path, scratch)
            except StreamcoreError as error:
                shutil.rmtree(scratch, ignore_errors=True)
                if tried == _READ_ONLY_TRIES or not isinstance(error, StateDamaged):
                    raise

    @classmethod
    def _read(cls, path: Path, scratch: Path) -> RocksStore:
        directory.read_format(path)
        steps = frozenset(_families(path / DATABASE) - {DEFAULT})
        options = _options()
        options.set_db_log_dir(str(scratch))  # or it would turn over the running job's log
        try:
            access = rocksdict.AccessType.read_only(False)
            database = rocksdict.Rdict(str(path / DATABASE), options, {step: _options() for step in steps}, access)
        except Exception as error:
            raise mapped(error, path, "opening") from error
        return cls(path, database, steps, scratch)

    @property
    def steps(self) -> frozenset[str]:
        return self._steps

    def column(self, step: str) -> RocksColumn:
        invariant(step in self._columns, f"no column for the step {step!r}")
        return self._columns[step]

    def mark(self) -> EpochMark | None:
        marks = {DEFAULT: self._mark_in(self._open())}
        for step in sorted(self._steps):
            marks[step] = EpochMark.decode(self._columns[step].get(MARK_KEY), f"column {step!r} of {self._path}")
        return agreed(marks, str(self._path))

    def apply(self, deltas: Mapping[str, Delta], mark: EpochMark) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for step, delta in deltas.items():
            invariant(step in self._steps, f"no column for the step {step!r}")
            delta.check(step)
            self._fill(batch, step, delta)
        self._write(batch, mark, self._handles)

    def flush(self, wait: bool) -> None:
        """Memtables to files, so that a snapshot soon after finds little left. Without `wait` too it may take a while,
        when RocksDB is behind: so it may be called on another thread, and Python's lock is free meanwhile. `close`
        waits for it; of a closed store it does nothing."""
        with self._flushing:
            if self._database is None:
                return
            try:
                for name in (DEFAULT, *sorted(self._steps)):
                    self._database.get_column_family(name).flush(wait)
            except Exception as error:
                raise failed(error, self._path, "flushing", self._scratch is None) from error

    def snapshot(self, path: Path) -> None:
        """All of it as it is now, in a new state directory on the same disk: hard links, after a flush of each column
        family. Nothing is applied meanwhile, as this is the one thread that does. Raises as `apply`."""
        database = self._open()
        try:
            path.mkdir()
            shutil.copyfile(self._path / directory.FORMAT_FILE, path / directory.FORMAT_FILE)
        except OSError as error:
            raise directory.unusable(path, "writing", error.strerror or str(error)) from error
        try:
            rocksdict.Checkpoint(database).create_checkpoint(str(path / DATABASE))
        except Exception as error:
            raise failed(error, self._path, "snapshotting", self._scratch is None) from error

    def close(self) -> None:
        with self._flushing:
            self._close()

    def _close(self) -> None:
        if self._database is None:
            return
        for column in self._columns.values():
            column.release()
        self._handles.clear()
        database, self._database = self._database, None
        try:
            database.close()
        except Exception as error:
            raise failed(error, self._path, "closing", self._scratch is None) from error
        finally:
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)

    def destroy(self) -> None:
        self.close()
        directory.remove(self._path)

    @staticmethod
    def set_aside(path: Path, why: str) -> None:
        """The directory of a closed store, out of the way: `open` then starts empty."""
        directory.set_aside(path, why)

    def _open(self) -> rocksdict.Rdict:
        if self._database is None:
            broken(f"the store {self._path} is used after it was closed")
        return self._database

    def _mark_in(self, family: rocksdict.Rdict) -> EpochMark | None:
        try:
            data: bytes | None = family.get(MARK_KEY)
        except Exception as error:
            raise failed(error, self._path, "reading", self._scratch is None) from error
        return EpochMark.decode(data, f"column {DEFAULT!r} of {self._path}")

    def _adopt(self, added: frozenset[str]) -> None:
        """New steps begin at the commit at which the others stand."""
        mark = self._mark_in(self._open())
        if mark is not None and added:
            batch = rocksdict.WriteBatch(raw_mode=True)
            self._write(batch, mark, {step: self._handles[step] for step in added})

    def _fill(self, batch: rocksdict.WriteBatch, step: str, delta: Delta) -> None:
        handle = self._handles[step]
        for start, stop in delta.ranges:
            batch.delete_range(start, stop, handle)
        batch.set_default_column_family(handle)
        put, delete = batch.put, batch.delete
        for key, value in zip(delta.keys, delta.values, strict=True):
            if value is None:
                delete(key)
            else:
                put(key, value)

    def _write(
        self, batch: rocksdict.WriteBatch, mark: EpochMark, families: Mapping[str, rocksdict.ColumnFamily]
    ) -> None:
        data = mark.encode()
        for handle in families.values():
            batch.put(MARK_KEY, data, handle)
        try:
            self._open().write(batch)
        except Exception as error:
            raise failed(error, self._path, "writing", self._scratch is None) from error


def _families(database_path: Path) -> set[str]:
    try:
        return set(rocksdict.Rdict.list_cf(str(database_path)))
    except Exception as error:
        raise mapped(error, database_path.parent, "opening") from error


# --- settings --------------------------------------------------------------------------------------------------
@cache
def _shared_cache() -> rocksdict.Cache:
    return rocksdict.Cache(limits.STATE_CACHE_BYTES)


@cache
def _memtables() -> rocksdict.WriteBufferManager:
    return rocksdict.WriteBufferManager(limits.STATE_MEMTABLE_BYTES, False)


_RUNS: Final = 8
"""Newer runs are merged when there are so many: half of the default's rewriting, and reads as fast."""


def _compaction() -> rocksdict.UniversalCompactOptions:
    """Whole runs are merged with those of their size, so that a change is rewritten seldom: what is rewritten is what
    a checkpoint uploads."""
    compaction = rocksdict.UniversalCompactOptions()
    compaction.max_size_amplification_percent = 200
    compaction.size_ratio = 1
    return compaction


def _options() -> rocksdict.Options:
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(_shared_cache())
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_manager(_memtables())
    options.set_write_buffer_size(limits.STATE_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(4)
    options.set_memtable_prefix_bloom_ratio(0.02)
    options.set_memtable_whole_key_filtering(True)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_compaction_style(rocksdict.DBCompactionStyle.universal())
    options.set_universal_compaction_options(_compaction())
    options.set_level_zero_file_num_compaction_trigger(_RUNS)
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.point_in_time())
    options.set_max_total_wal_size(limits.STATE_WAL_BYTES)
    options.set_max_background_jobs(2)
    options.set_max_open_files(limits.STATE_OPEN_FILES)
    options.set_manifest_preallocation_size(64 << 10)
    options.set_max_log_file_size(1 << 20)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


# --- errors ----------------------------------------------------------------------------------------------------
_IN_USE: Final = ("While lock file", "lock hold by current process")


def failed(error: Exception, path: Path, doing: str, own: bool) -> StreamcoreError:
    """As `mapped`, of an open store: one that is our own (and not a look at a running job's) is condemned."""
    told = mapped(error, path, doing)
    if own and isinstance(told, StateDamaged):
        directory.condemn(path, told.what)
    return told


def mapped(error: Exception, path: Path, doing: str) -> StreamcoreError:
    """RocksDB's status, by its text, as an error of ours. What is unknown counts as damage: the journal has it all."""
    text = str(error)
    if type(error) is not Exception:  # rocksdict's own refusal of an argument, or a closed database
        broken(f"{doing} the state in {path}: {type(error).__name__}: {text}")
    if text.startswith("IO error") and any(sign in text for sign in _IN_USE):
        return StateDirError(
            f"the state directory {path} is in use by another process ({text})",
            "stop the other process, or give this one a slot or a directory of its own (--slot, --state-dir)",
        )
    if directory.is_environment(text):
        return directory.unusable(path, doing, text)
    return StateDamaged(f"{doing} the state in {path} failed: {text}")
