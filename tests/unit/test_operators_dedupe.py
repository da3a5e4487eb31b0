"""dedupe as a step: which records pass, what is counted, what its policy is told."""

from __future__ import annotations

from typing import Any

import pytest

from streamcore.operators.errors import StepFailed
from streamcore.state.memory import MemoryStore
from streamcore.topology import nodes
from streamcore.topology.nodes import DeadLetter, Skip, Stop
from tests.unit.stages import COUNTS, EVENTS, Task, chain, events, keyed, sink, source

KEEP_MS = 16_000


def deduping(too_old: Any = None, store: MemoryStore | None = None, by: Any = lambda v: v) -> Task:
    s = source(EVENTS)
    step = keyed(nodes.Dedupe, s, "seen", by=by, keep_ms=KEEP_MS, too_old=too_old or Stop())
    return Task(chain(s, step, sink(step, COUNTS)), "events", store)


def passed(task: Task) -> list[tuple[str, int]]:
    task.close()
    return [(k.decode(), int(v)) for k, v in task.producer.items("counts")]


def test_the_first_of_a_keys_records_with_one_id_passes() -> None:
    task = deduping()
    task.feed(events(("a", 1), ("a", 1), ("b", 1), ("a", 2)))
    task.feed(events(("a", 2), ("a", 3)))
    assert passed(task) == [("a", 1), ("b", 1), ("a", 2), ("a", 3)]
    task.program.mark()
    assert task.tally.verdicts == [4, 2, 0]


def test_ids_are_known_in_later_epochs_and_to_the_next_task() -> None:
    task = deduping()
    task.feed(events(("a", 1)))
    task.commit()
    task.feed(events(("a", 1), ("a", 2)))
    task.commit()
    again = deduping(store=task.store)
    again.feed(events(("a", 1), ("a", 2), ("a", 3)))
    assert passed(again) == [("a", 3)]


def test_what_is_undone_is_not_known() -> None:
    s = source(EVENTS)
    step = keyed(nodes.Dedupe, s, "seen", by=lambda v: v, keep_ms=KEEP_MS, too_old=Stop())
    fails = keyed(nodes.Map, step, "fails", f=lambda v: 1 // v and v)
    task = Task(chain(s, step, fails, sink(fails, COUNTS)), "events")
    with pytest.raises(StepFailed):
        task.feed(events(("a", 1), ("a", 0)))
    task.feed(events(("a", 1)))
    task.program.drop()
    task.outbox.drop()
    task.feed(events(("a", 1)))
    assert passed(task) == [("a", 1)]


def test_too_old_goes_by_the_steps_own_policy() -> None:
    late = events(("a", 2), time=0)
    for policy in (Stop(), DeadLetter("old")):
        task = deduping(policy)
        task.feed(events(("a", 1), time=10 * KEEP_MS))
        with pytest.raises(StepFailed, match="keep is") as caught:
            task.feed(late)
        assert caught.value.policy == policy
        assert task.tally.verdicts == [1, 0, 1]
        assert passed(task) == [("a", 1)]
    task = deduping(Skip())
    task.feed(events(("a", 1), time=10 * KEEP_MS))
    task.feed(late)
    assert passed(task) == [("a", 1)]
    task.program.mark()
    assert task.tally.verdicts == [1, 0, 1]


def test_what_is_no_id_is_blamed_on_the_step() -> None:
    with pytest.raises(StepFailed, match="seen"):
        deduping(by=lambda v: [v]).feed(events(("a", 1)))
