"""Time, as an inbox sees it: which buckets there are, and from when on it knows every id.

Stream time is the highest event time seen. An id is kept in the bucket of the stream time at its arrival; a bucket goes
when all of it lies a whole `keep` before the present one. Values of `Timeline` are immutable: a slice that is undone
takes the old one back.

Saved under 0xF0 "inbox": format (1), then the msgpack array of `Timeline`. After a change of `keep` buckets of the old
width stand beside the new.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streamcore.errors import StateDamaged, StateMismatch
from streamcore.state.store import UNREADABLE

TIMELINE_KEY: Final = b"\xf0inbox"
BUCKETS: Final = 16
"""Those that `keep` is divided into."""

_FORMAT: Final = b"\x01"
_BIAS: Final = 1 << 62
"""Makes times before 1970 positive, and keeps keys below 0xF0."""


class Timeline(msgspec.Struct, frozen=True, array_like=True):
    stream_ms: int | None = None
    """None before the first record."""
    dropped_ms: int | None = None
    """Ids that arrived before this stream time have been dropped."""
    buckets: dict[int, int] = {}
    """Start to end (exclusive) of those that hold an id, in order of opening. Never changed in place."""
    ids: int = 0
    """About how many they hold, for the size of the filter; counted when it is saved."""

    def encode(self, ids: int) -> bytes:
        return _FORMAT + msgspec.msgpack.encode((self.stream_ms, self.dropped_ms, self.buckets, ids))

    def at(self, stream_ms: int, width_ms: int) -> Timeline:
        """Time has come to `stream_ms`, which is not before the present: old buckets are dropped."""
        floor = bucket_start(stream_ms, width_ms) - BUCKETS * width_ms
        gone = [end for end in self.buckets.values() if end <= floor]
        if not gone and stream_ms == self.stream_ms:
            return self
        if not gone:
            return Timeline(stream_ms, self.dropped_ms, self.buckets)
        kept = {start: end for start, end in self.buckets.items() if end > floor}
        dropped = max(gone) if self.dropped_ms is None else max(*gone, self.dropped_ms)
        return Timeline(stream_ms, dropped, kept)

    def holding(self, start: int, width_ms: int) -> Timeline:
        """With the bucket that begins at `start`."""
        end = start + width_ms
        if self.buckets.get(start, start) >= end:
            return self
        return Timeline(self.stream_ms, self.dropped_ms, {**self.buckets, start: end})


def decode_timeline(data: bytes | None, step: str) -> Timeline:
    """Raises StateMismatch (a newer format), StateDamaged."""
    if data is None:
        return Timeline()
    if data[:1] > _FORMAT:
        raise StateMismatch(
            f"step {step!r}: its inbox was saved in format {data[0]}, newer than this streamcore's 1",
            "run the version of streamcore that wrote it, or a newer one",
        )
    try:
        return msgspec.msgpack.decode(memoryview(data)[1:], type=Timeline)
    except UNREADABLE as error:
        raise StateDamaged(f"step {step!r}: its inbox cannot be read: {error}") from error


def merged_timelines(one: bytes, other: bytes) -> bytes:
    """Of two inboxes whose ids come into one. Stream time is the earlier one's, so that no record is too old that was
    not; what either has dropped stays unknown. Raises StateMismatch, StateDamaged."""
    a, b = (decode_timeline(data, "dedupe") for data in (one, other))
    streams = [each.stream_ms for each in (a, b) if each.stream_ms is not None]
    dropped = [each.dropped_ms for each in (a, b) if each.dropped_ms is not None]
    ends = {start: max(each.buckets.get(start, start) for each in (a, b)) for start in {**a.buckets, **b.buckets}}
    merged = Timeline(min(streams, default=None), max(dropped, default=None), dict(sorted(ends.items())))
    return merged.encode(a.ids + b.ids)


def bucket_start(time_ms: int, width_ms: int) -> int:
    return time_ms // width_ms * width_ms


def bucket_prefix(start: int) -> bytes:
    """What the keys of a bucket's ids begin with; those of the next millisecond end its range."""
    return max(0, start + _BIAS).to_bytes(8)
