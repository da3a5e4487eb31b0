"""Codecs of user-visible topics: str as UTF-8, bytes as they are, everything else as JSON.

msgspec does all that holds no pydantic model (0.22 against 0.94 µs a decode); pydantic does its own. A codec is made
once a topic and used by one thread at a time. All of them raise TypeError for a value that has not their type, and
ValueError for bytes that are not of it.
"""

from __future__ import annotations

import typing
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

from streamcore import limits
from streamcore.codecs import hooks, kinds
from streamcore.errors import TopologyError, shown
from streamcore.types import UNKNOWN


class BatchCodec(Protocol):
    """`topology.nodes.BatchCodec`, as this floor sees it."""

    @property
    def type(self) -> Any: ...
    def encode(self, values: list[Any]) -> list[bytes]: ...
    def decode(self, payloads: list[bytes]) -> list[Any]: ...


class Text:
    """str as UTF-8."""

    def __init__(self, of: Any = str) -> None:
        self.type: Final = of
        self._check = kinds.Check(str)

    def encode(self, values: list[Any]) -> list[bytes]:
        self._check(values)
        return list(map(str.encode, values))

    def decode(self, payloads: list[bytes]) -> list[Any]:
        return list(map(bytes.decode, payloads))


class TextKeys(Text):
    """str keys that state is looked up by: all records of one share one object, with its hash known and its memory at
    hand (0.4 µs a record; without state it would cost 0.1). Where more of them come than are kept, none are."""

    def __init__(self, of: Any = str) -> None:
        super().__init__(of)
        self._known = _Decoded()

    def decode(self, payloads: list[bytes]) -> list[Any]:
        if len(self._known) > limits.KEY_CACHE_ENTRIES:
            return super().decode(payloads)
        return list(map(self._known.__getitem__, payloads))


class _Decoded(dict[bytes, str]):
    def __missing__(self, payload: bytes) -> str:
        found = self[payload] = payload.decode()
        return found


class Raw:
    """bytes as they are."""

    def __init__(self, of: Any = bytes) -> None:
        self.type: Final = of
        self._check = kinds.Check(bytes)

    def encode(self, values: list[Any]) -> list[bytes]:
        self._check(values)
        return values

    def decode(self, payloads: list[bytes]) -> list[Any]:
        return payloads


class Json:
    """Built-ins, Structs, dataclasses and tagged unions of Structs, by msgspec."""

    def __init__(self, of: Any) -> None:
        self.type: Final = of
        self._check = kinds.Check(of)
        self._deep = _is_container(of)
        self._encode = msgspec.json.Encoder(enc_hook=hooks.to_json).encode
        try:
            self._decode = msgspec.json.Decoder(of, dec_hook=hooks.from_json).decode
            strangers = kinds.strangers(of)
        except (TypeError, NameError) as error:
            raise _unsupported(of, error) from error
        if strangers:
            raise _unsupported(of, f"class {kinds.name_of(strangers[0])} is none that can be taken apart")

    def encode(self, values: list[Any]) -> list[bytes]:
        self._check(values)
        if self._deep:
            self._check_inside(values)
        try:
            return list(map(self._encode, values))
        except (ValueError, RecursionError) as error:
            raise TypeError(f"expected {kinds.name_of(self.type)}: {error}") from error

    def decode(self, payloads: list[bytes]) -> list[Any]:
        try:
            return list(map(self._decode, payloads))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"not a {kinds.name_of(self.type)}: {error}") from error

    def _check_inside(self, values: list[Any]) -> None:
        for value in values:
            try:
                msgspec.convert(value, self.type, dec_hook=hooks.from_json)
            except msgspec.ValidationError as error:
                raise TypeError(f"expected {kinds.name_of(self.type)}, got {shown(value)}: {error}") from error


class ModelJson:
    """Pydantic models, unions and containers of them, by pydantic."""

    def __init__(self, of: Any) -> None:
        self.type: Final = of
        self._check = kinds.Check(of)
        try:
            adapter = TypeAdapter[Any](of)
            self._decode = adapter.validator.validate_json
        except (PydanticSchemaGenerationError, PydanticUserError, TypeError) as error:
            raise _unsupported(of, error) from error
        self._encode = partial(adapter.serializer.to_json, by_alias=True)
        if not isinstance(of, type) or not issubclass(of, BaseModel):
            self._encode = partial(self._encode, warnings="error")
        elif all(field.alias is None for field in of.model_fields.values()):
            self._encode = adapter.serializer.to_json  # 0.3 µs a record less

    def encode(self, values: list[Any]) -> list[bytes]:
        self._check(values)
        try:
            return list(map(self._encode, values))
        except ValueError as error:
            raise TypeError(f"expected {kinds.name_of(self.type)}: {error}") from error

    def decode(self, payloads: list[bytes]) -> list[Any]:
        return list(map(self._decode, payloads))


