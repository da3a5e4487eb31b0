"""Chaos for your own topology, in a unit test: the real runtime in a simulated world, many seeds, pure checks.

    def test_counts_survive_anything() -> None:
        report = chaos.run(
            job,
            feeds=[chaos.feed(lines, ["to be or not to be"] * 50)],
            faults=[chaos.Kill(), chaos.Pause(), chaos.Network(), chaos.Disk()],
            seeds=range(100),
            checks=[chaos.same_as_quiet_run(counts), chaos.no_gaps_or_repeats()],
        )
        assert report.ok, report.explain()

Three workers of the job run in one thread and simulated time; a seed decides who goes on when, and what goes wrong
where. The same seed gives the same history, on any machine. A run that fails is run again with fewer and fewer faults,
and `explain` tells what is left: the faults, the first wrong record, and the epochs it went through.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, Literal, TypeAlias, TypeVar, overload

from streamcore.api import Job, Key, Topic
from streamcore.errors import TopologyError
from streamcore.runtime.points import POINTS
from streamcore.testing import history as recorded
from streamcore.testing import judge, trace
from streamcore.topology.nodes import Aggregate, Node
from streamcore.topology.plan import Plan

try:
    from streamcore.testing.simulated.faults import Injection, Rates, Schedule
    from streamcore.testing.simulated.feeds import Disturbance, Event, feedings
    from streamcore.testing.simulated.shrink import shrunk
    from streamcore.testing.simulated.simulation import Simulation
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("streamcore.testing.chaos needs greenlet: pip install 'streamcore[testing]'") from error

K = TypeVar("K", bound=Key)
V = TypeVar("V")

# --- what goes in -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feed:
    topic: str
    events: tuple[Event, ...]


@overload
def feed(topic: Topic[None, V], values: Iterable[V]) -> Feed: ...
@overload
def feed(topic: Topic[K, V], values: Iterable[V], *, key: Callable[[V], K]) -> Feed: ...
def feed(topic: Any, values: Iterable[Any], *, key: Callable[[Any], Any] | None = None) -> Feed:
    """These values into the topic, at even distances over the first half of the run."""
    spec, items = topic.spec, list(values)
    if (spec.key is None) != (key is None):
        raise TopologyError(
            f"topic {spec.name!r} is {'not keyed' if spec.key is None else 'keyed'}, and the feed has "
            f"{'a' if key else 'no'} key",
            "give feed(..., key=...) for a keyed topic, and only there",
        )
    keys = [None] * len(items) if key is None else spec.key.encode([key(item) for item in items])
    return Feed(spec.name, tuple(map(Event, keys, spec.value.encode(items))))


# --- what goes wrong ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Duplicate:
    """This share of the events reaches the topic twice: what an at-least-once source does. Use `dedupe`."""

    rate: float = 0.1


@dataclass(frozen=True)
class Reorder:
    """An event may reach the topic up to this late, behind ones that happened after it."""

    by: timedelta = timedelta(seconds=2)


@dataclass(frozen=True)
class Kill:
    """kill -9 and a restart: in the same slot or another, with its disk, an old copy of it, or a bare one. `at`: a
    point of streamcore.runtime.points.POINTS, each visit with this chance; `anywhere`: at every point, and now and
    then in the middle of any call."""

    at: str = "anywhere"
    rate: float = 0.02


@dataclass(frozen=True)
class Pause:
    """Stopped and awake again, as by SIGSTOP: sometimes for longer than the session, so that a zombie awakes, sometimes
    while another machine takes its slot."""

    rate: float = 0.01


@dataclass(frozen=True)
class Network:
    """Calls that are lost, or whose answer is; calls that take long, and whose copies arrive in the next transaction;
    partitions without a leader."""

    rate: float = 0.01


@dataclass(frozen=True)
class Disk:
    """Machines that lose power: unsynced writes are gone, the last one is torn; state that cannot be read."""

    rate: float = 0.01


@dataclass(frozen=True)
class Rebalance:
    """Workers that join and leave, some properly and some by dying."""

    rate: float = 0.02


@dataclass(frozen=True)
class Clock:
    """Wall clocks that jump, back as well; a whole cluster that stands still."""

    rate: float = 0.02


Fault: TypeAlias = Duplicate | Reorder | Kill | Pause | Network | Disk | Rebalance | Clock


def everything() -> list[Fault]:
    """All that can go wrong around a job; events come in order and once. Add Duplicate and Reorder where the topology
    is made for them."""
    return [Kill(), Pause(), Network(), Disk(), Rebalance(), Clock()]


IN_CALLS = 0.1
"""A rate counts at named points; at a single call of a port it is this share of it (there are ten times as many)."""
AT_TIMES = 100
"""For faults that come at a moment of their own: this many moments a run."""


def _rates(faults: Sequence[Fault]) -> Rates:
    calls: dict[str, float] = {}
    points: dict[str, float] = {}
    times: dict[str, float] = {}
    only_point = ""
    _refuse_faults(faults)
    for fault in faults:
        match fault:
            case Kill(at, rate):
                points["kill"] = rate
                if at == "anywhere":
                    calls["kill-before"] = calls["kill-after"] = rate * IN_CALLS / 2
                elif at in POINTS:
                    only_point = at
                else:
                    raise ValueError(f"no crash point {at!r}: anywhere, or one of {', '.join(POINTS)}")
            case Pause(rate):
                points["pause"], calls["pause"], times["replace"] = rate, rate * IN_CALLS, rate
            case Network(rate):
                for kind in ("lost-request", "lost-answer", "slow", "delay", "cut-off", "refused"):
                    calls[kind] = rate * IN_CALLS
                times["stall"] = rate
            case Disk(rate):
                times["power"], calls["damage"] = rate, rate
            case Rebalance(rate):
                times["join"] = times["leave"] = rate / 2
            case Clock(rate):
                times["wall"] = times["freeze"] = rate / 2
            case Duplicate() | Reorder():
                pass
    sites = {"call": calls, "time": times, "point": points}
    weights = {f"{site} {kind}": rate for site, rates in sites.items() for kind, rate in rates.items()}
    return Rates(
        calls=sum(calls.values()),
        points=sum(points.values()),
        times=AT_TIMES * sum(times.values()),
        kinds=frozenset((*calls, *times, *points)),
        only_point=only_point,
        weights=weights,
    )


def _refuse_faults(faults: Sequence[object]) -> None:
    """What would do nothing, or something else than it says. Raises ValueError, TypeError."""
    for fault in faults:
        if not isinstance(fault, Fault):
            raise TypeError(f"{fault!r} is no fault: give one as chaos.Kill(), or chaos.everything()")
        rate = 0.0 if isinstance(fault, Reorder) else fault.rate
        if not 0 <= rate <= 1:
            raise ValueError(f"{fault}: a rate lies between 0 and 1")
    for kind, times in Counter(type(fault).__name__ for fault in faults).items():
        if times > 1:
            raise ValueError(f"{kind} is given {times} times, and would count once: give one, and others in other runs")


def _refuse_feeds(plan: Plan, feeds: Sequence[Feed]) -> None:
    """A feed that nobody reads shows nothing. Raises TopologyError."""
    read = ", ".join(plan.source_topics)
    for each in feeds:
        if each.topic not in plan.source_topics:
            raise TopologyError(f"job {plan.job} does not read the topic {each.topic!r} of a feed", f"it reads {read}")
    if not any(each.events for each in feeds):
        raise TopologyError(
            f"nothing is fed to job {plan.job}", f"give feeds=[chaos.feed(TOPIC, values)]: it reads {read}"
        )


def _disturbance(faults: Sequence[Fault]) -> Disturbance:
    duplicates = next((f.rate for f in faults if isinstance(f, Duplicate)), 0.0)
    late = next((f.by for f in faults if isinstance(f, Reorder)), timedelta())
    return Disturbance(duplicates, late.total_seconds())


# --- what comes out ------------------------------------------------------------------------------------------------


class History:
    """What happened in one run: for checks of your own."""

    def __init__(self, run: recorded.History, quiet: recorded.History | None, plan: Plan) -> None:
        self.run = run
        """Everything that was recorded; see streamcore.testing.history."""
        self.quiet = quiet
        """The same events once, in order, with no fault."""
        self.plan = plan

    def sent(self, topic: Topic[Any, V]) -> list[V]:
        """What stands in an input topic: duplicates too, partition by partition."""
        return [value for _, value in _items(topic, self.run.inputs[topic.spec.name])]

    def read(self, topic: Topic[Any, V]) -> list[V]:
        """What a read_committed reader finds in an output topic, partition by partition."""
        return [value for _, value in _items(topic, self.run.outputs[topic.spec.name])]

    def read_items(self, topic: Topic[K, V]) -> list[tuple[K, V]]:
        """As `read`, with keys."""
        return _items(topic, self.run.outputs[topic.spec.name])


def _items(topic: Any, records: Sequence[recorded.Record]) -> list[tuple[Any, Any]]:
    spec = topic.spec
    return [
        (
            None if r.key is None or spec.key is None else spec.key.decode([r.key])[0],
            None if r.value is None else spec.value.decode([r.value])[0],
        )
        for r in records
    ]


Check: TypeAlias = Callable[[History], str | None]
"""Says what is wrong; None: nothing."""


def same_as_quiet_run(topic: Topic[Any, Any], *, order: Literal["per-key", "any"] = "per-key") -> Check:
    """The topic holds what a run of the same events, once, in order and without a fault gives. A Table's topic: the
    same last value of each key. `per-key`: each key's records in the same order (a key that is fed from several
    partitions has no order of its own: say "any")."""
    name = topic.spec.name

    def check(history: History) -> str | None:
        quiet = history.quiet
        if quiet is None:
            return f"{name}: there is no quiet run to compare with"
        if name not in quiet.outputs:
            wrote = ", ".join(quiet.outputs) or "none"
            raise TopologyError(f"job {history.plan.job} does not write the topic {name!r}", f"it writes {wrote}")
        wanted = judge.pairs(quiet.outputs[name])

        def expected(_: recorded.History) -> judge.Pairs:
            return wanted

        if _is_table(history.plan, name):
            if topic.spec.key is None:
                return f"{name}: a Table's values without a key cannot be told apart: give a check of your own"
            last = dict(wanted)
            verdict = judge.last_values(name, lambda _: list(last.items()))(history.run)
        else:
            verdict = judge.outputs_equal(name, expected)(history.run)
            if verdict.holds is True and order == "per-key":
                verdict = judge.order_per_key(name, expected)(history.run)
        return None if verdict.holds else str(verdict)

    return check


def no_gaps_or_repeats() -> Check:
    """The engine's own promises: epochs without gaps, offsets, journal and outputs of one piece, state that is the fold
    of the journal, nobody who commits what is not his, buffers within their bounds."""

    def check(history: History) -> str | None:
        wrong = judge.failed(judge.judge(history.run, judge.ALWAYS))
        return "; ".join(map(str, wrong)) or None

    return check


def _at_rest(history: History) -> str | None:
    verdict = judge.at_rest(history.run)
    return None if verdict.holds else str(verdict)


def _is_table(plan: Plan, topic: str) -> bool:
    """Whether a topic gets a Table's values, one an epoch and key, and not one an event."""

    def from_table(node: Node) -> bool:
        return isinstance(node, Aggregate) or any(map(from_table, node.inputs))

    return any(from_table(sink) for stage in plan.stages for sink in stage.sinks if sink.topic.name == topic)


