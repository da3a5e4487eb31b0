"""Ready aggregates, for KeyedStream.aggregate. Accumulators are immutable, so that a hot one is kept decoded.

A key has a value from its first record on, so no result is ever of nothing. "First" and "last" mean the order in which
records of the key arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any, Protocol, TypeVar, overload

from streamcore.api.aggregate import SAME_AS_VALUE, Aggregate
from streamcore.api.graph import returned
from streamcore.codecs import kinds
from streamcore.types import UNKNOWN

__all__ = ["collect", "count", "first", "last", "max", "mean", "min", "sum"]


class Ordered(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


A = TypeVar("A")
C = TypeVar("C", bound=Ordered)
N = TypeVar("N", int, float, Decimal, timedelta)
R = TypeVar("R")
V = TypeVar("V")


def count() -> Aggregate[Any, int, int]:
    """How many values."""
    return Aggregate(int, _one_more, _same, _plus, accumulator=int, shown=int)


def sum(of: Callable[[V], N]) -> Aggregate[V, Any, N]:
    """The sum of `of(value)`: of numbers, or of durations."""

    def add(total: Any, value: V) -> Any:
        return of(value) if total is None else total + of(value)

    return _one_of(of, add, _plus)


def mean(of: Callable[[V], float]) -> Aggregate[V, tuple[float, int], float]:
    """The arithmetic mean of `of(value)`."""

    def add(so_far: tuple[float, int], value: V) -> tuple[float, int]:
        total, n = so_far
        return total + of(value), n + 1

    return Aggregate(_no_mean, add, _quotient, _plus_each, accumulator=tuple[float, int], shown=float)


def min(of: Callable[[V], C]) -> Aggregate[V, Any, C]:
    """The smallest `of(value)`; of equal ones, the first."""

    def add(least: Any, value: V) -> Any:
        new = of(value)
        return new if least is None or new < least else least

    return _one_of(of, add, _lesser)


def max(of: Callable[[V], C]) -> Aggregate[V, Any, C]:
    """The greatest `of(value)`; of equal ones, the first."""

    def add(greatest: Any, value: V) -> Any:
        new = of(value)
        return new if greatest is None or greatest < new else greatest

    return _one_of(of, add, _greater)


@overload
def first() -> Aggregate[V, Any, V]: ...
@overload
def first(of: Callable[[V], R]) -> Aggregate[V, Any, R]: ...
def first(of: Callable[[Any], Any] | None = None) -> Aggregate[Any, Any, Any]:
    """The first value, or what `of` makes of it."""

    def add(kept: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        return kept or ((value if of is None else of(value)),)

    return Aggregate(tuple, add, _its_first, _either, accumulator=UNKNOWN, shown=_made_by(of))


@overload
def last() -> Aggregate[V, Any, V]: ...
@overload
def last(of: Callable[[V], R]) -> Aggregate[V, Any, R]: ...
def last(of: Callable[[Any], Any] | None = None) -> Aggregate[Any, Any, Any]:
    """The last value, or what `of` makes of it."""

    def add(_: Any, value: Any) -> Any:
        return value if of is None else of(value)

    return Aggregate(_nothing, add, _same, _second, accumulator=_made_by(of), shown=_made_by(of))


@overload
def collect() -> Aggregate[V, Any, tuple[V, ...]]: ...
@overload
def collect(of: Callable[[V], R]) -> Aggregate[V, Any, tuple[R, ...]]: ...
def collect(of: Callable[[Any], Any] | None = None) -> Aggregate[Any, Any, Any]:
    """All values, or what `of` makes of each, in one tuple. It has to fit a state value (limits.STATE_VALUE_BYTES): for
    more, keep a Map in a `process` step."""

    def add(kept: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        return (*kept, value if of is None else of(value))

    return Aggregate(tuple, add, _same, _plus, accumulator=UNKNOWN, shown=UNKNOWN)


# --- module-level, so that the same function is the same object in every job ---------------------------------------


def _one_of(of: Callable[[V], Any], add: Callable[[Any, V], Any], merge: Callable[[Any, Any], Any]) -> Any:
    """An accumulator that is None before the first value."""
    made = returned(of)
    kept = UNKNOWN if made is UNKNOWN else kinds.union((made, kinds.NoneType))
    return Aggregate(_nothing, add, _same, merge, accumulator=kept, shown=made)


def _made_by(of: Callable[[Any], Any] | None) -> Any:
    return SAME_AS_VALUE if of is None else returned(of)


def _nothing() -> Any:
    return None


def _no_mean() -> tuple[float, int]:
    return 0.0, 0


def _one_more(n: int, _: Any) -> int:
    return n + 1


def _same(accumulator: A) -> A:
    return accumulator


def _quotient(so_far: tuple[float, int]) -> float:
    return so_far[0] / so_far[1]


def _its_first(kept: tuple[R, ...]) -> R:
    return kept[0]


def _plus(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


def _plus_each(a: tuple[float, int], b: tuple[float, int]) -> tuple[float, int]:
    return a[0] + b[0], a[1] + b[1]


def _lesser(a: Any, b: Any) -> Any:
    return b if a is None or (b is not None and b < a) else a


def _greater(a: Any, b: Any) -> Any:
    return b if a is None or (b is not None and a < b) else a


def _either(a: tuple[R, ...], b: tuple[R, ...]) -> tuple[R, ...]:
    return a or b


def _second(_: Any, b: Any) -> Any:
    return b
