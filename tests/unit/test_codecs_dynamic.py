"""Shuffles and state: a value comes back as what it was, or is refused where it was made."""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from streamcore.codecs.dynamic import Registry
from streamcore.types import UNKNOWN


class Order(BaseModel):
    order_id: str
    total: Decimal = Decimal(1)
    alias: int = Field(default=0, alias="aliased")


class Point(msgspec.Struct):
    x: int
    y: float = 0.0


class FarPoint(Point):
    z: int = 9


class Loose(msgspec.Struct):
    inside: Any


@dataclasses.dataclass(frozen=True)
class Tick:
    at: datetime
    extra: Any = None


@dataclasses.dataclass
class Holder:
    order: Order
    points: list[Point]


class Pair(NamedTuple):
    a: int
    b: str


class Colour(enum.Enum):
    RED = "red"


class Unnamed(msgspec.Struct):
    x: int


NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
KNOWN = Registry(types=[Order, FarPoint, Point, Loose, Tick, Holder, Pair, Colour])
SCALARS: list[Any] = [
    *(None, True, 0, -5, 2**63, 2**64, -(2**70), 1.5, "für", b"\x00\xff"),
    *(Decimal("1.10"), NOON, datetime(2024, 1, 1), date(2024, 1, 2), time(3, 4), timedelta(-1, 2, 3)),
    UUID("12345678-1234-5678-1234-567812345678"),
]
VALUES: list[Any] = [
    *SCALARS,
    *((), (1, "a"), [1, (2,)], {1, 2}, frozenset("ab"), {"a": (1,)}, {1: 2}, {(1, 2): NOON}, {2**80: "big"}),
    *(Order(order_id="o", aliased=3), Point(1, 2.0), FarPoint(1), Loose((1, {2})), Tick(NOON), Tick(NOON, (1,))),
    MappingProxyType({"a": (b"1",)}),
    *(Holder(Order(order_id="o"), [Point(1)]), Pair(1, "b"), Colour.RED, [Order(order_id="o"), None]),
]


def same(a: Any, b: Any) -> bool:
    return a == b and type(a) is type(b)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_of_unknown_type_comes_back_as_what_it_was(value: Any) -> None:
    codec = KNOWN.codec(UNKNOWN)
    assert same(codec.decode(codec.encode([value]))[0], value)
    assert same(codec.decode_column(codec.encode_column([value, value]))[1], value)
    assert all(map(same, codec.decode_column(codec.encode_column([*VALUES, value])), [*VALUES, value]))


@pytest.mark.parametrize(
    ("of", "values"),
    [
        (int, [1, -5]),
        (float, [1.5, 2.0]),
        (str | None, ["a", None]),
        (tuple[int, str], [(1, "a")]),
        (Decimal, [Decimal("1.0")]),
        (datetime, [NOON]),
        (Point, [Point(1), Point(2, 3.0)]),
        (Order, [Order(order_id="o", aliased=4)]),
        (Order | None, [Order(order_id="o"), None]),
        (list[Order], [[Order(order_id="o")]]),
        (Tick, [Tick(NOON, (1,))]),
        (Holder, [Holder(Order(order_id="o"), [Point(1)])]),
        (dict[str, list[Point]], [{"a": [Point(1)]}]),
        (Point | int, [Point(1), 3]),
        (str | Decimal, ["1", Decimal(1)]),
        (Point, [Point(1), FarPoint(1, z=4)]),
        (Point, [FarPoint(1, z=4)]),
    ],
)
def test_a_value_of_known_type_comes_back_as_what_it_was(of: Any, values: list[Any]) -> None:
    codec = KNOWN.codec(of)
    assert list(map(type, codec.decode(codec.encode(values)))) == list(map(type, values))
    assert codec.decode(codec.encode(values)) == values
    assert codec.decode_column(codec.encode_column(values)) == values


@pytest.mark.parametrize("trusted", [False, True])
def test_what_was_tagged_is_readable_when_its_type_is_known_later(trusted: bool) -> None:
    values = [Point(1), Point(2)]
    for written in (KNOWN.codec(UNKNOWN).encode_column(values), KNOWN.codec(UNKNOWN).encode_column([*values, None])):
        assert KNOWN.codec(Point, trusted=trusted).decode_column(written)[:2] == values


def test_what_was_typed_is_refused_when_its_type_is_not_known_any_more() -> None:
    with pytest.raises(ValueError, match="a column of format b'M': the code that wrote it knew its values by another"):
        KNOWN.codec(UNKNOWN).decode_column(KNOWN.codec(Point).encode_column([Point(1)]))


