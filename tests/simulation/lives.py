"""Two lives of a job on one cluster: the first is stopped at a savepoint, the second begins from it.

    1 the first life runs, with its faults
    2 the operator gives `rescale`: a savepoint is asked for on the control topic, the job stops there, its members
      leave, the job is resumed from it by the engine's own code; what fails or is killed is given again
    3 the second life runs, with faults of its own, until it is at rest

The operator is an actor like the workers: others go on between any two of its calls, and each may be its last. Who was
stopped in the first life (as by SIGSTOP) wakes up in the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.memory import Fault
from streamcore.checkpoint.savepoint import Savepoint
from streamcore.checkpoint.snapshot import memory
from streamcore.cli.resuming import _wait_until_gone
from streamcore.clock import SeededEntropy
from streamcore.errors import CheckpointDamaged, LogUnavailable, OutcomeUnknown, StopError, StreamcoreError
from streamcore.log.local.log import LocalLog
from streamcore.log.local.wire import Request
from streamcore.runtime import reset as resetting
from streamcore.runtime import resume as resumed
from streamcore.runtime.asking import ask
from streamcore.runtime.control import Cut, decode
from streamcore.runtime.gathering import Forms
from streamcore.runtime.mapping import Changes, plan_resume
from streamcore.state.memory import MemoryStore
from streamcore.testing.history import History
from streamcore.testing.simulated.disk import Disk, MemoryDisk, RocksDisk
from streamcore.testing.simulated.faults import TWIN_REQUESTS
from streamcore.testing.simulated.process import Process
from streamcore.testing.simulated.scheduler import Actor, SimulatedClock
from streamcore.testing.simulated.simulation import Simulation
from streamcore.testing.simulated.standing import Standing
from streamcore.topology.plan import Plan, control_topic
from streamcore.types import TaskId

T = TypeVar("T")
MEMORY: Final = Forms(memory, lambda path, job, task, steps: MemoryStore(steps), 0)
WAIT_S: Final = 25
AGAIN_S: Final = 1.0
PATIENCE_S: Final = 400.0
"""Simulated time until the job must have begun its second life."""
KILLS: Final = ("killed before", "killed after")
CALL_FAULTS: Final = (*KILLS, "lost request", "lost answer")
STORE_FAULTS: Final = ("killed before", "fail", "answer lost", "torn", "slow", "late")


class Life(Simulation):
    """One life. Who has ended at the savepoint is not started again; who is dismissed neither."""

    dismissed = over = False
    before: Life | None = None
    inherited: dict[int, Disk] = {}  # noqa: RUF012  (replaced whole)

    def _back(self, slot: int, disk: Disk | None) -> None:
        current = self._slots.get(slot)
        if not self.dismissed and not (current is not None and at_its_end(current)):
            super()._back(slot, disk)

    def _new_disk(self, slot: int) -> Disk:
        return self.inherited.pop(slot, None) or super()._new_disk(slot)

    def _rests(self) -> bool:
        asleep = self.before is not None and any(
            p.actor is not None and self._lives_now(p) and p.actor.paused for p in self.before._processes
        )
        return not asleep and super()._rests()

    def _look(self) -> None:
        if not self.over:
            super()._look()

    def dismiss(self) -> None:
        self.dismissed = True

    def stop_all(self) -> None:
        """Whoever still runs is asked to end, by hand."""
        for process in self._processes:
            if process.worker is not None and self._lives_now(process):
                process.worker.stop()

    def revive(self) -> None:
        """All are started again by hand."""
        self.dismissed = False
        for slot in sorted(self._wanted):
            super()._back(slot, None)

    def machines(self) -> dict[int, Disk]:
        """Of slots that nobody holds: their disks, as the next life finds them."""
        for _, disk in self._disks:
            estrange(disk)
        return {slot: p.disk for slot, p in self._slots.items() if not self._lives_now(p)}


def at_its_end(process: Process) -> bool:
    return process.worker is not None and process.worker.at_savepoint


def estrange(disk: Disk) -> None:
    """The judge of the next life has no word on it, until it is used there."""
    if isinstance(disk, MemoryDisk):
        for files in disk._files.values():
            files.strange = True
    elif isinstance(disk, RocksDisk):
        disk.killed()
        disk._strange = dict.fromkeys(disk.tasks(), False)


@dataclass
class Given:
    """How the job is to go on."""

    plan: Plan
    partitions: int | None
    """Of its shuffles; None: as many as they have."""
    ask_s: float
    """When the savepoint is asked for."""
    rate: float = 0.0
    """Faults a call of the operator's."""
    kill_at: int | None = None
    """The operator dies at this call of its resume, before it is sent, once."""


