r"""Keys as bytes: order-preserving, self-describing, and none a prefix of another.

So a state key may be followed by a map entry's key, a range of entries is a range of bytes, and a shuffle, a state
and a rescale all mean the same bytes. Wire format, a tag and then:

    0x0F       int below -(2^64 - 1): 4 bytes length and the magnitude, all inverted
    0x10–0x17  negative int of 8–1 bytes: the magnitude inverted
    0x18       0
    0x19–0x20  positive int of 1–8 bytes: the magnitude
    0x21       int above 2^64 - 1: 4 bytes length and the magnitude
    0x30 str, 0x38 bytes: the text's UTF-8, or the bytes; 00 written as 01 01 and 01 as 01 02, then 00
    0x40       UUID: its 16 bytes
    0x48       datetime: microseconds since 1970 in UTC, plus 2^63, in 8 bytes
    0x70       tuple: its items one after the other, then 00

Numbers are big-endian. Order within a type is that of Python's values (str: by code point), tuples item by item.
Equal values have equal bytes: True is 1, a StrEnum its text, one instant in two zones one key.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID
from zlib import crc32

from streamcore import limits
from streamcore.errors import RecordTooLarge, StateDamaged, shown

Scalar = str | int | bytes | UUID | datetime
Key = Scalar | tuple[Scalar, ...]

_BIG_NEGATIVE: Final = 0x0F
_ZERO: Final = 0x18
_BIG_POSITIVE: Final = 0x21
_STR: Final = 0x30
_BYTES: Final = 0x38
_UUID: Final = 0x40
_DATETIME: Final = 0x48
_TUPLE: Final = 0x70

_INT_TAGS: Final = tuple(bytes((_ZERO + n,)) for n in range(9))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SIGN: Final = 1 << 63
_INVERT: Final = bytes(255 - n for n in range(256))


# --- one key ---------------------------------------------------------------------------------------------------
def encode_key(key: Any) -> bytes:
    """Raises TypeError for what is no key, ValueError for a value that has no bytes, RecordTooLarge."""
    encoded = _encoder(key)(key)
    if len(encoded) > limits.STATE_KEY_BYTES:
        raise _too_large(key, encoded)
    return encoded


def _encode_str(key: str) -> bytes:
    try:
        raw = key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the key {shown(key)} is no valid text: {error.reason}") from error
    return b"0" + _escape(raw) + b"\0"


def _encode_bytes(key: bytes) -> bytes:
    return b"8" + _escape(key) + b"\0"


def _escape(raw: bytes) -> bytes:
    if b"\1" in raw or b"\0" in raw:
        return raw.replace(b"\1", b"\1\2").replace(b"\0", b"\1\1")
    return raw


def _encode_int(key: int) -> bytes:
    size = (key.bit_length() + 7) >> 3
    if size <= 8:
        if key >= 0:
            return _INT_TAGS[size] + key.to_bytes(size)
        return bytes((_ZERO - size,)) + (-key).to_bytes(size).translate(_INVERT)
    magnitude = size.to_bytes(4) + abs(key).to_bytes(size)
    return b"\x21" + magnitude if key > 0 else b"\x0f" + magnitude.translate(_INVERT)


def _encode_uuid(key: UUID) -> bytes:
    return b"@" + key.bytes


def _encode_datetime(key: datetime) -> bytes:
    if key.utcoffset() is None:
        raise TypeError(
            f"the key {key!r} is a datetime without a time zone, which names no instant: "
            "give it one, as in datetime.now(UTC) or value.replace(tzinfo=UTC)"
        )
    try:
        micros = (key.astimezone(UTC) - _EPOCH) // _MICROSECOND
    except OverflowError as error:
        raise ValueError(f"the key {key!r} lies outside the years 1 to 9999 in UTC") from error
    return b"H" + (micros + _SIGN).to_bytes(8)


def _encode_tuple(key: tuple[Any, ...]) -> bytes:
    return b"p" + b"".join([_encode_item(item, key) for item in key]) + b"\0"


def _encode_item(item: Any, key: tuple[Any, ...]) -> bytes:
    if isinstance(item, tuple):
        raise TypeError(f"the key {shown(key)} holds a tuple within a tuple: make it flat")
    return _encoder(item)(item)


_ENCODERS: Final[dict[type[Any], Callable[[Any], bytes]]] = {
    str: _encode_str,
    int: _encode_int,
    bytes: _encode_bytes,
    UUID: _encode_uuid,
    datetime: _encode_datetime,
    tuple: _encode_tuple,
}


def _encoder(key: object) -> Callable[[Any], bytes]:
    """Subclasses (enums, named tuples, bool) have the bytes of the value that they equal."""
    found = _ENCODERS.get(type(key))
    if found is not None:
        return found
    for of, encoder in _ENCODERS.items():
        if isinstance(key, of):
            return encoder
    raise TypeError(
        f"{shown(key)} of type {type(key).__name__} cannot be a key: use str, int, bytes, UUID, datetime, "
        "or a tuple of these"
    )


def _too_large(key: Any, encoded: bytes) -> RecordTooLarge:
    return RecordTooLarge(
        f"the key {shown(key)} takes {len(encoded)} bytes, the limit is {limits.STATE_KEY_BYTES}",
        "key by something shorter: an id, or a hash of the long value",
    )


# --- many keys -------------------------------------------------------------------------------------------------
def encode_keys(keys: list[Any]) -> list[bytes]:
    """As `encode_key`, for a batch; keys of one type are the fast case."""
    types: set[Any] = set(map(type, keys))
    if types == {str}:
        encoded = _encode_strs(keys)
    elif types == {int}:
        encoded = list(map(_encode_int, keys))
    else:
        encoded = [_encoder(key)(key) for key in keys]
    if encoded and max(map(len, encoded)) > limits.STATE_KEY_BYTES:
        raise next(_too_large(k, e) for k, e in zip(keys, encoded, strict=True) if len(e) > limits.STATE_KEY_BYTES)
    return encoded


def _encode_strs(keys: list[str]) -> list[bytes]:
    """All in one string, encoded once and cut again; as the cuts are made at 0x01, no key may hold one, or a 0x00."""
    joined = "\x00\x010".join(keys)
    cuts = len(keys) - 1
    if joined.count("\1") != cuts or joined.count("\0") != cuts:
        return list(map(_encode_str, keys))
    try:
        return f"0{joined}\0".encode().split(b"\1")
    except UnicodeEncodeError:
        return list(map(_encode_str, keys))


# --- key groups ------------------------------------------------------------------------------------------------
_GROUPS: Final = tuple(n.to_bytes(2) for n in range(limits.PARTITIONS))


def key_group(encoded: bytes) -> int:
    return crc32(encoded) % limits.PARTITIONS


def group_prefix(encoded: bytes) -> bytes:
    return _GROUPS[crc32(encoded) % limits.PARTITIONS]


def group_prefixes(encoded: list[bytes]) -> list[bytes]:
    groups, size, crc = _GROUPS, limits.PARTITIONS, crc32
    return [groups[crc(key) % size] for key in encoded]


def state_keys(encoded: list[bytes]) -> list[bytes]:
    """What a step's column is keyed by: the group's two bytes, then the key."""
    groups, size, crc = _GROUPS, limits.PARTITIONS, crc32
    return [groups[crc(key) % size] + key for key in encoded]


# --- back again ------------------------------------------------------------------------------------------------
def decode_key(data: bytes) -> Key:
    """Raises StateDamaged for anything that `encode_key` did not write."""
    key, end = decode_at(data, 0)
    if end != len(data):
        raise _damaged(data, "bytes follow it")
    return key


def decode_at(data: bytes, at: int) -> tuple[Key, int]:
    """The key that starts at `at`, and where it ends."""
    if data[at : at + 1] != b"p":
        return _decode_scalar(data, at)
    items: list[Scalar] = []
    at += 1
    while data[at : at + 1] != b"\0":
        item, at = _decode_scalar(data, at)
        items.append(item)
    return tuple(items), at + 1


def _decode_scalar(data: bytes, at: int) -> tuple[Scalar, int]:
    if at >= len(data):
        raise _damaged(data, "it ends early")
    tag = data[at]
    at += 1
    if tag in (_STR, _BYTES):
        return _decode_escaped(data, at, tag)
    if _BIG_NEGATIVE <= tag <= _BIG_POSITIVE:
        return _decode_int(data, at, tag)
    if tag == _UUID:
        return UUID(bytes=_take(data, at, 16)), at + 16
    if tag == _DATETIME:
        micros = int.from_bytes(_take(data, at, 8)) - _SIGN
        try:
            return _EPOCH + timedelta(microseconds=micros), at + 8
        except OverflowError as error:
            raise _damaged(data, "its instant does not exist") from error
    raise _damaged(data, f"its tag {tag:#04x} is unknown")


def _decode_int(data: bytes, at: int, tag: int) -> tuple[int, int]:
    negative = tag < _ZERO
    size = abs(tag - _ZERO)
    if size > 8:
        head = _take(data, at, 4)
        size = int.from_bytes(head.translate(_INVERT) if negative else head)
        at += 4
    raw = _take(data, at, size)
    value = -int.from_bytes(raw.translate(_INVERT)) if negative else int.from_bytes(raw)
    return value, at + size


def _decode_escaped(data: bytes, at: int, tag: int) -> tuple[str | bytes, int]:
    end = data.find(b"\0", at)
    if end < 0:
        raise _damaged(data, "its text has no end")
    raw = data[at:end]
    if b"\1" in raw:
        raw = raw.replace(b"\1\1", b"\0").replace(b"\1\2", b"\1")
    if tag == _BYTES:
        return raw, end + 1
    try:
        return raw.decode(), end + 1
    except UnicodeDecodeError as error:
        raise _damaged(data, "its text is no UTF-8") from error


def _take(data: bytes, at: int, size: int) -> bytes:
    raw = data[at : at + size]
    if len(raw) < size:
        raise _damaged(data, "it ends early")
    return raw


def _damaged(data: bytes, why: str) -> StateDamaged:
    return StateDamaged(f"the encoded key {shown(data)} cannot be read: {why}")
