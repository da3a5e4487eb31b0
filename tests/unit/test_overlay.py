"""The overlay: in place, undone by slices, dropped by epochs, bounded as a cache."""

from __future__ import annotations

from typing import Any

import pytest

from streamcore import limits
from streamcore.codecs.dynamic import Registry
from streamcore.errors import InvariantBroken, RecordFailed, RecordTooLarge, StateMismatch
from streamcore.state.keys import encode_keys, state_keys
from streamcore.state.memory import MemoryStore
from streamcore.state.overlay import ABSENT, Overlay
from streamcore.state.store import EpochMark
from streamcore.types import Epoch, Offset


class Bench:
    def __init__(self, of: Any = int, stays: Any = lambda values: True) -> None:
        self.store = MemoryStore(["s"])
        self.reads: list[bytes] = []
        self.overlay = Overlay("s", self, Registry().codec(of), stays)

    def get(self, key: bytes) -> bytes | None:
        return self.get_many([key])[0]

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        self.reads += keys
        return self.store.column("s").get_many(keys)

    def scan(self, start: bytes, stop: bytes) -> Any:
        return self.store.column("s").scan(start, stop)

    def set(self, **values: Any) -> None:
        self.overlay.open(list(values))
        self.overlay.values.update(values)
        self.overlay.close()

    def read(self, *keys: str) -> list[Any]:
        return self.overlay.read(list(keys))

    def commit(self) -> None:
        self.overlay.keep()
        self.store.apply({"s": self.overlay.drain()}, EpochMark("l", Epoch(0), "n", Offset(0), Offset(1)))
        self.overlay.committed()


def test_layers_come_off_one_by_one() -> None:
    bench = Bench()
    bench.set(a=1)
    bench.commit()
    bench.set(a=2, b=2)
    bench.overlay.keep()
    bench.set(a=3, b=3, c=3)
    bench.set(a=4)
    assert bench.read("a", "b", "c") == [4, 3, 3]
    bench.overlay.undo()
    assert bench.read("a", "b", "c") == [2, 2, ABSENT]
    bench.overlay.drop()
    assert bench.read("a", "b", "c") == [1, ABSENT, ABSENT]
    assert not bench.overlay.drain()


def test_a_value_that_is_the_same_object_as_before_is_not_written() -> None:
    bench = Bench()
    bench.set(a=1, b=2)
    bench.commit()
    bench.overlay.open(["a", "b"])
    bench.overlay.values["b"] = 1_000
    bench.overlay.close()
    delta = bench.overlay.drain()
    assert delta.keys == state_keys(encode_keys(["b"]))


def test_what_is_cached_is_not_read_again_and_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_ENTRIES", 20)
    bench = Bench()
    for i in range(100):
        bench.set(**{f"k{i}": i, "hot": i})
        bench.commit()
        assert len(bench.overlay.values) + len(bench.overlay._older) <= 21  # pyright: ignore[reportPrivateUsage]
    assert bench.reads.count(*state_keys(encode_keys(["hot"]))) == 1
    assert bench.read("k3", "hot") == [3, 99]


def test_a_mutable_value_is_the_callers_own() -> None:
    bench = Bench(list[int], stays=lambda values: False)
    bench.set(a=[1])
    bench.overlay.keep()
    bench.read("a")[0].append(2)
    (opened,) = bench.overlay.open(["a"])
    opened.append(3)
    bench.overlay.undo()
    assert bench.read("a") == [[1]]
    (opened,) = bench.overlay.open(["a"])
    opened.append(4)
    bench.overlay.close()
    opened.append(5)
    bench.commit()
    assert bench.read("a") == [[1, 4]]
    bench.overlay.open(["a"])
    bench.overlay.close()
    assert not bench.overlay.drain()


def test_values_that_cannot_be_saved_are_refused_with_step_and_key() -> None:
    bench = Bench(stays=lambda values: False)
    with pytest.raises(TypeError):
        bench.set(a="text")
    bench.overlay.undo()
    assert bench.read("a") == [ABSENT]
    trusting = Bench()
    trusting.set(a=1, b="text")
    with pytest.raises(RecordFailed, match="step 's': the state of key 'b'"):
        trusting.overlay.drain()


def test_a_value_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STATE_VALUE_BYTES", 50)
    for stays in (True, False):
        bench = Bench(str, stays=lambda values, stays=stays: stays)
        with pytest.raises(RecordTooLarge, match="'a'"):
            bench.set(a="x" * 60)
            bench.overlay.drain()


def test_saved_state_of_another_type_stops_the_job() -> None:
    bench = Bench(str)
    bench.set(a="text")
    bench.commit()
    other = Overlay("s", bench, Registry().codec(int), lambda values: True)
    with pytest.raises(StateMismatch, match="step 's'"):
        other.read(["a"])


def test_a_commit_with_an_open_slice_is_a_broken_law() -> None:
    bench = Bench()
    bench.set(a=1)
    with pytest.raises(InvariantBroken):
        bench.overlay.committed()


def test_size_grows_with_what_is_dirty() -> None:
    bench = Bench(list[int], stays=lambda values: False)
    bench.set(a=list(range(1_000)))
    bench.overlay.keep()
    assert bench.overlay.size_bytes > 1_000
    bench.commit()
    assert bench.overlay.size_bytes == 0
