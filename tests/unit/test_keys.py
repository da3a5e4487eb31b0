"""Keys as bytes: order, round trip, freedom from prefixes, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcore import limits
from streamcore.errors import RecordTooLarge, StateDamaged
from streamcore.state import keys

texts = st.text(max_size=8) | st.text(alphabet="\0\1\2a\uffff\U0010ffff", max_size=6)
blobs = st.binary(max_size=8) | st.binary(max_size=6).map(lambda raw: raw.translate(bytes(n % 3 for n in range(256))))
ints = (
    st.integers()
    | st.integers(-(1 << 70), 1 << 70)
    | st.sampled_from([s * (1 << b) + d for s in (1, -1) for b in (0, 7, 8, 63, 64, 65, 600) for d in (-1, 0, 1)])
)
zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))])
instants = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=zones)
scalars = [texts, ints, blobs, st.uuids(), instants]
any_key = st.one_of(*scalars, st.lists(st.one_of(*scalars), max_size=4).map(tuple))
shapes = st.lists(st.sampled_from(scalars), min_size=1, max_size=3)
same_shape = shapes.flatmap(lambda shape: st.tuples(st.tuples(*shape), st.tuples(*shape)))
same_type = st.one_of(*[st.tuples(of, of) for of in scalars])


@given(any_key)
def test_a_key_comes_back_as_it_was(key: Any) -> None:
    assert keys.decode_key(keys.encode_key(key)) == key


@given(same_type | same_shape)
def test_bytes_are_ordered_as_the_keys_are(pair: tuple[Any, Any]) -> None:
    one, other = pair
    assert (keys.encode_key(one) < keys.encode_key(other)) == (one < other)
    assert (keys.encode_key(one) == keys.encode_key(other)) == (one == other)


@given(st.lists(ints, max_size=3).map(tuple), st.lists(ints, max_size=3).map(tuple))
def test_a_shorter_tuple_sorts_before_those_it_begins(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert (keys.encode_key(one) < keys.encode_key(other)) == (one < other)


@given(any_key, any_key)
def test_no_key_is_a_prefix_of_another(one: Any, other: Any) -> None:
    first, second = keys.encode_key(one), keys.encode_key(other)
    assert first == second or not second.startswith(first)


@given(any_key, st.binary(max_size=5))
def test_a_key_ends_where_it_ends_whatever_follows(key: Any, rest: bytes) -> None:
    encoded = keys.encode_key(key)
    assert keys.decode_at(b"xy" + encoded + rest, 2) == (key, 2 + len(encoded))


@given(st.lists(texts) | st.lists(ints) | st.lists(any_key))
def test_a_batch_gives_the_bytes_of_each_key(batch: list[Any]) -> None:
    encoded = keys.encode_keys(batch)
    assert encoded == [keys.encode_key(key) for key in batch]
    assert keys.state_keys(encoded) == [keys.group_prefix(e) + e for e in encoded]
    assert keys.group_prefixes(encoded) == [keys.key_group(e).to_bytes(2) for e in encoded]


@given(st.binary(max_size=12))
def test_foreign_bytes_are_named_and_never_guessed(data: bytes) -> None:
    try:
        key = keys.decode_key(data)
    except StateDamaged:
        return
    assert keys.decode_key(keys.encode_key(key)) == key


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


def test_equal_keys_have_equal_bytes() -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert keys.encode_key(noon) == keys.encode_key(noon.astimezone(timezone(timedelta(hours=2))))
    assert keys.encode_keys([Colour.RED, Level.HIGH, True]) == keys.encode_keys(["red", 3, 1])


def test_the_bytes_on_disk_never_change() -> None:
    key = ("a\0b", -1, 256, b"\1", UUID(int=5), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    assert keys.encode_key(key).hex() == (
        "7030610101620017fe1a01003801020040000000000000000000000000000000054880000000000f424000"
    )
    assert keys.key_group(keys.encode_key("streamcore")) == 13878


@pytest.mark.parametrize("key", [1.5, None, ["a"], (1, None), {"a": 1}])
def test_what_is_no_key_is_refused_by_name(key: Any) -> None:
    with pytest.raises(TypeError, match="cannot be a key: use str, int, bytes, UUID, datetime"):
        keys.encode_key(key)
    with pytest.raises(TypeError, match="cannot be a key"):
        keys.encode_keys(["a", key])


def test_a_datetime_without_a_zone_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"without a time zone.*datetime\.now\(UTC\)"):
        keys.encode_key(datetime(2024, 1, 1))


def test_an_instant_outside_the_calendar_is_refused() -> None:
    with pytest.raises(ValueError, match="outside the years"):
        keys.encode_key(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=3))))


def test_a_tuple_in_a_tuple_is_refused() -> None:
    with pytest.raises(TypeError, match="make it flat"):
        keys.encode_key(("a", ("b",)))


def test_text_that_is_no_unicode_is_refused_alone_and_in_a_batch() -> None:
    with pytest.raises(ValueError, match="no valid text"):
        keys.encode_key("\ud800")
    with pytest.raises(ValueError, match="no valid text"):
        keys.encode_keys(["a", "\ud800"])


def test_a_key_over_the_limit_is_refused_alone_and_in_a_batch() -> None:
    for encode in (lambda: keys.encode_key("x" * 20_000), lambda: keys.encode_keys(["a", "x" * 20_000])):
        with pytest.raises(RecordTooLarge, match=f"takes 20002 bytes, the limit is {limits.STATE_KEY_BYTES}"):
            encode()
