"""Values of unknown static type: msgpack in which every value carries its class.

Plain scalars (str, bytes, int, float, bool, None), lists, and dicts with plain keys are msgpack's own. Everything else
is an extension, whose data is text, or msgpack again:

    1 int of more than 64 bits: its bytes, signed          2 Decimal   3 datetime   4 date   5 time: text
    6 timedelta: [days, seconds, microseconds]             7 UUID: 16 bytes
    8 tuple   9 set   10 frozenset: an array               11 dict: an array of [key, value]
    12 a read-only view of a dict (a Record's headers)
    16 an object whose fields are all typed: [class, bytes of its own typed codec]
    17 any other object: [class, {field: value}]           18 an Enum's member: [class, name]

A class is named `module.qualname`; it is looked up among the classes that the job's own code refers to, and nothing
that arrives can name another. A class that moved to another module is found by its qualname while that is unique.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Protocol, cast
from uuid import UUID

import msgspec
from msgspec.msgpack import Ext

from streamcore.codecs import kinds
from streamcore.errors import shown

PLAIN: Final = frozenset((str, bytes, int, float, bool, kinds.NoneType))
_TYPED, _FIELDS, _MEMBER = 16, 17, 18

_EXTENSIONS: Final = frozenset(bytes((mark,)) for mark in (0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))

_encode: Final = msgspec.msgpack.Encoder().encode


class Typed(Protocol):
    """The codec of a class whose fields are all typed."""

    def encode(self, values: list[Any]) -> list[bytes]: ...
    def decode(self, payloads: list[bytes]) -> list[Any]: ...


class Tagged:
    """For one thread. `typed` gives a class's codec, or None where some field's type is not known."""

    def __init__(self, typed: Callable[[type[Any]], Typed | None]) -> None:
        self._typed = typed
        self._by_name: dict[str, type[Any] | None] = {}
        self._writers: dict[type[Any], Callable[[Any], Any]] = {
            **dict.fromkeys(PLAIN, _itself),
            int: _int,
            list: lambda v: list(map(self._prepared, v)),
            dict: self._dict,
            tuple: lambda v: self._array(8, v),
            set: lambda v: self._array(9, v),
            frozenset: lambda v: self._array(10, v),
            MappingProxyType: lambda v: Ext(12, _encode(self._dict(dict(v)))),
            Decimal: lambda v: Ext(2, str(v).encode()),
            datetime: lambda v: Ext(3, v.isoformat().encode()),
            date: lambda v: Ext(4, v.isoformat().encode()),
            time: lambda v: Ext(5, v.isoformat().encode()),
            timedelta: lambda v: Ext(6, _encode((v.days, v.seconds, v.microseconds))),
            UUID: lambda v: Ext(7, v.bytes),
        }
        self._readers: dict[int, Callable[[memoryview], Any]] = {
            1: lambda data: int.from_bytes(data, signed=True),
            2: lambda data: Decimal(str(data, "ascii")),
            3: lambda data: datetime.fromisoformat(str(data, "ascii")),
            4: lambda data: date.fromisoformat(str(data, "ascii")),
            5: lambda data: time.fromisoformat(str(data, "ascii")),
            6: lambda data: timedelta(*self._decode(data)),
            7: lambda data: UUID(bytes=bytes(data)),
            8: lambda data: tuple(self._decode(data)),
            9: lambda data: set(self._decode(data)),
            10: lambda data: frozenset(self._decode(data)),
            11: lambda data: dict(self._decode(data)),
            12: lambda data: MappingProxyType(self._decode(data)),
            _TYPED: self._read_typed,
            _FIELDS: self._read_fields,
            _MEMBER: self._read_member,
        }
        self._decode = msgspec.msgpack.Decoder(ext_hook=self._read).decode

    def encode(self, value: Any) -> bytes:
        """Raises TypeError for a value of a class that the job's code does not name. A list is tagged item by item."""
        return _encode(self._prepared(value))

    def encode_list(self, values: list[Any]) -> bytes:
        if PLAIN.issuperset(map(type, values)):
            try:
                return _encode(values)
            except OverflowError:  # an int of more than 64 bits
                return _encode(list(map(self._prepared, values)))
        return _encode(list(map(self._prepared, values)))

    def decode(self, payload: bytes) -> Any:
        """Raises ValueError."""
        try:
            return self._decode(payload)
        except (msgspec.MsgspecError, TypeError, KeyError, RecursionError, ArithmeticError) as error:
            raise ValueError(f"not a tagged value: {error}") from error

    def decode_list(self, payload: bytes) -> list[Any]:
        """Raises ValueError."""
        values = self.decode(payload)
        if not isinstance(values, list):
            raise ValueError("not a list of tagged values")
        return values  # pyright: ignore[reportUnknownVariableType]

    def register(self, owner: type[Any]) -> None:
        """From here on values of the class can be written and read."""
        full = kinds.class_name(owner)
        for name in {full, owner.__qualname__}:
            self._by_name[name] = None if self._by_name.get(name, owner) is not owner else owner
        if self._by_name[full] is None:
            self._writers[owner] = self._two_of_a_name
        elif issubclass(owner, enum.Enum):
            self._writers[owner] = lambda v: Ext(_MEMBER, _encode((full, v.name)))
        elif (typed := self._typed(owner)) is not None:
            self._writers[owner] = lambda v: Ext(_TYPED, _encode((full, typed.encode([v])[0])))
        else:
            names = _field_names(owner)
            self._writers[owner] = lambda v: Ext(
                _FIELDS, _encode((full, {n: self._prepared(getattr(v, n)) for n in names}))
            )

    def _prepared(self, value: object) -> Any:
        kind = type(value)
        write = self._writers.get(kind)
        if write is None:
            raise TypeError(
                f"a value of type {kinds.class_name(kind)} cannot be kept or sent: {shown(value)}: "
                "the job's code does not name its class (annotate the return type of the function that makes it), or "
                "it is neither a pydantic model, a Struct, a dataclass, an Enum nor a built-in"
            )
        return write(value)

    def _array(self, code: int, values: Iterable[Any]) -> Ext:
        return Ext(code, _encode(list(map(self._prepared, values))))

    def _dict(self, value: dict[Any, Any]) -> Any:
        keys = list(map(self._prepared, value))
        if any(type(key) is Ext for key in keys):
            return Ext(11, _encode(list(zip(keys, map(self._prepared, value.values()), strict=True))))
        return dict(zip(keys, map(self._prepared, value.values()), strict=True))

    def _two_of_a_name(self, value: object) -> Any:
        name = kinds.class_name(type(value))
        raise TypeError(f"two classes are named {name}: rename one, values are found by that name")

    def _read(self, code: int, data: memoryview) -> Any:
        if code not in self._readers:
            raise ValueError(f"unknown tag {code}")
        return self._readers[code](data)

    def knows(self, owner: type[Any]) -> bool:
        return self._by_name.get(kinds.class_name(owner)) is owner

    def known(self, name: str) -> type[Any]:
        """The job's class of that name. Raises ValueError."""
        owner = self._by_name.get(name) or self._by_name.get(name.rpartition(".")[2])
        if owner is None:
            raise ValueError(f"the job's code names no class {name!r} (any more), and a kept or sent value is of it")
        return owner

    def _read_typed(self, data: memoryview) -> Any:
        name, payload = self._decode(data)
        typed = self._typed(self.known(name))
        if typed is None:
            raise ValueError(f"class {name!r} has untyped fields now; a kept value was written with typed ones")
        return typed.decode([payload])[0]

    def _read_fields(self, data: memoryview) -> Any:
        name, fields = self._decode(data)
        return _make(self.known(name), fields)

    def _read_member(self, data: memoryview) -> Any:
        name, member = self._decode(data)
        return self.known(name)[member]  # pyright: ignore[reportIndexIssue, reportUnknownVariableType]


def is_tagged(payload: bytes) -> bool:
    """Whether this is an extension: what no typed value but a lone datetime is."""
    return payload[:1] in _EXTENSIONS


def _itself(value: Any) -> Any:
    return value


def _int(value: int) -> Any:
    return value if -(1 << 63) <= value < 1 << 64 else Ext(1, value.to_bytes(value.bit_length() // 8 + 1, signed=True))


def _field_names(owner: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(owner):
        return tuple(field.name for field in dataclasses.fields(owner))
    return owner.__struct_fields__ if kinds.is_struct(owner) else owner._fields


def _make(owner: Any, fields: dict[str, Any]) -> Any:
    """The object as it was: a dataclass's __init__ is not run again. A field that is new takes its default; one that
    is gone is left out."""
    known = {name: fields[name] for name in _field_names(owner) if name in fields}
    if not dataclasses.is_dataclass(owner):
        return owner(**known)
    made: Any = object.__new__(cast("type[Any]", owner))
    for field in dataclasses.fields(owner):
        object.__setattr__(made, field.name, known[field.name] if field.name in known else _default(field))
    return made


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is dataclasses.MISSING:
        raise ValueError(f"a kept value has no field {field.name!r}, which its class has now: give it a default")
    return field.default