class Custom:
    """A user's codec. Its own errors pass; what it returns is counted."""

    def __init__(self, codec: Any) -> None:
        self.codec: Final = codec
        self.type: Final = getattr(codec, "type", UNKNOWN)

    def encode(self, values: list[Any]) -> list[bytes]:
        return self._counted(self.codec.encode(values), values, "encode")

    def decode(self, payloads: list[bytes]) -> list[Any]:
        return self._counted(self.codec.decode(payloads), payloads, "decode")

    def _counted(self, got: list[Any], given: list[Any], verb: str) -> list[Any]:
        if len(got) != len(given):
            name = type(self.codec).__qualname__
            raise ValueError(f"{name}.{verb} returned {len(got)} items for {len(given)}: it must return as many")
        return got


def codec_for(of: Any) -> BatchCodec:
    """The codec of a topic's value or key: `of` is a type, or a codec already. Raises TopologyError."""
    if isinstance(of, Text | Raw | Json | ModelJson):
        return of
    if not isinstance(of, type) and callable(getattr(of, "encode", None)) and callable(getattr(of, "decode", None)):
        return Custom(of)
    inner = kinds.bare(kinds.without_none(of))
    if inner is str:
        return Text(of)
    if inner is bytes:
        return Raw(of)
    return json_codec(of)


def for_state(key: BatchCodec) -> BatchCodec:
    """The codec of a topic's key, for one task that looks up state by it."""
    return TextKeys(key.type) if type(key) is Text else key


def json_codec(*types: Any) -> BatchCodec:
    """JSON of one type, or of the union of several. Raises TopologyError."""
    if not types:
        raise TopologyError("json() was given no type", "name the types: json(Order, Refund)")
    of = types[0] if len(types) == 1 else kinds.union(types)
    if kinds.classes(of) is None and of not in (Any, object):
        raise _unsupported(of, "it is no type that values can have")
    members = kinds.members(of)
    structs = [m for m in members if kinds.is_struct(typing.get_origin(m) or m)]
    if kinds.holds_model(of) and not structs:
        _refuse_alike([m for m in members if kinds.is_model(m)])
        return ModelJson(of)
    return Json(of)


def _refuse_alike(models: list[type[BaseModel]]) -> None:
    """Two models of a union that a JSON text could both be: pydantic would pick the first."""
    for i, a in enumerate(models):
        for b in models[i + 1 :]:
            if not _told_apart(a, b) and (_could_be(a, b) or _could_be(b, a)):
                raise TopologyError(
                    f"the JSON of {a.__name__} cannot be told from that of {b.__name__}",
                    f'give each a field that differs: kind: Literal["{a.__name__.lower()}"] and '
                    f'kind: Literal["{b.__name__.lower()}"]',
                )


def _told_apart(a: type[BaseModel], b: type[BaseModel]) -> bool:
    return any(
        kinds.classes(a.model_fields[name].annotation) is not None
        and (mine := _literals(a.model_fields[name].annotation))
        and (theirs := _literals(b.model_fields[name].annotation))
        and mine.isdisjoint(theirs)
        for name in a.model_fields.keys() & b.model_fields.keys()
    )


def _literals(of: Any) -> set[Any]:
    of = kinds.bare(of)
    return set(typing.get_args(of)) if typing.get_origin(of) is typing.Literal else set()


def _could_be(a: type[BaseModel], b: type[BaseModel]) -> bool:
    """Whether what `a` writes reads as well as a `b`."""
    written = set(a.model_fields)
    return written <= set(b.model_fields) and all(
        name in written for name, field in b.model_fields.items() if field.is_required()
    )


def _is_container(of: Any) -> bool:
    return any(
        (typing.get_origin(m) or m) in (list, dict, tuple, set, frozenset) or typing.is_typeddict(m)
        for m in kinds.members(of)
    )


def _unsupported(of: Any, why: object) -> TopologyError:
    return TopologyError(
        f"{kinds.name_of(of)} has no JSON form here: {why}",
        "use a pydantic model, a msgspec Struct, a dataclass or a built-in type (several Structs in a union: give each "
        "tag=True), or pass a codec of your own with encode(values) and decode(payloads)",
    )
