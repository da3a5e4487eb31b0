"""Which ids a task has seen: the inbox behind `dedupe`.

A step's column:

    bucket (8 bytes) + key group (2 bytes) + id    empty: the id arrived at that bucket's stream time
    0xF0 "inbox"                                   the timeline (see `inbox.buckets`)

    slice   `_slice`                    undo() takes it back out of the epoch
    epoch   `_open`: id to bucket       drain() encodes it once; drop() forgets it, committed() makes it known
    recent  `_young`, `_older`          bounded, exact: a duplicate that follows soon costs no read
    filter  of all that is committed    a new id hardly ever costs a read (RocksDB's own filters stand behind it)
    column  what is committed and applied

Invariants: a verdict depends on the column, the epoch and the record alone, never on what caches hold, so a replay
says the same; an id whose bucket is dropped is unknown everywhere; no record is accepted whose earlier copy may have
been dropped (it is TOO_OLD). After a restart buckets are read into the filter bit by bit; until then they are asked.

Processing thread only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, islice
from operator import add
from typing import Final, NamedTuple

from streamcore import limits
from streamcore.errors import invariant
from streamcore.inbox.buckets import BUCKETS, TIMELINE_KEY, bucket_prefix, bucket_start, decode_timeline
from streamcore.inbox.filter import NEWEST_AGE, OLDEST_AGE, AgeFilter
from streamcore.state.store import Column, Delta

ACCEPTED: Final = 0
DUPLICATE: Final = 1
TOO_OLD: Final = 2

ENTRY_BYTES: Final = 160
"""What an accepted id takes until its epoch is committed, roughly."""


class Counts(NamedTuple):
    accepted: int = 0
    duplicates: int = 0
    too_old: int = 0


class _Bucket:
    """One on disk. `ready`: all its ids are in the filter."""

    __slots__ = ("age", "ids", "prefix", "ready")

    def __init__(self, start: int, age: int, ready: bool) -> None:
        self.prefix = bucket_prefix(start)
        self.age = age
        self.ids = 0
        self.ready = ready


class Inbox:
    def __init__(
        self,
        column: Column,
        keep_ms: int,
        step: str,
        recent_ids: int = limits.INBOX_RECENT_IDS,
        filter_bytes: int = limits.INBOX_FILTER_BYTES,
    ) -> None:
        """Raises StateMismatch, StateDamaged."""
        invariant(keep_ms > 0, f"step {step!r}: keep must be a time")
        self._column = column
        self._keep = keep_ms
        self._width = -(-keep_ms // BUCKETS)
        self._half = max(1, recent_ids // 2)
        self._saved = decode_timeline(column.get(TIMELINE_KEY), step)
        self._filter = AgeFilter(self._saved.ids, filter_bytes)
        self._now = self._saved
        self._counts: Counts = Counts()
        self._saved_counts: Counts = self._counts
        self._disk: dict[int, _Bucket] = {}
        for start in sorted(self._saved.buckets):
            self._disk[start] = _Bucket(start, self._next_age(), ready=False)
        self._scanned = 0
        self._scan: Iterator[tuple[bytes, bytes]] | None = None
        self._open: dict[bytes, int] = {}
        self._young: dict[bytes, int] = {}
        self._older: dict[bytes, int] = {}
        self.mark()

    @property
    def counts(self) -> Counts:
        """Since this object was made; what was undone or dropped does not count."""
        return self._counts

    @property
    def size_bytes(self) -> int:
        """Of the epoch's changes, as an estimate."""
        return len(self._open) * ENTRY_BYTES

    @property
    def known_since_ms(self) -> int | None:
        """The event time before which a record is TOO_OLD now; None before the first record."""
        if self._now.stream_ms is None:
            return None
        return self._since(self._now.stream_ms)

    def _since(self, stream: int) -> int:
        floor, dropped = stream - self._keep, self._now.dropped_ms
        return floor if dropped is None or dropped < floor else dropped

    # --- slices and epochs ------------------------------------------------------------------------------------

    def mark(self) -> None:
        """A slice begins."""
        self._slice: list[bytes] = []
        self._replaced: dict[bytes, int] = {}
        self._before = (self._now, self._counts)

    def undo(self) -> None:
        """The slice failed: as if it had never run."""
        for key in self._slice:
            self._open.pop(key, None)
        self._open.update(self._replaced)
        self._now, self._counts = self._before
        self.mark()

    def drain(self) -> Delta:
        """The epoch's changes, encoded."""
        if self._now is self._saved and not self._open:
            return Delta([], [])
        buckets = self._now.buckets
        prefixes = {start: bucket_prefix(start) for start in buckets}
        keys = [prefixes[start] + key for key, start in self._open.items() if start in prefixes]
        gone = [start for start in self._saved.buckets if start not in buckets]
        values: list[bytes | None] = [b""] * len(keys)
        ranges = [(bucket_prefix(start), bucket_prefix(start + 1)) for start in gone]
        held = sum(bucket.ids for start, bucket in self._disk.items() if start in buckets)
        return Delta([*keys, TIMELINE_KEY], [*values, self._now.encode(held + len(keys))], ranges)

    def committed(self) -> None:
        """The epoch is decided and applied."""
        for start in self._disk.keys() - self._now.buckets.keys():
            self._forget(start)
        for start, keys in self._accepted():
            self._remember(start, keys)
        self._keep_recent()
        self._saved, self._saved_counts = self._now, self._counts
        self._open = {}
        self.mark()

    def _accepted(self) -> Iterator[tuple[int, list[bytes]]]:
        """The epoch's ids by bucket, the oldest first, without those whose bucket went within it."""
        starts = set(self._open.values())
        for start in sorted(starts & self._now.buckets.keys()):
            keys = list(self._open) if len(starts) == 1 else [key for key, at in self._open.items() if at == start]
            yield start, keys

    def drop(self) -> None:
        """The epoch is undone: back to what the column says."""
        self._open = {}
        self._now, self._counts = self._saved, self._saved_counts
        self.mark()

    # --- records ----------------------------------------------------------------------------------------------

    def admit(self, ids: list[bytes], groups: list[bytes], times: list[int]) -> list[int]:
        """A verdict for each record, in order. `groups` are the two-byte prefixes of the records' keys: an id is
        unique among the records of one key. Raises what the column raises."""
        if not ids:
            return []
        if self._scanned < len(self._disk):
            self._rebuild()
        keys = list(map(add, groups, ids))
        first = times[0] if self._now.stream_ms is None else self._now.stream_ms
        latest = max(first, max(times))
        self._advance(first)
        if latest < self._end and min(times) >= self._since(latest):
            verdicts = self._arrived(keys)
        else:
            verdicts = self._admit_in_pieces(keys, times, list(accumulate(times, max, initial=first))[1:])
        self._now = self._now.at(latest, self._width)
        self._count(verdicts)
        return verdicts

    def _admit_in_pieces(self, keys: list[bytes], times: list[int], streams: list[int]) -> list[int]:
        """Where time moves from bucket to bucket, or some may be too old."""
        verdicts: list[int] = []
        at = 0
        while at < len(keys):
            self._advance(streams[at])
            stop = bisect_left(streams, self._end, at)
            verdicts += self._piece(keys[at:stop], times[at:stop], streams[at:stop])
            at = stop
        return verdicts

    def _piece(self, keys: list[bytes], times: list[int], streams: list[int]) -> list[int]:
        """Within one bucket of stream time."""
        since = self._since
        old = [time < since(stream) for time, stream in zip(times, streams, strict=True)]
        if True not in old:
            return self._arrived(keys)
        found = iter(self._arrived([key for key, is_old in zip(keys, old, strict=True) if not is_old]))
        return [TOO_OLD if is_old else next(found) for is_old in old]

    def _advance(self, stream: int) -> None:
        """Stream time has come to `stream`: the bucket that ids arrive in now, and what has gone."""
        self._start = bucket_start(stream, self._width)
        self._end = self._start + self._width
        self._now = self._now.at(stream, self._width)

    def _arrived(self, keys: list[bytes]) -> list[int]:
        """ACCEPTED or DUPLICATE, none of them too old, all at the present bucket."""
        known = self._known(keys)
        opened = self._open
        if not known and opened.keys().isdisjoint(keys):
            fresh = dict.fromkeys(keys, self._start)
            if len(fresh) == len(keys):
                self._open_bucket(keys)
                opened.update(fresh)
                return [ACCEPTED] * len(keys)
        return self._one_by_one(keys, known)

    def _one_by_one(self, keys: list[bytes], known: set[bytes]) -> list[int]:
        """Where some are known, or stand there twice."""
        verdicts: list[int] = []
        buckets, start, opened = self._now.buckets, self._start, self._open
        accepted: dict[bytes, int] = {}
        for key in keys:
            if key in known or key in accepted or opened.get(key) in buckets:
                verdicts.append(DUPLICATE)
            else:
                accepted[key] = start
                verdicts.append(ACCEPTED)
        if accepted:
            # An id can stand in the epoch already, in a bucket that went within it.
            before = {key: opened[key] for key in opened.keys() & accepted.keys() - set(self._slice)}
            self._replaced = {**before, **self._replaced}
            self._open_bucket(list(accepted))
            opened.update(accepted)
        return verdicts

    def _open_bucket(self, keys: list[bytes]) -> None:
        """These arrive in the present bucket."""
        self._now = self._now.holding(self._start, self._width)
        self._slice += keys

    def _count(self, verdicts: list[int]) -> None:
        duplicates, too_old = verdicts.count(DUPLICATE), verdicts.count(TOO_OLD)
        was = self._counts
        accepted = was.accepted + len(verdicts) - duplicates - too_old
        self._counts = Counts(accepted, was.duplicates + duplicates, was.too_old + too_old)

    # --- what is committed ------------------------------------------------------------------------------------

    def _known(self, keys: list[bytes]) -> set[bytes]:
        """Those that the column holds in a bucket that is not dropped."""
        live = [self._disk[start] for start in self._now.buckets if start in self._disk]
        if not live:
            return set()
        hashes = list(map(hash, keys))
        unready = [bucket for bucket in live if not bucket.ready]
        oldest = min(bucket.age for bucket in live)
        places = list(range(len(keys))) if unready else self._filter.suspects(hashes, oldest)
        known: set[bytes] = set()
        asked: list[bytes] = []
        owners: list[bytes] = []
        for i in places:
            key = keys[i]
            if self._recent(key) in self._now.buckets:
                known.add(key)
                continue
            newest = self._filter.newest(hashes[i])
            asked += [bucket.prefix + key for bucket in live if bucket.age <= newest or not bucket.ready]
            owners += [key] * (len(asked) - len(owners))
        if asked:
            found = self._column.get_many(asked)
            known.update(key for key, value in zip(owners, found, strict=True) if value is not None)
        return known

    def _recent(self, key: bytes) -> int | None:
        """The bucket of an id that was committed lately."""
        start = self._young.get(key)
        return self._older.get(key) if start is None else start

    def _keep_recent(self) -> None:
        fresh, half = self._open, self._half
        if len(fresh) > half:
            fresh = dict(islice(fresh.items(), len(fresh) - half, None))
        if len(self._young) + len(fresh) > half:
            self._older, self._young = self._young, fresh
        else:
            self._young.update(fresh)

    # --- the filter -------------------------------------------------------------------------------------------

    def _remember(self, start: int, keys: list[bytes]) -> None:
        bucket = self._disk.get(start)
        if bucket is None:
            bucket = self._disk[start] = _Bucket(start, self._next_age(), ready=True)
            self._scanned += 1
        self._fill(bucket, list(map(hash, keys)))

    def _fill(self, bucket: _Bucket, hashes: list[int]) -> None:
        bucket.ids += len(hashes)
        oldest = min(one.age for one in self._disk.values())
        self._filter.reserve(sum(one.ids for one in self._disk.values()), oldest)
        self._filter.add(hashes, bucket.age)

    def _forget(self, start: int) -> None:
        bucket = self._disk.pop(start)
        if bucket.ready:
            self._scanned -= 1
        else:
            self._scan = None

    def _next_age(self) -> int:
        """Newer than all; buckets may share the newest."""
        ages = [bucket.age for bucket in self._disk.values()]
        newest, oldest = max(ages, default=0), min(ages, default=OLDEST_AGE)
        if newest == NEWEST_AGE and oldest > OLDEST_AGE:
            self._filter.rejuvenate(oldest - OLDEST_AGE)
            for bucket in self._disk.values():
                bucket.age -= oldest - OLDEST_AGE
            newest -= oldest - OLDEST_AGE
        return min(newest + 1, NEWEST_AGE)

    def _rebuild(self) -> None:
        """Some more of a bucket that was there before this object, the newest first, into the filter."""
        bucket = max((one for one in self._disk.values() if not one.ready), key=lambda one: one.prefix)
        if self._scan is None:
            stop = (int.from_bytes(bucket.prefix) + 1).to_bytes(8)
            self._scan = self._column.scan(bucket.prefix, stop)
        hashes = [hash(key[8:]) for key, _ in islice(self._scan, limits.INBOX_REBUILD_IDS)]
        self._fill(bucket, hashes)
        if len(hashes) < limits.INBOX_REBUILD_IDS:
            bucket.ready = True
            self._scan = None
            self._scanned += 1
