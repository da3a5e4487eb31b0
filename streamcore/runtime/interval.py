"""The interval of a job's input between a savepoint's cut and an end: a time, or a later savepoint's cut.

    start    each source partition's offset in the savepoint
    end      by time: the first offset whose timestamp is at or after it; by savepoint: that one's offset

By time an end is no line that the job itself ever drew: an epoch of its own may have reached past it. At a savepoint
every task ended an epoch, so what a table emitted there is known (`exact`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from streamcore import limits
from streamcore.checkpoint.savepoint import Savepoint
from streamcore.clock import Clock
from streamcore.errors import StopError, TopicError
from streamcore.log.port import Admin, Log
from streamcore.runtime.bounded import BoundedLog, Ends
from streamcore.runtime.idle import nothing_after
from streamcore.topology.plan import Plan
from streamcore.types import Offset, Partition, TimestampMs, TopicPartition

LOOK_S = 0.5


@dataclass(frozen=True)
class Interval:
    starts: Ends
    ends: Ends
    exact: bool

    def holds(self, tp: TopicPartition, offset: int) -> bool:
        return tp in self.starts and self.starts[tp] <= offset < self.ends[tp]

    @property
    def empty(self) -> bool:
        return all(self.starts[tp] >= end for tp, end in self.ends.items())

    def lines(self) -> Iterator[str]:
        for tp in sorted(self.ends):
            yield f"{tp}: offsets {self.starts[tp]} to {self.ends[tp]}"


class Times:
    """A set of times, in milliseconds: a bit each."""

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}
        self.earliest_ms = 0
        self.latest_ms = 0

    def __bool__(self) -> bool:
        return bool(self._masks)

    def add(self, times: list[int]) -> None:
        distinct = dict.fromkeys(times)
        earliest, latest = min(distinct), max(distinct)
        self.earliest_ms = min(earliest, self.earliest_ms) if self._masks else earliest
        self.latest_ms = max(latest, self.latest_ms) if self._masks else latest
        masks = self._masks
        for time in distinct:
            masks[time >> 10] = masks.get(time >> 10, 0) | 1 << (time & 1023)

    def __contains__(self, time: int) -> bool:
        return bool(self._masks.get(time >> 10, 0) >> (time & 1023) & 1)


@dataclass
class Around:
    """The times of input that stands beside the interval, read once somebody has to know."""

    log: Log
    admin: Admin
    interval: Interval
    inside: Times
    _outside: Times | None = field(default=None)

    def __contains__(self, time: int) -> bool:
        if self._outside is None:
            self._outside = self._read()
        return time in self._outside

    def _read(self) -> Times:
        """Records before the cut and behind the end, of times that the interval spans."""
        inside, found = self.inside, Times()
        tps = list(self.interval.starts)
        first = self.admin.offsets_at(tps, TimestampMs(inside.earliest_ms))
        starts = {tp: first[tp] for tp in tps if first[tp] < self.interval.starts[tp]}
        self._into(found, BoundedLog(self.log, self.interval.starts), starts)
        self._into(found, self.log, dict(self.interval.ends))
        return found

    def _into(self, found: Times, log: Log, starts: dict[TopicPartition, Offset]) -> None:
        if not starts:
            return
        reader = log.reader(starts)
        try:
            while not reader.ended() >= starts.keys():
                for run in reader.poll(limits.POLL_RECORDS, 0.1):
                    near = [t for t in run.times if self.inside.earliest_ms <= t <= self.inside.latest_ms]
                    if near:
                        found.add(near)
        finally:
            reader.close()


def interval(plan: Plan, admin: Admin, saved: Savepoint, until: TimestampMs | Savepoint) -> Interval:
    """TopicError: the sources are not as they were at the savepoint. StopError: nothing lies between."""
    starts: dict[TopicPartition, Offset] = {}
    for topic in plan.source_topics:
        stage, found = saved.stages.get(topic), admin.topics([topic]).get(topic)
        if stage is None or found is None or found.partitions != stage.partitions:
            raise TopicError(
                f"source {topic} is not as it was at savepoint {saved.name!r} "
                f"({found.partitions if found else 'no'} partitions now, "
                f"{stage.partitions if stage else 'no such source'} then)",
                "replay code with the sources of the savepoint",
            )
        for task in stage.tasks:
            starts[TopicPartition(topic, task.partition)] = Offset(task.offsets.get(topic, 0))
    _refuse_lost(admin, starts)
    ends = _ends(admin, starts, until)
    found = Interval(starts, {tp: max(end, starts[tp]) for tp, end in ends.items()}, isinstance(until, Savepoint))
    if found.empty:
        raise StopError(
            f"no input lies between savepoint {saved.name!r} and the end that was given",
            "give a later --until: a time after the savepoint's, or the name of a later savepoint",
        )
    return found


def _ends(admin: Admin, starts: Ends, until: TimestampMs | Savepoint) -> Ends:
    tps = list(starts)
    if isinstance(until, Savepoint):
        ends = {
            TopicPartition(topic, task.partition): Offset(task.offsets.get(topic, 0))
            for topic, stage in until.stages.items()
            for task in stage.tasks
        }
        missing = [str(tp) for tp in tps if tp not in ends]
        if missing:
            raise TopicError(f"savepoint {until.name!r} does not know {', '.join(missing)}", "give another end")
        return {tp: ends[tp] for tp in tps}
    at, stable = admin.offsets_at(tps, until), admin.stable_ends(tps)
    return {tp: min(at[tp], stable[tp]) for tp in tps}


def _refuse_lost(admin: Admin, starts: Ends) -> None:
    first = admin.first_offsets(list(starts))
    for tp, start in starts.items():
        if first[tp] > start:
            raise TopicError(
                f"{tp} begins at offset {first[tp]} by now, and the savepoint stands at {start}: its input has expired",
                "replay from a later savepoint; or keep the topic for longer",
            )


def wait_until_passed(log: Log, admin: Admin, plan: Plan, ends: Ends, clock: Clock, wait_s: float) -> None:
    """Until the job has committed all that comes of the input before `ends`: what it gave is published then. Stage by
    stage: once a stage's input is used up, what it gave stands in its shuffles. A job without workers is not waited
    for. Raises StopError."""
    until_s = clock.monotonic_s() + wait_s
    for stage in plan.stages:
        info = admin.topics([stage.topic]).get(stage.topic)
        if info is None:
            raise TopicError(f"job {plan.job} has no topic {stage.topic}", f"has job {plan.job} run on this cluster?")
        tps = [TopicPartition(stage.topic, Partition(p)) for p in range(info.partitions)]
        last = admin.stable_ends(tps) if stage.is_shuffle else {tp: ends[tp] for tp in tps}
        while (behind := _behind(log, admin, plan, last, clock)) is not None:
            if clock.monotonic_s() > until_s or not admin.members(plan.job):
                raise StopError(
                    f"job {plan.job} has not processed all of the interval yet: stage {stage.name} {behind}",
                    "wait until it has (`streamcore status`), start it if it does not run, or give an earlier --until",
                )
            clock.sleep_s(LOOK_S)


def _behind(log: Log, admin: Admin, plan: Plan, ends: Ends, clock: Clock) -> str | None:
    committed = admin.committed(plan.job, list(ends), limits.CALL_TIMEOUT_S, stable=False)
    missing = [str(tp) for tp in ends if tp not in committed]
    if missing:
        return f"has committed nothing of {', '.join(missing[:3])}"
    at = {tp: each.offset for tp, each in committed.items()}
    if nothing_after(BoundedLog(log, ends), at, clock) is None:
        return "stands at " + ", ".join(
            f"{tp}: {offset} of {ends[tp]}" for tp, offset in at.items() if offset < ends[tp]
        )
    return None
