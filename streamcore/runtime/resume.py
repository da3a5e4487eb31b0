"""A job begun from a savepoint: under another name, with other partition counts, after changes of its topology.

    1 map      the savepoint's stages and steps onto the plan's; what does not fit is refused by name, before anything
               is written
    2 build    each task's state in a scratch directory: copied, or for a shuffle of another partition count gathered
               from all old tasks by key group; stamped as epoch 0 of a new lineage
    3 upload   as that epoch's checkpoint (law 7: before anything names it)
    4 genesis  one transaction for all tasks: journal frames that say where the state is, offsets that say where to read

The job's own topics must be new (`reset` it first): a genesis frame is the first message of its journal, so that its
place is known before it is written. Whatever interrupts this leaves a job that has not begun; it can be done again.
Meanwhile its offsets say so, and a worker that is started refuses them: it does not begin empty.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from streamcore import limits
from streamcore.checkpoint import owner
from streamcore.checkpoint.manifest import Manifest, load
from streamcore.checkpoint.restore import Restorer
from streamcore.checkpoint.savepoint import SavedStage, Savepoint
from streamcore.checkpoint.snapshot import SUFFIX, take
from streamcore.checkpoint.store import CheckpointStore
from streamcore.checkpoint.upload import Facts, Uploader
from streamcore.clock import Clock, Entropy
from streamcore.errors import CheckpointDamaged, OffsetsLost, StateMismatch, TopicError, invariant
from streamcore.inbox.buckets import TIMELINE_KEY, merged_timelines
from streamcore.log.metadata import RESUMING
from streamcore.log.port import Admin, Log, OffsetCommit, Receipt, TopicInfo
from streamcore.runtime.checkpoints import key_type, saved_step
from streamcore.runtime.start import Start
from streamcore.runtime.topics import prepare
from streamcore.state.frames import Frame
from streamcore.state.frames import encode as encode_frame
from streamcore.state.rocks import RocksStore
from streamcore.state.rows import VERSIONS_KEY, merged_versions
from streamcore.state.store import RESERVED, Delta, EpochMark, Store
from streamcore.topology.nodes import Dedupe
from streamcore.topology.plan import Plan, Stage, control_topic, shuffle_topic
from streamcore.types import UNKNOWN, Epoch, Offset, Partition, Slot, TaskId, TopicPartition

logger = logging.getLogger(__name__)

IMPORT_SLOT: Final = Slot(0)
"""Whose transactional id writes the genesis: the first worker fences it like any predecessor."""
CHUNK_ENTRIES: Final = 10_000
FIRST_OWN: Final = 0xF0
"""Keys from here on are a step's own bookkeeping: what all old tasks know together belongs to every new one."""
MERGED: Final[Mapping[bytes, Callable[[bytes, bytes], bytes]]] = {
    VERSIONS_KEY: merged_versions,
    TIMELINE_KEY: merged_timelines,
}


@dataclass(frozen=True)
class Changes:
    """What a person says of the topology's changes."""

    dropped: frozenset[str] = frozenset()
    """Stages and steps of the savepoint whose state may go."""
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    """Old name of a stage or step to the new one."""
    partitions: int | None = None
    """Of every shuffled stage; None: as many as the savepoint's."""


@dataclass(frozen=True)
class StagePlan:
    """Where one stage of the plan comes from."""

    stage: Stage
    saved: SavedStage | None
    """None: it is new, and begins as any new stage does."""
    partitions: int
    steps: Mapping[str, str]
    """Step of the plan to step of the savepoint; one that is missing begins empty."""


@dataclass(frozen=True)
class ResumePlan:
    savepoint: Savepoint
    stages: tuple[StagePlan, ...]

    def lines(self) -> list[str]:
        found: list[str] = []
        for each in self.stages:
            name = each.stage.name
            if each.saved is None:
                found.append(f"stage {name}: new, begins empty")
                continue
            moved = f", {each.saved.partitions} partitions become {each.partitions}"
            found.append(f"stage {name}: resumes{moved if each.saved.partitions != each.partitions else ''}")
            for node in each.stage.stateful:
                old = each.steps.get(node.name)
                told = "new, begins empty" if old is None else "kept" if old == node.name else f"was {old}"
                found.append(f"  step {node.name}: {told}")
        return found


# --- 1 map ----------------------------------------------------------------------------------------------------------


def plan_resume(plan: Plan, savepoint: Savepoint, changes: Changes) -> ResumePlan:
    """Raises StateMismatch for what does not fit, naming it and what to say; TopicError for a count that cannot be."""
    count = changes.partitions
    if count is not None:
        refuse_count(plan, count)
    back = {new: old for old, new in changes.renamed.items()}
    stages = tuple(_stage_plan(stage, savepoint, back, count) for stage in plan.stages)
    used = {back.get(each.stage.name, each.stage.name) for each in stages if each.saved is not None}
    for name, saved in savepoint.stages.items():
        taken = {old for each in stages if each.saved is saved for old in each.steps.values()}
        lost = [step for step in saved.steps if step not in taken]
        gone = [name] if name not in used and not saved.steps else []
        for lost_name in [*lost, *gone]:
            if lost_name not in changes.dropped and name not in changes.dropped:
                raise StateMismatch(
                    f"savepoint {savepoint.name!r} has {_what(lost_name, name)}, and the job does not",
                    f"say what became of it: --drop {lost_name}, or --rename {lost_name}=NEW",
                )
    return ResumePlan(savepoint, stages)


