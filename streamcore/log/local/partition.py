"""The log of one partition.

Invariants:
- first ≤ stable end ≤ end. Offsets only grow; a transaction marker takes one and holds no record (it is stored, as a
  chunk without values, because a search by time finds it, as the broker's does).
- The stable end is the first offset of the oldest undecided transaction, or the end: below it everything is decided
  for good, so that what a committed reader has been given never changes.
- A chunk is aborted when an aborted range of its producer covers it; such ranges end at their marker.
- Records below `first` are gone for readers at once; their chunks go from the storage with the same batch, except
  one that straddles it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from streamcore import limits
from streamcore.errors import OffsetsLost
from streamcore.log.local import storage as keys
from streamcore.log.local.records import (
    NO_TRANSACTION,
    AbortedRange,
    Chunk,
    Columns,
    PartitionRecord,
    decode_aborted,
    decode_chunk,
    decode_partition,
    encode,
)
from streamcore.log.local.storage import Batch, Storage
from streamcore.types import TopicPartition

TAIL_CHUNKS = 64
TAIL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """Whole chunks: the first may begin before the position asked for, as Kafka's record batches do."""

    chunks: list[Chunk]
    next_position: int
    """Where to fetch on from: behind the chunks, or, when all there is was read, behind the markers too."""
    end: int
    """Where such a reader stops now: the stable end, or, uncommitted, the end."""