@pytest.mark.parametrize(
    ("of", "value", "message"),
    [
        (int, "a", "expected int, got 'a' of type str"),
        (int, True, "expected int, got True of type bool"),
        (int, 2**70, "a value promised as int is not one: can't serialize ints"),
        (Point, None, "expected Point, got None of type NoneType"),
        (Point, Point("a"), "a value promised as Point is not one: Expected `int`, got `str`"),  # type: ignore[arg-type]
        (list[int], ["a"], "a value promised as list[int] is not one: Expected `int`, got `str`"),
        (
            Order,
            Order.model_construct(order_id=3),
            "a value promised as Order is not one: Pydantic serializer warnings",
        ),
        (
            UNKNOWN,
            Unnamed(1),
            f"a value of type {__name__}.Unnamed cannot be kept or sent: Unnamed(x=1): the job's code does not name "
            "its class (annotate the return type of the function that makes it), or it is neither a pydantic model, a "
            "Struct, a dataclass, an Enum nor a built-in",
        ),
        (UNKNOWN, 1j, "a value of type builtins.complex cannot be kept or sent"),
        (UNKNOWN, [Unnamed(1)], "Unnamed cannot be kept or sent"),
    ],
)
def test_a_broken_promise_is_found_by_the_writer(of: Any, value: Any, message: str) -> None:
    codec = KNOWN.codec(of)
    for write in (codec.encode, codec.encode_column):
        with pytest.raises(TypeError, match=re.escape(message)):
            write([value])


@pytest.mark.parametrize("of", [UNKNOWN, int, Point, Order, list[int]], ids=repr)
@given(payload=st.binary(max_size=64))
def test_any_bytes_decode_to_values_or_a_value_error(of: Any, payload: bytes) -> None:
    codec = KNOWN.codec(of)
    for read in (lambda: codec.decode([payload]), lambda: codec.decode_column(payload)):
        refused = None
        try:
            values = read()
        except ValueError as error:
            refused = error
            values = []
        assert refused is not None or isinstance(values, list)


def test_no_class_is_made_that_the_job_does_not_name() -> None:
    everything = Registry(types=[Unnamed, Loose])
    for value in (Unnamed(1), Loose(Unnamed(2)), (Unnamed(1), 2)):
        (written,) = everything.codec(UNKNOWN).encode([value])
        with pytest.raises(ValueError, match="Unnamed"):
            KNOWN.codec(UNKNOWN).decode([written])


def test_a_class_that_moved_is_found_by_its_name() -> None:
    moved = type("Point", (msgspec.Struct,), {"__annotations__": {"x": int, "y": float}, "__qualname__": "Point"})
    (written,) = KNOWN.codec(UNKNOWN).encode([Point(1, 2.0)])
    found = Registry(types=[moved]).codec(UNKNOWN).decode([written])[0]
    assert type(found) is moved


def test_two_classes_of_one_name_are_not_guessed_at() -> None:
    def make() -> type[Any]:
        class Twin(msgspec.Struct):
            x: int

        return Twin

    one, two = make(), make()
    with pytest.raises(TypeError, match=r"two classes are named .*Twin: rename one, values are found by that name"):
        Registry(types=[one, two]).codec(UNKNOWN).encode([two(1)])


def test_a_dataclass_with_a_new_field_reads_what_was_kept_before_it() -> None:
    def version(**fields: Any) -> Any:
        specs = [(n, Any, dataclasses.field(default=d)) if d is not ... else (n, Any) for n, d in fields.items()]
        return dataclasses.make_dataclass("Kept", specs, namespace={"__module__": "somewhere"})

    old, new, strict = version(a=...), version(a=..., b=7), version(a=..., b=...)
    (written,) = Registry(types=[old]).codec(UNKNOWN).encode([old((1,))])
    assert Registry(types=[new]).codec(UNKNOWN).decode([written])[0] == new((1,), 7)
    with pytest.raises(ValueError, match="a kept value has no field 'b', which its class has now: give it a default"):
        Registry(types=[strict]).codec(UNKNOWN).decode([written])


# --- where the registry looks -------------------------------------------------------------------------------------


def helper(x: int) -> Any:
    return Point(x)


def annotated(value: Holder) -> dict[str, Tick]:
    raise NotImplementedError


class Service:
    def called(self, value: int) -> Any:
        return self._made(value)

    def _made(self, value: int) -> Any:
        return Pair(value, "b")

    def __call__(self, value: int) -> Any:
        return Colour.RED


def enclosing() -> Callable[[int], Any]:
    kind = Loose
    return lambda v: kind(v)


@pytest.mark.parametrize(
    ("f", "known"),
    [
        (lambda v: Point(v), {Point}),
        (lambda v: helper(v), {Point}),
        (lambda v: [Tick(NOON) for _ in range(v)], {Tick}),
        (annotated, {Holder, Order, Point, Tick}),
        (enclosing(), {Loose}),
        (functools.partial(helper), {Point}),
        (Service().called, {Colour, Pair}),
        (Service(), {Colour, Pair}),
        (Order.model_validate, {Order}),
        (Order, {Order}),
        (str.split, set[Any]()),
    ],
)
def test_the_registry_knows_the_classes_that_a_function_names(f: Any, known: set[Any]) -> None:
    assert set(Registry(functions=[f]).classes) == known


def test_annotations_that_name_nothing_are_passed_over() -> None:
    def odd(value: Nowhere) -> Nothing:  # type: ignore[name-defined]  # noqa: F821
        return Point(1)

    assert Registry(functions=[odd]).classes == (Point,)