# --- runs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """Of one seed, and all that is needed to tell of it."""

    seed: int
    problems: tuple[str, ...]
    faults: tuple[Injection, ...]
    """As short as they could be made."""
    history: recorded.History
    quiet: recorded.History | None
    tables: frozenset[str]
    """Topics that get a Table's values."""
    feed: str
    """What was done to the events."""


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
        return "\n".join(_explained(self.failure, len(self.seeds)))


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
    wrong; the run then goes on until the job is at rest. Raises TopologyError for a job that cannot run."""
    world = _World(job, feeds, faults, (*checks, _at_rest), workers, partitions, seconds)
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
        if world.problems(history):
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
        _refuse_feeds(self.plan, feeds)
        self._traced = job.plan(correlation_ids=True)
        self._feeds = feeds
        self._rates = _rates(faults)
        self._disturbance = _disturbance(faults)
        self._checks = checks
        self._workers = workers
        self._partitions = partitions
        self._seconds = seconds
        self._quiet = self._quiet_run(self.plan)

    def drawn(self, seed: int) -> Schedule:
        return Schedule(self._rates, Random(f"{seed}/faults"), slots=self._workers, horizon_s=self._seconds)

    def simulated(self, seed: int, schedule: Schedule, plan: Plan | None = None) -> recorded.History:
        return self._run(plan or self.plan, f"{seed}", schedule, self._disturbance, self._workers)

    def problems(self, history: recorded.History) -> list[str]:
        told = History(history, self._quiet, self.plan)
        return [problem for check in self._checks if (problem := _asked(check, told))]

    def failure(self, seed: int, schedule: Sequence[Injection]) -> Failure:
        """The same failure with as few faults as were found, and with the origins of records."""

        def given(injections: Sequence[Injection]) -> Schedule:
            return Schedule.of(injections, self._workers, self._seconds)

        short = shrunk(schedule, lambda some: bool(self.problems(self.simulated(seed, given(some)))))
        history = self.simulated(seed, given(short), self._traced)
        quiet = self._quiet_run(self._traced)
        problems = self.problems(history)
        if not problems:  # correlation ids changed its course: tell what was seen, without origins
            history, quiet = self.simulated(seed, given(short)), self._quiet
            problems = self.problems(history)
        tables = frozenset(topic for topic in self.plan.sink_topics if _is_table(self.plan, topic))
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
        return Simulation(
            plan,
            coming,
            schedule,
            seed=seed,
            workers=workers,
            partitions=self._partitions,
            horizon_s=self._seconds,
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


# --- what is told of a failure -------------------------------------------------------------------------------------


def _explained(failure: Failure, runs: int) -> Iterable[str]:
    yield f"seed {failure.seed} failed, after {runs - 1} that did not{_code_version()}"
    yield from (f"  {problem}" for problem in failure.problems)
    yield f"the faults that are needed ({len(failure.faults)}):" if failure.faults else "no fault is needed for it"
    if failure.feed:
        yield f"  the feed: {failure.feed}"
    yield from (f"  {fault}" for fault in failure.faults)
    wrong = first_wrong(failure)
    if wrong:
        yield "the first wrong record:"
        yield from (f"  {line}" for line in wrong)
    yield f"again: seeds=[{failure.seed}], or `streamcore chaos FILE.py --seed {failure.seed}`"


def first_wrong(failure: Failure) -> list[str]:
    """The first output that the quiet run does not have, or else the first that it has and this one has not."""
    history, quiet = failure.history, failure.quiet
    if quiet is None:
        return []
    for topic, records in history.outputs.items():
        if topic in failure.tables:
            if wrong := _wrong_in_table(history, quiet, topic):
                return wrong
            continue
        missing = judge.pairs(quiet.outputs.get(topic, []))
        for record in records:
            if (record.key, record.value) in missing:
                missing.remove((record.key, record.value))
            else:
                return trace.path_of_output(history, record)
        for key, value in missing[:1]:
            origin = trace.origin_of(quiet, topic, key, value)
            here = trace.same_input(quiet, history, origin) if origin else ""
            told = trace.path_of_input(history, here) if here else []
            return [*told, f"output  {topic}: {key!r} = {value!r} is missing"]
    return []


def _wrong_in_table(history: recorded.History, quiet: recorded.History, topic: str) -> list[str]:
    """The last record of the first key that ends wrongly."""
    last = {record.key: record for record in history.outputs.get(topic, ())}
    for key, value in dict(judge.pairs(quiet.outputs.get(topic, []))).items():
        record = last.get(key)
        if record is None:
            return [f"output  {topic}: {key!r} = {value!r} is missing"]
        if record.value != value:
            return [*trace.path_of_output(history, record), f"should be {value!r}"]
    return []


def _code_version() -> str:
    """The commit of the code that was run, where there is one."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return f" (commit {found.stdout.strip()})" if found.returncode == 0 else ""
