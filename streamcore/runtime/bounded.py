"""A log whose topics end where one says: for running an interval again, by the same worker as ever.

    records at or after a partition's end are never returned, by no consumer and no reader
    a reader has reached the end there; a consumer's partition is paused there
    whoever commits, produces or asks the cluster does so in the log itself

What a consumer returns of the bounded partitions is told to `seen`, also when an epoch is done again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from streamcore.log.port import Admin, Consumer, Listener, Log, Membership, OffsetCommit, Producer, Reader, Run
from streamcore.source.decode import slice_of
from streamcore.types import Offset, TopicPartition

Ends = Mapping[TopicPartition, Offset]


def before(run: Run, end: Offset | None) -> Run | None:
    """The records before the end; None for none."""
    if end is None or run.offsets[-1] < end:
        return run
    kept = bisect_left(run.offsets, end)
    return slice_of(run, 0, kept) if kept else None


class BoundedLog:
    def __init__(self, log: Log, ends: Ends, seen: Callable[[Run], None] = lambda run: None) -> None:
        self._log = log
        self._ends = ends
        self._seen = seen

    def consumer(self, group: str, instance_id: str, *, headers: bool = False) -> Consumer:
        return _Consumer(self._log.consumer(group, instance_id, headers=headers), self._ends, self._seen)

    def producer(self, transactional_id: str | None) -> Producer:
        return self._log.producer(transactional_id)

    def reader(
        self, starts: Mapping[TopicPartition, Offset], *, headers: bool = False, committed: bool = True
    ) -> Reader:
        return _Reader(self._log.reader(starts, headers=headers, committed=committed), starts, self._ends)

    def admin(self) -> Admin:
        return self._log.admin()

    def close(self) -> None:
        """The log itself is its owner's."""


class _Consumer:
    def __init__(self, consumer: Consumer, ends: Ends, seen: Callable[[Run], None]) -> None:
        self._consumer = consumer
        self._ends = ends
        self._seen = seen
        self._at_end: set[TopicPartition] = set()

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        self._consumer.subscribe(topics, listener)

    def poll(self, max_records: int, timeout_s: float) -> list[Run]:
        found: list[Run] = []
        for run in self._consumer.poll(max_records, timeout_s):
            end = self._ends.get(run.tp)
            kept = before(run, end)
            if kept is not run:
                self._stop(run.tp)
            if kept is not None:
                found.append(kept)
                if end is not None:
                    self._seen(kept)
        return found

    def _stop(self, tp: TopicPartition) -> None:
        self._at_end.add(tp)
        self._consumer.pause([tp])

    def start(self, tp: TopicPartition, offset: Offset) -> None:
        self._at_end.discard(tp)
        self._consumer.start(tp, offset)
        end = self._ends.get(tp)
        if end is not None and offset >= end:
            self._stop(tp)

    def pause(self, tps: Sequence[TopicPartition]) -> None:
        self._consumer.pause(tps)

    def resume(self, tps: Sequence[TopicPartition]) -> None:
        self._consumer.resume([tp for tp in tps if tp not in self._at_end])

    def membership(self) -> Membership:
        return self._consumer.membership()

    def end(self, tp: TopicPartition) -> Offset | None:
        found, end = self._consumer.end(tp), self._ends.get(tp)
        return found if found is None or end is None else min(found, end)

    def commit(self, offsets: Sequence[OffsetCommit], timeout_s: float) -> None:
        self._consumer.commit(offsets, timeout_s)

    def close(self, leave: bool = False) -> None:
        self._consumer.close(leave=True)


class _Reader:
    def __init__(self, reader: Reader, starts: Mapping[TopicPartition, Offset], ends: Ends) -> None:
        self._reader = reader
        self._ends = ends
        self._at_end = {tp for tp, start in starts.items() if tp in ends and start >= ends[tp]}

    def poll(self, max_records: int, timeout_s: float) -> list[Run]:
        found: list[Run] = []
        for run in self._reader.poll(max_records, timeout_s):
            kept = before(run, self._ends.get(run.tp))
            if kept is not run:
                self._at_end.add(run.tp)
            if kept is not None:
                found.append(kept)
        return found

    def ended(self) -> frozenset[TopicPartition]:
        return self._reader.ended() | self._at_end

    def position(self, tp: TopicPartition) -> Offset:
        position, end = self._reader.position(tp), self._ends.get(tp)
        return position if end is None else min(position, end)

    def close(self) -> None:
        self._reader.close()
