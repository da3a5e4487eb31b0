"""Wire formats: what a topic carries, and what is refused with the value and the type named."""

from __future__ import annotations

import dataclasses
import enum
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, Field

from streamcore.codecs.wire import Custom, codec_for, json_codec
from streamcore.errors import TopologyError


class Order(BaseModel, frozen=True):
    order_id: str
    total: Decimal = Decimal(1)


class BigOrder(Order):
    reason: str = ""


class Aliased(BaseModel):
    order_id: str = Field(alias="orderId")


class Point(msgspec.Struct, frozen=True):
    x: int
    y: float = 0.0


class Opened(msgspec.Struct, tag=True):
    id: str


class Closed(msgspec.Struct, tag=True):
    id: str


class Untagged(msgspec.Struct):
    id: str


@dataclasses.dataclass(frozen=True)
class Tick:
    at: datetime
    price: Decimal


class Pair(NamedTuple):
    a: int
    b: str


class Options(TypedDict):
    depth: int


class Colour(enum.Enum):
    RED = "red"


class Holder(msgspec.Struct):
    order: Order


class Stranger:
    pass


class Created(BaseModel):
    kind: Literal["created"] = "created"
    id: str


class Deleted(BaseModel):
    kind: Literal["deleted"] = "deleted"
    id: str


CustomerId = NewType("CustomerId", str)
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
AN_ID = UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("of", "value", "wire"),
    [
        (str, "für", "für".encode()),
        (CustomerId, CustomerId("c1"), b"c1"),
        (str | None, "x", b"x"),
        (bytes, b"\x00\xff", b"\x00\xff"),
        (int, 7, b"7"),
        (int, 2**80, str(2**80).encode()),
        (float, 1.5, b"1.5"),
        (bool, True, b"true"),
        (datetime, NOON, b'"2024-01-01T12:00:00Z"'),
        (date, date(2024, 1, 1), b'"2024-01-01"'),
        (timedelta, timedelta(seconds=90), b'"PT90S"'),
        (UUID, AN_ID, f'"{AN_ID}"'.encode()),
        (Decimal, Decimal("1.10"), b'"1.10"'),
        (list[int], [1, 2], b"[1,2]"),
        (tuple[str, int], ("a", 1), b'["a",1]'),
        (dict[str, int], {"a": 1}, b'{"a":1}'),
        (Options, {"depth": 2}, b'{"depth":2}'),
        (Pair, Pair(1, "b"), b'[1,"b"]'),
        (Colour, Colour.RED, b'"red"'),
        (Literal["on", "off"], "on", b'"on"'),
        (Annotated[int, msgspec.Meta(ge=0)], 3, b"3"),
        (int | None, None, b"null"),
        (int | str, "a", b'"a"'),
        (Point, Point(1, 2.0), b'{"x":1,"y":2.0}'),
        (Tick, Tick(NOON, Decimal(2)), b'{"at":"2024-01-01T12:00:00Z","price":"2"}'),
        (Opened | Closed, Closed("c"), b'{"type":"Closed","id":"c"}'),
        (Order, Order(order_id="o"), b'{"order_id":"o","total":"1"}'),
        (Order | None, None, b"null"),
        (list[Order], [Order(order_id="o")], b'[{"order_id":"o","total":"1"}]'),
        (Aliased, Aliased(orderId="o"), b'{"orderId":"o"}'),
        (Created | Deleted, Deleted(id="d"), b'{"kind":"deleted","id":"d"}'),
        (Holder, Holder(Order(order_id="o")), b'{"order":{"order_id":"o","total":"1"}}'),
    ],
)
def test_every_kind_of_type_has_its_wire_form_and_comes_back(of: Any, value: Any, wire: bytes) -> None:
    codec = codec_for(of)
    assert codec.encode([value, value]) == [wire, wire]
    assert codec.decode([wire]) == [value]
    assert type(codec.decode([wire])[0]) is type(value)
    assert codec.type == of


