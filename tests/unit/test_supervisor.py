from __future__ import annotations

import os
import signal
import time

import pytest

from streamcore import limits
from streamcore.clock import SeededEntropy
from streamcore.errors import (
    EXIT_AT_SAVEPOINT,
    EXIT_DONE,
    EXIT_HUNG,
    EXIT_REBUILD,
    EXIT_RETRY,
    EXIT_STEP_ASIDE,
    EXIT_STOP,
)
from streamcore.runtime.supervisor import ProcessChild, Supervisor, Told, meaning
from streamcore.types import Slot


class HandClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def sleep_s(self, seconds: float) -> None:
        self.now_s += seconds


class FakeChild:
    def __init__(self, slot: Slot, pid: int) -> None:
        self.slot = slot
        self.pid = pid
        self.code: int | None = None
        self.signals: list[int] = []
        self.heard: Told | None = None
        self.closed = False
        self.deaf = False

    def poll(self) -> int | None:
        return self.code

    def signal(self, number: int) -> None:
        self.signals.append(number)
        if number == signal.SIGKILL:
            self.code = -9
        elif not self.deaf:
            self.code = 0

    def told(self) -> Told | None:
        heard, self.heard = self.heard, None
        return heard

    def close(self) -> None:
        self.closed = True


class House:
    def __init__(self, slots: int) -> None:
        self.clock = HandClock()
        self.born: list[FakeChild] = []
        self.supervisor = Supervisor([Slot(s) for s in range(slots)], self._spawn, self.clock, SeededEntropy(7))

    def _spawn(self, slot: Slot) -> FakeChild:
        self.born.append(FakeChild(slot, 100 + len(self.born)))
        return self.born[-1]

    def step(self, seconds: float = 0.1) -> int | None:
        self.clock.now_s += seconds
        return self.supervisor.step()

    def alive(self, slot: int) -> FakeChild:
        return next(c for c in reversed(self.born) if c.slot == slot and c.code is None)

    def until_born(self, count: int) -> float:
        begun = self.clock.now_s
        for _ in range(1000):
            if len(self.born) >= count:
                return self.clock.now_s - begun
            assert self.step(0.05) is None
        raise AssertionError(f"only {len(self.born)} processes were started")


@pytest.mark.parametrize("code", [EXIT_REBUILD, EXIT_RETRY, EXIT_HUNG, -9, 0, 1])
def test_a_dead_slot_is_started_again_alone(code: int) -> None:
    house = House(3)
    house.step()
    house.alive(1).code = code
    house.until_born(4)
    assert house.born[3].slot == 1
    assert [child.signals for child in house.born] == [[], [], [], []]


def test_a_job_that_stopped_at_a_savepoint_is_not_started_again() -> None:
    """Nor is a slot that was waiting for its turn: it would go on behind the savepoint."""
    house = House(3)
    house.step()
    house.alive(2).code = EXIT_REBUILD
    house.step(0.001)
    house.alive(0).code = EXIT_AT_SAVEPOINT
    code = None
    for _ in range(100):
        code = house.step() if code is None else code
    assert code == EXIT_DONE
    assert len(house.born) == 3


def test_a_slot_that_keeps_dying_waits_longer_each_time_up_to_the_cap() -> None:
    house = House(1)
    house.step()
    waits: list[float] = []
    for born in range(2, 14):
        house.alive(0).code = EXIT_REBUILD
        waits.append(house.until_born(born))
    assert waits[0] <= limits.RESTART_BASE_S * 1.5 + 0.15
    assert waits[3] > waits[0] * 2
    assert max(waits) <= limits.RESTART_CAP_S * 1.5 + 0.15
    assert len({round(wait, 1) for wait in waits[-4:]}) > 1, "no jitter"


def test_a_slot_that_lived_long_begins_its_backoff_anew() -> None:
    house = House(1)
    house.step()
    for born in range(2, 8):
        house.alive(0).code = EXIT_RETRY
        house.until_born(born)
    house.step(limits.RESTART_HEALTHY_S)
    house.alive(0).code = EXIT_RETRY
    assert house.until_born(8) <= limits.RESTART_BASE_S * 1.5 + 0.15


def test_the_first_stop_error_stops_all_and_is_the_exit_code() -> None:
    house = House(3)
    house.step()
    house.alive(2).code = EXIT_STOP
    assert house.step() is None
    house.step()
    assert [child.signals for child in house.born] == [[signal.SIGTERM], [signal.SIGTERM], []]
    assert house.step() == EXIT_STOP
    assert len(house.born) == 3


def test_a_slot_that_stepped_aside_is_left_alone() -> None:
    house = House(2)
    house.step()
    house.alive(0).code = EXIT_STEP_ASIDE
    for _ in range(200):
        assert house.step(1.0) is None
    assert len(house.born) == 2
    house.alive(1).code = EXIT_STEP_ASIDE
    assert house.step() == EXIT_STEP_ASIDE


def test_stopping_lets_every_slot_commit_and_ends_with_0() -> None:
    house = House(2)
    house.step()
    house.alive(1).code = EXIT_RETRY
    house.step()
    house.supervisor.stop()
    house.step()
    assert house.step() == EXIT_DONE
    assert house.born[0].signals == [signal.SIGTERM]
    assert len(house.born) == 2, "a slot that waited for its restart is not started any more"


def test_one_that_does_not_stop_is_killed_after_the_grace() -> None:
    house = House(1)
    house.step()
    house.born[0].deaf = True
    house.supervisor.stop()
    house.step()
    assert house.step(limits.STOP_GRACE_S - 1) is None
    assert house.born[0].signals == [signal.SIGTERM]
    house.step(2)
    assert house.born[0].signals == [signal.SIGTERM, signal.SIGKILL]
    assert house.step() == EXIT_DONE


def test_close_leaves_nothing_running() -> None:
    house = House(2)
    house.step()
    house.supervisor.close()
    assert all(child.signals == [signal.SIGKILL] and child.closed for child in house.born)


def test_progress_is_the_sum_over_slots_and_outlives_their_processes() -> None:
    house = House(2)
    house.step()
    house.born[0].heard = Told(10, 4, 3, 2, 0.004)
    house.born[1].heard = Told(20, 8, 0, 2, 0.009)
    house.step()
    assert house.supervisor.told() == Told(30, 12, 3, 4, 0.009)
    house.born[1].code = -9
    house.until_born(3)
    assert house.supervisor.told() == Told(30, 12, 3, 2, 0.004)


def test_exit_codes_are_told_by_meaning() -> None:
    assert meaning(-9) == "signal 9"
    assert meaning(EXIT_STOP) == "exit 10, a person must act"


# --- real processes -----------------------------------------------------------------------------------------------

CHILD = """
import threading
from streamcore.runtime.supervisor import Link, Told
gone = threading.Event()
link = Link.from_environment(gone.set)
link.tell(Told(records_in=7))
gone.wait(30)
raise SystemExit(3)
"""


def wait_for(what: object, seconds: float = 20.0) -> object:
    """A process's own pace cannot be injected: poll, with a bound."""
    assert callable(what)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found is not None:
            return found
        os.sched_yield()
    raise AssertionError("did not happen in time")


def test_a_child_tells_its_progress_and_ends_when_its_parent_is_gone() -> None:
    child = ProcessChild(["-c", CHILD])
    try:
        assert wait_for(child.told) == Told(records_in=7)
        assert child.poll() is None
    finally:
        child.close()
    assert child.poll() == 3


def test_a_child_that_was_killed_says_so() -> None:
    child = ProcessChild(["-c", CHILD])
    child.signal(signal.SIGKILL)
    child.close()
    assert child.poll() == -9
