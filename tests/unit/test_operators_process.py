"""process: state by key, undone by slices, kept over epochs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Literal

import pytest

from streamcore import limits
from streamcore.api.state import State, Value
from streamcore.operators.errors import StepFailed
from streamcore.state.memory import MemoryStore
from streamcore.topology import nodes, plan
from streamcore.topology.nodes import Stop
from tests.unit.stages import COUNTS, EVENTS, Task, chain, events, keyed, sink, source


class Seen(State):
    count = Value(int, default=0)
    last = Value(int)


class Listed(State):
    items = Value(list[int])


def counted(value: int, state: Seen, ctx: Any) -> Iterable[int]:
    state.count += 1
    state.last = value
    if value < 0:
        raise ValueError("negative")
    return [state.count]


def processing(
    on_event: Callable[[Any, Any, Any], Any] = counted, state: type[State] = Seen, store: MemoryStore | None = None
) -> Task:
    s = source(EVENTS)
    step = keyed(nodes.Process, s, "seen", state=state, on_event=on_event)
    return Task(chain(s, step, sink(step, COUNTS)), "events", store)


def given(task: Task) -> list[tuple[str, int]]:
    return [(k.decode(), int(v)) for k, v in task.producer.items("counts")]


def test_a_count_runs_on_over_slices_epochs_and_tasks() -> None:
    task = processing()
    task.feed(events(("a", 1), ("b", 2), ("a", 3)))
    task.feed(events(("a", 4)))
    task.commit()
    task.feed(events(("b", 5)))
    task.commit()
    assert given(task) == [("a", 1), ("b", 1), ("a", 2), ("a", 3), ("b", 2)]
    again = processing(store=task.store)
    again.feed(events(("a", 0)))
    again.close()
    assert given(again) == [("a", 4)]


def test_a_failed_slice_leaves_no_trace() -> None:
    task = processing()
    task.feed(events(("a", 1)))
    with pytest.raises(StepFailed, match="negative"):
        task.feed(events(("a", 2), ("b", 2), ("a", -1)))
    task.feed(events(("a", 3), ("b", 3)))
    task.commit()
    assert given(task) == [("a", 1), ("a", 2), ("b", 1)]


def test_a_failure_downstream_undoes_the_state_too() -> None:
    s = source(EVENTS)
    step = keyed(nodes.Process, s, "seen", state=Seen, on_event=counted)
    fails = keyed(nodes.Map, step, "fails", f=lambda n: 1 // (n - 2) and n)
    task = Task(chain(s, step, fails, sink(fails, COUNTS)), "events")
    task.feed(events(("a", 1)))
    with pytest.raises(StepFailed, match="fails"):
        task.feed(events(("a", 1)))
    with pytest.raises(StepFailed, match="fails"):
        task.feed(events(("a", 1)))


def test_a_dropped_epoch_goes_back_to_the_commit() -> None:
    task = processing()
    task.feed(events(("a", 1)))
    task.commit()
    task.feed(events(("a", 1), ("b", 1)))
    task.program.drop()
    task.outbox.drop()
    task.feed(events(("a", 1), ("b", 1)))
    task.commit()
    assert given(task) == [("a", 1), ("a", 2), ("b", 1)]


def test_keys_that_were_only_looked_at_are_not_saved() -> None:
    task = processing(lambda v, state, ctx: [state.count])
    task.feed(events(("a", 1)))
    assert task.commit() == {}


class Bounded(State):
    count = Value(Literal["a", "b"])


def test_a_value_that_its_type_does_not_allow_is_never_saved() -> None:
    def on_event(value: int, state: Any, ctx: Any) -> None:
        state.count = "a" if value else "c"

    task = processing(on_event, Bounded)
    task.feed(events(("a", 1)))
    with pytest.raises(StepFailed):
        task.feed(events(("a", 0)))
    task.commit()
    state: Any = task.program.peek("seen", "a")
    assert state.count == "a"


class Answer(IntEnum):
    YES = 42


@pytest.mark.parametrize("wrong", ["text", None, 1.5, True, 1 << 70, Answer.YES])
def test_a_value_of_the_wrong_type_is_found_with_its_record(wrong: Any) -> None:
    def on_event(value: int, state: Any, ctx: Any) -> None:
        state.count = wrong

    task = processing(on_event)
    with pytest.raises(StepFailed, match=r"Seen\.count"):
        task.feed(events(("a", 1)))
    assert task.commit() == {}


def test_a_misspelt_field_is_an_error() -> None:
    def on_event(value: int, state: Any, ctx: Any) -> None:
        state.cuont = 1

    with pytest.raises(StepFailed, match="cuont"):
        processing(on_event).feed(events(("a", 1)))


def test_a_mutable_value_is_saved_undone_and_owned_by_its_slice() -> None:
    kept: list[Any] = []

    def on_event(value: int, state: Any, ctx: Any) -> Iterable[int]:
        state.items = state.items or []
        state.items.append(value)
        kept.append(state.items)
        if value < 0:
            raise ValueError("negative")
        yield len(state.items)

    task = processing(on_event, Listed)
    task.feed(events(("a", 1), ("a", 2)))
    with pytest.raises(StepFailed):
        task.feed(events(("a", 3), ("a", -1)))
    kept[0].append(99)
    task.feed(events(("a", 4)))
    task.commit()
    with pytest.raises(StepFailed):
        task.feed(events(("a", 3), ("a", -1)))
    kept[-1].append(99)
    task.feed(events(("a", 5)))
    task.commit()
    assert given(task) == [("a", 1), ("a", 2), ("a", 3), ("a", 4)]


@pytest.mark.parametrize(
    ("result", "expected"),
    [(None, []), ([7, 8], [7, 8]), ((7,), [7]), (iter([7]), [7]), ({7}, [7]), (range(2), [0, 1])],
)
def test_a_function_may_return_none_or_any_iterable(result: Any, expected: list[int]) -> None:
    task = processing(lambda value, state, ctx: result)
    task.feed(events(("a", 1)))
    task.close()
    assert given(task) == [("a", v) for v in expected]


@pytest.mark.parametrize("result", ["text", b"text", {"a": 1}, 7])
def test_what_is_no_iterable_of_values_is_an_error(result: Any) -> None:
    with pytest.raises(StepFailed, match=f"returned {type(result).__name__}"):
        processing(lambda value, state, ctx: result).feed(events(("a", 1)))


def test_outputs_take_over_key_time_and_origin() -> None:
    def on_event(value: int, state: Any, ctx: Any) -> list[int]:
        return [value] * value

    s = source(EVENTS)
    step = keyed(nodes.Process, s, "seen", state=Seen, on_event=on_event)
    task = Task(plan.build("job", [s, step, sink(step, COUNTS)], Stop(), correlation_ids=True), "events")
    task.feed(events(("a", 0), ("b", 2), ("c", 1), time=5, origins=True))
    task.close()
    ((_, _, values, keys, times, headers),) = task.producer.columns
    assert (values, keys, times) == ([b"2", b"2", b"1"], [b"b", b"b", b"c"], [6, 6, 7])
    assert [h[0][1] for h in headers] == [b"id-1", b"id-1", b"id-2"]


def test_the_context_tells_key_times_chance_and_origin() -> None:
    told: list[Any] = []

    def on_event(value: int, state: Any, ctx: Any) -> None:
        told.append((ctx.key, ctx.event_time, ctx.now, ctx.correlation_id))
        assert ctx.uuid() != ctx.uuid()
        assert 0 <= ctx.random.random() < 1

    task = processing(on_event)
    task.feed(events(("a", 0), ("b", 0), time=2_000, origins=True))
    assert told[1] == (
        "b",
        datetime(1970, 1, 1, 0, 0, 2, 1_000, UTC),
        datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        "id-1",
    )


def test_the_state_of_a_key_can_be_looked_at() -> None:
    task = processing()
    task.feed(events(("a", 7)))
    state: Any = task.program.peek("seen", "a")
    assert (state.count, state.last) == (1, 7)
    state.count = 99
    again: Any = task.program.peek("seen", "a")
    assert again.count == 1
    unknown: Any = task.program.peek("seen", "b")
    assert (unknown.count, unknown.last) == (0, None)


def test_process_equals_a_plain_loop_over_failures_commits_and_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_ENTRIES", 8)
    rng = random.Random(5)

    def on_event(value: int, state: Seen, ctx: Any) -> list[int]:
        state.count += value
        if value == 13:
            raise ValueError("unlucky")
        state.last = value
        return [state.count]

    task = processing(on_event)
    committed: dict[str, tuple[int, int]] = {}
    live = dict(committed)
    for _ in range(400):
        act = rng.random()
        if act < 0.7:
            pairs = [(f"k{rng.randrange(30)}", rng.randrange(40)) for _ in range(rng.randrange(1, 9))]
            try:
                task.feed(events(*pairs))
            except StepFailed:
                continue
            for k, v in pairs:
                live[k] = (live.get(k, (0, 0))[0] + v, v)
        elif act < 0.85:
            task.commit()
            committed = dict(live)
        else:
            task.program.drop()
            task.outbox.drop()
            live = dict(committed)
        for k in rng.sample(sorted(live), min(3, len(live))):
            state: Any = task.program.peek("seen", k)
            assert (state.count, state.last) == live[k]
