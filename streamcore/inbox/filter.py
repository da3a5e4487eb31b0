"""A bloom filter that knows ages: which is the newest bucket that may hold an id?

A cell is the age (1 to 255; 0 is none) of the newest bucket that touched it, an id touches two cells of one table, and
so an id of age a finds both at a or above. One look answers for all buckets; what is older than the oldest bucket
counts as empty, so that a dropped bucket needs no clearing. When a table is full, a larger one takes the new ids, and
the old one is asked too for as long as it knows an age that counts.

Hashes are Python's of bytes, different in each process: nothing here is saved.
"""

from __future__ import annotations

from typing import Final

from streamcore.errors import invariant

OLDEST_AGE: Final = 1
NEWEST_AGE: Final = 255

_SHIFT: Final = 24
_START_BYTES: Final = 1 << 20
_GROWTH: Final = 4
_CELLS_AN_ID: Final = 8
"""A full table has a fifth of its cells in use: 1 new id in 20 looks like a known one."""


class AgeFilter:
    def __init__(self, ids: int, most_bytes: int) -> None:
        """With room for `ids`; `most_bytes` bounds the largest table, and beyond it more new ids look like known
        ones."""
        invariant(0 < most_bytes <= 1 << _SHIFT and most_bytes.bit_count() == 1, "a table's size is a power of two")
        self._most = most_bytes
        size = min(_START_BYTES, most_bytes)
        while size < ids * _CELLS_AN_ID and size < most_bytes:
            size = min(size * _GROWTH, most_bytes)
        self._tables = [bytearray(size)]
        self._newest = [0]
        """The newest age in each table."""

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self._tables))

    def reserve(self, ids: int, oldest: int) -> None:
        """There are to be so many ids, the oldest of this age: begin a larger table when they do not fit."""
        while len(self._tables) > 1 and self._newest[0] < oldest:
            del self._tables[0], self._newest[0]
        size = len(self._tables[-1])
        if self.size_bytes < ids * _CELLS_AN_ID and size < self._most:
            self._tables.append(bytearray(min(size * _GROWTH, self._most)))
            self._newest.append(0)

    def suspects(self, hashes: list[int], oldest: int) -> list[int]:
        """The places in `hashes` of those that may have been added at the age `oldest` or later, in order."""
        found = _suspects(self._tables[-1], hashes, oldest)
        for table in self._tables[:-1]:
            more = _suspects(table, hashes, oldest)
            found = sorted({*found, *more}) if more else found
        return found

    def newest(self, hashed: int) -> int:
        """No later age than this holds it; 0: none does."""
        return max(_newest(table, hashed) for table in self._tables)

    def add(self, hashes: list[int], age: int) -> None:
        table = self._tables[-1]
        if age >= self._newest[-1]:
            self._newest[-1] = age
            _put_newest(table, hashes, age)
        else:
            _put(table, hashes, age)

    def rejuvenate(self, years: int) -> None:
        """All ages less by so many: room for newer ones."""
        younger = bytes(max(0, age - years) for age in range(NEWEST_AGE + 1))
        self._tables = [table.translate(younger) for table in self._tables]
        self._newest = [max(0, age - years) for age in self._newest]


def _suspects(table: bytearray, hashes: list[int], oldest: int) -> list[int]:
    mask = len(table) - 1
    return [i for i, h in enumerate(hashes) if table[h & mask] >= oldest and table[(h >> _SHIFT) & mask] >= oldest]


def _newest(table: bytearray, hashed: int) -> int:
    mask = len(table) - 1
    return min(table[hashed & mask], table[(hashed >> _SHIFT) & mask])


def _put_newest(table: bytearray, hashes: list[int], age: int) -> None:
    mask = len(table) - 1
    for h in hashes:
        table[h & mask] = age
        table[(h >> _SHIFT) & mask] = age


def _put(table: bytearray, hashes: list[int], age: int) -> None:
    """Where newer ages may stand already."""
    mask = len(table) - 1
    for h in hashes:
        for cell in (h & mask, (h >> _SHIFT) & mask):
            if table[cell] < age:
                table[cell] = age
