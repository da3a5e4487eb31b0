"""What the log knows of a job by its name alone: tasks, owners, epochs, lag, last commits, checkpoints, the last
barrier. Reads, changes nothing.

Needs neither the job's code nor its workers: journals name the stages, offset metadata the epochs, the group its
members. Works beside a running job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from streamcore import limits
from streamcore.checkpoint.manifest import parsed
from streamcore.clock import Clock
from streamcore.errors import OffsetsLost, StopError, TopicError
from streamcore.log import metadata
from streamcore.log.metadata import Metadata
from streamcore.log.port import Admin, Committed, GroupMember, Log, TopicInfo
from streamcore.runtime.budget import Foretold, foretold
from streamcore.runtime.told import BarrierTold, ControlTold, look
from streamcore.topology.plan import control_topic, journal_topic, shuffle_topic
from streamcore.types import Epoch, Offset, Partition, TaskId, TopicPartition

COUNTED_LAG: Final = 10_000
"""Up to this many offsets the records are counted, beyond it the offsets, markers and all."""


@dataclass(frozen=True, slots=True)
class JobTopics:
    """The internal topics that carry a job's name."""

    job: str
    journals: Mapping[str, TopicInfo]
    """By stage."""
    all: tuple[str, ...]

    def input_topic(self, stage: str) -> str:
        """A shuffle's stage has the step's name, a source's the topic's."""
        shuffled = shuffle_topic(self.job, stage)
        return shuffled if shuffled in self.all else stage


def job_topics(admin: Admin, job: str) -> JobTopics:
    found = admin.topics()
    journal, shuffle = journal_topic(job, ""), shuffle_topic(job, "")
    sink, control = f"{job}.sink.", control_topic(job)
    own = sorted(name for name in found if name.startswith((journal, shuffle, sink)) or name == control)
    journals = {name.removeprefix(journal): found[name] for name in own if name.startswith(journal)}
    return JobTopics(job, journals, tuple(own))


def known_jobs(admin: Admin) -> list[str]:
    return sorted({name.split(".journal.")[0] for name in admin.topics() if ".journal." in name})


def require(admin: Admin, job: str) -> JobTopics:
    """Raises TopicError when no job of this name has left a trace."""
    topics = job_topics(admin, job)
    if not topics.all and job not in admin.groups():
        known = ", ".join(known_jobs(admin)) or "none"
        raise TopicError(f"nothing is known of a job named {job!r}", f"the jobs that have journals here: {known}")
    return topics


