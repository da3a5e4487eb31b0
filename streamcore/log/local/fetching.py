"""The reading half of a client: positions, what was fetched ahead, and turns among partitions.

Invariants:
- A partition's position is the next offset to be returned. `start` drops what was fetched before.
- Only decided chunks are fetched by a committed reader, so what is held can be returned at any later time.
- At most one fetch (limits.FETCH_BYTES, or one chunk) is held for a partition, and no new one is made while it lasts.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamcore.errors import invariant
from streamcore.log.local.broker import Broker
from streamcore.log.local.partition import Fetched
from streamcore.log.local.records import Chunk
from streamcore.log.local.wire import Wire
from streamcore.log.port import Headers, Run
from streamcore.types import Offset, TopicPartition


class _Cursor:
    __slots__ = ("end", "held", "next_position", "paused", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.next_position = position
        """Where the position goes when all that is held was returned."""
        self.held: list[Chunk] = []
        """In order, not empty lists; the first may begin before the position."""
        self.end: Offset | None = None
        """The stable end (uncommitted: the end) as the last fetch saw it."""
        self.paused = False


class Fetcher:
    def __init__(self, broker: Broker, wire: Wire, *, headers: bool, committed: bool) -> None:
        self._broker = broker
        self._wire = wire
        self._headers = headers
        self._committed = committed
        self._cursors: dict[TopicPartition, _Cursor] = {}
        self._turn: list[TopicPartition] = []

    def start(self, tp: TopicPartition, offset: int) -> None:
        known = self._cursors.get(tp)
        self._cursors[tp] = cursor = _Cursor(offset)
        if known is not None:
            cursor.end = known.end
        else:
            self._turn.append(tp)

    def clear(self) -> None:
        self._cursors.clear()
        self._turn.clear()

    def pause(self, tps: Iterable[TopicPartition], paused: bool) -> None:
        for tp in tps:
            cursor = self._cursors.get(tp)
            if cursor is not None:
                cursor.paused = paused

    def end(self, tp: TopicPartition) -> Offset | None:
        cursor = self._cursors.get(tp)
        return None if cursor is None else cursor.end

    def position(self, tp: TopicPartition) -> Offset:
        invariant(tp in self._cursors, f"{tp} was never started")
        return Offset(self._cursors[tp].position)

    def ended(self) -> frozenset[TopicPartition]:
        return frozenset(tp for tp, c in self._cursors.items() if c.end is not None and c.position >= c.end)

    def poll(self, max_records: int) -> list[Run]:
        """Raises TopicError, OffsetsLost."""
        runs: list[Run] = []
        room = max_records
        ready = [tp for tp in self._turn if not self._cursors[tp].paused]
        self._fetch([tp for tp in ready if not self._cursors[tp].held], max_records)
        for tp in ready:
            if room <= 0:
                break
            cursor = self._cursors[tp]
            if cursor.held:
                run = self._take(tp, cursor, room)
                room -= len(run)
                runs.append(run)
                self._turn.remove(tp)
                self._turn.append(tp)
        return runs

    def _fetch(self, tps: list[TopicPartition], max_records: int) -> None:
        """One request for all of them."""
        if not tps:
            return
        cursors = [self._cursors[tp] for tp in tps]
        positions = {tp: cursor.position for tp, cursor in zip(tps, cursors, strict=True)}

        def deliver() -> list[Fetched]:
            return self._broker.fetch(positions, max_records, self._committed)

        for cursor, fetched in zip(cursors, self._wire.call("Fetch", deliver), strict=True):
            cursor.held = fetched.chunks
            cursor.next_position = fetched.next_position
            cursor.end = Offset(fetched.end)
            if not fetched.chunks:
                cursor.position = fetched.next_position

    def _take(self, tp: TopicPartition, cursor: _Cursor, room: int) -> Run:
        offsets: list[int] = []
        keys: list[bytes | None] = []
        values: list[bytes | None] = []
        times: list[int] = []
        headers: list[Headers | None] | None = [] if self._headers else None
        used = 0
        for chunk in cursor.held:
            start = max(0, cursor.position - chunk.base)
            stop = min(len(chunk.values), start + room - len(offsets))
            if stop <= start:
                break
            offsets += range(chunk.base + start, chunk.base + stop)
            values += chunk.values[start:stop]
            times += chunk.times[start:stop]
            keys += chunk.keys[start:stop] if chunk.keys is not None else [None] * (stop - start)
            if headers is not None:
                headers += chunk.headers[start:stop] if chunk.headers is not None else [None] * (stop - start)
            cursor.position = chunk.base + stop
            used += stop == len(chunk.values)
        del cursor.held[:used]
        if not cursor.held:
            cursor.position = cursor.next_position
        return Run(tp, offsets, keys, values, times, headers)