@dataclass
class Recorded:
    """Of the first life, as its resume begins."""

    history: History
    cuts: dict[TaskId, Cut]
    saved: Savepoint


class Operator:
    """Gives the command until it is done. A wire, like Process."""

    def __init__(self, life: Life, given: Given, seed: str, scratch: Path, forms: Forms) -> None:
        self.name = "operator"
        self.actor: Actor | None = None
        self.done = False
        self.recorded: Recorded | None = None
        self.told: list[str] = []
        """What went wrong, each time."""
        self.excused = False
        """What the savepoint needs was spoilt by the store: the job cannot begin, and says what is wrong."""
        self.marks: dict[str, int] = {}
        """How much the broker had written down when the last resume began."""
        self.calls = 0
        """Of the resume."""
        self.resumes = 0
        self._life = life
        self._given = given
        self._scratch = scratch
        self._forms = forms
        self._draw = Random(f"{seed}/operator")
        self._clock = SimulatedClock(life.scheduler, lambda: self.actor)
        self._seed = seed
        self._names = 0
        self._of_no_use: set[str] = set()
        """Savepoints behind which the job went on, or that the store has spoilt."""
        self._name = ""
        self._resuming = False
        self._quiet = False
        life.scheduler.at(given.ask_s, self.start)

    def start(self) -> None:
        if not self.done:
            self.actor = self._life.scheduler.start(self.name, self._body)

    def _body(self) -> None:
        scheduler = self._life.scheduler
        try:
            self._command()
            self.done = True
        except StreamcoreError as error:
            spoilt = isinstance(error, CheckpointDamaged) and any(key in error.what for key in self._life._spoilt)
            self.excused = spoilt and self.recorded is not None
            self.told.append(f"{scheduler.now_s:.1f} s: {type(error).__name__}: {error.what}")
        finally:
            scheduler.at(scheduler.now_s + (0.0 if self.done else AGAIN_S), lambda: None if self.done else self.start())

    def _command(self) -> None:
        entropy = SeededEntropy(self._draw.getrandbits(60))
        log = LocalLog(self._life.broker, self._clock, self, Random(f"{self._seed}/operator/log"))
        admin, job, store = log.admin(), self._life._plan.job, self._life.store
        self._name = self._newest(savepoints.names(store, job))
        if not self._name:
            self._life.revive()
            while not admin.members(job):
                self._clock.sleep_s(0.5)
            self._names += 1
            self._name = f"s{self._names}"
            asked = ask(log, admin, job, self._name, True, WAIT_S, self._clock, entropy)
            if asked.trouble:
                raise StopError(f"no savepoint: {asked.trouble}", asked.remedy)
        self._life.dismiss()
        try:
            _wait_until_gone(admin, job, self._clock, WAIT_S)
        except StopError:
            self._life.stop_all()
            raise
        saved = self._loaded()
        plan = self._given.plan
        resume = plan_resume(plan, saved, Changes(partitions=self._given.partitions))

        def still() -> None:
            if again := resumed.ran_on(admin, saved):
                self._of_no_use.add(self._name)
                self.recorded = None  # its offsets stand, so nothing has gone
                raise StopError(f"the job went on: {again}", "")

        still()
        cleared = resetting.found(admin, plan.job, self._scratch / "none")
        if plan.job != job:
            self._life._end_all()  # nothing fences a worker of the old name: it would go on where it was
        self._record(saved)
        self._resuming = True
        self.resumes += 1
        try:
            resumed.Resuming(
                plan, log, admin, store, store, self._scratch / "resuming", self._clock, entropy, forms=self._forms
            ).begin(resume, None if cleared.empty else cleared, still)
        finally:
            self._resuming = False

    def _newest(self, there: list[str]) -> str:
        """Of those that were asked for, and may have come to be after we gave up waiting."""
        found = [n for n in range(self._names, 0, -1) if f"s{n}" in there and f"s{n}" not in self._of_no_use]
        return f"s{found[0]}" if found else ""

    def _loaded(self) -> Savepoint:
        store, job = self._life.store, self._life._plan.job
        try:
            return savepoints.load(store, job, self._name)
        except CheckpointDamaged:
            if f"{job}/savepoints/{self._name}.json" in self._life._spoilt:
                self._of_no_use.add(self._name)
            raise

    def _record(self, saved: Savepoint) -> None:
        broker = self._life.broker
        self.marks = {
            name: len(getattr(broker, name))
            for name in ("transactions", "offsets_sent", "opened", "doubtful", "events", "deleted")
        }
        if self.recorded is not None:
            return
        self._quiet = True
        history = self._life.recorded({})
        for name in ("transactions", "offsets_sent", "opened", "doubtful", "events"):
            setattr(history, name, list(getattr(history, name)))
        history.stopped = list(history.stopped)
        self.recorded = Recorded(history, self._cuts(saved.barrier), saved)
        self._quiet = False

    def _cuts(self, barrier: int) -> dict[TaskId, Cut]:
        life = self._life
        standing = Standing(life._plan, life._counts, life.broker, life.store, set(), [])
        said = [decode(r.value or b"", str(r.tp)) for r in standing.read(control_topic(life._plan.job))]
        return {cut.task: cut for cut in said if isinstance(cut, Cut) and cut.barrier == barrier}

    # --- the wire -------------------------------------------------------------------------------------------------

    def alive(self) -> bool:
        return self.actor is not None and not self.actor.done

    def call(self, request: Request, deliver: Callable[[], T]) -> T:
        assert self.actor is not None
        self.actor.give_way()
        fault = self._fault(CALL_FAULTS)
        if fault == "killed before":
            self.actor.die()
        if fault == "lost request":
            raise self._no_answer(request)
        self._life.broker.delivering = self.name
        answer = deliver()
        if fault == "killed after":
            self.actor.die()
        if fault == "lost answer" and request != "InitProducerId":
            raise self._no_answer(request)
        self.actor.give_way()
        return answer

    def _no_answer(self, request: Request) -> StreamcoreError:
        return OutcomeUnknown(request) if request in TWIN_REQUESTS else LogUnavailable(request)

    def at_store(self, call: str, key: str) -> Fault | None:
        actor = self.actor
        if actor is None or self._life.scheduler.current is not actor or self._quiet:
            return self._life._at_store(call, key)
        actor.give_way()
        fault = self._fault(STORE_FAULTS)
        if fault in KILLS:
            actor.die()
        kind: Any = fault
        return None if fault is None else Fault(kind, self._draw.uniform(0.5, 5))

    def _fault(self, kinds: Sequence[str]) -> str | None:
        self.calls += self._resuming
        if self._given.kill_at is not None:
            return "killed before" if self._resuming and self.calls == self._given.kill_at else None
        if self._life._schedule.over or self._draw.random() >= self._given.rate:
            return None
        return self._draw.choice(kinds)


@dataclass
class Lived:
    first: Recorded | None
    second: History | None
    operator: Operator
    stopped: list[str] = field(default_factory=list[str])


def live(first: Life, given: Given, make: Callable[[Life], Life], seed: str, scratch: Path, rocks: bool) -> Lived:
    """`make`: the second life, which begins now."""
    operator = Operator(first, given, seed, scratch, Forms(threads=0) if rocks else MEMORY)
    first.store.faults = operator.at_store
    first.begin()
    scheduler = first.scheduler
    try:
        scheduler.run(PATIENCE_S, lambda: operator.done or operator.excused or first.cut_short)
        if operator.excused:
            return Lived(operator.recorded, None, operator)
        if not operator.done:
            why = first._stops or operator.told[-3:]
            return Lived(operator.recorded, None, operator, [f"the job never began again: {'; '.join(why)}"])
        first._schedule.over = first.over = True
        second = make(first)
        second.before = first
        if given.plan.job == first._plan.job:
            second._disks = list(first._disks)
            second.inherited = {s: d for s, d in first.machines().items() if operator._draw.random() < 0.5}
        return Lived(operator.recorded, second.run(), operator)
    finally:
        scheduler.end()