@dataclass(frozen=True, slots=True)
class TaskStatus:
    task: TaskId
    input: TopicPartition
    owner: str
    """The member that holds the partition, or who wrote last and is gone."""
    offset: Offset | None
    epoch: int | None
    lag: int
    committed_ms: int | None
    """When the last epoch was written; None before the first, or where the journal no longer holds it."""
    trouble: str = ""
    checkpoint: Epoch | None = None
    """Of the newest checkpoint that the last commit names."""
    checkpoint_ms: int | None = None
    """When it was first named; None where the control topic does not tell any more."""
    recovery: Foretold | None = None
    """None where the control topic does not tell: no barrier yet, or a job without."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    job: str
    members: tuple[GroupMember, ...]
    tasks: tuple[TaskStatus, ...]
    barrier: BarrierTold | None = None


def status(log: Log, admin: Admin, job: str, clock: Clock) -> JobStatus:
    topics = require(admin, job)
    members = tuple(admin.members(job))
    owners = {tp: member_name(job, m) for m in members for tp in m.assignment}
    tasks: list[TaskStatus] = []
    for stage, journal in topics.journals.items():
        tps = [TopicPartition(topics.input_topic(stage), Partition(p)) for p in range(journal.partitions)]
        committed = admin.committed(job, tps, limits.CALL_TIMEOUT_S, stable=False)
        lags = _lags(log, admin, tps, committed, clock)
        tasks += [
            _task(log, journal.name, stage, tp, committed.get(tp), owners.get(tp, ""), lags[tp], clock) for tp in tps
        ]
    told = look(log, admin, job, clock)
    return JobStatus(job, members, tuple(_with_time(task, told) for task in tasks), told.last)


def _with_time(task: TaskStatus, told: ControlTold) -> TaskStatus:
    recovery, by_owner = None, told.recoveries.get(task.task)
    if by_owner is not None and task.epoch is not None:
        before = -1 if task.checkpoint is None else task.checkpoint
        recovery = foretold(by_owner, task.epoch - before)
    stored_ms = None if task.checkpoint is None else told.stored_ms.get((task.task, task.checkpoint))
    return replace(task, checkpoint_ms=stored_ms, recovery=recovery)


def together(tasks: Sequence[TaskStatus]) -> dict[str, tuple[int, float]]:
    """By owner: its tasks, and what a takeover of them all takes on another machine, fencing once."""
    found: dict[str, tuple[int, float]] = {}
    for task in tasks:
        if task.recovery is not None:
            count, seconds = found.get(task.owner, (0, limits.TAKEOVER_S))
            found[task.owner] = (count + 1, seconds + task.recovery.other_s - limits.TAKEOVER_S)
    return found


def member_name(job: str, member: GroupMember) -> str:
    """As `slot 3, 10.0.0.7`."""
    name = member.instance_id or member.member_id
    slot = name.removeprefix(f"{job}.")
    host = member.host.lstrip("/")
    return f"slot {slot}, {host}" if slot.isdigit() else f"{name}, {host}"


def refuse_members(admin: Admin, job: str) -> None:
    """For commands that change what a job rests on. Raises StopError."""
    members = admin.members(job)
    if members:
        raise StopError(
            f"job {job} has members: {'; '.join(sorted(member_name(job, m) for m in members))}",
            "stop its workers; a stopped or killed one is a member until its session timeout (10 s unless set) passed",
        )


def _task(
    log: Log, journal: str, stage: str, tp: TopicPartition, at: Committed | None, owner: str, lag: int, clock: Clock
) -> TaskStatus:
    task = TaskId(stage, tp.partition)
    if at is None:
        return TaskStatus(task, tp, owner or "nobody", None, None, lag, None)
    try:
        told = metadata.decode(at.metadata, str(tp))
    except StopError as error:
        return TaskStatus(task, tp, owner or "nobody", at.offset, None, lag, None, error.what)
    owner = owner or f"nobody (was slot {told.slot})"
    written = _written_ms(log, TopicPartition(journal, tp.partition), told, clock)
    named = parsed(told.checkpoint) if told.checkpoint else None
    newest = named[1] if named is not None and named[0] == told.lineage else None
    return TaskStatus(task, tp, owner, at.offset, told.epoch, lag, written, checkpoint=newest)


def _written_ms(log: Log, journal: TopicPartition, told: Metadata, clock: Clock) -> int | None:
    """The broker's time of the epoch's last journal message."""
    deadline = clock.monotonic_s() + limits.CALL_TIMEOUT_S
    reader = log.reader({journal: Offset(told.journal_end - 1)})
    try:
        while clock.monotonic_s() < deadline:
            for run in reader.poll(1, 0.05):
                return run.times[0]
            if journal in reader.ended():
                return None
        return None
    except OffsetsLost:
        return None
    finally:
        reader.close()


def _lags(
    log: Log,
    admin: Admin,
    tps: Sequence[TopicPartition],
    committed: Mapping[TopicPartition, Committed],
    clock: Clock,
) -> dict[TopicPartition, int]:
    """Records where they can be counted quickly, else offsets."""
    ends, first = admin.stable_ends(tps), admin.first_offsets(tps)
    starts = {tp: committed[tp].offset if tp in committed else first[tp] for tp in tps}
    lags = {tp: max(0, ends[tp] - starts[tp]) for tp in tps}
    few = {tp: starts[tp] for tp, lag in lags.items() if 0 < lag <= COUNTED_LAG and starts[tp] >= first[tp]}
    if few:
        counted = _counted(log, few, clock)
        if counted is not None:
            lags.update(counted)
    return lags


def _counted(log: Log, starts: Mapping[TopicPartition, Offset], clock: Clock) -> dict[TopicPartition, int] | None:
    deadline = clock.monotonic_s() + limits.CALL_TIMEOUT_S
    counts = dict.fromkeys(starts, 0)
    reader = log.reader(starts)
    try:
        while clock.monotonic_s() < deadline:
            for run in reader.poll(limits.POLL_RECORDS, 0.05):
                counts[run.tp] += len(run)
            if reader.ended() >= starts.keys() or max(counts.values()) > COUNTED_LAG:
                return counts
        return None
    finally:
        reader.close()