class Partition:
    def __init__(self, storage: Storage, tp: TopicPartition, topic_number: int) -> None:
        self.tp = tp
        self._storage = storage
        self._suffix = keys.number(topic_number) + keys.number(tp.partition)
        self._chunks = keys.CHUNK + self._suffix
        self._ranges = keys.ABORTED + self._suffix
        stored = storage.get(keys.PARTITION + self._suffix)
        self._state = decode_partition(stored) if stored is not None else PartitionRecord(0, 0, {})
        self._aborted: dict[int, list[tuple[int, int]]] = {}
        for _, value in storage.scan(self._ranges, self._ranges + keys.LAST):
            aborted = decode_aborted(value)
            self._aborted.setdefault(aborted.producer, []).append((aborted.first, aborted.last))
        self._tail: list[tuple[Chunk, int]] = []
        """The newest chunks, decoded, with their sizes: a reader at the end never touches the storage."""
        self._tail_from = self._state.end
        self._tail_bytes = 0

    @property
    def first(self) -> int:
        return self._state.first

    @property
    def end(self) -> int:
        return self._state.end

    @property
    def stable_end(self) -> int:
        undecided = self._state.undecided
        return max(min(undecided.values()), self._state.first) if undecided else self._state.end

    # --- writing --------------------------------------------------------------------------------------------

    def append(self, batch: Batch, columns: Columns, producer: int) -> int:
        """The offset of the first record. `producer` is NO_TRANSACTION outside of one."""
        base = self._state.end
        chunk = Chunk(base, producer, columns.values, columns.keys, columns.times, columns.headers)
        self._put(batch, chunk)
        self._state.end = chunk.end
        if producer != NO_TRANSACTION:
            self._state.undecided.setdefault(producer, base)
        self._save(batch)
        return base

    def mark(self, batch: Batch, producer: int, commit: bool, time_ms: int) -> None:
        """The transaction of `producer` is decided here: a marker takes an offset."""
        marker = self._state.end
        self._state.end = marker + 1
        self._put(batch, Chunk(marker, producer, [], None, [time_ms], None))
        first = self._state.undecided.pop(producer, None)
        if first is not None and not commit:
            self._aborted.setdefault(producer, []).append((first, marker))
            batch.entries[self._ranges + keys.position(marker)] = encode(AbortedRange(producer, first, marker))
        self._save(batch)

    def delete_before(self, batch: Batch, offset: int) -> None:
        """Raises OffsetsLost for an offset beyond the end."""
        if not 0 <= offset <= self._state.end:
            raise OffsetsLost(
                f"records of {self.tp} cannot be deleted below offset {offset}: its end is {self._state.end}",
                "name an offset within the partition",
            )
        if offset <= self._state.first:
            return
        self._state.first = offset
        stop = self._chunks + keys.position(offset)
        for key, value in self._storage.scan(stop, stop + b"\0", floor=self._chunks):
            straddles = decode_chunk(value).end > offset
            stop = key if straddles else stop
            break
        batch.ranges.append((self._chunks, stop))
        batch.ranges.append((self._ranges, self._ranges + keys.position(offset)))
        for producer, ranges in list(self._aborted.items()):
            self._aborted[producer] = [r for r in ranges if r[1] >= offset]
            if not self._aborted[producer]:
                del self._aborted[producer]
        self._save(batch)

    def destroy(self, batch: Batch) -> None:
        batch.ranges.append((self._chunks, self._chunks + keys.LAST))
        batch.ranges.append((self._ranges, self._ranges + keys.LAST))
        batch.entries[keys.PARTITION + self._suffix] = None

    def _put(self, batch: Batch, chunk: Chunk) -> None:
        encoded = encode(chunk)
        batch.entries[self._chunks + keys.position(chunk.base)] = encoded
        self._keep(chunk, len(encoded))

    def _save(self, batch: Batch) -> None:
        batch.entries[keys.PARTITION + self._suffix] = encode(self._state)

    def _keep(self, chunk: Chunk, size: int) -> None:
        self._tail.append((chunk, size))
        self._tail_bytes += size
        if len(self._tail) <= TAIL_CHUNKS and self._tail_bytes <= TAIL_BYTES:
            return
        drop = len(self._tail) // 2 or 1
        self._tail_from = self._tail[drop - 1][0].end
        self._tail_bytes -= sum(s for _, s in self._tail[:drop])
        del self._tail[:drop]

    # --- reading --------------------------------------------------------------------------------------------

    def fetch(self, position: int, max_records: int, committed: bool) -> Fetched:
        """Raises OffsetsLost for a position outside of the partition."""
        if not self._state.first <= position <= self._state.end:
            raise OffsetsLost(
                f"position {position} of {self.tp} is outside of the partition, which holds offsets "
                f"{self._state.first} to {self._state.end}",
                "the records were deleted, or the topic was recreated: `streamcore reset JOB` starts over",
            )
        bound = self.stable_end if committed else self._state.end
        if position >= bound:
            return Fetched([], position, bound)
        found: list[Chunk] = []
        records = size_bytes = 0
        aborted = committed and bool(self._aborted)
        for chunk, size in self._from(position, bound):
            if not chunk.values or (aborted and self._is_aborted(chunk)):
                continue
            found.append(chunk)
            records += chunk.end - max(chunk.base, position)
            size_bytes += size
            if records >= max_records or size_bytes >= limits.FETCH_BYTES:
                return Fetched(found, chunk.end, bound)
        return Fetched(found, bound, bound)

    def offset_at(self, time_ms: int) -> int:
        """The first stable offset whose time is at or after `time_ms`; the stable end where there is none. As at the
        broker, it may be a marker's, or an aborted record's."""
        bound = self.stable_end
        for chunk, _ in self._from(self._state.first, bound):
            if max(chunk.times) >= time_ms:
                for offset, time in enumerate(chunk.times, chunk.base):
                    if time >= time_ms and offset >= self._state.first:
                        return offset
        return bound

    def _from(self, position: int, bound: int) -> Iterator[tuple[Chunk, int]]:
        """Chunks that hold anything from `position` up to `bound`, with their sizes in bytes."""
        if position >= self._tail_from:
            at = bisect_right(self._tail, position, key=_end_of)
            for chunk, size in self._tail[at:]:
                if chunk.base >= bound:
                    return
                yield chunk, size
            return
        start, stop = self._chunks + keys.position(position), self._chunks + keys.position(bound)
        for _, value in self._storage.scan(start, stop, floor=self._chunks):
            chunk = decode_chunk(value)
            if chunk.end > position:
                yield chunk, len(value)

    def _is_aborted(self, chunk: Chunk) -> bool:
        ranges = self._aborted.get(chunk.producer)
        if ranges is None or chunk.producer == NO_TRANSACTION:
            return False
        at = bisect_right(ranges, chunk.base, key=_first_of) - 1
        return at >= 0 and chunk.base < ranges[at][1]


def _end_of(entry: tuple[Chunk, int]) -> int:
    return entry[0].end


def _first_of(entry: tuple[int, int]) -> int:
    return entry[0]
