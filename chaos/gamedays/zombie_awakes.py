"""Zombie awakes: a worker stops with its transaction open, in the middle of a commit, and wakes after its session.

Hypothesis: nothing of what it had open is ever committed, whether its tasks went to the other worker or its slot was
started on another machine. In the first case it joins again and works; in the second it steps aside with exit code 11.
"""

from __future__ import annotations

import time

from chaos.gamedays.day import Day, day
from chaos.nemesis import SESSION_TIMEOUT_S
from chaos.workers import Process


def main() -> None:
    with day() as today:
        sleeper = asleep(today)
        today.say(f"slot 0 sleeps between send_offsets and commit, for {SESSION_TIMEOUT_S + 6} s")
        took = today.all_out()
        today.say(f"the other worker has done all of the records that were fed, {took:.1f} s later")
        today.flow(max(0.0, SESSION_TIMEOUT_S + 6 - took))
        awake(today, sleeper)
        today.settled()
        today.say(f"each of the tasks has an owner; exit code of the zombie: {sleeper.code}")

        sleeper = asleep(today)
        today.say("slot 0 sleeps again; the slot is started on another machine, with an empty disk")
        today.workers[0].start_elsewhere()
        took = today.until(today.workers[0].has_joined, "joined") + today.all_out()
        today.say(f"the newer one has joined and all outputs are there after {took:.1f} s")
        awake(today, sleeper)
        today.until(lambda: sleeper.code is not None, "ended")
        today.say(f"the zombie ended with {sleeper.code}: {sleeper.last_words(3).splitlines()[0]}")
        today.flow(3.0)
        today.all_out()
        today.judge()


def asleep(today: Day) -> Process:
    today.flow(2.0)
    worker = today.workers[0]
    process = worker.process
    assert process is not None
    worker.set_trap("before-commit", "stop")
    while not process.stopped():
        today.flow(0.2)
    return process


def awake(today: Day, sleeper: Process) -> None:
    sleeper.resume()
    begun = time.monotonic()
    today.flow(2.0)
    today.all_out()
    today.say(f"woken; {time.monotonic() - begun:.1f} s later every record sent has its one output")


if __name__ == "__main__":
    main()