def refuse_count(plan: Plan, count: int) -> None:
    """Raises TopicError for a count that no shuffle can have."""
    if not 1 <= count <= limits.PARTITIONS:
        raise TopicError(
            f"job {plan.job} cannot have shuffles of {count} partitions", f"allowed are 1 to {limits.PARTITIONS}"
        )


def _what(name: str, stage: str) -> str:
    return f"a stage {name!r}" if name == stage else f"a step {name!r} with state"


def _stage_plan(stage: Stage, savepoint: Savepoint, back: Mapping[str, str], count: int | None) -> StagePlan:
    saved = savepoint.stages.get(back.get(stage.name, stage.name))
    if saved is None:
        return StagePlan(stage, None, count or 0, {})
    if saved.shuffle != stage.is_shuffle or not _alike(saved.key, key_type(stage)):
        raise StateMismatch(
            f"stage {stage.name!r} is {_shape(stage.is_shuffle, key_type(stage))} in the code and "
            f"{_shape(saved.shuffle, saved.key)} in savepoint {savepoint.name!r}",
            "a changed key is other state: give the step another name, and --drop the old one",
        )
    steps: dict[str, str] = {}
    for node in stage.stateful:
        old = back.get(node.name, node.name)
        was, now = saved.steps.get(old), saved_step(node)
        if was is None:
            continue
        if was.kind != now.kind:
            raise StateMismatch(
                f"step {node.name!r} is of kind {now.kind} in the code and {was.kind} in savepoint {savepoint.name!r}",
                f"give it another name, and --drop {old}",
            )
        if was.version is not None and now.version is not None and was.version > now.version:
            raise StateMismatch(
                f"step {node.name!r} has State version {now.version} in the code and {was.version} in the savepoint",
                "run the code that wrote it, or newer",
            )
        steps[node.name] = old
    return StagePlan(stage, saved, saved.partitions if count is None or not saved.shuffle else count, steps)


def _alike(saved: str, now: str) -> bool:
    """A type that no annotation tells may be any."""
    return saved == now or repr(UNKNOWN) in (saved, now)


def _shape(shuffle: bool, key: str) -> str:
    return f"{'regrouped' if shuffle else 'read from its topic'} by {key}"


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


