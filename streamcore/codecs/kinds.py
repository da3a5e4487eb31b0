"""What a type admits: which classes its values have, which parts it is made of, who can encode it.

A type here is what a user writes: a class, a generic alias, a union, a Literal, an Annotated, a NewType.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Collection, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import inspect
from pydantic import BaseModel

from streamcore.errors import shown
from streamcore.types import UNKNOWN

NoneType: Final = type(None)
SCALARS: Final[tuple[type[Any], ...]] = (
    *(str, bytes, int, float, bool, NoneType),
    *(Decimal, UUID, datetime, date, time, timedelta),
)
_LOOSE: Final = (inspect.AnyType, inspect.CustomType, inspect.RawType, inspect.ExtType)


def name_of(of: Any) -> str:
    """As a user would write it."""
    if of is NoneType or of is None:
        return "None"
    if _is_union(of):
        return " | ".join(name_of(part) for part in typing.get_args(of))
    return of.__name__ if isinstance(of, type) and not typing.get_args(of) else str(of).replace("typing.", "")


def is_model(of: Any) -> bool:
    """Pydantic's: a model, or a dataclass that validates."""
    return _is_class(of) and of is not BaseModel and hasattr(of, "__pydantic_validator__")


def is_struct(of: Any) -> bool:
    return _is_class(of) and issubclass(of, msgspec.Struct)


def is_named_tuple(of: Any) -> bool:
    return _is_class(of) and hasattr(of, "_fields") and issubclass(of, tuple)


def is_enum(of: Any) -> bool:
    return _is_class(of) and issubclass(of, enum.Enum)


def is_record_class(of: Any) -> bool:
    """A class whose values streamcore can take apart and put together by its fields, or an Enum."""
    return (
        is_model(of)
        or is_struct(of)
        or is_named_tuple(of)
        or is_enum(of)
        or (_is_class(of) and dataclasses.is_dataclass(of))
    )


def class_name(owner: type[Any]) -> str:
    return f"{owner.__module__}.{owner.__qualname__}"


def bare(of: Any) -> Any:
    """Without NewType and Annotated around it."""
    while True:
        if isinstance(of, typing.NewType):
            of = of.__supertype__
        elif typing.get_origin(of) is typing.Annotated:
            of = typing.get_args(of)[0]
        else:
            return NoneType if of is None else of


def members(of: Any) -> tuple[Any, ...]:
    """A union's parts, flat; any other type alone."""
    of = bare(of)
    if _is_union(of):
        return tuple(m for part in typing.get_args(of) for m in members(part))
    return (of,)


def allows_none(of: Any) -> bool:
    return NoneType in members(of)


def without_none(of: Any) -> Any:
    rest = tuple(m for m in members(of) if m is not NoneType)
    return of if len(rest) == len(members(of)) or not rest else union(rest)


def union(parts: Iterable[Any]) -> Any:
    return typing.Union[tuple(parts)]  # noqa: UP007 - of parts known only now


def classes(of: Any) -> frozenset[type[Any]] | None:
    """The classes that values of this type have; None where anything goes."""
    found: set[type[Any]] = set()
    for member in members(of):
        origin = typing.get_origin(member)
        if origin is typing.Literal:
            found.update(map(type, typing.get_args(member)))
        elif member is float:
            found.update((float, int))
        elif typing.is_typeddict(member) or typing.is_typeddict(origin):
            found.add(dict)
        else:
            of_member = origin or member
            if not isinstance(of_member, type) or of_member is object:
                return None
            found.add(of_member)
    return frozenset(found)


class Check:
    """Whether values have a type, judged by their classes: one set a batch where all are as they should be."""

    __slots__ = ("_classes", "of")

    def __init__(self, of: Any) -> None:
        self.of = of
        self._classes = classes(of)

    def __call__(self, values: list[Any]) -> None:
        """Raises TypeError that names the value and the type. A subclass's value is of the type, but a bool is no int
        and a datetime no date."""
        if self.exact(values):
            return
        for value in values:
            if not self._admits(value):
                raise TypeError(f"expected {name_of(self.of)}, got {shown(value)} of type {type(value).__qualname__}")

    def exact(self, values: list[Any]) -> bool:
        """No value is of a subclass either."""
        return self._classes is None or self._classes.issuperset(map(type, values))

    def _admits(self, value: object) -> bool:
        allowed = self._classes or frozenset()
        if type(value) in allowed:
            return True
        if isinstance(value, bool) or (isinstance(value, datetime) and datetime not in allowed):
            return False
        return isinstance(value, tuple(allowed))


