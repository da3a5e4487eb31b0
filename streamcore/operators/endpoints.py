"""Where a stage ends: sinks and shuffle writers. Both encode within the slice, so that a value that cannot be written
is found while its record can still be named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from streamcore import limits
from streamcore.codecs.dynamic import ColumnCodec
from streamcore.log.port import Headers
from streamcore.operators.batch import CORRELATION_HEADER, Batch
from streamcore.operators.errors import refuse
from streamcore.operators.stateless import Run, whole
from streamcore.sink.outbox import Outbox
from streamcore.sink.shuffle import ENCODED_KEYS, NATIVE_KEYS, encode_chunks
from streamcore.state.keys import encode_key, encode_keys, key_group
from streamcore.topology.nodes import BatchCodec, KeyBy, Sink

_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 64) - 1


def sink_step(node: Sink, outbox: Outbox, correlation_ids: bool) -> Run:
    """`correlation_ids`: each record carries its own in a header."""
    name, spec, topic = node.name, node.topic, node.topic.name
    encode = with_nulls(spec.value) if spec.optional_value else spec.value.encode
    encode_key_column = None if spec.key is None else spec.key.encode

    def run(batch: Batch) -> None:
        try:
            values = encode(batch.values)
            keys = None if encode_key_column is None else encode_key_column(batch.keys or [])
            headers: list[Headers | None] | None = None
            if correlation_ids and batch.origins is not None:
                headers = [[(CORRELATION_HEADER, origin.encode())] for origin in batch.origins]
            outbox.write(topic, values, keys, batch.times, headers)
        except Exception as error:
            refuse(name, error)

    return run


def with_nulls(codec: BatchCodec) -> Any:
    """None becomes a null value; the rest goes through the codec."""

    def encode(values: list[Any]) -> list[bytes | None]:
        if None not in values:
            return list(codec.encode(values))
        encoded = iter(codec.encode([value for value in values if value is not None]))
        return [None if value is None else next(encoded) for value in values]

    return encode


class Partitions(dict[Any, int]):
    """Key to partition, for the keys met of late: group modulo n, so that a rescale moves whole groups."""

    def __init__(self, partitions: int) -> None:
        super().__init__()
        self._n = partitions

    def __missing__(self, key: Any) -> int:
        if len(self) >= limits.KEY_CACHE_ENTRIES:
            self.clear()
        found = self[key] = key_group(encode_key(key)) % self._n
        return found


def regroup_step(node: KeyBy, topic: str, partitions: int, outbox: Outbox, codec: ColumnCodec) -> Run:
    name, f = node.name, node.f
    partition_of = Partitions(partitions).__getitem__

    def run(batch: Batch) -> None:
        try:
            keys = whole(list(map(f, batch.values)), batch)
            places = list(map(partition_of, keys))
            wire_keys, kind = key_column(keys)
            for partition, columns in _grouped(places, wire_keys, batch, partitions):
                outbox.regroup(topic, partition, encode_chunks(columns[0], kind, *columns[1:], codec))
        except Exception as error:
            refuse(name, error)

    return run


Columns = tuple[list[Any], list[Any], list[int], list[str] | None]


def _grouped(places: list[int], keys: list[Any], batch: Batch, n: int) -> Iterable[tuple[int, Columns]]:
    """The batch's columns by partition, in order within each. Appending beats sorting and masks at any n (0.12 µs)."""
    if len(places) == 1:
        return [(places[0], (keys, batch.values, batch.times, batch.origins))]
    by_key: list[list[Any]] = [[] for _ in range(n)]
    by_value: list[list[Any]] = [[] for _ in range(n)]
    by_time: list[list[int]] = [[] for _ in range(n)]
    for place, key, value, time in zip(places, keys, batch.values, batch.times, strict=True):
        by_key[place].append(key)
        by_value[place].append(value)
        by_time[place].append(time)
    by_origin: list[list[str] | None] = [None] * n
    if batch.origins is not None:
        origins: list[list[str]] = [[] for _ in range(n)]
        for place, origin in zip(places, batch.origins, strict=True):
            origins[place].append(origin)
        by_origin = list(origins)
    return [(p, (by_key[p], by_value[p], by_time[p], by_origin[p])) for p in range(n) if by_key[p]]


def key_column(keys: list[Any]) -> tuple[list[Any], int]:
    """As they are where msgpack carries them and they come back the same; else in their order-preserving encoding."""
    types: set[Any] = set(map(type, keys))
    if types in ({str}, {bytes}) or (types == {int} and max(keys) <= _INT_MAX and min(keys) >= _INT_MIN):
        return keys, NATIVE_KEYS
    return encode_keys(keys), ENCODED_KEYS
