"""Which values a step may keep decoded: immutable built-ins of exactly the promised classes."""

from __future__ import annotations

from typing import Any, Final

from streamcore.codecs import kinds
from streamcore.types import UNKNOWN

_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 64) - 1


def immutable_classes(of: Any) -> frozenset[type[Any]]:
    """The classes of this type's values, where all of them are immutable built-ins; else none."""
    scalars = frozenset(kinds.SCALARS)
    if of is UNKNOWN:
        return scalars
    found = kinds.classes(of) if kinds.is_plain(of) else None
    return found if found is not None and found <= scalars else frozenset()


def fits(values: list[Any], classes: frozenset[type[Any]]) -> bool:
    """Whether all of these have one of the classes exactly, and a wire form for sure."""
    types: set[Any] = set(map(type, values))
    if not classes.issuperset(types):
        return False
    if int in types:
        numbers = values if len(types) == 1 else [v for v in values if type(v) is int]
        if max(numbers) > _INT_MAX or min(numbers) < _INT_MIN:
            return False
    return str not in types or _encodable([v for v in values if type(v) is str])


def _encodable(texts: list[str]) -> bool:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True
