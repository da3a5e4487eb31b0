"""Records that wait to be sliced, and cuts that belong together."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from streamcore.log.port import Run
from streamcore.runtime.waiting import CUT_TOGETHER_S, Waiting
from streamcore.testing.clock import ManualClock
from streamcore.types import Partition, TaskId, TopicPartition

SHUFFLE = SimpleNamespace(is_shuffle=True)


@dataclass(eq=False)
class Task:
    id: TaskId
    stage: Any = field(default_factory=lambda: SHUFFLE)
    cutting: int | None = None
    cut: int | None = None


def task(partition: int, stage: str = "words") -> Any:
    return Task(TaskId(stage, Partition(partition)))


def run(offsets: list[int]) -> Run:
    none: list[bytes | None] = [None] * len(offsets)
    return Run(TopicPartition("words", Partition(0)), offsets, none, none, [0] * len(offsets))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_task_at_its_marker_is_fed_nothing_and_others_are(clock: ManualClock) -> None:
    waiting, first, second = Waiting(clock), task(0), task(1)
    waiting.put(first, run([0, 1, 2]))
    waiting.put(second, run([5]))
    taken = waiting.take()
    assert taken is not None and taken[0] is first
    waiting.put_back(first, taken[1], 1)
    waiting.at_marker(first, 7, [first, second])
    taken = waiting.take()
    assert taken is not None and taken[0] is second
    assert waiting.take() is None and waiting.records == 2
    first.cutting = None
    taken = waiting.take()
    assert taken is not None and (taken[0], taken[2]) == (first, 1)
    assert not waiting


def test_a_cut_waits_for_others_of_its_stage_and_not_for_long(clock: ManualClock) -> None:
    waiting, first, second = Waiting(clock), task(0), task(1)
    waiting.at_marker(first, 7, [first, second])
    assert waiting.more_will_cut([first], [first, second])
    clock.advance(timedelta(seconds=CUT_TOGETHER_S * 0.9))
    assert waiting.more_will_cut([first], [first, second])
    clock.advance(timedelta(seconds=CUT_TOGETHER_S * 0.2))
    assert not waiting.more_will_cut([first], [first, second])


def test_a_cut_waits_for_nobody_who_has_cut_or_is_of_another_stage(clock: ManualClock) -> None:
    """Whatever records wait."""
    waiting, first, done, other = Waiting(clock), task(0), task(1), task(0, "lines")
    done.cut = 7
    waiting.put(other, run([0, 1]))
    waiting.at_marker(first, 7, [first, done, other])
    assert not waiting.more_will_cut([first], [first, done, other])


def test_a_cut_waits_for_no_marker_while_only_records_behind_markers_wait(clock: ManualClock) -> None:
    """They would be in the way of the next poll's."""
    waiting, first, second = Waiting(clock), task(0), task(1)
    waiting.put(first, run([3]))
    waiting.at_marker(first, 7, [first, second])
    assert not waiting.more_will_cut([first], [first, second])


def test_what_must_be_said_now_does_not_wait(clock: ManualClock) -> None:
    waiting, first, second, says = Waiting(clock), task(0), task(1), task(2)
    waiting.at_marker(first, 7, [first, second, says])
    assert not waiting.more_will_cut([first, says], [first, second, says])
