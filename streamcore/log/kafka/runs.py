"""From the client's messages to runs: the hot path of reading, a handful of C calls a record and no Python code.

Every column is a `map` over a method of `Message`; a batch is cut where topic or partition change.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import compress, islice, pairwise
from operator import ne
from typing import Any, cast

from confluent_kafka import KafkaError, Message

from streamcore.log.port import Headers, Run
from streamcore.types import Offset, Partition, TopicPartition

Messages = list[Message]

_error = Message.error
_partition = Message.partition
_topic = Message.topic
_offset = Message.offset
_key = Message.key
_value = Message.value
_headers = Message.headers


def sift(messages: Messages) -> tuple[Messages, Messages]:
    """(records, events): an event is an error or the end of a partition."""
    if not any(map(_error, messages)):
        return messages, []
    return [m for m in messages if m.error() is None], [m for m in messages if m.error() is not None]


def cut(records: Messages, with_headers: bool, one_topic: bool = False) -> list[Run]:
    """Runs of consecutive records of one partition. `records` holds no errors and at least one record; `one_topic`:
    of one topic only, which saves asking each."""
    # The stubs know Message as generic and its columns as optional; a record has them all.
    every: Sequence[Any] = records
    keys = list(map(_key, every))
    values = list(map(_value, every))
    times: list[int] = [record.timestamp()[1] for record in every]  # half the time of two maps
    headers = cast("list[Headers | None] | None", list(map(_headers, every)) if with_headers else None)
    bounds = _bounds(every, one_topic)
    if len(bounds) == 2:
        return [Run(_place(records[0]), _offsets(every), keys, values, times, headers)]
    return [
        Run(
            _place(records[a]),
            _offsets(every[a:b]),
            keys[a:b],
            values[a:b],
            times[a:b],
            headers[a:b] if headers is not None else None,
        )
        for a, b in pairwise(bounds)
    ]


def from_offset(run: Run, offset: int) -> Run | None:
    """The part of `run` at or after `offset`."""
    if run.offsets[0] >= offset:
        return run
    at = bisect_left(run.offsets, offset)
    if at == len(run):
        return None
    headers = run.headers[at:] if run.headers is not None else None
    return Run(run.tp, run.offsets[at:], run.keys[at:], run.values[at:], run.times[at:], headers)


def place(event: Message) -> TopicPartition | None:
    """The partition an event is about; None when it is about the client as a whole."""
    topic, partition = event.topic(), event.partition()
    if topic is None or partition is None or partition < 0:
        return None
    return TopicPartition(topic, Partition(partition))


def is_end(event: Message) -> bool:
    error = event.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def offset_of(event: Message) -> Offset:
    offset = event.offset()
    return Offset(-1 if offset is None else offset)


def _place(record: Message) -> TopicPartition:
    return TopicPartition(cast("str", record.topic()), Partition(cast("int", record.partition())))


def _offsets(run: Sequence[Any]) -> list[int]:
    """They rise; where none is missing the first and the last tell them all (0.05 µs a record)."""
    first, last = run[0].offset(), run[-1].offset()
    if last - first == len(run) - 1:
        return list(range(first, last + 1))
    return cast("list[int]", list(map(_offset, run)))


def _bounds(records: Sequence[Any], one_topic: bool) -> list[int]:
    """Where runs begin, and the end."""
    n = len(records)
    partitions: list[Any] = list(map(_partition, records))
    places: list[Any] = partitions
    if not one_topic:
        topics = list(map(_topic, records))
        if topics.count(topics[0]) != n:
            places = list(zip(topics, partitions, strict=True))
    if places.count(places[0]) == n:
        return [0, n]
    changes = compress(range(1, n), map(ne, places, islice(places, 1, None)))
    return [0, *changes, n]
