"""How values cross shuffles and lie in state: typed where the program tells the type, tagged where it does not.

A `Registry` is built once from the job's own code, never from data. A column (many values of one step) is a byte that
says how it is encoded, then one msgpack or JSON text:

    M  msgpack of a list of the known type: what msgspec knows to the last field
    P  JSON of such a list, by pydantic: models, their unions and containers
    T  msgpack of tagged values: see `codecs.tagged`
    C  of unknown type, but all of one class: two bytes length, the class's name, an M or P column

A typed column whose values are not what was promised is refused by the encoder, where the step that made them is known;
the reader never meets it. Aware datetimes inside typed values come back as the same instant in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import msgspec

from streamcore.codecs import hooks, kinds, usercode
from streamcore.codecs.tagged import Tagged
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


class Registry:
    """The classes known to a job: of its topics, annotations, State fields, and those its functions name.

    Made and used by one thread."""

    def __init__(self, types: Iterable[Any] = (), functions: Iterable[Callable[..., Any]] = ()) -> None:
        roots = list(functions)
        found = [*types, *filter(None, map(usercode.owner, roots))]
        for f in usercode.functions(roots):
            found += kinds.hints(f).values()
            found += (value for value in usercode.referenced(f) if kinds.is_record_class(value))
        self.classes: Final = tuple(dict.fromkeys(part for of in found for part in kinds.parts(of)))
        self._typed: dict[Any, MsgpackCodec | ModelCodec | None] = {}
        self._tagged = TaggedCodec(Tagged(self.classes, self._typed_codec), self._typed_codec)

    def codec(self, of: Any, *, trusted: bool = False) -> ColumnCodec:
        """The codec of a type, or of UNKNOWN. `trusted`: the values come as a topic's codec decoded them, so that
        their fields need no second look (0.2 µs a Struct)."""
        if trusted and kinds.is_closed(of):
            return MsgpackCodec(of, trusted, self._tagged)
        return self._typed_codec(of) or self._tagged

    def _typed_codec(self, of: Any) -> MsgpackCodec | ModelCodec | None:
        """None where a part of the type is not known."""
        if of not in self._typed:
            self._typed[of] = (
                MsgpackCodec(of, False, self._tagged)
                if kinds.is_closed(of)
                else ModelCodec(of, self._tagged)
                if kinds.is_model(of)
                else None
            )
        return self._typed[of]


class MsgpackCodec:
    def __init__(self, of: Any, trusted: bool, tagged: TaggedCodec) -> None:
        self.type: Final = of
        self._check = kinds.Check(of, exact=True)
        self._tagged = tagged
        self._verify = not trusted and kinds.holds_own_class(of)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(of).decode
        self._decode_list: Callable[[Any], list[Any]] = msgspec.msgpack.Decoder(list[of]).decode

    def encode(self, values: list[Any]) -> list[bytes]:
        self._check(values)
        try:
            payloads = list(map(self._encode, values))
            if self._verify:
                list(map(self._decode, payloads))
        except (msgspec.MsgspecError, OverflowError, RecursionError) as error:
            raise self._refused(error) from error
        return payloads

    def decode(self, payloads: list[bytes]) -> list[Any]:
        try:
            return list(map(self._decode, payloads))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"not a {kinds.name_of(self.type)}: {error}") from error

    def encode_column(self, values: list[Any]) -> bytes:
        self._check(values)
        try:
            payload = self._encode(values)
            if self._verify:
                self._decode_list(payload)
        except (msgspec.MsgspecError, OverflowError, RecursionError) as error:
            raise self._refused(error) from error
        return _MSGPACK + payload

    def decode_column(self, payload: bytes) -> list[Any]:
        if payload[:1] != _MSGPACK:
            return self._tagged.decode_column(payload)
        try:
            return self._decode_list(memoryview(payload)[1:])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"not a column of {kinds.name_of(self.type)}: {error}") from error

    def _refused(self, error: Exception) -> TypeError:
        return TypeError(f"a value promised as {kinds.name_of(self.type)} is not one: {error}")


class ModelCodec:
    """One pydantic model. Pydantic judges a field's type when the model is made, and again when it is written."""

    def __init__(self, of: Any, tagged: TaggedCodec) -> None:
        self.type: Final = of
        self._tagged = tagged
        self._check = kinds.Check(of, exact=True)
        self._of = of
        self._list: Any = list[of]

    def encode(self, values: list[Any]) -> list[bytes]:
        self._check(values)
        return [self._written(self._of, value) for value in values]

    def decode(self, payloads: list[bytes]) -> list[Any]:
        return [hooks.model_from_bytes(self._of, payload) for payload in payloads]

    def encode_column(self, values: list[Any]) -> bytes:
        self._check(values)
        return _MODELS + self._written(self._list, values)

    def decode_column(self, payload: bytes) -> list[Any]:
        if payload[:1] != _MODELS:
            return self._tagged.decode_column(payload)
        return hooks.model_from_bytes(self._list, payload[1:])

    def _written(self, of: Any, value: Any) -> bytes:
        try:
            return hooks.model_bytes(of, value)
        except ValueError as error:
            raise TypeError(f"a value promised as {kinds.name_of(self.type)} is not one: {error}") from error


class TaggedCodec:
    """Of UNKNOWN. A column whose values are all of one class with typed fields is written by that class's codec."""

    type: Any = UNKNOWN

    def __init__(self, tagged: Tagged, typed: Callable[[Any], MsgpackCodec | ModelCodec | None]) -> None:
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
            return self._tagged.decode(memoryview(payload)[1:])
        if payload[:1] != _ONE_CLASS:
            raise _foreign(UNKNOWN, payload)
        end = 3 + int.from_bytes(payload[1:3])
        codec = self._typed(self._tagged.known(payload[3:end].decode()))
        if codec is None:
            raise _foreign(UNKNOWN, payload)
        return codec.decode_column(payload[end:])


def _foreign(of: Any, payload: bytes) -> ValueError:
    """A column by another version of the code."""
    return ValueError(
        f"a column of format {payload[:1]!r} where {kinds.name_of(of)} is expected: the code that wrote it knew its "
        "values by another type"
    )
