"""JSON objects that carry a seal: their last member, the SHA-256 in hexadecimal of all bytes before `,"seal":`.

It finds what was edited by hand or half copied. It is no signature.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, TypeVar

import msgspec

from streamcore.errors import CheckpointDamaged, StateMismatch
from streamcore.state.store import UNREADABLE

T = TypeVar("T", bound=msgspec.Struct)
_SEAL: Final = b',"seal":'


class _Format(msgspec.Struct):
    format: int


def encode(value: msgspec.Struct) -> bytes:
    """A Struct whose last field is `seal`, whatever stands in it: one line, and a newline."""
    body, _, _ = msgspec.json.encode(msgspec.structs.replace(value, seal="")).rpartition(_SEAL)
    return body + _SEAL + msgspec.json.encode(hashlib.sha256(body).hexdigest()) + b"}\n"


def decode(data: bytes, of: type[T], newest: int, where: str) -> T:
    """`where` names it, as "the savepoint …". Raises StateMismatch for a format above `newest`, CheckpointDamaged."""
    try:
        found = msgspec.json.decode(data, type=_Format).format
        if found > newest:
            raise StateMismatch(
                f"{where} has format {found}, newer than this streamcore's {newest}",
                "run the version of streamcore that wrote it, or a newer one",
            )
        value: Any = msgspec.json.decode(data, type=of)
    except UNREADABLE as error:
        raise CheckpointDamaged(f"{where} cannot be read ({error}): half copied, or edited by hand") from error
    if data != encode(value):
        raise CheckpointDamaged(f"{where} was changed after it was written: its seal does not fit")
    return value
