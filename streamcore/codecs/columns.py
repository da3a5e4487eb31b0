"""The encodings of values that cross shuffles or lie in state: typed where the type is known, tagged where not.

A column (many values of one step) is a byte that says how it is encoded, then:

    M  msgpack of a list of the known type: what msgspec knows to the last field
    P  JSON of a list of one model, by pydantic
    T  msgpack of tagged values: see `codecs.tagged`
    C  of unknown type, but all of one class: two bytes length, the class's name, an M or P column

A single value is the same without that byte: an M or P text, or one tagged value. Values of a subclass of the known
type are tagged. What is not of the type at all is refused by the encoder, where the step that made it is known: the
reader never meets it. Aware datetimes inside M come back as the same instant in UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from types import GenericAlias
from typing import Any, Final, Protocol

import msgspec

from streamcore.codecs import hooks, kinds
from streamcore.codecs.tagged import Tagged, is_tagged
from streamcore.types import UNKNOWN

_MSGPACK: Final = b"M"
_MODELS: Final = b"P"
_TAGGED: Final = b"T"
_ONE_CLASS: Final = b"C"


class ColumnCodec(Protocol):
    """A BatchCodec that also takes a column whole. `encode*` raise TypeError, `decode*` ValueError."""

    @property
    def type(self) -> Any: ...
    def encode(self, values: list[Any]) -> list[bytes]: ...
    def decode(self, payloads: list[bytes]) -> list[Any]: ...
    def encode_column(self, values: list[Any]) -> bytes: ...
    def decode_column(self, payload: bytes) -> list[Any]: ...


class Form(Protocol):
    """How values of exactly one type are written. Raises ValueError, TypeError, OverflowError, RecursionError."""

    @property
    def mark(self) -> bytes: ...
    def encode(self, values: list[Any]) -> list[bytes]: ...
    def decode(self, payloads: list[bytes]) -> list[Any]: ...
    def encode_list(self, values: list[Any]) -> bytes: ...
    def decode_list(self, payload: bytes) -> list[Any]: ...


class MsgpackForm:
    """`verify`: read back what was written, since a Struct or a dataclass does not check its fields when it is made."""

    mark: bytes = _MSGPACK

    def __init__(self, of: Any, *, verify: bool) -> None:
        self._verify = verify
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(of).decode
        column: Any = GenericAlias(list, (of,))
        self._decode_list: Callable[[Any], list[Any]] = msgspec.msgpack.Decoder(column).decode

    def encode(self, values: list[Any]) -> list[bytes]:
        payloads = list(map(self._encode, values))
        if self._verify:
            self.decode(payloads)
        return payloads

    def decode(self, payloads: list[bytes]) -> list[Any]:
        return list(map(self._decode, payloads))

    def encode_list(self, values: list[Any]) -> bytes:
        payload = self._encode(values)
        if self._verify:
            self._decode_list(payload)
        return payload

    def decode_list(self, payload: bytes) -> list[Any]:
        return self._decode_list(payload)


class ModelForm:
    """One pydantic model: pydantic judges its fields when it is made, and again when it is written."""

    mark: bytes = _MODELS

    def __init__(self, of: Any) -> None:
        self._of = of
        self._list: Any = list[of]

    def encode(self, values: list[Any]) -> list[bytes]:
        return [hooks.model_bytes(self._of, value) for value in values]

    def decode(self, payloads: list[bytes]) -> list[Any]:
        return [hooks.model_from_bytes(self._of, payload) for payload in payloads]

    def encode_list(self, values: list[Any]) -> bytes:
        return hooks.model_bytes(self._list, values)

    def decode_list(self, payload: bytes) -> list[Any]:
        return hooks.model_from_bytes(self._list, payload)


class TypedCodec:
    def __init__(self, of: Any, form: Form, tagged: TaggedCodec) -> None:
        self.type: Final = of
        self._form = form
        self._tagged = tagged
        self._check = kinds.Check(of)

    def encode(self, values: list[Any]) -> list[bytes]:
        if not self._check.exact(values):
            self._check(values)
            return [(self._form if self._check.exact([v]) else self._tagged).encode([v])[0] for v in values]
        try:
            return self._form.encode(values)
        except (ValueError, OverflowError, RecursionError) as error:
            raise self._refused(error) from error

    def decode(self, payloads: list[bytes]) -> list[Any]:
        try:
            return self._form.decode(payloads)
        except (ValueError, RecursionError) as error:
            if not any(map(is_tagged, payloads)):
                raise ValueError(f"not a {kinds.name_of(self.type)}: {error}") from error
        if len(payloads) == 1:
            return self._tagged.decode(payloads)
        return [self.decode([payload])[0] for payload in payloads]

    def encode_column(self, values: list[Any]) -> bytes:
        if not self._check.exact(values):
            self._check(values)
            return self._tagged.encode_column(values)
        try:
            return self._form.mark + self._form.encode_list(values)
        except (ValueError, OverflowError, RecursionError) as error:
            raise self._refused(error) from error

    def decode_column(self, payload: bytes) -> list[Any]:
        if payload[:1] != self._form.mark:
            return self._tagged.decode_column(payload)
        try:
            return self._form.decode_list(payload[1:])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not a column of {kinds.name_of(self.type)}: {error}") from error

    def _refused(self, error: Exception) -> TypeError:
        return TypeError(f"a value promised as {kinds.name_of(self.type)} is not one: {error}")


class TaggedCodec:
    """Of UNKNOWN. A column whose values are all of one class with typed fields is written by that class's codec."""

    type: Any = UNKNOWN

    def __init__(self, tagged: Tagged, typed: Callable[[Any], TypedCodec | None]) -> None:
        self._tagged = tagged
        self._typed = typed

    def encode(self, values: list[Any]) -> list[bytes]:
        return list(map(self._tagged.encode, values))

    def decode(self, payloads: list[bytes]) -> list[Any]:
        return list(map(self._tagged.decode, payloads))

    def encode_column(self, values: list[Any]) -> bytes:
        found = set(map(type, values))
        if len(found) == 1:
            (only,) = found
            codec = self._typed(only) if self._tagged.knows(only) else None
            if codec is not None:
                name = kinds.class_name(only).encode()
                return _ONE_CLASS + len(name).to_bytes(2) + name + codec.encode_column(values)
        return _TAGGED + self._tagged.encode_list(values)

    def decode_column(self, payload: bytes) -> list[Any]:
        if payload[:1] == _TAGGED:
            return self._tagged.decode_list(payload[1:])
        end = 3 + int.from_bytes(payload[1:3])
        codec = self._typed(self._tagged.known(payload[3:end].decode())) if payload[:1] == _ONE_CLASS else None
        if codec is None:
            raise ValueError(
                f"a column of format {payload[:1]!r}: the code that wrote it knew its values by another type than this "
                "code does"
            )
        return codec.decode_column(payload[end:])
