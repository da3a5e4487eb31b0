"""What the local log writes: records in chunks, and the few small facts beside them, all as msgpack arrays.

A chunk is what one produce call brought for one partition (cut where it is large), so that the cost of storage and
of reading is one a chunk and not one a record. All of a chunk's records belong to one producer and, where it is
transactional, to one transaction: a chunk is committed, undecided or aborted as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import msgspec

from streamcore.log.port import Headers

NO_TRANSACTION: Final = -1
CHUNK_RECORDS: Final = 4_096
CHUNK_BYTES: Final = 1 << 20
RECORD_OVERHEAD: Final = 70
"""What a record batch of one record costs beside key, value and headers; max.message.bytes counts it."""


class Chunk(msgspec.Struct, array_like=True, gc=False):
    """Never changed once made: it is shared by the log's tail and every reader."""

    base: int
    producer: int
    """The producer id of the transaction that wrote it, or NO_TRANSACTION."""
    values: list[bytes | None]
    """Empty in a transaction marker, which has one time and takes one offset."""
    keys: list[bytes | None] | None
    times: list[int]
    headers: list[list[tuple[str, bytes]] | None] | None

    @property
    def end(self) -> int:
        return self.base + len(self.times)


class TopicRecord(msgspec.Struct, array_like=True):
    name: str
    topic_id: str
    number: int
    """Names the topic in keys; never used twice, so that a recreated topic shares nothing with its namesake."""
    partitions: int
    config: dict[str, str]


class PartitionRecord(msgspec.Struct, array_like=True):
    first: int
    end: int
    undecided: dict[int, int]
    """Producer id to the first offset of its open transaction here."""


class AbortedRange(msgspec.Struct, array_like=True):
    producer: int
    first: int
    last: int
    """The offset of the abort marker."""


class OffsetRecord(msgspec.Struct, array_like=True):
    topic: str
    partition: int
    offset: int
    metadata: str


class TransactionRecord(msgspec.Struct, array_like=True):
    name: str
    producer: int
    epoch: int
    state: str
    partitions: list[tuple[int, int]]
    """(topic number, partition)."""
    pending: dict[str, list[OffsetRecord]]
    """By group; an empty list: the group was added and has no offsets yet."""


class MemberRecord(msgspec.Struct, array_like=True):
    member_id: str
    instance_id: str | None
    host: str
    assignment: list[tuple[str, int]]


class GroupRecord(msgspec.Struct, array_like=True):
    generation: int
    members: list[MemberRecord]
    """Who is in it while the writer lives; a log that is opened for writing begins with none."""


class Facts(msgspec.Struct, array_like=True):
    format: int
    log_id: str
    next_topic: int
    next_producer: int
    next_member: int


encode: Final = msgspec.msgpack.Encoder().encode
decode_chunk: Final = msgspec.msgpack.Decoder(Chunk).decode
decode_topic: Final = msgspec.msgpack.Decoder(TopicRecord).decode
decode_partition: Final = msgspec.msgpack.Decoder(PartitionRecord).decode
decode_aborted: Final = msgspec.msgpack.Decoder(AbortedRange).decode
decode_offset: Final = msgspec.msgpack.Decoder(OffsetRecord).decode
decode_transaction: Final = msgspec.msgpack.Decoder(TransactionRecord).decode
decode_group: Final = msgspec.msgpack.Decoder(GroupRecord).decode
decode_facts: Final = msgspec.msgpack.Decoder(Facts).decode


@dataclass(frozen=True)
class Columns:
    """Records on their way to one partition, parallel lists of one length. Not changed once made."""

    values: list[bytes | None]
    keys: list[bytes | None] | None
    times: list[int]
    headers: list[Headers | None] | None

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def size_bytes(self) -> int:
        size = sum(map(len, filter(None, self.values)))
        if self.keys is not None:
            size += sum(map(len, filter(None, self.keys)))
        if self.headers is not None:
            size += sum(_headers_size(h) for h in self.headers if h)
        return size

    def part(self, start: int, stop: int) -> Columns:
        return Columns(
            self.values[start:stop],
            None if self.keys is None else self.keys[start:stop],
            self.times[start:stop],
            None if self.headers is None else self.headers[start:stop],
        )

    def pick(self, rows: Sequence[int]) -> Columns:
        return Columns(
            [self.values[i] for i in rows],
            None if self.keys is None else [self.keys[i] for i in rows],
            [self.times[i] for i in rows],
            None if self.headers is None else [self.headers[i] for i in rows],
        )

    def largest(self) -> tuple[int, int]:
        """(row, bytes with overhead) of the largest record."""
        sizes = [self.part(i, i + 1).size_bytes + RECORD_OVERHEAD for i in range(len(self))]
        size = max(sizes)
        return sizes.index(size), size


def _headers_size(headers: Headers) -> int:
    return sum(len(name) + len(value) for name, value in headers)


def cut(columns: Columns) -> list[Columns]:
    """Into pieces of at most about a chunk's size."""
    count = len(columns)
    rows = min(CHUNK_RECORDS, max(1, count * CHUNK_BYTES // max(1, columns.size_bytes)))
    if count <= rows:
        return [columns]
    return [columns.part(start, start + rows) for start in range(0, count, rows)]
