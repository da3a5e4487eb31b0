"""Which types' values cannot change, so that one may be kept and handed out again."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from streamcore.codecs import kinds
from streamcore.types import UNKNOWN


def is_immutable(of: Any) -> bool:
    """Scalars, Enums, Literals, tuples and frozensets of such, frozen models, Structs and dataclasses with such fields,
    and unions of all these. What is not known counts as mutable."""
    return of is not UNKNOWN and _immutable(of, set())


def _immutable(of: Any, above: set[Any]) -> bool:
    """`above`: the classes that are being looked at; one that holds itself is as immutable as the rest of it."""
    members: tuple[Any, ...] = kinds.members(of)
    if len(members) > 1:
        return all(_immutable(member, above) for member in members)
    only: Any = next(iter(members))
    origin: Any = typing.get_origin(only) or only
    if origin is typing.Literal or only in kinds.SCALARS or kinds.is_enum(only):
        return True
    if origin in (tuple, frozenset):
        arguments = [part for part in typing.get_args(only) if part is not Ellipsis]
        return bool(arguments or only == tuple[()]) and all(_immutable(part, above) for part in arguments)
    if not isinstance(origin, type) or not kinds.is_record_class(origin) or typing.get_args(only):
        return False
    return origin in above or (_frozen(origin) and _fields_immutable(origin, above | {origin}))


def _frozen(of: Any) -> bool:
    if kinds.is_named_tuple(of):
        return True
    if kinds.is_struct(of):
        return bool(of.__struct_config__.frozen)
    if dataclasses.is_dataclass(of):
        return bool(getattr(of, "__dataclass_params__").frozen)  # noqa: B009 - unknown to the type checker
    config: dict[str, Any] = of.model_config
    return bool(config.get("frozen")) and config.get("extra") != "allow" and not of.__private_attributes__


def _fields_immutable(of: Any, above: set[Any]) -> bool:
    hints = kinds.hints(of)
    return all(name in hints and _immutable(hints[name], above) for name in _field_names(of))


def _field_names(of: Any) -> tuple[str, ...]:
    if kinds.is_named_tuple(of):
        return of._fields
    if kinds.is_struct(of):
        return of.__struct_fields__
    if dataclasses.is_dataclass(of):
        return tuple(field.name for field in dataclasses.fields(of))
    return tuple(of.model_fields)
