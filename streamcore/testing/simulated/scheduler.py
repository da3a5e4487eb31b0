"""One thread, several actors, one clock: who goes on next, and when, is drawn from a seed.

An actor is a greenlet that gives way at every call of an injected port. The scheduler picks among those that may go
on, lets a little time pass, and runs what is due in between (`at`): nothing ever waits in real time. When no actor can
go on, time jumps to the next that can, or to the next timer.

Invariants: time never goes back; an actor that died never runs another line of its own with an effect, since every
port of it raises `Crash`; the same seed gives the same order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf
from random import Random
from typing import Final

from greenlet import getcurrent, greenlet

from streamcore.runtime.points import Crash

STEP_S: Final = 0.0005
"""What passes between two turns, at most twice this."""
TURNS: Final = (1, 1, 1, 2, 4, 8, 16)
"""How many port calls an actor may make before another can have its turn; drawn each time."""
START_MS: Final = 1_767_225_600_000
"""The wall clock at the beginning: 2026-01-01."""


class Actor:
    """One greenlet, its clock among the machine's, and whether it lives."""

    def __init__(self, scheduler: Scheduler, name: str, body: Callable[[], None]) -> None:
        self.name = name
        self.dead = False
        """Killed. `done` follows as soon as its stack has unwound."""
        self.done = False
        self.paused_until_s = 0.0
        self._scheduler = scheduler
        self._body = body
        self._turns = 1
        self.wake_s = scheduler.now_s
        self._greenlet = greenlet(self._run)

    @property
    def paused(self) -> bool:
        return self._scheduler.now_s < self.paused_until_s

    def _run(self) -> None:
        try:
            self._body()
        except Crash:
            self.dead = True
        finally:
            self.done = True

    # --- from inside --------------------------------------------------------------------------------------------

    def give_way(self) -> None:
        """At a port call: perhaps another goes first."""
        if self.dead:
            raise Crash(self.name)
        self._turns -= 1
        scheduler = self._scheduler
        now_s = scheduler.now_s
        if self._turns <= 0 or scheduler.due_s <= now_s or self.paused_until_s > now_s:
            self._switch(now_s)
            self._turns = scheduler.turns()

    def sleep_s(self, seconds: float) -> None:
        if self.dead:
            raise Crash(self.name)
        self._switch(self._scheduler.now_s + max(0.0, seconds))

    def die(self) -> None:
        self.dead = True
        raise Crash(self.name)

    def _switch(self, wake_s: float) -> None:
        self.wake_s = wake_s
        self._scheduler.hub.switch()
        if self.dead:
            raise Crash(self.name)

    # --- from outside -------------------------------------------------------------------------------------------

    def resume(self) -> None:
        self._greenlet.switch()

    def pause(self, seconds: float) -> None:
        """Stopped, as by SIGSTOP: it sends no heartbeats and does nothing, then goes on as if nothing had been."""
        self.paused_until_s = self._scheduler.now_s + seconds
        if getcurrent() is self._greenlet:
            self._switch(self.paused_until_s)

    def kill(self) -> None:
        """kill -9, at the port call where it stands. Its stack unwinds at once, and reaches nothing."""
        self.dead = True
        if self.done:
            return
        if getcurrent() is self._greenlet:
            raise Crash(self.name)
        if self._greenlet:
            self._greenlet.throw(Crash(self.name))
        self.done = True
        if self in self._scheduler.actors:
            self._scheduler.actors.remove(self)


class Scheduler:
    def __init__(self, seed: str) -> None:
        self.now_s = 0.0
        self.hub = getcurrent()
        self.actors: list[Actor] = []
        self.steps = 0
        """Switches so far: the history's own clock."""
        self.due_s = inf
        """When the next timer is due."""
        self.current: Actor | None = None
        self._random = Random(seed)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer = 0

    def start(self, name: str, body: Callable[[], None]) -> Actor:
        actor = Actor(self, name, body)
        self.actors.append(actor)
        return actor

    def at(self, time_s: float, what: Callable[[], None]) -> None:
        """Runs in the hub, when no actor does."""
        self._timer += 1
        heapq.heappush(self._timers, (time_s, self._timer, what))
        self.due_s = self._timers[0][0]

    def turns(self) -> int:
        return TURNS[int(self._random.random() * len(TURNS))]

    def run(self, until_s: float, enough: Callable[[], bool]) -> None:
        """Until `enough`, asked after each timer, or until the time."""
        uniform, choose = self._random.random, self._random.randrange
        while self.now_s < until_s:
            if self.due_s <= self.now_s:
                self._pop()()
                if enough():
                    return
                continue
            now = self.now_s
            ready = [a for a in self.actors if a.wake_s <= now and a.paused_until_s <= now]
            if not ready:
                self._jump(until_s)
                continue
            actor = ready[choose(len(ready))] if len(ready) > 1 else ready[0]
            self.steps += 1
            self.now_s += 2 * STEP_S * uniform()
            self.current = actor
            actor.resume()
            self.current = None
            if actor.done:
                self.actors.remove(actor)

    def _pop(self) -> Callable[[], None]:
        what = heapq.heappop(self._timers)[2]
        self.due_s = self._timers[0][0] if self._timers else inf
        return what

    def _jump(self, until_s: float) -> None:
        nexts = [max(a.wake_s, a.paused_until_s) for a in self.actors]
        self.now_s = max(self.now_s, min([*nexts, self.due_s, until_s]))

    def end(self) -> None:
        """Every actor that still lives is killed: nothing of them outlives the run."""
        for actor in list(self.actors):
            actor.kill()
        self.actors.clear()


class SimulatedClock:
    """One machine's. Its wall clock may be wrong; its monotonic clock is everybody's."""

    def __init__(self, scheduler: Scheduler, actor: Callable[[], Actor | None]) -> None:
        """`actor`: who sleeps by this clock; None: nobody may."""
        self._scheduler = scheduler
        self._actor = actor
        self.skew_ms = 0

    def monotonic_s(self) -> float:
        return self._scheduler.now_s

    def wall_ms(self) -> int:
        return START_MS + int(self._scheduler.now_s * 1000) + self.skew_ms

    def sleep_s(self, seconds: float) -> None:
        actor = self._actor()
        if actor is not None:
            actor.sleep_s(seconds)