# --- 2 to 4 ---------------------------------------------------------------------------------------------------------


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
    ) -> None:
        """`source`: where the savepoint lies; `target`: the job's own checkpoints. `scratch` is made and deleted."""
        self._plan = plan
        self._log = log
        self._admin = admin
        self._source = source
        self._target = target
        self._scratch = scratch
        self._clock = clock
        self._entropy = entropy
        self._replication = replication
        self._auto_partitions = auto_partitions
        self._tell = tell

    def begin(self, resume: ResumePlan) -> None:
        """Raises what log and stores raise; TopicError when a source topic is not as it was, or the job has begun."""
        shuffled = {each.stage.name: each.partitions for each in resume.stages if each.stage.is_shuffle}
        topics = prepare(
            self._plan, self._admin, self._replication, self._auto_partitions, control=True, shuffled=shuffled
        )
        self._refuse(resume, topics)
        self._announce(resume)
        self._claim(resume.savepoint, topics[control_topic(self._plan.job)].topic_id)
        try:
            tasks = [task for each in resume.stages if each.saved is not None for task in self._tasks(each)]
            self._genesis(tasks, topics)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _refuse(self, resume: ResumePlan, topics: Mapping[str, TopicInfo]) -> None:
        for each in resume.stages:
            saved, found = each.saved, topics[each.stage.topic].partitions
            if saved is not None and found != each.partitions:
                raise TopicError(
                    f"stage {each.stage.name}: topic {each.stage.topic} has {found} partitions, and "
                    f"{'the savepoint' if not each.stage.is_shuffle else 'the job'} needs {each.partitions}",
                    "a stage that follows its source's partitions cannot be rescaled: its producers decide where a key "
                    "lies"
                    if not each.stage.is_shuffle
                    else "`streamcore reset JOB` deletes the old shuffle first",
                )
        journals = [
            TopicPartition(self._plan.journal_topic(each.stage.name), Partition(p))
            for each in resume.stages
            for p in range(topics[each.stage.topic].partitions)
        ]
        ends = self._admin.stable_ends(journals)
        begun = [str(tp) for tp, end in ends.items() if end > 0]
        if begun:
            raise OffsetsLost(
                f"job {self._plan.job} has begun already ({', '.join(begun[:3])} hold frames)",
                "`streamcore reset JOB` first, or resume under another name",
            )

    def _announce(self, resume: ResumePlan) -> None:
        """From here on no worker begins the job empty; the genesis takes the place of this."""
        tasks = [(each.stage, p) for each in resume.stages if each.saved is not None for p in range(each.partitions)]
        tps = [TopicPartition(stage.topic, Partition(p)) for stage, p in tasks]
        self._admin.set_committed(self._plan.job, [OffsetCommit(tp, Offset(0), RESUMING) for tp in tps])

    def _claim(self, savepoint: Savepoint, identity: str) -> None:
        """A prefix that held this job's life so far is this life's too; another job's is refused."""
        job = self._plan.job
        if savepoint.job == job and self._source.place == self._target.place:
            owner.release(self._target, job)
        lineage = next((task.lineage for stage in savepoint.stages.values() for task in stage.tasks), "")
        owner.claim(self._target, job, identity, lineage)

    def _tasks(self, each: StagePlan) -> Iterator[_Begun]:
        for p in range(each.partitions):
            task = TaskId(each.stage.name, Partition(p))
            self._tell(f"{task}: building")
            yield self._task(each, task)

    def _task(self, each: StagePlan, task: TaskId) -> _Begun:
        saved = each.saved
        assert saved is not None
        mark = EpochMark(self._entropy.token(), Epoch(0), self._entropy.token(), Offset(0), Offset(1))
        path = self._scratch / f"{task.stage}-{task.partition}"
        store = RocksStore.open(path, [node.name for node in each.stage.stateful], job=self._plan.job, task=task)
        try:
            self._fill(store, each, task, mark)
            snapshot = take(store, path.with_name(path.name + SUFFIX))
        finally:
            store.close()
        uploader = Uploader(self._target, self._plan.job, task, self._clock, self._entropy)
        versions = {step: saved.steps[old].version for step, old in each.steps.items()}
        uploaded = uploader.upload(snapshot, Facts(self._plan.version, versions))
        shutil.rmtree(path, ignore_errors=True)
        own = next((t for t in saved.tasks if t.partition == task.partition), None)
        offsets = {} if each.stage.is_shuffle or own is None else own.offsets
        return _Begun(task, each.stage, mark, uploaded.key, offsets)

    def _fill(self, store: RocksStore, each: StagePlan, task: TaskId, mark: EpochMark) -> None:
        saved = each.saved
        assert saved is not None
        same = saved.partitions == each.partitions
        inboxes = {node.name for node in each.stage.stateful if isinstance(node, Dedupe)}
        store.apply({}, mark)
        own: dict[str, dict[bytes, bytes]] = {step: {} for step in each.steps}
        for old in saved.tasks:
            if same and old.partition != task.partition:
                continue
            with self._opened(old.manifest) as source:
                for step, was in each.steps.items():
                    keep = _all if same or step in inboxes else _of(task.partition, each.partitions)
                    for delta in _chunks(source, was, keep):
                        store.apply({step: delta}, mark)
                    _gather(own[step], source, was)
        for step, kept in own.items():
            if kept:
                store.apply({step: Delta(list(kept), list(kept.values()))}, mark)

    def _opened(self, key: str) -> _Fetched:
        return _Fetched(self._source, load(self._source, key), self._scratch / "source", self._clock, self._entropy)

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


class _Fetched:
    """A checkpoint's state, downloaded and open to read, while the `with` lasts."""

    def __init__(
        self, store: CheckpointStore, manifest: Manifest, scratch: Path, clock: Clock, entropy: Entropy
    ) -> None:
        self._restorer = Restorer(store, clock, entropy)
        self._manifest = manifest
        self._scratch = scratch
        self._opened: Store | None = None

    def __enter__(self) -> Store:
        self._context = self._restorer.fetched(self._manifest, self._scratch, lambda size: None)
        wrong = self._context.__enter__()
        try:
            if wrong:
                raise CheckpointDamaged(
                    f"the savepoint's checkpoint {self._manifest.key} is not whole: {'; '.join(wrong.values())}"
                )
            self._restorer.open(self._manifest, self._scratch)
            self._opened = RocksStore.open_read_only(self._scratch)
        except BaseException:
            self._context.__exit__(None, None, None)
            raise
        return self._opened

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()
        self._context.__exit__(None, None, None)


def _all(key: bytes) -> bool:
    return True


def _of(partition: int, count: int) -> Callable[[bytes], bool]:
    def keep(key: bytes) -> bool:
        return int.from_bytes(key[:2], "big") % count == partition

    return keep


def _chunks(source: Store, step: str, keep: Callable[[bytes], bool]) -> Iterator[Delta]:
    keys: list[bytes] = []
    values: list[bytes | None] = []
    for key, value in source.column(step).scan(b"", bytes((FIRST_OWN,))):
        if keep(key):
            keys.append(key)
            values.append(value)
        if len(keys) >= CHUNK_ENTRIES:
            yield Delta(keys, values)
            keys, values = [], []
    if keys:
        yield Delta(keys, values)


def _gather(own: dict[bytes, bytes], source: Store, step: str) -> None:
    for key, value in source.column(step).scan(bytes((FIRST_OWN,)), RESERVED):
        invariant(key in MERGED, f"step {step!r} keeps {key!r}, and nobody knows how two of these become one")
        own[key] = MERGED[key](own[key], value) if key in own else value
