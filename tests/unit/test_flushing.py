"""What is flushed before a cut, and that the cut waits for it, but not for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast

import pytest

from streamcore import limits
from streamcore.checkpoint.background import Done, Failed, Inline, Work
from streamcore.errors import StateDirError
from streamcore.runtime.flushing import Flushing
from streamcore.runtime.task import Task
from streamcore.testing.clock import ManualClock


class Store:
    def __init__(self, error: StateDirError | None = None) -> None:
        self.flushes = 0
        self._error = error

    def flush(self, wait: bool) -> None:
        assert wait
        self.flushes += 1
        if self._error is not None:
            raise self._error


class Slow:
    """Work that goes on until the test ends it."""

    def __init__(self) -> None:
        self.call: Callable[[], object] | None = None
        self.result: Done[object] | Failed | None = None
        self.busy = False

    def submit(self, call: Callable[[], object]) -> None:
        self.call = call

    def poll(self) -> Done[object] | Failed | None:
        return self.result

    def wait(self, seconds: float) -> None:
        """There is no other thread."""


def tasks(*stores: Store) -> Sequence[Task]:
    class Holder:
        def __init__(self, store: Store) -> None:
            self.store = store

    return cast(Any, [Holder(store) for store in stores])


def test_every_task_is_flushed_once_a_barrier() -> None:
    a, b = Store(), Store()
    flushing = Flushing(lambda: Inline[object]("flush"), ManualClock())
    assert flushing.over(1, tasks(a, b))
    assert flushing.over(1, tasks(a, b))
    assert (a.flushes, b.flushes) == (1, 1)
    assert flushing.over(2, tasks(a, b))
    assert (a.flushes, b.flushes) == (2, 2)


def test_a_cut_waits_for_the_flush_but_not_for_ever() -> None:
    clock, work = ManualClock(), Slow()
    flushing = Flushing(lambda: cast(Work[object], work), clock)
    assert not flushing.over(1, tasks(Store()))
    clock.advance(timedelta(seconds=limits.FLUSH_BEFORE_CUT_S / 2))
    assert not flushing.over(1, tasks(Store()))
    clock.advance(timedelta(seconds=limits.FLUSH_BEFORE_CUT_S))
    assert flushing.over(1, tasks(Store()))

    work.result = None
    assert not flushing.over(2, tasks(Store()))
    work.result = Done(None)
    assert flushing.over(2, tasks(Store()))


def test_a_flush_that_fails_is_told_and_the_cut_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    full = Store(StateDirError("the disk is full", "free some"))
    flushing = Flushing(lambda: Inline[object]("flush"), ManualClock())
    assert flushing.over(3, tasks(full))
    assert "the disk is full" in caplog.text
