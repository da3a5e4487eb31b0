"""Ready aggregates: what each makes of its values, at once and from two halves."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from functools import reduce
from typing import Any

import pytest

from streamcore import Aggregate, agg


def of(value: Any) -> Any:
    return value


def shown(how: Aggregate[Any, Any, Any], values: list[Any]) -> Any:
    return how.result(reduce(how.add, values, how.zero()))


CASES: list[tuple[Aggregate[Any, Any, Any], list[Any], Any]] = [
    (agg.count(), ["a", None, "a"], 3),
    (agg.sum(of), [3, 0, -1], 2),
    (agg.sum(of), [Decimal("1.1"), Decimal("2.2")], Decimal("3.3")),
    (agg.sum(of), [timedelta(1), timedelta(2)], timedelta(3)),
    (agg.sum(lambda v: v["n"]), [{"n": 1}, {"n": 2}], 3),
    (agg.mean(of), [1, 2, 6], 3.0),
    (agg.min(of), [3, 1, 2], 1),
    (agg.max(of), ["b", "c", "a"], "c"),
    (agg.first(), [None, 1], None),
    (agg.first(str), [5, 1], "5"),
    (agg.last(), [1, None], None),
    (agg.last(str), [5, 1], "1"),
    (agg.collect(), [1, 2, 1], (1, 2, 1)),
    (agg.collect(str), [1, 2], ("1", "2")),
]


@pytest.mark.parametrize(("how", "values", "result"), CASES)
def test_an_aggregate_shows_what_it_says(how: Aggregate[Any, Any, Any], values: list[Any], result: Any) -> None:
    assert shown(how, values) == result
    assert type(shown(how, values)) is type(result)


@pytest.mark.parametrize(("how", "values", "result"), CASES)
def test_two_halves_merge_into_the_whole(how: Aggregate[Any, Any, Any], values: list[Any], result: Any) -> None:
    assert how.merge is not None
    for i in range(1, len(values)):
        halves = (reduce(how.add, half, how.zero()) for half in (values[:i], values[i:]))
        assert how.result(how.merge(*halves)) == result


def test_of_equal_values_the_first_stands() -> None:
    one, equal = "x" * 300, "x" * 299 + "x"
    assert shown(agg.min(of), [one, equal]) is one
    assert shown(agg.max(of), [one, equal]) is one


def test_accumulators_are_never_changed_in_place() -> None:
    for how, values, _ in CASES:
        before = how.zero()
        after = how.add(before, values[0])
        assert before == how.zero()
        hash(after) if not isinstance(values[0], dict) else None
