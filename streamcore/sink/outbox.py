"""The outbox of a task: outputs wait here until their slice stands, then go to the producer.

    write, regroup ──▶ slice part ──keep()──▶ kept part ──release()──▶ producer
                           └─discard()──▶ gone

Invariants: what is released can no longer be taken back, so nothing of an open slice ever is; a column's order is
kept; frames of one partition leave in the order of their slices; after `drop` nothing is left. Bounds: a slice's
outputs, plus a frame for each partition of a shuffle; the runtime releases after every slice that stands, and ends the
epoch by `epoch_bytes`.

Belongs to the processing thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from streamcore import limits
from streamcore.errors import RecordTooLarge, invariant, shown
from streamcore.log.port import Headers, Producer
from streamcore.sink.shuffle import cut, encode_frame
from streamcore.types import Epoch, Partition, TaskId

OVERHEAD_BYTES: Final = 128
"""What the broker counts of a record beside key, value and headers: its batch's header, varints."""
DEFAULT_MESSAGE_BYTES: Final = 1_048_588
"""The broker's own default of max.message.bytes, for a topic whose setting nobody told."""


class Column(NamedTuple):
    """Records for one topic, as the producer takes them."""

    topic: str
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None] | None
    times: Sequence[int] | None
    headers: Sequence[Headers | None] | None


class Regrouped(NamedTuple):
    """Encoded chunks for one partition of a shuffle."""

    topic: str
    partition: int
    chunks: list[bytes]
    size_bytes: int


class Outbox:
    def __init__(self, source: TaskId, message_bytes: Mapping[str, int] | None = None) -> None:
        """`message_bytes`: max.message.bytes of each topic written to."""
        self._source = source
        self._message_bytes = message_bytes or {}
        self._slice: list[Column | Regrouped] = []
        self._slice_bytes = 0
        self._columns: list[Column] = []
        self._buffers: dict[tuple[str, int], list[bytes]] = {}
        self._buffer_bytes: dict[tuple[str, int], int] = {}
        self._lineage = ""
        self._epoch = Epoch(0)
        self._sequence = 0
        self.epoch_bytes = 0
        """Kept since the epoch was opened, released or not."""

    def open_epoch(self, lineage: str, epoch: Epoch) -> None:
        """Before an epoch's first release: what its frames say of themselves."""
        self._lineage, self._epoch, self._sequence, self.epoch_bytes = lineage, epoch, 0, 0

    # --- a slice ----------------------------------------------------------------------------------------------

    def write(
        self,
        topic: str,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
        times: Sequence[int] | None,
        headers: Sequence[Headers | None] | None = None,
    ) -> None:
        """Records of a user's topic, or a dead letter as it came. Raises RecordTooLarge."""
        size = _sizes(values) + (0 if keys is None else _sizes(keys))
        if headers is not None:
            size += sum(map(_headers_bytes, headers))
        limit = self._message_bytes.get(topic, DEFAULT_MESSAGE_BYTES) - OVERHEAD_BYTES
        if size > limit:
            _check_each(topic, values, keys, headers, limit)
        self._slice.append(Column(topic, values, keys, times, headers))
        self._slice_bytes += size

    def regroup(self, topic: str, partition: int, chunks: list[bytes]) -> None:
        """Encoded chunks (sink.shuffle) for one partition of a shuffle."""
        size = sum(map(len, chunks))
        self._slice.append(Regrouped(topic, partition, chunks, size))
        self._slice_bytes += size

    def keep(self) -> None:
        """The slice stands."""
        for part in self._slice:
            if isinstance(part, Column):
                self._columns.append(part)
            else:
                at = part.topic, part.partition
                self._buffers.setdefault(at, []).extend(part.chunks)
                self._buffer_bytes[at] = self._buffer_bytes.get(at, 0) + part.size_bytes
        self.epoch_bytes += self._slice_bytes
        self._forget_slice()

    def discard(self) -> None:
        """The slice failed: as if it had never run."""
        self._forget_slice()

    def _forget_slice(self) -> None:
        self._slice = []
        self._slice_bytes = 0

    # --- the epoch --------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """A release that is not final would produce something."""
        return bool(self._columns) or any(size >= limits.FRAME_BYTES for size in self._buffer_bytes.values())

    def release(self, producer: Producer, final: bool) -> dict[str, int]:
        """Produce what is kept; of the shuffles, full frames, and with `final` (the epoch ends) all. Gives the number
        of records for each user's topic. Raises what the producer raises: then the epoch is lost, call `drop`."""
        invariant(not self._slice, "the outbox was asked to release an open slice")
        columns, self._columns = self._columns, []
        released: dict[str, int] = {}
        for topic, values, keys, times, headers in columns:
            producer.produce(topic, None, values, keys, times, headers)
            released[topic] = released.get(topic, 0) + len(values)
        for at, size in list(self._buffer_bytes.items()):
            if final or size >= limits.FRAME_BYTES:
                self._send_frames(producer, *at, final)
        return released

    def _send_frames(self, producer: Producer, topic: str, partition: int, final: bool) -> None:
        at = topic, partition
        groups = cut(self._buffers.pop(at))
        rest = [] if final else groups.pop()
        if rest:
            self._buffers[at], self._buffer_bytes[at] = rest, sum(map(len, rest))
        else:
            del self._buffer_bytes[at]
        if groups:
            frames = [self._frame(chunks) for chunks in groups]
            producer.produce(topic, Partition(partition), frames)

    def _frame(self, chunks: list[bytes]) -> bytes:
        sequence, self._sequence = self._sequence, self._sequence + 1
        stage, partition = self._source
        return encode_frame(stage, partition, self._lineage, self._epoch, sequence, chunks)

    def drop(self) -> None:
        """The epoch is undone (law 5): nothing of it is left here."""
        self._forget_slice()
        self._columns = []
        self._buffers, self._buffer_bytes = {}, {}
        self._sequence = self.epoch_bytes = 0


def _sizes(items: Sequence[bytes | None]) -> int:
    try:
        return sum(map(len, items))  # pyright: ignore[reportArgumentType] - None is the rare case
    except TypeError:
        return sum(len(item) for item in items if item is not None)


def _headers_bytes(headers: Headers | None) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers) if headers else 0


def _check_each(
    topic: str,
    values: Sequence[Any],
    keys: Sequence[Any] | None,
    headers: Sequence[Headers | None] | None,
    limit: int,
) -> None:
    for i, value in enumerate(values):
        key = None if keys is None else keys[i]
        size = len(value or b"") + len(key or b"") + (_headers_bytes(headers[i]) if headers else 0)
        if size > limit:
            raise RecordTooLarge(
                f"a record for topic {topic!r} of {size} bytes (key {shown(key)}, value {shown(value)}) is over its "
                f"max.message.bytes of {limit + OVERHEAD_BYTES}",
                f"write less into one record, or raise max.message.bytes of {topic!r}",
            )
