"""How a value of a declared type lies in a row: one of three forms, chosen once a field.

    typed    msgpack's own, where msgspec knows the type to its last part: scalars, Structs, dataclasses, containers
    model    extension 2: JSON by pydantic, where a model is somewhere in the type
    tagged   extension 1: the job's self-describing form (see `codecs.tagged`), where the type says too little (`dict`)

What an upgrade sees of an old value tells the value itself (`plain`): the field may have another type by now. What it
returns, plain data or real objects, the new field's form takes (`again`).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Protocol

import msgspec
from msgspec.msgpack import Ext
from pydantic import PydanticSchemaGenerationError, PydanticUserError

from streamcore.codecs import hooks, kinds
from streamcore.codecs.dynamic import ColumnCodec, Registry
from streamcore.errors import TopologyError, shown
from streamcore.types import UNKNOWN

TAGGED: Final = 1
MODEL: Final = 2

_json: Final = msgspec.json.Encoder(enc_hook=hooks.to_json).encode


class Form(Protocol):
    lies_as: Any
    """The type by which msgspec reads it."""
    verify: bool
    """What msgspec writes without a look must be read back to be sure."""

    def write(self, values: list[Any]) -> list[Any]:
        """What msgspec encodes. Raises TypeError or ValueError for a value that has not the type."""
        ...

    def read(self, lying: Any) -> Any:
        """Raises ValueError."""
        ...

    def again(self, value: Any) -> Any:
        """As `write`, of what an upgrade returned; the reader judges it."""
        ...


class Typed:
    def __init__(self, of: Any) -> None:
        self.lies_as = of
        self.verify = kinds.holds_own_class(of)
        self._check = kinds.Check(of)

    def write(self, values: list[Any]) -> list[Any]:
        _refuse_others(self._check, values)
        return values

    def read(self, lying: Any) -> Any:
        return lying

    def again(self, value: Any) -> Any:
        return value


class Model:
    lies_as = Ext
    verify = False

    def __init__(self, of: Any) -> None:
        adapter = hooks.adapter(of)
        # As hooks.model_bytes and model_from_bytes, bound: half the cost.
        self._bytes = partial(adapter.serializer.to_json, by_alias=False, round_trip=True, warnings="error")
        self._value = partial(adapter.validator.validate_json, by_alias=False, by_name=True)
        self._check = kinds.Check(of)

    def write(self, values: list[Any]) -> list[Any]:
        _refuse_others(self._check, values)
        return [Ext(MODEL, self._bytes(value)) for value in values]

    def read(self, lying: Any) -> Any:
        return self._value(_data(lying, MODEL))

    def again(self, value: Any) -> Any:
        return Ext(MODEL, _json(value))


class Tagged:
    lies_as = Ext
    verify = False

    def __init__(self, of: Any, codec: ColumnCodec) -> None:
        self._check = kinds.Check(of)
        self._codec = codec

    def write(self, values: list[Any]) -> list[Any]:
        self._check(values)
        return [Ext(TAGGED, data) for data in self._codec.encode(values)]

    def read(self, lying: Any) -> Any:
        return self._codec.decode([_data(lying, TAGGED)])[0]

    def again(self, value: Any) -> Any:
        return self.write([value])[0]


def form_of(of: Any, registry: Registry, where: str) -> Form:
    """Raises TopologyError for a type whose values cannot be saved; `where` names the field."""
    if kinds.is_closed(of):
        return Typed(of)
    if kinds.holds_model(of):
        try:
            return Model(of)
        except (PydanticSchemaGenerationError, PydanticUserError, TypeError, NameError) as error:
            raise TopologyError(
                f"{where}: values of type {kinds.name_of(of)} cannot be saved: {error}",
                "use one kind of class in a field: pydantic models, or Structs and dataclasses",
            ) from error
    return Tagged(of, registry.codec(UNKNOWN))


def plain(lying: Any, registry: Registry) -> Any:
    """A saved value as an upgrade sees it: models as dicts, what was tagged as it was. Raises ValueError."""
    if not isinstance(lying, Ext):
        return lying
    if lying.code == TAGGED:
        return registry.codec(UNKNOWN).decode([bytes(lying.data)])[0]
    return msgspec.json.decode(_data(lying, MODEL))


def _refuse_others(check: kinds.Check, values: list[Any]) -> None:
    """A subclass's value would come back as one of the declared class."""
    check(values)
    if not check.exact(values):
        other = next(value for value in values if not check.exact([value]))
        raise TypeError(
            f"{shown(other)} is of type {type(other).__qualname__}, a subclass of the declared "
            f"{kinds.name_of(check.of)}: declare the field with the type that it holds"
        )


def _data(lying: Any, code: int) -> bytes:
    if not isinstance(lying, Ext) or lying.code != code:
        raise ValueError("the saved field is of another kind of type")
    return bytes(lying.data)
