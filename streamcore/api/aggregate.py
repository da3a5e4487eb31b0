"""Aggregates: how many values of a key become one. See streamcore.agg for ready ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from streamcore.types import UNKNOWN

A = TypeVar("A")
V = TypeVar("V")
R_co = TypeVar("R_co", covariant=True)


class _SameAsValue:
    def __repr__(self) -> str:
        return "SAME_AS_VALUE"


SAME_AS_VALUE: Final[Any] = _SameAsValue()
"""For `accumulator` and `shown`: the type of the stream's values."""


@dataclass(frozen=True)
class Aggregate(Generic[V, A, R_co]):
    """`zero` makes the accumulator of a key that has none, `add` returns it with one value more (a new one, or the
    same changed), `result` makes of it what the table shows; `merge` joins two. `accumulator` and `shown` are the types
    of the accumulator and of the result: where they are not given, the annotations of `add` and `result` tell,
    or else each saved value carries its own."""

    zero: Callable[[], A]
    add: Callable[[A, V], A]
    result: Callable[[A], R_co]
    merge: Callable[[A, A], A] | None = None
    accumulator: Any = UNKNOWN
    shown: Any = UNKNOWN
