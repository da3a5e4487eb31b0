"""A worker's checkpoints: taken on the processing thread, uploaded beside it, named by the task's next commit, and the
journal trimmed behind the oldest that is kept.

    begin ──snapshot──▶ waiting ──▶ uploading ──▶ done ──the commit names it──▶ named ──▶ retired, journal trimmed

One upload at a time a worker; what waits is files on this machine's disk. An upload that fails is told and counts for
nothing: the job goes on, its journal grows, and the next checkpoint goes on from what was uploaded.

Law 8: manifests are retired, and the journal trimmed, by the owner, after the commit that names a newer checkpoint;
both are monotone, and doing them again is harmless.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from streamcore import limits
from streamcore.checkpoint.background import Done, Failed, Work
from streamcore.checkpoint.collect import Sweeper, retire
from streamcore.checkpoint.manifest import Layout, load
from streamcore.checkpoint.owner import claim
from streamcore.checkpoint.savepoint import Savepoint, write
from streamcore.checkpoint.snapshot import SUFFIX, Snapshot, take
from streamcore.checkpoint.upload import Facts, Uploaded, Uploader
from streamcore.clock import Clock, Entropy
from streamcore.errors import (
    AccessDenied,
    CheckpointDamaged,
    CheckpointStoreTaken,
    JournalTooLong,
    RetryError,
    StreamcoreError,
)
from streamcore.log.port import Admin
from streamcore.observe.metrics import Metrics
from streamcore.runtime.barriers import Barrier, BarrierState
from streamcore.runtime.budget import Behind, Rto
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.control import Recovery
from streamcore.runtime.cutting import Checkpointed, Unstored
from streamcore.runtime.digests import Digests
from streamcore.runtime.drill import Drill, Drilling
from streamcore.runtime.flushing import Flushing
from streamcore.runtime.saved import savepoint_of
from streamcore.runtime.task import Task
from streamcore.topology.nodes import Process
from streamcore.topology.plan import Plan, Stage, control_topic
from streamcore.types import Epoch, Offset, TaskId, TopicPartition

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    task: TaskId
    barrier: int | None
    snapshot: Snapshot
    facts: Facts


@dataclass(frozen=True, slots=True)
class _Trim:
    """What a retired manifest leaves: the journal is of use from here on."""

    journal: TopicPartition
    before: Offset


@dataclass(frozen=True, slots=True)
class _Saved:
    barrier: int
    wrong: str


class Checkpoints:
    """Processing thread only; `work` has the other."""

    def __init__(
        self, plan: Plan, how: Checkpointing, admin: Admin, clock: Clock, entropy: Entropy, metrics: Metrics
    ) -> None:
        self._plan = plan
        self._how = how
        self._admin = admin
        self._clock = clock
        self._entropy = entropy
        self._metrics = metrics
        self._uploaders: dict[TaskId, Uploader] = {}
        self._waiting: deque[_Waiting] = deque()
        self._chores: dict[str, Callable[[], object]] = {}
        """By name, so that each waits once; in turns with uploads."""
        self._uploaded_last = False
        self._work: Work[object] = how.work("checkpoints")
        self._running: _Waiting | None = None
        self._trimmed: dict[TopicPartition, Offset] = {}
        self._sweeper = Sweeper(how.store, plan.job)
        self._saved: list[tuple[int, str]] = []
        self._dropped: _Waiting | None = None
        """What runs for a task that was let go."""
        self._unstored: list[Unstored] = []
        self._distrusted: dict[TaskId, frozenset[str]] = {}
        self._identity: str | None = None
        """Of the job, once its tasks run: see checkpoint.owner."""
        self._claimed = False
        self._last_failure = ""
        self._failing = False
        """No checkpoint has been stored since the last failure."""
        self._promised = how.promised
        self._rto = None if how.promised is None else Rto(how.promised.rto_ms, how.rates, metrics)
        self._mine: frozenset[TaskId] = frozenset()
        """Of these nobody else tells."""
        self._state_bytes: dict[TaskId, int] = {}
        """Of each task's newest checkpoint, as far as it is known."""
        self._epoch_bytes: dict[TaskId, int] = {}
        """In its journal, as its owner has told last."""
        self._flushing = Flushing(lambda: how.work("flush"), clock)
        self._digests = Digests(how.form, how.digest_share, clock)
        self._drill = Drill(
            plan.job,
            how.store,
            how.verifier(clock, entropy),
            how.work("drill"),
            how.drill_every_s,
            clock,
            entropy.random(),
            metrics,
            how.rates,
            how.rehearsal(plan.job, clock),
        )

    # --- the Checkpointer ---------------------------------------------------------------------------------------

    def running(self, tasks: Sequence[Task]) -> str:
        if self._identity is None:
            control = control_topic(self._plan.job)
            self._identity, lineage = self._admin.topics([control])[control].topic_id, tasks[0].lineage
            self._chores["claim"] = lambda: self._claim(lineage)
            self._next()
        folder = self._how.folders.folder
        self._drilled(
            self._drill.step([Drilling(task.id, folder(task.id), task.store.steps, task.mark) for task in tasks])
        )
        bound = self._how.bound_bytes
        for task in tasks:
            if bound and task.tail.size_bytes > bound:
                raise self._too_long(task, bound)
        why = self._over_rto(tasks) or self._over_milestone(tasks)
        if why:
            for task in tasks:
                task.tail.want_cut()
        return why

    def _over_rto(self, tasks: Sequence[Task]) -> str:
        if self._rto is None:
            return ""
        self._mine = frozenset(task.id for task in tasks)
        for task in tasks:
            task.tail.mean_before = self._epoch_bytes.get(task.id, 0)
        behind = {
            task.id: Behind(self._state_bytes.get(task.id, 0), task.tail.size_bytes, task.tail.uncut_bytes)
            for task in tasks
        }
        return self._rto.judge(behind, self._last_failure if self._failing else "")

    def _over_milestone(self, tasks: Sequence[Task]) -> str:
        size, records = self._how.milestone_bytes, self._how.milestone_records
        for task in tasks:
            if 0 < size < task.tail.since_cut:
                return f"the journal of {task.id} has grown by {task.tail.since_cut:,} bytes since its last cut"
            if 0 < records < task.tail.records_since_cut:
                return f"{task.id} has processed {task.tail.records_since_cut:,} records since its last cut"
        return ""

    def alone(self, task: Task) -> bool:
        size, records = task.tail.since_wanted
        rto = self._rto is not None and self._rto.alone(size)
        return rto or 0 < self._how.milestone_bytes < size or 0 < self._how.milestone_records < records

    def recovery(self, task: Task) -> Recovery | None:
        promised, rates = self._promised, self._how.rates
        if promised is None:
            return None
        return Recovery(
            task.id.stage,
            task.id.partition,
            self._state_bytes.get(task.id, 0),
            task.tail.epoch_bytes,
            promised.rpo_ms,
            promised.rto_ms,
            rates.restore_bytes_s,
            rates.replay_bytes_s,
        )

    def heard(self, told: Recovery) -> None:
        if told.task not in self._mine:
            self._state_bytes[told.task] = told.state_bytes
            self._epoch_bytes[told.task] = told.epoch_bytes
        self._how.rates.adopt(told.restore_bytes_s, told.replay_bytes_s)

    def flushed(self, barrier: int, tasks: Sequence[Task]) -> bool:
        return self._flushing.over(barrier, tasks)

    def begin(self, task: Task, barrier: int | None) -> None:
        """Raises StateDirError, StateDamaged as the store does."""
        task.tail.cut(taken=self._running is None or self._running.task != task.id)
        if self._running is not None and self._running.task == task.id:
            # Its files are being read, and lie where the next ones would.
            self._unstored.append(Unstored(task.id, barrier, "its last checkpoint is still being uploaded"))
            return
        self._distrusted[task.id] = self._distrusted.get(task.id, frozenset()) | task.distrusted
        begun_s = self._clock.monotonic_s()
        path = self._how.folders.folder(task.id)
        snapshot = take(task.store, path.with_name(path.name + SUFFIX))
        self._metrics.snapshot(self._clock.monotonic_s() - begun_s)
        self._waiting = deque(waiting for waiting in self._waiting if waiting.task != task.id)
        self._waiting.append(_Waiting(task.id, barrier, snapshot, self._facts(task.stage, barrier)))
        self._next()

    def done(self) -> list[Checkpointed | Unstored]:
        found: list[Checkpointed | Unstored] = [*self._unstored]
        self._unstored.clear()
        result = self._work.poll()
        running = None if self._running is self._dropped else self._running
        match result:
            case Done(Uploaded() as uploaded) if running is not None:
                self._metrics.checkpointed(uploaded.seconds, uploaded.bytes_new, uploaded.bytes_total)
                self._failing = False
                self._state_bytes[running.task] = uploaded.bytes_total
                found.append(Checkpointed(running.task, running.barrier, uploaded.manifest.epoch, uploaded.key))
            case Done(_Trim() as trim):
                self._trim(trim)
            case Done(_Saved() as saved):
                self._saved.append((saved.barrier, saved.wrong))
            case Failed(CheckpointStoreTaken() as error):
                raise error
            case Failed(error):
                self._failed(error, running)
                if running is not None:
                    found.append(Unstored(running.task, running.barrier, error.what))
            case _:
                pass
        if result is not None:
            self._running = self._dropped = None
        self._next()
        return found

    def decided(self, barrier: Barrier, coordinating: bool) -> None:
        self._metrics.barrier_decided(barrier.state.value)
        if coordinating and barrier.state is BarrierState.COMPLETE and barrier.number % limits.SWEEP_BARRIERS == 0:
            self.sweep()

    def forget(self, control: TopicPartition, before: Offset) -> None:
        self._delete_records(control, before)

    def named(self, task: Task) -> None:
        if task.mark is None or task.checkpoint is None:
            return
        at, lineage, manifest = task.id, task.lineage, task.checkpoint
        self._chores[f"retire {at}"] = lambda: self._retire(at, lineage, manifest)
        self._next()

    def save(self, barrier: Barrier) -> None:
        found = savepoint_of(self._plan, barrier, self._clock.wall_ms())
        self._chores[f"save {found.name}"] = lambda: self._write(found)
        self._next()

    def saved(self) -> list[tuple[int, str]]:
        found, self._saved = self._saved, []
        return found

    def sweep(self) -> None:
        """Objects that no manifest names any more go, after their grace: one worker of a job does it."""
        self._chores["sweep"] = lambda: self._sweeper.sweep() and None
        self._next()

    def drop(self) -> None:
        for waiting in self._waiting:
            waiting.snapshot.delete()
        self._waiting.clear()
        self._unstored.clear()
        self._mine = frozenset()
        self._dropped = self._running
        self._chores.clear()
        if not self._claimed:
            self._identity = None
        self._uploaders.clear()

    # --- beside -------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        if self._work.busy:
            return
        if self._waiting and not (self._chores and self._uploaded_last):
            self._uploaded_last = True
            self._running = waiting = self._waiting.popleft()
            uploader = self._uploader(waiting.task)
            self._work.submit(lambda: self._upload(uploader, waiting))
        elif self._chores:
            self._uploaded_last = False
            self._work.submit(self._chores.pop(next(iter(self._chores))))

    def _uploader(self, task: TaskId) -> Uploader:
        if task not in self._uploaders:
            uploader = self._uploaders[task] = Uploader(
                self._how.store, self._plan.job, task, self._clock, self._entropy, self._how.form
            )
            uploader.distrust(self._distrusted.get(task, frozenset()))
        return self._uploaders[task]

    def _upload(self, uploader: Uploader, waiting: _Waiting) -> Uploaded:
        """On the other thread."""
        try:
            self._claim(waiting.snapshot.mark.lineage)
            digest = self._digests.of(waiting.task, waiting.snapshot)
            return uploader.upload(waiting.snapshot, replace(waiting.facts, digest=digest))
        finally:
            waiting.snapshot.delete()

    def _claim(self, lineage: str) -> None:
        """On the other thread. A store that does not answer is asked again before the next upload."""
        identity = self._identity
        if not self._claimed and identity is not None:
            claim(self._how.store, self._plan.job, identity, lineage)
            self._claimed = True

    def _failed(self, error: StreamcoreError, running: _Waiting | None) -> None:
        self._metrics.checkpoint_failed(type(error).__name__)
        what = f"the checkpoint of {running.task}" if running else "a request to the checkpoint store"
        self._last_failure, self._failing = error.what, True
        logger.warning("%s failed, the job goes on without it: %s", what, error)

    def _drilled(self, found: tuple[TaskId, frozenset[str]] | None) -> None:
        if found is None:
            return
        task, objects = found
        self._distrusted[task] = self._distrusted.get(task, frozenset()) | objects
        objects = self._distrusted[task]
        self._chores[f"distrust {task}"] = lambda: self._uploader(task).distrust(objects)
        self._next()

    def _too_long(self, task: Task, bound: int) -> JournalTooLong:
        since = f"its checkpoint {task.checkpoint}" if task.checkpoint else "its beginning: it has no checkpoint"
        last = f" The last failure: {self._last_failure}." if self._last_failure else ""
        return JournalTooLong(
            f"job {self._plan.job}, task {task.id}: its journal has grown by {task.tail.size_bytes:,} bytes since "
            f"{since}. The bound is {bound:,}.{last}",
            f"see that checkpoints can be stored in {self._how.store.place}, and start again; or raise "
            "checkpoints.journal_bound_bytes (0: no bound), at the price of a longer takeover",
        )

    def _retire(self, task: TaskId, lineage: str, manifest: str) -> _Trim | None:
        """On the other thread: it touches the store alone. The journal stays whole until there are as many checkpoints
        as are to be kept: a single one that turns out to be spoilt must not be all there is."""
        store, layout = self._how.store, Layout(self._plan.job)
        named = load(store, manifest)
        retired = retire(store, self._plan.job, task, lineage, named.epoch, self._how.retention)
        journal = TopicPartition(self._plan.journal_topic(task.stage), task.partition)
        for epoch in retired.kept if len(retired.kept) >= self._how.retention.count else ():
            try:
                return _Trim(journal, load(store, layout.manifest(task, lineage, Epoch(epoch))).journal)
            except CheckpointDamaged:
                logger.warning("a retained checkpoint of %s, epoch %d, cannot be read: the journal stays", task, epoch)
                return None
        return None

    def _write(self, savepoint: Savepoint) -> _Saved:
        """On the other thread. A failure is an answer too: the barrier is abandoned for it."""
        try:
            wrong = "" if write(self._how.store, savepoint) else f"there is a savepoint {savepoint.name!r} already"
        except StreamcoreError as error:
            wrong = f"savepoint {savepoint.name!r} cannot be written: {error.what}"
        return _Saved(savepoint.barrier, wrong)

    def _trim(self, trim: _Trim) -> None:
        if self._how.trims:
            self._delete_records(trim.journal, trim.before)

    def _delete_records(self, tp: TopicPartition, before: Offset) -> None:
        if before <= self._trimmed.get(tp, 0):
            return
        try:
            self._admin.delete_records({tp: before})
            self._trimmed[tp] = before
        except (RetryError, AccessDenied) as error:
            logger.warning("%s is not trimmed this time, and grows: %s", tp, error)

    def _facts(self, stage: Stage, barrier: int | None) -> Facts:
        versions = {n.name: n.state.__schema__.version if isinstance(n, Process) else None for n in stage.stateful}
        return Facts(self._plan.version, versions, barrier)
