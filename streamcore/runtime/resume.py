"""A job begun from a savepoint: under another name, with other partition counts, after changes of its topology.

    1 map      the savepoint's stages and steps onto the plan's (runtime.mapping); what does not fit is refused by name,
               before anything is written
    2 build    each task's state (runtime.gathering), stamped as epoch 0 of a new lineage, uploaded as that epoch's
               checkpoint (law 7: before anything names it): all of the savepoint is read and hashed here
    3 clear    what the job has now goes, as nothing of it is needed any more; from its first call on the job's offsets
               say that it is to begin
    4 genesis  one transaction for all tasks: journal frames that say where the state is, offsets that say where to read

The job's own topics must be new: a genesis frame is the first message of its journal, so that its place is known before
it is written. What interrupts this before 3 leaves the job as it was, and later on a job that has not begun; the same
can be done again, and goes on. From 3 on, and where the job has nothing now from the start, no worker begins it empty:

    the group's offsets are deleted        a journal without offsets stops a worker
    those of its sources say RESUMING      this stops it, also while the topics are deleted and made again
    genesis                                takes RESUMING's place
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamcore import limits
from streamcore.checkpoint import owner
from streamcore.checkpoint.savepoint import Savepoint, refuse_half
from streamcore.checkpoint.store import CheckpointStore
from streamcore.clock import Clock, Entropy
from streamcore.errors import OffsetsLost, invariant
from streamcore.log.metadata import RESUMING
from streamcore.log.port import Admin, Log, OffsetCommit, Receipt, TopicInfo
from streamcore.runtime.gathering import ROCKS, Forms, Gathering, own
from streamcore.runtime.mapping import ResumePlan, StagePlan, misfits
from streamcore.runtime.reset import ResetPlan, reset
from streamcore.runtime.start import Start
from streamcore.runtime.topics import prepare, refuse_missing
from streamcore.state.frames import Frame
from streamcore.state.frames import encode as encode_frame
from streamcore.state.store import EpochMark
from streamcore.topology.plan import Plan, Stage, control_topic, shuffle_topic
from streamcore.types import Epoch, Offset, Partition, Slot, TaskId, TopicPartition

logger = logging.getLogger(__name__)

IMPORT_SLOT: Final = Slot(0)
"""Whose transactional id writes the genesis: the first worker fences it like any predecessor."""


def ran_on(admin: Admin, savepoint: Savepoint) -> str:
    """Which task of the savepoint's job has committed records behind it, and how far; empty where none has."""
    job = savepoint.job
    for stage, saved in savepoint.stages.items():
        topic = shuffle_topic(job, stage) if saved.shuffle else stage
        tps = {TopicPartition(topic, task.partition): task for task in saved.tasks}
        for tp, at in admin.committed(job, list(tps), limits.TAKEOVER_TIMEOUT_S).items():
            then = tps[tp].offsets.get(topic, 0)
            if at.offset > then:
                return f"task {TaskId(stage, tp.partition)} stood at offset {then}, and stands at {at.offset}"
    return ""


def lost_offsets(admin: Admin, resume: ResumePlan, topics: Mapping[str, TopicInfo]) -> Iterator[OffsetsLost]:
    """Of sources that there are: where a task was to go on, and its topic has no such place."""
    wanted = {
        TopicPartition(each.stage.topic, task.partition): Offset(task.offsets[each.stage.topic])
        for each in resume.stages
        if each.saved is not None and not each.stage.is_shuffle and each.stage.topic in topics
        for task in each.saved.tasks
        if each.stage.topic in task.offsets
    }
    first, ends = (admin.first_offsets(list(wanted)), admin.stable_ends(list(wanted))) if wanted else ({}, {})
    for tp, at in wanted.items():
        if not first[tp] <= at <= ends[tp]:
            yield OffsetsLost(
                f"task {tp}: the savepoint goes on at offset {at}, and topic {tp.topic} holds {first[tp]} to "
                f"{ends[tp]}",
                "its records were deleted, or it is another topic of this name: resume where the records are",
            )


def is_own_prefix(
    savepoint: Savepoint, source: CheckpointStore, target: CheckpointStore, job: str, control: TopicInfo | None
) -> bool:
    """Whether the checkpoints in the job's prefix are of its life so far: their owner's control topic is `control`, or
    the savepoint is the job's own. False: there are none. Raises CheckpointStoreTaken for another job's."""
    if target.stat(owner.key_of(job)) is None:
        return False
    found = owner.look(target, job)
    same = control is not None and control.topic_id == found.identity
    if not same and not (savepoint.job == job and source.place == target.place):
        raise owner.taken(target, job, found, f"this one's has {control.topic_id if control else 'none yet'}")
    return True


