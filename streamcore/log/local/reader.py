"""The port's Reader: partitions without a group."""

from __future__ import annotations

from collections.abc import Mapping

from streamcore.clock import Clock
from streamcore.log.local.broker import Broker
from streamcore.log.local.fetching import Fetcher
from streamcore.log.local.waiting import attempts
from streamcore.log.local.wire import Wire
from streamcore.log.port import Run
from streamcore.types import Offset, TopicPartition


class LocalReader:
    def __init__(
        self,
        broker: Broker,
        wire: Wire,
        clock: Clock,
        starts: Mapping[TopicPartition, Offset],
        *,
        headers: bool,
        committed: bool,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._fetcher = Fetcher(broker, wire, headers=headers, committed=committed)
        for tp, offset in starts.items():
            self._fetcher.start(tp, offset)

    def poll(self, max_records: int, timeout_s: float) -> list[Run]:
        """With a clock that stands still: returns at once. Raises TopicError, OffsetsLost."""
        for _ in attempts(self._clock, timeout_s, self._broker.steps_s):
            runs = self._fetcher.poll(max_records)
            if runs:
                return runs
        return []

    def ended(self) -> frozenset[TopicPartition]:
        return self._fetcher.ended()

    def position(self, tp: TopicPartition) -> Offset:
        return self._fetcher.position(tp)

    def close(self) -> None:
        self._fetcher.clear()
