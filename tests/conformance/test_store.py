"""What every store keeps to: one suite over the one in memory and the one on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streamcore.errors import InvariantBroken, StateDamaged, StateMismatch
from streamcore.state.memory import MemoryStore, Tables
from streamcore.state.rocks import RocksStore
from streamcore.state.store import MARK_KEY, RESERVED, Delta, EpochMark, Store, prefix_end
from streamcore.types import Epoch, Offset, Partition, TaskId

Open = Callable[[Iterable[str]], Store]
STEPS = ("count", "seen")


@pytest.fixture(params=["memory", "rocks"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterable[Open]:
    """Opens the same state again each time, and closes what is left open."""
    stores: list[Store] = []
    tables: Tables = {}

    def open_store(steps: Iterable[str]) -> Store:
        if request.param == "memory":
            store: Store = MemoryStore(steps, tables)
        else:
            store = RocksStore.open(tmp_path / "task", steps, job="job", task=TaskId("lines", Partition(0)))
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


def mark(epoch: int, nonce: str = "n") -> EpochMark:
    return EpochMark("line", Epoch(epoch), nonce, Offset(epoch * 10), Offset(epoch * 10 + 2))


def put(**values: bytes | None) -> Delta:
    return Delta([key.encode() for key in values], list(values.values()))


def everything(store: Store, step: str = "count") -> dict[bytes, bytes]:
    return dict(store.column(step).scan(b"", RESERVED))


def test_a_new_store_has_no_mark_and_nothing_else(opened: Open) -> None:
    store = opened(STEPS)
    assert store.mark() is None
    assert store.steps == {"count", "seen"}
    assert everything(store) == {}
    assert store.column("count").get(b"a") is None
    assert store.column("count").get_many([]) == []


def test_an_epoch_is_there_whole_with_its_mark(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({"count": put(a=b"1", b=b""), "seen": put(x=b"9")}, mark(0))
    assert store.mark() == mark(0)
    assert store.column("count").get_many([b"b", b"c", b"a", b"a"]) == [b"", None, b"1", b"1"]
    assert everything(store, "seen") == {b"x": b"9"}


def test_an_empty_epoch_moves_the_mark(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({}, mark(0))
    store.apply({"count": put()}, mark(1))
    assert store.mark() == mark(1)


def test_a_store_without_steps_keeps_its_mark(opened: Open) -> None:
    store = opened(())
    store.apply({}, mark(3))
    store.close()
    assert opened(()).mark() == mark(3)


def test_none_deletes_and_deleting_nothing_is_no_error(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({"count": put(a=b"1", b=b"2")}, mark(0))
    store.apply({"count": put(a=None, z=None)}, mark(1))
    assert everything(store) == {b"b": b"2"}


def test_ranges_go_first_and_stop_short_of_their_end(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({"count": put(a=b"1", b=b"2", c=b"3")}, mark(0))
    store.apply({"count": Delta([b"a"], [b"new"], [(b"a", b"c")])}, mark(1))
    assert everything(store) == {b"a": b"new", b"c": b"3"}


def test_a_range_over_everything_leaves_the_mark(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({"count": put(a=b"1")}, mark(0))
    store.apply({"count": Delta([], [], [(b"", RESERVED)])}, mark(1))
    assert everything(store) == {}
    assert store.mark() == mark(1)


def test_the_same_key_twice_in_a_delta_ends_as_the_later(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({"count": Delta([b"a", b"a", b"b", b"b"], [b"1", b"2", b"1", None])}, mark(0))
    assert everything(store) == {b"a": b"2"}


def test_a_scan_is_in_order_of_bytes_and_keeps_to_its_range(opened: Open) -> None:
    store = opened(STEPS)
    names = [b"", b"\0", b"a", b"a\0", b"a\xff", b"b", b"\xef\xff"]
    store.apply({"count": Delta(names[::-1], [b"v"] * len(names))}, mark(0))
    column = store.column("count")
    assert [key for key, _ in column.scan(b"", RESERVED)] == names
    assert [key for key, _ in column.scan(b"a", prefix_end(b"a"))] == [b"a", b"a\0", b"a\xff"]
    assert list(column.scan(b"b", b"b")) == []
    assert list(column.scan(b"c", b"b")) == []


def test_a_scan_reads_through_any_number_of_entries(opened: Open) -> None:
    store = opened(STEPS)
    keys = [b"%05d" % n for n in range(2_000)]
    store.apply({"count": Delta(keys, keys)}, mark(0))
    assert list(store.column("count").scan(b"00010", b"01990")) == [(key, key) for key in keys[10:1990]]
    assert store.column("count").get_many(keys[::-1]) == keys[::-1]


def test_a_scan_left_unfinished_does_not_keep_the_store_from_closing(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({"count": Delta([b"%04d" % n for n in range(100)], [b""] * 100)}, mark(0))
    scan = store.column("count").scan(b"", RESERVED)
    assert next(scan) == (b"0000", b"")
    store.close()
    assert opened(STEPS).mark() == mark(0)
    del scan


def test_what_was_applied_is_there_after_opening_again(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({"count": put(a=b"1")}, mark(7, "first"))
    store.close()
    store.close()
    again = opened(STEPS)
    assert again.mark() == mark(7, "first")
    assert everything(again) == {b"a": b"1"}


def test_destroyed_is_as_if_it_had_never_been(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({"count": put(a=b"1")}, mark(0))
    store.destroy()
    again = opened(STEPS)
    assert again.mark() is None
    assert everything(again) == {}


def test_a_new_step_begins_empty_at_the_commit_of_the_others(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({"count": put(a=b"1")}, mark(2))
    store.close()
    again = opened((*STEPS, "added"))
    assert again.mark() == mark(2)
    assert everything(again, "added") == {}
    again.apply({"added": put(a=b"2")}, mark(3))
    assert again.mark() == mark(3)


def test_a_step_gone_from_the_code_is_refused_by_name(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({"seen": put(a=b"1")}, mark(2))
    store.close()
    with pytest.raises(StateMismatch, match=r"holds the state of 'seen'.*(.|\n)*give the step its old name back"):
        opened(["count"])
    assert opened(STEPS).mark() == mark(2)


def test_columns_at_different_commits_are_damage(opened: Open) -> None:
    store = opened(STEPS)
    store.apply({}, mark(1))
    apply_past_the_check(store, "seen", Delta([MARK_KEY], [mark(2).encode()]))
    with pytest.raises(StateDamaged, match="stand at different commits"):
        store.mark()


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02abc", b"\x01" + b"\x95\xa1l\x01\xa1n\x02"])
def test_an_unreadable_mark_is_damage(opened: Open, data: bytes) -> None:
    store = opened(STEPS)
    store.apply({}, mark(1))
    apply_past_the_check(store, "seen", Delta([MARK_KEY], [data]))
    with pytest.raises(StateDamaged, match="column 'seen'"):
        store.mark()


def apply_past_the_check(store: Store, step: str, delta: Delta) -> None:
    """Writes into one column only, as a damaged disk might hold it."""
    internals: Any = store
    if isinstance(store, MemoryStore):
        internals.column(step).apply(delta)
    else:
        family = internals._database.get_column_family(step)
        for key, value in zip(delta.keys, delta.values, strict=True):
            family.put(key, value)


@pytest.mark.parametrize(
    "delta",
    [
        Delta([MARK_KEY], [b"1"]),
        Delta([b"a"], []),
        Delta([], [], [(b"a", b"\xff\xff")]),
        Delta([], [], [(b"b", b"a")]),
    ],
)
def test_a_delta_that_breaks_the_rules_changes_nothing(opened: Open, delta: Delta) -> None:
    store = opened(STEPS)
    store.apply({}, mark(1))
    with pytest.raises(InvariantBroken):
        store.apply({"count": put(a=b"1"), "seen": delta}, mark(2))
    assert store.mark() == mark(1)
    assert everything(store) == {}


def test_an_unknown_step_is_a_bug(opened: Open) -> None:
    store = opened(STEPS)
    with pytest.raises(InvariantBroken, match="no column for the step 'other'"):
        store.column("other")
    with pytest.raises(InvariantBroken):
        store.apply({"other": put(a=b"1")}, mark(0))
    assert store.mark() is None


@pytest.mark.parametrize("seed", range(5))
def test_any_sequence_of_epochs_leaves_what_a_dict_would_hold(opened: Open, seed: int) -> None:
    random = Random(seed)
    model: dict[bytes, bytes] = {}
    store = opened(STEPS)
    for epoch in range(30):
        start, stop = sorted((random.randbytes(1) * 2, random.randbytes(1)))
        stop = min(stop, RESERVED)
        ranges = [(start, stop)] if random.random() < 0.3 and start <= stop else []
        keys = [bytes((random.randrange(0xEF), random.randrange(4))) for _ in range(random.randrange(40))]
        values = [None if random.random() < 0.3 else random.randbytes(5) for _ in keys]
        store.apply({"count": Delta(keys, values, ranges)}, mark(epoch))
        for key in [key for key in model if ranges and start <= key < stop]:
            del model[key]
        for key, value in zip(keys, values, strict=True):
            with suppress(KeyError):
                del model[key]
            if value is not None:
                model[key] = value
        if random.random() < 0.2:
            store.close()
            store = opened(STEPS)
        assert everything(store) == dict(sorted(model.items()))
    assert store.mark() == mark(29)