def parts(of: Any) -> Iterator[Any]:
    """Every record class reachable from a type through unions, generics and fields, each once."""
    waiting, seen = [of], set[int]()
    keep: list[Any] = []  # ids stay valid while their objects live
    while waiting:
        part = bare(waiting.pop())
        if part is UNKNOWN or id(part) in seen:
            continue
        seen.add(id(part))
        keep.append(part)
        waiting += typing.get_args(part)
        origin = typing.get_origin(part) or part
        if is_record_class(origin):
            yield origin
        if isinstance(origin, type) and (is_record_class(origin) or typing.is_typeddict(origin)):
            waiting += hints(origin).values()


def hints(of: Any) -> dict[str, Any]:
    """Annotations, resolved; empty where they name what cannot be found."""
    try:
        return typing.get_type_hints(of, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def holds_model(of: Any) -> bool:
    return any(is_model(part) for part in parts(of))


def is_plain(of: Any) -> bool:
    """Scalars and Enums, and unions of them: a value of the right class is of the type. Not so for a Literal, or where
    an Annotated bounds it."""
    if _is_union(of):
        return all(map(is_plain, typing.get_args(of)))
    if isinstance(of, typing.NewType):
        return is_plain(of.__supertype__)
    return of is None or of in SCALARS or is_enum(of)


def holds_own_class(of: Any) -> bool:
    """A Struct, a dataclass, a container or a bound somewhere: what checks nothing when it is made."""
    return not is_plain(of)


def can_be_kept(of: Any) -> bool:
    """Values of this type have a form in state: typed, or tagged value by value."""
    for member in members(of):
        origin = typing.get_origin(member) or member
        if member in (UNKNOWN, Any, object) or origin is typing.Literal:
            continue
        known = member in SCALARS or is_record_class(origin) or typing.is_typeddict(origin)
        if not known and not (_is_class(origin) and issubclass(origin, Collection)):
            return False
        if not all(can_be_kept(part) for part in typing.get_args(member) if part is not ...):
            return False
    return True


def apart(a: Any, b: Any) -> bool:
    """No value is of both types, as far as their classes tell."""
    of_a, of_b = (None if of is UNKNOWN else classes(of) for of in (a, b))
    if of_a is None or of_b is None:
        return False
    return not any(issubclass(x, y) or issubclass(y, x) for x in of_a for y in of_b)


def is_closed(of: Any) -> bool:
    """msgspec knows every part of this type, so that what is decoded has the types of what was encoded."""
    if of is UNKNOWN:
        return False
    try:
        return not any(isinstance(node, _LOOSE) for node in _walk(inspect.type_info(of)))
    except (TypeError, NameError, AttributeError):
        return False


def strangers(of: Any) -> list[type[Any]]:
    """Classes inside a type that neither msgspec nor pydantic can write. Raises TypeError, NameError where the type
    itself makes no sense to msgspec."""
    nodes = _walk(inspect.type_info(of))
    return [node.cls for node in nodes if isinstance(node, inspect.CustomType) and not is_model(node.cls)]


def _walk(root: inspect.Type) -> Iterator[inspect.Type]:
    waiting: list[Any] = [root]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, tuple | list):
            waiting += node  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(node, inspect.Field):
            waiting.append(node.type)
        elif isinstance(node, inspect.Type) and id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += (getattr(node, name) for name in node.__struct_fields__)


def _is_union(of: Any) -> bool:
    return isinstance(of, types.UnionType) or typing.get_origin(of) is typing.Union


def _is_class(of: Any) -> bool:
    return isinstance(of, type)
