"""Where the local broker keeps its bytes: an ordered map written in atomic batches. This file: the protocol, memory.

Invariants:
- A `Batch` is applied whole or not at all: its ranges are deleted first, then its entries are put or deleted.
- `scan` sees the state of its first step; the caller writes nothing before it has finished with it.

Key layout (the one place where it is defined; numbers are big endian, so that keys sort as they count):

    n                                      -> the log's own facts (format, id, next numbers)
    t TOPIC                                -> TopicRecord
    p NUMBER:4 PARTITION:4                 -> PartitionRecord
    c NUMBER:4 PARTITION:4 BASE:8          -> Chunk of records
    a NUMBER:4 PARTITION:4 LAST:8          -> AbortedRange
    x TRANSACTIONAL_ID                     -> TransactionRecord
    g GROUP                                -> GroupRecord
    o GROUP NUL TOPIC NUL PARTITION:4      -> OffsetRecord
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Protocol

FACTS = b"n"
TOPIC = b"t"
PARTITION = b"p"
CHUNK = b"c"
ABORTED = b"a"
TRANSACTION = b"x"
GROUP = b"g"
OFFSET = b"o"


def after(prefix: bytes) -> bytes:
    """The least key above all that start with `prefix` (whose last byte is below 255)."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def position(value: int) -> bytes:
    return value.to_bytes(8, "big")


LAST = position((1 << 64) - 1)


class Batch:
    __slots__ = ("entries", "ranges")

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes | None] = {}
        """None deletes."""
        self.ranges: list[tuple[bytes, bytes]] = []
        """(start, stop exclusive), deleted before the entries are written."""

    def __bool__(self) -> bool:
        return bool(self.entries or self.ranges)


class Storage(Protocol):
    """Any thread, one at a time (the broker's lock). Raises StateDirError when the disk refuses."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, stop: bytes, floor: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Entries from `start` up to `stop` (exclusive), in order. With `floor`: from the greatest key at or below
        `start` that is not below `floor`, where there is one."""
        ...

    def write(self, batch: Batch) -> None: ...

    def catch_up(self) -> bool:
        """Read-only storage: take in what the writer has written since; whether that was anything."""
        ...

    def written_by_another(self) -> bool:
        """Read-only storage: whether a process has the log open for writing now."""
        ...

    def close(self) -> None: ...


class MemoryStorage:
    def __init__(self) -> None:
        self._entries: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        return self._entries.get(key)

    def scan(self, start: bytes, stop: bytes, floor: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        at = bisect_left(self._keys, start)
        if floor is not None:
            below = bisect_right(self._keys, start) - 1
            if below >= 0 and self._keys[below] >= floor:
                at = below
        while at < len(self._keys) and self._keys[at] < stop:
            key = self._keys[at]
            yield key, self._entries[key]
            at += 1

    def write(self, batch: Batch) -> None:
        for start, stop in batch.ranges:
            first, end = bisect_left(self._keys, start), bisect_left(self._keys, stop)
            for key in self._keys[first:end]:
                del self._entries[key]
            del self._keys[first:end]
        for key, value in batch.entries.items():
            if value is None:
                if self._entries.pop(key, None) is not None:
                    del self._keys[bisect_left(self._keys, key)]
            else:
                if key not in self._entries:
                    insort(self._keys, key)
                self._entries[key] = value

    def catch_up(self) -> bool:
        return False

    def written_by_another(self) -> bool:
        return False

    def close(self) -> None:
        """What is in memory goes with the object."""
