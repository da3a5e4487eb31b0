"""Queueing records into a client: the hot path of writing, one C call a record.

`map` feeds `produce` from the columns by position (topic, value, key, partition, callback, its alias, timestamp,
headers). When the client's queue is full it says so at the record that did not fit: the values' own iterator tells
which, and queueing goes on from there once deliveries have made room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from operator import length_hint
from typing import Any

import confluent_kafka as ck

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import LogUnavailable
from streamcore.log.kafka.errors import Events, calling_back
from streamcore.log.port import Headers

Delivered = Callable[[Any, Any], None]

_ROOM_S = 0.05


class Queue:
    """One client's queue. Belongs to the producer's thread."""

    def __init__(self, client: ck.Producer, events: Events, clock: Clock) -> None:
        self._client = client
        self._produce: Callable[..., None] = client.produce
        self._events = events
        self._clock = clock

    def put(
        self,
        topic: str,
        partition: int | None,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
        times: Sequence[int] | None,
        headers: Sequence[Headers | None] | None,
        delivered: Delivered | None,
    ) -> None:
        """All of them, in order. Raises LogUnavailable when the queue stays full, and passes KafkaException on."""
        place = -1 if partition is None else partition
        full_since: float | None = None
        while True:
            iterator = iter(values)
            columns: list[Any] = [
                repeat(topic),
                iterator,
                repeat(None) if keys is None else keys,
                repeat(place),
                repeat(delivered),
                repeat(None),
                repeat(0) if times is None else times,
            ]
            if headers is not None:
                columns.append(headers)
            try:
                deque(map(self._produce, *columns), maxlen=0)
                break
            except BufferError:
                done = len(values) - length_hint(iterator) - 1
                full_since = self._wait_for_room(topic, full_since if done == 0 else None)
                values = values[done:]
                keys = None if keys is None else keys[done:]
                times = None if times is None else times[done:]
                headers = None if headers is None else headers[done:]
        calling_back(self._client.poll, 0)

    def _wait_for_room(self, topic: str, full_since: float | None) -> float:
        now = self._clock.monotonic_s()
        since = now if full_since is None else full_since
        if now - since > limits.CALL_TIMEOUT_S:
            raise LogUnavailable(
                f"the queue to the brokers stays full ({len(self._client)} messages) while producing to {topic}",
                "look whether the brokers run and keep up",
            )
        calling_back(self._client.poll, _ROOM_S)
        return since
