"""Map fields: a mapping over the column, read entry by entry, undone by slices."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from streamcore.api.state import Map, State, Value
from streamcore.operators.errors import StepFailed
from streamcore.state.memory import MemoryStore
from streamcore.topology import nodes
from tests.unit.stages import COUNTS, EVENTS, Task, chain, events, keyed, sink, source


class Carts(State):
    total = Value(int, default=0)
    items = Map(str, int)
    notes = Map(int, list[str])


def mapped(on_event: Callable[[Any, Any, Any], Any], store: MemoryStore | None = None) -> Task:
    s = source(EVENTS)
    step = keyed(nodes.Process, s, "carts", state=Carts, on_event=on_event)
    return Task(chain(s, step, sink(step, COUNTS)), "events", store)


class Script:
    """Runs a function on the state of one key, as a record would."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self._todo: Callable[[Any], Any] = len
        self.task = mapped(lambda value, state, ctx: self._run(state), store)
        self._result: Any = None

    def _run(self, state: Any) -> None:
        self._result = self._todo(state)

    def __call__(self, todo: Callable[[Any], Any], key: str = "a") -> Any:
        self._todo = todo
        self.task.feed(events((key, 0)))
        return self._result


def put(key: str, value: int) -> Callable[[Any], None]:
    return lambda state: state.items.__setitem__(key, value)


def contents(state: Any) -> dict[str, int]:
    return dict(state.items)


def test_entries_outlive_their_run_their_epoch_and_their_task() -> None:
    script = Script()
    script(put("x", 1))
    assert script(contents) == {"x": 1}
    script.task.commit()
    script(put("y", 2))
    assert script(contents) == {"x": 1, "y": 2}
    script.task.commit()
    assert Script(script.task.store)(contents) == {"x": 1, "y": 2}


def test_keys_do_not_see_each_others_entries_nor_fields() -> None:
    script = Script()
    script(put("x", 1))
    script(put("x", 2), key="ab")
    script(lambda s: s.notes.__setitem__(1, ["n"]))
    script.task.commit()
    assert script(contents) == {"x": 1}
    assert script(contents, key="ab") == {"x": 2}
    assert script(lambda s: dict(s.notes)) == {1: ["n"]}
    assert script(lambda s: dict(s.notes), key="ab") == {}


def test_it_is_a_mapping() -> None:
    script = Script()
    for key, value in [("b", 2), ("a", 1), ("c", 3), ("d", 4)]:
        script(put(key, value))
    script.task.commit()
    script(put("aa", 9))
    script(lambda s: s.items.pop("d"))

    def all_ways(state: Any) -> Any:
        items = state.items
        items["new"] = 5
        del items["b"]
        with pytest.raises(KeyError):
            items["b"]
        with pytest.raises(KeyError):
            del items["never"]
        assert "a" in items and "b" not in items and "never" not in items
        assert items.get("b") is None and items.get("a") == 1 and items.setdefault("a", 7) == 1
        assert len(items) == 4 and bool(items)
        assert list(items) == ["a", "aa", "c", "new"]
        assert list(items.items()) == [("a", 1), ("aa", 9), ("c", 3), ("new", 5)]
        assert list(items.values()) == [1, 9, 3, 5]
        assert list(items.range("aa", "new")) == [("aa", 9), ("c", 3)]
        assert repr(items) == "Map({'a': 1, 'aa': 9, 'c': 3, 'new': 5})"
        items.update({"a": 10})
        return dict(items)

    assert script(all_ways) == {"a": 10, "aa": 9, "c": 3, "new": 5}
    script.task.commit()
    assert script(contents) == {"a": 10, "aa": 9, "c": 3, "new": 5}
    script(lambda s: s.items.clear())
    script.task.commit()
    assert script(lambda s: (contents(s), bool(s.items))) == ({}, False)


def test_a_failed_slice_and_a_dropped_epoch_leave_no_trace() -> None:
    script = Script()
    script(put("x", 1))

    def fails(state: Any) -> None:
        state.items["x"] = 2
        del state.items["x"]
        state.items["y"] = 3
        raise ValueError("no")

    with pytest.raises(StepFailed):
        script(fails)
    assert script(contents) == {"x": 1}
    script.task.commit()
    script(put("z", 1))
    script.task.program.drop()
    assert script(contents) == {"x": 1}


def test_a_mutable_entry_that_was_read_is_saved_if_it_changed() -> None:
    script = Script()
    script(lambda s: s.notes.__setitem__(1, ["a"]))
    script.task.commit()
    assert script(lambda s: list(s.notes[1])) == ["a"]
    assert script.task.commit() == {}
    script(lambda s: s.notes[1].append("b"))
    script.task.commit()
    script(lambda s: [notes.append("c") for notes in s.notes.values()])
    script.task.commit()
    assert script(lambda s: dict(s.notes)) == {1: ["a", "b", "c"]}


@pytest.mark.parametrize(
    "todo",
    [
        lambda s: s.items.__setitem__("x", "text"),
        lambda s: s.items.__setitem__(1, 1),
        lambda s: s.notes.__setitem__(1, [2]),
        lambda s: s.items.__setitem__(1.5, 1),
        lambda s: s.items[1.5],
        lambda s: setattr(s, "items", {}),
    ],
)
def test_what_does_not_fit_is_found_with_its_record(todo: Any) -> None:
    script = Script()
    with pytest.raises(StepFailed, match="carts"):
        script(todo)
    assert script.task.commit() == {}


def test_a_map_equals_a_dict_over_failures_commits_and_aborts() -> None:
    rng = random.Random(2)
    plain: dict[str, dict[str, int]] = {}
    live: dict[str, dict[str, int]] = {}
    script = Script()

    def copied(of: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        return {key: dict(items) for key, items in of.items()}

    for _ in range(300):
        act = rng.random()
        if act < 0.7:
            key, fails = rng.choice("abc"), rng.random() < 0.2
            moves = [(rng.choice("uvwxyz"), rng.choice([None, *range(5)])) for _ in range(rng.randrange(5))]

            def todo(state: Any, moves: Any = moves, fails: bool = fails) -> dict[str, int]:
                for k, v in moves:
                    if v is None:
                        state.items.pop(k, None)
                    else:
                        state.items[k] = v
                    assert (k in state.items) is (v is not None)
                if fails:
                    raise ValueError("no")
                return dict(state.items)

            if fails:
                with pytest.raises(StepFailed):
                    script(todo, key)
                continue
            mine = live.setdefault(key, {})
            for k, v in moves:
                mine.pop(k, None) if v is None else mine.update({k: v})
            found = script(todo, key)
            assert found == mine and list(found) == sorted(mine)
            bounds = sorted(rng.sample("tuvwxyz", 2))
            between = script(lambda s, b=bounds: dict(s.items.range(*b)), key)
            assert between == {k: v for k, v in mine.items() if bounds[0] <= k < bounds[1]}
        elif act < 0.85:
            script.task.commit()
            plain = copied(live)
        else:
            script.task.program.drop()
            live = copied(plain)