class Resuming:
    """Beginning a job from a savepoint. One thread; the group has no members."""

    def __init__(
        self,
        plan: Plan,
        log: Log,
        admin: Admin,
        source: CheckpointStore,
        target: CheckpointStore,
        scratch: Path,
        clock: Clock,
        entropy: Entropy,
        *,
        replication: int | None = None,
        auto_partitions: int | None = None,
        tell: Callable[[str], None] = lambda line: None,
        forms: Forms = ROCKS,
    ) -> None:
        """`source`: where the savepoint lies; `target`: the job's own checkpoints. `scratch` is made and deleted."""
        self._plan = plan
        self._log = log
        self._admin = admin
        self._source = source
        self._target = target
        self._scratch = scratch
        self._entropy = entropy
        self._replication = replication
        self._auto_partitions = auto_partitions
        self._tell = tell
        self._gathering = Gathering(plan, source, target, scratch, clock, entropy, forms)

    def begin(
        self, resume: ResumePlan, cleared: ResetPlan | None = None, still: Callable[[], None] = lambda: None
    ) -> None:
        """`cleared`: what the job has now, and what is to go. `still`: asked just before it goes; raises when the job
        has gone on since. Raises what log and stores raise; and, before anything goes, CheckpointDamaged (the savepoint
        is not whole, or not what was stored), StateMismatch (rows of a version that the code cannot read), TopicError
        (a source topic is not as it was), OffsetsLost (the job has begun), CheckpointStoreTaken."""
        with own(self._scratch):
            self._begin(resume, cleared, still)

    def _begin(self, resume: ResumePlan, cleared: ResetPlan | None, still: Callable[[], None]) -> None:
        now = self._admin.topics()
        if cleared is not None:
            now = {name: info for name, info in now.items() if name not in cleared.topics}
        refuse_half(self._source, resume.savepoint)
        self._refuse(resume, now)
        self._is_own_prefix(resume.savepoint)
        if cleared is None or not cleared.group:
            self._announce(resume, now)  # nothing is committed, so nothing is lost by it
        tasks = [task for each in resume.stages if each.saved is not None for task in self._tasks(each)]
        if cleared is not None:
            now = {name: info for name, info in self._admin.topics().items() if name not in cleared.topics}
            self._refuse(resume, now)  # all of it took its time
            self._is_own_prefix(resume.savepoint)
            still()
            reset(self._admin, cleared, lambda: self._let_go(resume, now))
        else:
            self._let_go(resume, now)
        topics = self._prepared(resume)
        self._announce(resume, topics)
        self._claim(resume.savepoint, topics[control_topic(self._plan.job)].topic_id)
        self._genesis(tasks, topics)

    # --- 1 map ----------------------------------------------------------------------------------------------------

    def _refuse(self, resume: ResumePlan, topics: Mapping[str, TopicInfo]) -> None:
        """By what there is of the topics."""
        if self._auto_partitions is None:
            refuse_missing(self._plan, topics)
        for error in misfits(resume, {name: info.partitions for name, info in topics.items()}):
            raise error
        for error in lost_offsets(self._admin, resume, topics):
            raise error
        names = [self._plan.journal_topic(each.stage.name) for each in resume.stages]
        there = [topics[name] for name in names if name in topics]
        journals = [TopicPartition(info.name, Partition(p)) for info in there for p in range(info.partitions)]
        begun = [str(tp) for tp, end in self._admin.stable_ends(journals).items() if end > 0] if journals else []
        if begun:
            raise OffsetsLost(
                f"job {self._plan.job} has begun already ({', '.join(begun[:3])} hold frames)",
                "`streamcore reset JOB` first, or resume under another name",
            )

    def _is_own_prefix(self, savepoint: Savepoint) -> bool:
        """Raises CheckpointStoreTaken."""
        job, control = self._plan.job, control_topic(self._plan.job)
        now = self._admin.topics([control]).get(control)
        return is_own_prefix(savepoint, self._source, self._target, job, now)

    # --- 2 build --------------------------------------------------------------------------------------------------

    def _tasks(self, each: StagePlan) -> Iterator[_Begun]:
        for p in range(each.partitions):
            task = TaskId(each.stage.name, Partition(p))
            self._tell(f"{task}: building")
            yield self._task(each, task)

    def _task(self, each: StagePlan, task: TaskId) -> _Begun:
        mark = EpochMark(self._entropy.token(), Epoch(0), self._entropy.token(), Offset(0), Offset(1))
        uploaded = self._gathering.upload(each, task, mark)
        saved = each.saved.tasks if each.saved is not None else ()
        own = next((t for t in saved if t.partition == task.partition), None)
        offsets = {} if each.stage.is_shuffle or own is None else own.offsets
        return _Begun(task, each.stage, mark, uploaded.key, offsets)

    # --- 3 clear --------------------------------------------------------------------------------------------------

    def _let_go(self, resume: ResumePlan, topics: Mapping[str, TopicInfo]) -> None:
        """A prefix that held this job's life so far is the next life's too: let go before the topic that says so."""
        self._announce(resume, topics)
        if self._is_own_prefix(resume.savepoint):
            owner.release(self._target, self._plan.job)

    def _announce(self, resume: ResumePlan, topics: Mapping[str, TopicInfo]) -> None:
        """From here on no worker begins the job empty; the genesis takes the place of this."""
        tps = [
            TopicPartition(each.stage.topic, Partition(p))
            for each in resume.stages
            if each.saved is not None and each.stage.topic in topics
            for p in range(each.partitions)
        ]
        if tps:
            self._admin.set_committed(self._plan.job, [OffsetCommit(tp, Offset(0), RESUMING) for tp in tps])

    def _prepared(self, resume: ResumePlan) -> dict[str, TopicInfo]:
        shuffled = {each.stage.name: each.partitions for each in resume.stages if each.stage.is_shuffle}
        topics = prepare(
            self._plan, self._admin, self._replication, self._auto_partitions, control=True, shuffled=shuffled
        )
        self._refuse(resume, topics)
        return topics

    def _claim(self, savepoint: Savepoint, identity: str) -> None:
        lineage = next((task.lineage for stage in savepoint.stages.values() for task in stage.tasks), "")
        owner.claim(self._target, self._plan.job, identity, lineage)

    # --- 4 genesis ------------------------------------------------------------------------------------------------

    def _genesis(self, tasks: list[_Begun], topics: Mapping[str, TopicInfo]) -> None:
        job = self._plan.job
        instance = f"{job}.{IMPORT_SLOT}"
        start = Start(self._admin, [stage.topic for stage in self._plan.stages], topics)
        consumer = self._log.consumer(job, instance)
        producer = self._log.producer(instance)
        try:
            producer.init(limits.CALL_TIMEOUT_S)
            producer.begin()
            offsets: list[OffsetCommit] = []
            sent: list[Receipt] = []
            for task in tasks:
                frame = self._frame(task, start)
                journal = TopicPartition(self._plan.journal_topic(task.stage.name), task.id.partition)
                (message,) = encode_frame(frame)
                sent.append(producer.send(journal, message))
                told = frame.metadata(task.mark.journal_end).encode()
                tp = TopicPartition(task.stage.topic, task.id.partition)
                offsets.append(OffsetCommit(tp, frame.offsets[tp.topic], told))
            producer.flush(limits.CALL_TIMEOUT_S)
            invariant(all(receipt.offset == 0 for receipt in sent), "a genesis frame is its journal's first message")
            producer.send_offsets(offsets, consumer.membership(), limits.CALL_TIMEOUT_S)
            producer.commit(limits.TRANSACTION_TIMEOUT_MS / 1000)
        finally:
            producer.close()
            consumer.close()
        logger.info("job %s begins from savepoint, %d tasks", job, len(tasks))

    def _frame(self, task: _Begun, start: Start) -> Frame:
        topic = task.stage.topic
        tp = TopicPartition(topic, task.id.partition)
        offsets = {topic: Offset(task.offsets[topic])} if topic in task.offsets else {}
        if not offsets:
            offsets = {topic: self._admin.first_offsets([tp])[tp]}
        return Frame(
            job=self._plan.job,
            stage=task.id.stage,
            partition=task.id.partition,
            lineage=task.mark.lineage,
            epoch=Epoch(0),
            nonce=task.mark.nonce,
            previous=None,
            offsets=offsets,
            slot=IMPORT_SLOT,
            mode="eo",
            topology=self._plan.version,
            checkpoint=task.manifest,
            watermark_ms=None,
            cut=None,
            genesis=start.origin(task.stage),
            deltas={},
        )


@dataclass(frozen=True)
class _Begun:
    id: TaskId
    stage: Stage
    mark: EpochMark
    manifest: str
    offsets: Mapping[str, int]
