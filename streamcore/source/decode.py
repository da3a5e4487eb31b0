"""Raw runs to batches: a topic's records by its codecs, a shuffle's frames by their columns.

A run is decoded as a whole; only when that fails are its records tried one by one, to find the first bad one. Then
the caller decodes what stands before it (`slice_of`), lets the policy decide on the bad one, and goes on behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from streamcore.codecs.dynamic import ColumnCodec
from streamcore.errors import StateDamaged, StreamcoreError, broken
from streamcore.log.port import Headers, Run
from streamcore.operators.batch import CORRELATION_HEADER, Batch, Position
from streamcore.sink.shuffle import ENCODED_KEYS, Chunk, decode_frame
from streamcore.state.keys import decode_key
from streamcore.topology.nodes import TopicSpec


class DecodeFailed(Exception):
    """The record at `index` of the run is the first that cannot be read; `what` of it, and why."""

    def __init__(self, index: int, what: Literal["value", "key"], cause: Exception) -> None:
        super().__init__(f"the {what} cannot be decoded: {cause}")
        self.index = index
        self.what: Final = what
        self.cause = cause


def slice_of(run: Run, i: int, j: int) -> Run:
    """Records i to j - 1."""
    headers = None if run.headers is None else run.headers[i:j]
    return Run(run.tp, run.offsets[i:j], run.keys[i:j], run.values[i:j], run.times[i:j], headers)


def decode(run: Run, spec: TopicSpec, *, origins: bool = False, positions: bool = False) -> Batch:
    """A run of a user's topic. Raises DecodeFailed for the first record that cannot be read: not of the topic's type,
    a null value where the type does not allow None, a null key on a keyed topic."""
    values = _decode_values(run, spec)
    keys = None if spec.key is None else _decode_keys(run, spec)
    return Batch(
        values,
        keys,
        run.times,
        run.tp,
        origins_of(run) if origins else None,
        list(zip(run.offsets, run.headers or [None] * len(run), strict=True)) if positions else None,
        run.offsets,
    )


def origins_of(run: Run) -> list[str]:
    """Correlation ids: what came with the record, else its place in the log."""
    prefix = f"{run.tp.topic}-{run.tp.partition}-"
    made = [f"{prefix}{offset}" for offset in run.offsets]
    if run.headers is None or not any(run.headers):
        return made
    return [_correlation_id(headers) or own for headers, own in zip(run.headers, made, strict=True)]


def _correlation_id(headers: Headers | None) -> str | None:
    for name, value in headers or ():
        if name == CORRELATION_HEADER and value:
            return value.decode(errors="replace")
    return None


def _decode_values(run: Run, spec: TopicSpec) -> list[Any]:
    if None not in run.values:
        return _decode_column(run.values, spec.value.decode, "value")
    if not spec.optional_value:
        index = run.values.index(None)
        _decode_column(run.values[:index], spec.value.decode, "value")  # an earlier bad one comes first
        raise DecodeFailed(index, "value", ValueError(f"null, and the type of topic {spec.name!r} does not allow None"))
    places = [i for i, value in enumerate(run.values) if value is not None]
    values: list[Any] = [None] * len(run)
    try:
        decoded = _decode_column([run.values[i] for i in places], spec.value.decode, "value")
    except DecodeFailed as failed:
        raise DecodeFailed(places[failed.index], "value", failed.cause) from failed.cause
    for i, value in zip(places, decoded, strict=True):
        values[i] = value
    return values


def _decode_keys(run: Run, spec: TopicSpec) -> list[Any]:
    codec = spec.key
    if codec is None:
        broken("keys of an unkeyed topic")
    if None not in run.keys:
        return _decode_column(run.keys, codec.decode, "key")
    index = run.keys.index(None)
    _decode_column(run.keys[:index], codec.decode, "key")
    raise DecodeFailed(index, "key", ValueError(f"null, and topic {spec.name!r} is keyed by {codec.type!r}"))


def _decode_column(payloads: list[Any], decode_all: Callable[[list[bytes]], list[Any]], what: Any) -> list[Any]:
    if not payloads:
        return []
    try:
        return decode_all(payloads)
    except StreamcoreError:
        raise
    except Exception:
        return _decode_each(payloads, decode_all, what)


def _decode_each(payloads: list[Any], decode_all: Callable[[list[bytes]], list[Any]], what: Any) -> list[Any]:
    """The slow way, which knows the culprit. All of them decode alone where a user's codec fails on the batch only."""
    values: list[Any] = []
    for index, payload in enumerate(payloads):
        try:
            values += decode_all([payload])
        except StreamcoreError:
            raise
        except Exception as error:
            raise DecodeFailed(index, what, error) from error
    return values


# --- shuffles -------------------------------------------------------------------------------------------------


def decode_shuffle(run: Run, codec: ColumnCodec, *, origins: bool = False, positions: bool = False) -> Batch | None:
    """A run of frames as one batch, whose `offsets` name each record's frame. None when they hold no record. Raises
    StateMismatch for a newer format, InvariantBroken for what no streamcore wrote."""
    values: list[Any] = []
    keys: list[Any] = []
    times: list[int] = []
    ids: list[str] = []
    offsets: list[int] = []
    for offset, message in zip(run.offsets, run.values, strict=True):
        where = f"{run.tp} at offset {offset}"
        if message is None:
            broken(f"{where} holds a null where a shuffle frame must be")
        for chunk in decode_frame(message, where).chunks:
            values += _chunk_values(chunk, codec, where)
            keys += _chunk_keys(chunk, where)
            times += chunk.times
            offsets += [offset] * chunk.records
            if origins:
                ids += chunk.origins or [f"{run.tp.topic}-{run.tp.partition}-{offset}"] * chunk.records
    if not values:
        return None
    places: list[Position] | None = [(offset, None) for offset in offsets] if positions else None
    return Batch(values, keys, times, run.tp, ids if origins else None, places, offsets)


def _chunk_values(chunk: Chunk, codec: ColumnCodec, where: str) -> list[Any]:
    try:
        values = codec.decode_column(chunk.values)
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        broken(f"{where} holds values that do not decode: {error}")
    if len(values) != chunk.records:
        broken(f"{where} holds {len(values)} values in a chunk of {chunk.records}")
    return values


def _chunk_keys(chunk: Chunk, where: str) -> list[Any]:
    if chunk.kind != ENCODED_KEYS:
        return chunk.keys
    try:
        return list(map(decode_key, chunk.keys))
    except StateDamaged as error:
        broken(f"{where} holds a key that does not decode: {error.what}")
