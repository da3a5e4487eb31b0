"""Packed frames: many records of a shuffle in one message.

Wire format: msgpack, arrays all the way (the order of the fields below is the format).

    frame  [format = 1, source stage, source partition, lineage, epoch, sequence, watermark in ms or nil, [chunk, …]]
    chunk  [records, keys kind, keys, values, times, origins or nil]

A chunk holds one slice's records for one partition, in order, as columns: `keys` a list of str, int or bytes as they
are (kind 0), or of order-preserving encodings (kind 1, state.keys: every other type); `values` the bytes of the step's
column codec; `times` milliseconds; `origins` correlation ids. Sequence counts an epoch's frames of one source task from
0, over all partitions of the shuffle. A frame of the stage "" holds no records: it is the marker of a barrier, whose
number stands in place of the epoch. Nothing in a frame is evaluated; a newer format is refused.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamcore import limits
from streamcore.codecs.dynamic import ColumnCodec
from streamcore.errors import RecordTooLarge, StateMismatch, broken, shown

FORMAT: Final = 1
NATIVE_KEYS: Final = 0
ENCODED_KEYS: Final = 1
ENVELOPE_BYTES: Final = 2 << 10
"""What a frame takes beside its chunks, at most: names are bounded."""


class Chunk(msgspec.Struct, array_like=True):
    records: int
    kind: int
    keys: Any
    values: bytes
    times: list[int]
    origins: list[str] | None


class Frame(msgspec.Struct, array_like=True):
    format: int
    stage: str
    partition: int
    lineage: str
    epoch: int
    sequence: int
    watermark_ms: int | None
    chunks: list[Chunk]


class _Packed(msgspec.Struct, array_like=True):
    """A Frame whose chunks are encoded already."""

    format: int
    stage: str
    partition: int
    lineage: str
    epoch: int
    sequence: int
    watermark_ms: int | None
    chunks: list[msgspec.Raw]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode
_decode_format = msgspec.msgpack.Decoder(list[Any]).decode


def encode_chunks(
    keys: list[Any], kind: int, values: list[Any], times: list[int], origins: list[str] | None, codec: ColumnCodec
) -> list[bytes]:
    """One chunk, or as many as it takes for each to fit a frame. Raises RecordTooLarge naming the record's key, and
    what the codec raises."""
    data = _encode(Chunk(len(values), kind, keys, codec.encode_column(values), times, origins))
    if len(data) <= limits.FRAME_BYTES - ENVELOPE_BYTES and len(values) <= limits.FRAME_RECORDS:
        return [data]
    half = len(values) // 2
    if not half:
        raise RecordTooLarge(
            f"the record with key {shown(keys[0])} takes {len(data)} bytes in a shuffle, "
            f"the limit is {limits.FRAME_BYTES - ENVELOPE_BYTES}",
            "regroup a reference to the large value (an id, an object's name), or split it before key_by",
        )
    first, rest = slice(half), slice(half, None)
    return encode_chunks(
        keys[first], kind, values[first], times[first], origins and origins[first], codec
    ) + encode_chunks(keys[rest], kind, values[rest], times[rest], origins and origins[rest], codec)


def encode_frame(stage: str, partition: int, lineage: str, epoch: int, sequence: int, chunks: list[bytes]) -> bytes:
    packed = list(map(msgspec.Raw, chunks))
    return _encode(_Packed(FORMAT, stage, partition, lineage, epoch, sequence, None, packed))


_MARKER: Final = b"\x98\x01\xa0"
"""How a marker begins: an array of 8, format 1, a source stage without a name."""


def encode_marker(barrier: int) -> bytes:
    """Barrier `barrier` cuts the shuffle's partition here: a frame of no stage and no records, whose epoch it is."""
    return _encode(_Packed(FORMAT, "", 0, "", barrier, 0, None, []))


def marker_in(data: bytes | None, where: str) -> int | None:
    """The barrier whose marker a message is; None for a frame of records."""
    if data is None or not data.startswith(_MARKER):
        return None
    return decode_frame(data, where).epoch


def cut(chunks: list[bytes]) -> list[list[bytes]]:
    """In order, as few groups as fit a frame each, in bytes and in records: a frame is processed in one turn."""
    groups: list[list[bytes]] = []
    room = records = 0
    for chunk in chunks:
        count = records_in(chunk)
        if len(chunk) > room or records + count > limits.FRAME_RECORDS:
            groups.append([])
            room, records = limits.FRAME_BYTES - ENVELOPE_BYTES, 0
        groups[-1].append(chunk)
        room -= len(chunk) + 5
        records += count
    return groups


def records_in(chunk: bytes) -> int:
    """A chunk's first field, without decoding the rest: msgpack's unsigned integer behind the array's one byte."""
    width = {0xCC: 1, 0xCD: 2, 0xCE: 4}.get(chunk[1], 0)
    return int.from_bytes(chunk[2 : 2 + width], "big") if width else chunk[1]


def decode_frame(data: bytes, where: str) -> Frame:
    """Raises StateMismatch for a newer format, InvariantBroken for what no streamcore wrote."""
    try:
        frame = _decode(data)
    except msgspec.MsgspecError as error:
        _refuse_newer(data, where)
        broken(f"{where} holds no shuffle frame: {error}")
    if frame.format != FORMAT:
        _refuse_newer(data, where)
        broken(f"{where} holds a shuffle frame of format {frame.format}")
    for chunk in frame.chunks:
        keys: Any = chunk.keys
        lengths = {chunk.records, len(keys) if isinstance(keys, list) else -1, len(chunk.times)}  # pyright: ignore[reportUnknownArgumentType]
        if chunk.origins is not None:
            lengths.add(len(chunk.origins))
        if len(lengths) != 1 or chunk.kind not in (NATIVE_KEYS, ENCODED_KEYS):
            broken(f"{where} holds a shuffle frame whose columns do not match")
    return frame


def _refuse_newer(data: bytes, where: str) -> None:
    try:
        format_ = _decode_format(data)[0]
    except (msgspec.MsgspecError, IndexError):
        return
    if isinstance(format_, int) and format_ > FORMAT:
        raise StateMismatch(
            f"{where} holds a shuffle frame of format {format_}, newer than this streamcore's {FORMAT}",
            "run the version of streamcore that wrote it, or a newer one",
        )
