"""A State's rows and entries: every kind of type comes back as it was, versions are upgraded or refused by name."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel

from streamcore.codecs.dynamic import Registry
from streamcore.errors import StateDamaged, StateMismatch, TopologyError
from streamcore.state.immutable import is_immutable
from streamcore.state.memory import MemoryStore
from streamcore.state.rows import VERSIONS_KEY, Entries, Rows, check_versions
from streamcore.state.store import Delta, EpochMark
from streamcore.topology.nodes import FieldSpec, StateSchema
from streamcore.types import UNKNOWN, Epoch, Offset

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Order(BaseModel, frozen=True, strict=True):
    id: str
    amount: Decimal
    at: datetime


class Cart(BaseModel):
    orders: list[Order] = []


class Point(msgspec.Struct, frozen=True):
    x: int
    y: float = 0.0


class Bag(msgspec.Struct):
    items: dict[str, Point] = {}


@dataclass(frozen=True)
class Seen:
    at: datetime
    by: tuple[str, ...] = ()


@dataclass
class Notes:
    lines: list[str] = field(default_factory=list[str])


class Pair(NamedTuple):
    left: int
    right: str


class Colour(enum.Enum):
    RED = "red"


def schema(*fields: FieldSpec, version: int = 1, upgrades: dict[int, Upgrade] | None = None) -> StateSchema:
    return StateSchema("Account", version, fields, upgrades or {})


def rows(*fields: FieldSpec, version: int = 1, upgrades: dict[int, Upgrade] | None = None) -> Rows:
    made = schema(*fields, version=version, upgrades=upgrades)
    return Rows(made, Registry([Order, Cart, Point, Bag, Seen, Notes, Pair, Colour]), "accounts")


def value(name: str, of: Any, default: Any = None) -> FieldSpec:
    return FieldSpec(name, of, default, optional=default is None)


@pytest.mark.parametrize(
    ("of", "sample"),
    [
        (bool, True),
        (int, -(1 << 62)),
        (float, 0.1),
        (str, "ü\0"),
        (bytes, b"\0\xff"),
        (datetime, NOON),
        (date, date(2024, 2, 29)),
        (timedelta, timedelta(days=-1, microseconds=1)),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=7)),
        (Literal["a", "b"], "a"),
        (Colour, Colour.RED),
        (Order, Order(id="o", amount=Decimal("9.90"), at=NOON)),
        (Cart, Cart(orders=[Order(id="o", amount=Decimal(1), at=NOON)])),
        (Point, Point(1, 2.5)),
        (Bag, Bag({"a": Point(1)})),
        (Seen, Seen(NOON, ("a", "b"))),
        (Notes, Notes(["a"])),
        (Pair, Pair(1, "r")),
        (list[int], [1, 2]),
        (set[str], {"a"}),
        (frozenset[int], frozenset({1})),
        (tuple[int, str], (1, "a")),
        (dict[str, list[Decimal]], {"a": [Decimal("1.0")]}),
        (list[Order], [Order(id="o", amount=Decimal(2), at=NOON)]),
        (Order | Cart, Cart()),
        (dict, {"a": [1, (2, Decimal(3))], "b": Point(4)}),
        (list, [NOON, {"x": Order(id="o", amount=Decimal(2), at=NOON)}]),
    ],
)
def test_a_value_of_every_kind_comes_back_as_it_was(of: Any, sample: Any) -> None:
    packer = rows(value("it", of), value("n", int, 0))
    back = packer.decode(packer.encode([[sample, 1], [None, 2]]))
    assert back == [[sample, 1], [None, 2]]
    assert type(back[0][0]) is type(sample)
    entries = Entries(schema(), FieldSpec("m", of, map_key=str), Registry([Order, Point, Cart]), "accounts")
    assert entries.decode(entries.encode([sample, sample])) == [sample, sample]


def test_a_row_may_have_no_fields() -> None:
    packer = rows(FieldSpec("m", int, map_key=str))
    assert packer.decode(packer.encode([[], []])) == [[], []]
    assert packer.encode([]) == packer.decode([]) == []


def test_field_names_are_free() -> None:
    names = ["class", "f1", "f0", "__x", "ünder"]
    packer = rows(*[value(name, int, 0) for name in names])
    assert packer.decode(packer.encode([[1, 2, 3, 4, 5]])) == [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("of", "sample"),
    [
        (int, "1"),
        (int, True),
        (int, 1 << 70),
        (str, "\ud800"),
        (list[int], ["a"]),
        (Point, Point("a")),  # pyright: ignore[reportArgumentType]
        (Seen, Seen("now")),  # pyright: ignore[reportArgumentType]
        (Order, {"id": "o"}),
        (dict, {"a": object()}),
    ],
)
def test_a_value_of_another_type_is_refused_when_it_is_written(of: Any, sample: Any) -> None:
    packer = rows(FieldSpec("it", of, None))
    with pytest.raises((TypeError, ValueError)):
        packer.encode([[sample]])
    entries = Entries(schema(), FieldSpec("m", of, map_key=str), Registry([]), "accounts")
    with pytest.raises((TypeError, ValueError)):
        entries.encode([sample])


def test_defaults_are_each_keys_own() -> None:
    packer = rows(value("n", int, 3), value("tags", list[str], []), value("since", datetime))
    first, second = packer.defaults(), packer.defaults()
    first[1].append("a")
    assert second == [3, [], None]


def test_a_new_field_without_a_new_version_takes_its_default() -> None:
    saved = rows(value("n", int, 0)).encode([[5]])
    wider = rows(value("n", int, 0), value("tags", list[str], []), value("order", Order))
    first, second = wider.decode(saved * 2)
    first[1].append("a")
    assert second == [5, [], None]


def test_a_field_gone_without_a_new_version_is_never_lost_silently() -> None:
    saved = rows(value("n", int, 0), value("old", int, 0)).encode([[5, 6]])
    with pytest.raises(ValueError, match=r"saved Account does not fit.*`old`"):
        rows(value("n", int, 0)).decode(saved)


def test_a_type_changed_without_a_new_version_is_refused() -> None:
    saved = rows(value("it", Order)).encode([[Order(id="o", amount=Decimal(1), at=NOON)]])
    with pytest.raises(ValueError, match="does not fit"):
        rows(value("it", Point)).decode(saved)
    with pytest.raises(ValueError, match="another kind of type"):
        rows(value("it", dict)).decode(saved)


def test_upgrades_run_one_by_one_from_the_saved_version() -> None:
    first = rows(value("count", str, ""), value("order", Order), value("extra", dict), value("at", datetime))
    order = Order(id="o", amount=Decimal("2.50"), at=NOON)
    saved = first.encode([["41", order, {"k": Point(1)}, NOON]])
    steps: list[dict[str, Any]] = []

    def to_two(old: dict[str, Any]) -> dict[str, Any]:
        steps.append(old)
        return {**old, "count": int(old["count"])}

    def to_three(old: dict[str, Any]) -> dict[str, Any]:
        amount = Decimal(old["order"]["amount"])
        return {"count": old["count"] + 1, "amount": amount, "last": Seen(old["at"]), "order": old["order"]}

    third = rows(
        value("count", int, 0),
        value("amount", Decimal),
        value("last", Seen),
        value("order", Order),
        value("note", str, "none"),
        version=3,
        upgrades={1: to_two, 2: to_three},
    )
    assert third.decode(saved) == [[42, Decimal("2.50"), Seen(NOON), order, "none"]]
    plain = {"id": "o", "amount": "2.50", "at": "2024-05-01T12:00:00Z"}
    assert steps == [{"count": "41", "order": plain, "extra": {"k": Point(1)}, "at": NOON}]
    assert third.decode(third.encode([[1, None, None, order, "x"]])) == [[1, None, None, order, "x"]]


def test_an_upgrade_may_return_real_models() -> None:
    saved = rows(value("id", str, "")).encode([["o"]])

    def up(old: dict[str, Any]) -> dict[str, Any]:
        return {"order": Order(id=old["id"], amount=Decimal(1), at=NOON), "orders": [], "any": {"p": Point(1)}}

    fields = value("order", Order), value("orders", list[Order], []), value("any", dict, {})
    packer = rows(*fields, version=2, upgrades={1: up})
    assert packer.decode(saved) == [[Order(id="o", amount=Decimal(1), at=NOON), [], {"p": Point(1)}]]


def test_a_missing_upgrade_is_named_with_what_to_write() -> None:
    saved = rows(value("n", int, 0)).encode([[5]])
    packer = rows(value("n", int, 0), version=3, upgrades={2: dict})
    with pytest.raises(StateMismatch, match=r"saved by version 1 of Account.*no upgrade from version 1") as raised:
        packer.decode(saved)
    assert "class Account(State, version=3, upgrades={1: f})" in raised.value.remedy


def test_a_newer_version_says_to_run_the_newer_code() -> None:
    saved = rows(value("n", int, 0), version=2, upgrades={1: dict}).encode([[5]])
    with pytest.raises(StateMismatch, match="saved by version 2 of Account, the code has version 1") as raised:
        rows(value("n", int, 0)).decode(saved)
    assert "run the newer code" in raised.value.remedy


def test_an_upgrade_that_fails_or_returns_nonsense_is_named() -> None:
    saved = rows(value("n", int, 0)).encode([[5]])
    bad: Any = lambda old: [old]  # noqa: E731
    with pytest.raises(StateMismatch, match=r"upgrade of Account from version 1 failed on \{'n': 5\}: KeyError"):
        rows(version=2, upgrades={1: lambda old: {"n": old["m"]}}).decode(saved)
    with pytest.raises(StateMismatch, match=r"upgrade of Account from version 1 returned \[\{'n': 5\}\]"):
        rows(version=2, upgrades={1: bad}).decode(saved)
    with pytest.raises(ValueError, match=r"does not fit the class.*`gone`"):
        rows(value("n", int, 0), version=2, upgrades={1: lambda old: {**old, "gone": 1}}).decode(saved)


def test_upgrades_with_a_hole_are_refused_before_anything_runs() -> None:
    with pytest.raises(TopologyError, match=r"has upgrades from \[1, 3\], expected \[1, 2, 3\]"):
        rows(version=4, upgrades={1: dict, 3: dict})
    with pytest.raises(TopologyError, match=r"has upgrades from \[2\], expected \[\]"):
        rows(version=2, upgrades={2: dict})
    with pytest.raises(TopologyError):
        rows(version=0)


def test_a_field_of_models_and_structs_mixed_is_refused_before_anything_runs() -> None:
    with pytest.raises(TopologyError, match=r"step 'accounts', field 'it': values of type .* cannot be saved"):
        rows(value("it", list[Order | Point]))


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\1", b"\0\1\xc1", b"\0\1\x81\xa1n\xa1a", b"\0\1\x91\1"])
def test_bytes_that_are_no_row_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, StateMismatch)):
        rows(value("n", int, 0)).decode([data])


def test_entries_lie_below_their_key_and_name_in_the_order_of_their_keys() -> None:
    entries = Entries(schema(), FieldSpec("devices", int, map_key=int), Registry([]), "accounts")
    keys = entries.keys(b"k", [-5, 3, 300])
    assert keys == sorted(keys)
    assert all(key.startswith(entries.prefix(b"k")) for key in keys)
    other = Entries(schema(), FieldSpec("devices2", int, map_key=int), Registry([]), "accounts")
    assert not other.prefix(b"k").startswith(entries.prefix(b"k"))


def test_an_older_entry_that_fits_is_read_and_a_newer_one_refused() -> None:
    def entries(version: int) -> Entries:
        made = schema(version=version, upgrades=dict.fromkeys(range(1, version), dict))
        return Entries(made, FieldSpec("m", int, map_key=str), Registry([]), "accounts")

    assert entries(2).decode(entries(1).encode([4])) == [4]
    with pytest.raises(StateMismatch, match="saved by version 2"):
        entries(1).decode(entries(2).encode([4]))


def test_a_step_is_refused_at_start_when_its_column_holds_what_it_cannot_read() -> None:
    store = MemoryStore(["accounts"])
    column = store.column("accounts")

    def write(data: bytes | None) -> None:
        assert data is not None
        mark = EpochMark("l", Epoch(0), "n", Offset(0), Offset(1))
        store.apply({"accounts": Delta([VERSIONS_KEY], [data])}, mark)

    write(check_versions(column, schema(), "accounts"))
    assert check_versions(column, schema(), "accounts") is None
    with pytest.raises(StateMismatch, match="no upgrade from version 1"):
        check_versions(column, schema(version=2), "accounts")
    write(check_versions(column, schema(version=2, upgrades={1: dict}), "accounts"))
    with pytest.raises(StateMismatch, match="saved by version 2"):
        check_versions(column, schema(), "accounts")
    with pytest.raises(StateMismatch, match="no upgrade from version 1"):
        check_versions(column, schema(version=3, upgrades={2: dict}), "accounts")
    write(b"x")
    with pytest.raises(StateDamaged):
        check_versions(column, schema(), "accounts")


class Tree(msgspec.Struct, frozen=True):
    left: Tree | None = None


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (int, True),
        (str | None, True),
        (Decimal, True),
        (Literal[1, "a"], True),
        (Colour, True),
        (Order, True),
        (Cart, False),
        (Point, True),
        (Bag, False),
        (Seen, True),
        (Notes, False),
        (Pair, True),
        (Tree, True),
        (tuple[int, ...], True),
        (tuple[()], True),
        (tuple[list[int], ...], False),
        (frozenset[UUID], True),
        (tuple, False),
        (list[int], False),
        (dict[str, int], False),
        (Order | Point | None, True),
        (Order | Cart, False),
        (Any, False),
        (object, False),
        (UNKNOWN, False),
    ],
)
def test_only_what_cannot_change_counts_as_immutable(of: Any, expected: bool) -> None:
    assert is_immutable(of) is expected
