"""A bloom filter that knows ages: which is the newest bucket that may hold an id?

A cell is the age (1 to 255; 0 is none) of the newest bucket that touched it, an id touches two cells, and so an id of
age a finds both at a or above. One look answers for all buckets; what is older than the oldest bucket counts as empty,
so that a dropped bucket needs no clearing. The table grows by repeating itself: a cell's number is its hash cut to
size, so each part answers for what the whole did. As ids repeated that way thin out only when their buckets go, it
begins large and grows in few steps.

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
"""A fifth of the cells in use: 1 new id in 20 looks like a known one (1 in 6 just before a table grown is full)."""


class AgeFilter:
    def __init__(self, most_bytes: int) -> None:
        invariant(0 < most_bytes <= 1 << _SHIFT and most_bytes.bit_count() == 1, "a filter's size is a power of two")
        self._most = most_bytes
        self._cells = bytearray(min(_START_BYTES, most_bytes))

    @property
    def size_bytes(self) -> int:
        return len(self._cells)

    def reserve(self, ids: int) -> None:
        """Grow, up to the bound, to hold so many; beyond it more new ids look like known ones."""
        while len(self._cells) < ids * _CELLS_AN_ID and len(self._cells) * _GROWTH <= self._most:
            self._cells = self._cells * _GROWTH

    def suspects(self, hashes: list[int], oldest: int) -> list[int]:
        """The places in `hashes` of those that may have been added at the age `oldest` or later."""
        cells, mask = self._cells, len(self._cells) - 1
        return [i for i, h in enumerate(hashes) if cells[h & mask] >= oldest and cells[(h >> _SHIFT) & mask] >= oldest]

    def newest(self, hashed: int) -> int:
        """No later age than this holds it; 0: none does."""
        mask = len(self._cells) - 1
        return min(self._cells[hashed & mask], self._cells[(hashed >> _SHIFT) & mask])

    def add(self, hashes: list[int], age: int) -> None:
        cells, mask = self._cells, len(self._cells) - 1
        for h in hashes:
            one, other = h & mask, (h >> _SHIFT) & mask
            if cells[one] < age:
                cells[one] = age
            if cells[other] < age:
                cells[other] = age

    def rejuvenate(self, years: int) -> None:
        """All ages less by so many: room for newer ones."""
        self._cells = self._cells.translate(bytes(max(0, age - years) for age in range(NEWEST_AGE + 1)))