@pytest.mark.parametrize(
    ("of", "value", "message"),
    [
        (str, 1, "expected str, got 1 of type int"),
        (bytes, "a", "expected bytes, got 'a' of type str"),
        (int, True, "expected int, got True of type bool"),
        (int, None, "expected int, got None of type NoneType"),
        (date, NOON, "expected date, got datetime.datetime(2024, 1, 1, 12, 0, tzinfo=datetime.timezone.utc) of type"),
        (Order, Point(1), "expected Order, got Point(x=1, y=0.0) of type Point"),
        (Point, {"x": 1}, "expected Point, got {'x': 1} of type dict"),
        (Order | None, 3, "expected Order | None, got 3 of type int"),
        (list[int], ["a"], "expected list[int], got ['a']: Expected `int`, got `str` - at `$[0]`"),
        (list[Order], [3], "expected list[test_codecs.Order]: Pydantic serializer warnings"),
        (str, "x" * 500 + "\ud800", ""),
        (int, "y" * 500, "… (502 characters) of type str"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(of: Any, value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        codec_for(of).encode([value])
    assert message.replace("test_codecs.", "") in str(refused.value).replace(f"{__name__}.", "")


def test_a_subclass_is_a_value_of_its_base() -> None:
    assert codec_for(Order).encode([BigOrder(order_id="o", reason="r")]) == [b'{"order_id":"o","total":"1"}']
    assert codec_for(float).encode([1]) == [b"1"]


@pytest.mark.parametrize(
    ("of", "payload", "message"),
    [
        (str, b"\xff", "utf-8"),
        (int, b'"a"', "not a int: Expected `int`, got `str`"),
        (int, b"", "not a int"),
        (Point, b"{}", "not a Point: Object missing required field `x`"),
        (Order, b"{}", "order_id"),
        (Opened | Closed, b'{"type":"Gone","id":"c"}', "Invalid value 'Gone'"),
        (list[Any], b"[" * 100_000, "recursion"),
        (Order, b"[" * 100_000, "Order"),
    ],
)
def test_bytes_that_are_no_value_are_a_value_error(of: Any, payload: bytes, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        codec_for(of).decode([payload])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (Stranger, "class Stranger is none that can be taken apart"),
        (list[Stranger], "class Stranger is none that can be taken apart"),
        (Untagged | Point, "all Struct types must be tagged"),
        (str | datetime, "more than one str-like type"),
        (Order | Point, "Order"),
        ("not a type", "it is no type"),
    ],
)
def test_a_type_without_json_is_refused_when_it_is_named(of: Any, why: str) -> None:
    with pytest.raises(TopologyError) as refused:
        codec_for(of)
    assert why in str(refused.value)


def test_two_models_that_read_alike_are_refused() -> None:
    class First(BaseModel):
        id: str

    class Second(BaseModel):
        id: str

    with pytest.raises(TopologyError) as refused:
        json_codec(First, Second)
    assert str(refused.value) == (
        "the JSON of First cannot be told from that of Second\n"
        '  what to do: give each a field that differs: kind: Literal["first"] and kind: Literal["second"]'
    )
    assert json_codec(Order, Created).decode([b'{"kind":"created","id":"1"}']) == [Created(id="1")]


def test_json_of_no_type_is_refused() -> None:
    with pytest.raises(TopologyError, match="json\\(\\) was given no type"):
        json_codec()


class Lines:
    def encode(self, values: list[list[str]]) -> list[bytes]:
        return ["\n".join(value).encode() for value in values]

    def decode(self, payloads: list[bytes]) -> list[list[str]]:
        return [payload.decode().split("\n") for payload in payloads if payload]


def test_a_codec_of_ones_own_is_used_and_its_count_checked() -> None:
    codec = codec_for(Lines())
    assert isinstance(codec, Custom)
    assert codec.decode(codec.encode([["a", "b"]])) == [["a", "b"]]
    with pytest.raises(ValueError, match=r"Lines\.decode returned 0 items for 1: it must return as many"):
        codec.decode([b""])


def test_json_is_what_other_programs_read() -> None:
    (wire,) = codec_for(Tick).encode([Tick(NOON, Decimal("0.10"))])
    assert json.loads(wire) == {"at": "2024-01-01T12:00:00Z", "price": "0.10"}
