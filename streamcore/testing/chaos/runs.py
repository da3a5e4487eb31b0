"""One report: the quiet run, a run for each seed, and the failure of the first that failed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

from streamcore.api import Job
from streamcore.errors import TopologyError
from streamcore.testing import history as recorded
from streamcore.testing.chaos import faults as wrong
from streamcore.testing.chaos import feeds as given_feeds
from streamcore.testing.chaos.checks import Check, History, at_rest, is_table
from streamcore.testing.chaos.faults import Fault
from streamcore.testing.chaos.feeds import Feed
from streamcore.testing.chaos.telling import Failure, explained
from streamcore.testing.simulated.faults import Injection, Schedule
from streamcore.testing.simulated.feeds import Disturbance, feedings
from streamcore.testing.simulated.shrink import shrunk
from streamcore.testing.simulated.simulation import Simulation
from streamcore.topology.plan import Plan

BARRIER_EVERY_S: Final = 1.0
MEMORY: Final = Path("/dev/shm")
"""Where snapshots of the simulated states lie, if there is such a place."""


@dataclass
class Report:
    seeds: list[int] = field(default_factory=list[int])
    faults: int = 0
    """That happened, in all runs."""
    failure: Failure | None = field(default=None, repr=False)
    """Of the first seed that failed; later ones were not run."""

    @property
    def ok(self) -> bool:
        return self.failure is None and bool(self.seeds)

    def explain(self) -> str:
        if self.failure is None:
            return f"{len(self.seeds)} seeds, {self.faults} faults: nothing wrong" if self.seeds else "no seed was run"
        return "\n".join(explained(self.failure, len(self.seeds)))


@dataclass
class Override:
    """What `streamcore chaos` puts in the place of a test's own seeds."""

    seeds: Sequence[int]
    tell: Callable[[int, int], None] = lambda seed, faults: None
    reports: list[Report] = field(default_factory=list[Report])


override: ContextVar[Override | None] = ContextVar("override", default=None)


def run(
    job: Job,
    *,
    feeds: Sequence[Feed],
    faults: Sequence[Fault],
    checks: Sequence[Check],
    seeds: Iterable[int] = range(100),
    workers: int = 3,
    partitions: int = 2,
    seconds: float = 10.0,
) -> Report:
    """Runs the job once for each seed, up to the first that fails. `seconds`: of simulated time during which things go
    wrong; the run then goes on until the job is at rest. Warnings of the workers are not logged meanwhile. Raises
    TopologyError for a job that cannot run, ValueError; what a check raises carries a note of the seed."""
    _refuse_numbers(workers=workers, partitions=partitions, seconds=seconds)
    with _quiet():
        return _run(_World(job, feeds, faults, (*checks, at_rest), workers, partitions, seconds), seeds)


def _refuse_numbers(**given: float) -> None:
    for name, number in given.items():
        if not number > 0:
            raise ValueError(f"{name}={number}: give more than nothing")


@contextmanager
def _quiet() -> Generator[None]:
    """Faults are what these runs are for: hundreds of warnings tell nobody anything."""
    log = logging.getLogger("streamcore")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _run(world: _World, seeds: Iterable[int]) -> Report:
    given = override.get()
    report = Report()
    if given is not None:
        given.reports.append(report)
    for seed in seeds if given is None else given.seeds:
        schedule = world.drawn(seed)
        history = world.simulated(seed, schedule)
        report.seeds.append(seed)
        report.faults += len(schedule.happened)
        if given is not None:
            given.tell(seed, len(schedule.happened))
        if world.problems(history, seed):
            report.failure = world.failure(seed, schedule.happened)
            break
    return report


class _World:
    """All that the runs of one report have in common."""

    def __init__(
        self,
        job: Job,
        feeds: Sequence[Feed],
        faults: Sequence[Fault],
        checks: Sequence[Check],
        workers: int,
        partitions: int,
        seconds: float,
    ) -> None:
        self.plan = job.plan()
        given_feeds.refuse(self.plan, feeds)
        self._traced = job.plan(correlation_ids=True)
        self._feeds = feeds
        self._rates = wrong.rates(faults)
        self._disturbance = wrong.disturbance(faults)
        self._checks = checks
        self._workers = workers
        self._partitions = partitions
        self._seconds = seconds
        self._checkpoints = wrong.with_checkpoints(faults)
        self._quiet = self._quiet_run(self.plan)

    def drawn(self, seed: int) -> Schedule:
        return Schedule(self._rates, Random(f"{seed}/faults"), slots=self._workers, horizon_s=self._seconds)

    def simulated(self, seed: int, schedule: Schedule, plan: Plan | None = None) -> recorded.History:
        return self._run(plan or self.plan, f"{seed}", schedule, self._disturbance, self._workers)

    def problems(self, history: recorded.History, seed: int) -> list[str]:
        told = History(history, self._quiet, self.plan)
        try:
            return [problem for check in self._checks if (problem := _asked(check, told))]
        except Exception as error:
            error.add_note(f"raised by a check, of the run of seed {seed}")
            raise

    def failure(self, seed: int, schedule: Sequence[Injection]) -> Failure:
        """The same failure with as few faults as were found, and with the origins of records."""

        def given(injections: Sequence[Injection]) -> Schedule:
            return Schedule.of(injections, self._workers, self._seconds)

        short = shrunk(schedule, lambda some: bool(self.problems(self.simulated(seed, given(some)), seed)))
        history = self.simulated(seed, given(short), self._traced)
        quiet = self._quiet_run(self._traced)
        problems = self.problems(history, seed)
        if not problems:  # correlation ids changed its course: tell what was seen, without origins
            history, quiet = self.simulated(seed, given(short)), self._quiet
            problems = self.problems(history, seed)
        tables = frozenset(topic for topic in self.plan.sink_topics if is_table(self.plan, topic))
        return Failure(seed, tuple(problems), tuple(short), history, quiet, tables, str(self._disturbance))

    def _quiet_run(self, plan: Plan) -> recorded.History:
        none = Schedule.of((), 1, self._seconds)
        history = self._run(plan, "quiet", none, Disturbance(), workers=1)
        if history.stopped:
            raise TopologyError(f"the job does not run without faults either: {history.stopped[0]}", "mend it first")
        return history

    def _run(
        self, plan: Plan, seed: str, schedule: Schedule, disturbance: Disturbance, workers: int
    ) -> recorded.History:
        random = Random(f"{seed}/feed")
        coming = [
            feeding
            for each in self._feeds
            for feeding in feedings(each.topic, each.events, self._seconds / 2, disturbance, random)
        ]
        with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
            return Simulation(
                plan,
                coming,
                schedule,
                seed=seed,
                workers=workers,
                partitions=self._partitions,
                horizon_s=self._seconds,
                scratch=Path(scratch) if self._checkpoints else None,
                checkpoint_every_s=BARRIER_EVERY_S,
            ).run()


def _asked(check: Callable[[History], object], history: History) -> str | None:
    """A check that fails by `assert` says what is wrong as well."""
    try:
        problem = check(history)
    except AssertionError as error:
        return str(error) or f"{getattr(check, '__name__', check)}: an assertion does not hold"
    if problem is not None and not isinstance(problem, str):
        raise TypeError(f"the check {getattr(check, '__name__', check)} gave {problem!r}: say what is wrong, or None")
    return problem
