"""A store in memory: for the Driver, and the obvious one that the conformance suite compares with.

`Tables` is the disk: whoever holds on to it can open it again after the store was closed or abandoned, and finds the
last applied epoch, as a process does after kill -9.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from streamcore.errors import StateDamaged, invariant
from streamcore.state.store import MARK_KEY, UNREADABLE, Delta, EpochMark, agreed, refuse_dropped

Tables = dict[str, dict[bytes, bytes]]
"""A table a column; `default` holds the mark alone."""
DEFAULT = "default"
SNAPSHOT: Final = Path("db") / "tables.msgpack"
"""In a snapshot: one file, {column: {key: value}}, keys in order."""


class MemoryColumn:
    def __init__(self, table: dict[bytes, bytes]) -> None:
        self._table = table
        self._sorted: list[bytes] | None = None

    def get(self, key: bytes) -> bytes | None:
        return self._table.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return list(map(self._table.get, keys))

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        table = self._table
        return iter([(key, table[key]) for key in self._between(start, stop)])

    def apply(self, delta: Delta) -> None:
        for start, stop in delta.ranges:
            for key in self._between(start, stop):
                del self._table[key]
            self._sorted = None
        for key, value in zip(delta.keys, delta.values, strict=True):
            if value is None:
                self._table.pop(key, None)
            else:
                self._table[key] = value
        self._sorted = None

    def _between(self, start: bytes, stop: bytes) -> list[bytes]:
        if self._sorted is None:
            self._sorted = sorted(self._table)
        return self._sorted[bisect_left(self._sorted, start) : bisect_left(self._sorted, stop)]


class MemoryStore:
    def __init__(self, steps: Iterable[str], tables: Tables | None = None) -> None:
        """`tables` is changed in place. Raises StateMismatch when it holds a step that is not in `steps`."""
        self._tables: Tables = {} if tables is None else tables
        self._steps = frozenset(steps)
        refuse_dropped(self._tables.keys() - {DEFAULT}, self._steps, "the saved state")
        mark = self._tables.get(DEFAULT, {}).get(MARK_KEY)
        for name in {DEFAULT, *self._steps} - self._tables.keys():
            self._tables[name] = {} if mark is None else {MARK_KEY: mark}
        self._columns = {step: MemoryColumn(self._tables[step]) for step in self._steps}

    @property
    def steps(self) -> frozenset[str]:
        return self._steps

    def column(self, step: str) -> MemoryColumn:
        invariant(step in self._columns, f"no column for the step {step!r}")
        return self._columns[step]

    def mark(self) -> EpochMark | None:
        found = {name: table.get(MARK_KEY) for name, table in self._tables.items()}
        marks = {name: EpochMark.decode(data, f"column {name!r}") for name, data in found.items()}
        return agreed(marks, "the store in memory")

    def apply(self, deltas: Mapping[str, Delta], mark: EpochMark) -> None:
        for step, delta in deltas.items():
            delta.check(step)
            self.column(step)
        for step, delta in deltas.items():
            self.column(step).apply(delta)
        data = mark.encode()
        for table in self._tables.values():
            table[MARK_KEY] = data

    def flush(self, wait: bool) -> None:
        pass

    def snapshot(self, path: Path) -> None:
        """As RocksStore's: a directory with all of it, in one file."""
        (path / SNAPSHOT).parent.mkdir(parents=True)
        ordered = {name: dict(sorted(table.items())) for name, table in sorted(self._tables.items())}
        (path / SNAPSHOT).write_bytes(msgspec.msgpack.encode(ordered))

    @classmethod
    def open_snapshot(cls, path: Path) -> MemoryStore:
        tables = read_snapshot(path)
        return cls(tables.keys() - {DEFAULT}, tables)

    def close(self) -> None:
        pass

    def destroy(self) -> None:
        self._tables.clear()


def read_snapshot(path: Path) -> Tables:
    """Raises StateDamaged."""
    try:
        return msgspec.msgpack.decode((path / SNAPSHOT).read_bytes(), type=Tables)
    except (*UNREADABLE, OSError) as error:
        raise StateDamaged(f"the snapshot {path} cannot be read: {error}") from error
