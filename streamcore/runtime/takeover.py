"""Takeover: how tasks become ours. Fence before you read; read what is decided; rebuild; seek; run.

    1 FENCE    our own id is initialised; the last writers' slots that are no live members are initialised
               by a throwaway producer, so that their open transactions end now
    2 READ     committed offsets with metadata, waiting for undecided transactions
    3 OPEN     the local store, when it can be the commit's; else the newest checkpoint that verifies, at or before the
               commit; else an empty one (runtime.opening)
    4 REPLAY   the journal from the store's own frame (whose nonce must be the store's) to the metadata's frame, and on
               to the stable end: a frame that the metadata does not know stops the job
               (where there is no metadata: to the end that the journal's leader tells, which it does only once it
               knows it, KIP-207; the end of a fetch may be an old one, and the job seem new)
    5 GENESIS  tasks with neither metadata nor frames commit their start offsets first
    6 START    every input is sought and fetched

One object takes over all tasks of one assignment. `advance` does a bounded piece of it and returns; it is called by
the loop between polls, never from the group's callbacks, and is thrown away when the assignment changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from streamcore import limits
from streamcore.checkpoint.manifest import parsed
from streamcore.clock import Clock, Entropy
from streamcore.errors import LogUnavailable, MembershipChanged, OffsetsLost, TopicError
from streamcore.log import metadata
from streamcore.log.metadata import Metadata
from streamcore.log.port import Admin, Committed, Consumer, Log, Reader
from streamcore.observe.metrics import Metrics
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.commit import Committer
from streamcore.runtime.opening import Opening, Taking
from streamcore.runtime.points import Probe
from streamcore.runtime.replay import Replay, Verdict
from streamcore.runtime.slices import SliceRunner
from streamcore.runtime.start import Start
from streamcore.runtime.statedir import StoreFactory
from streamcore.runtime.tail import Tail
from streamcore.runtime.task import Task, TaskState
from streamcore.state.frames import Origin
from streamcore.state.store import Store
from streamcore.topology.plan import Plan, Stage
from streamcore.types import Offset, Slot, TaskId, TopicPartition

logger = logging.getLogger(__name__)


class Step(Enum):
    FENCE = 1
    READ = 2
    OPEN = 3
    RESTORE = 4
    REPLAY = 5
    GENESIS = 6
    START = 7
    DONE = 8


class Takeover:
    def __init__(
        self,
        plan: Plan,
        tasks: Mapping[TaskId, tuple[TopicPartition, ...]],
        log: Log,
        admin: Admin,
        consumer: Consumer,
        committer: Committer,
        stores: StoreFactory,
        runner: Callable[[Stage, TaskId, Store], SliceRunner],
        start: Start,
        instance: Callable[[Slot], str],
        clock: Clock,
        entropy: Entropy,
        metrics: Metrics,
        probe: Probe,
        checkpointing: Checkpointing | None = None,
    ) -> None:
        self._checkpointing = checkpointing
        self._plan = plan
        self._log = log
        self._admin = admin
        self._consumer = consumer
        self._committer = committer
        self._runner = runner
        self._start = start
        self._instance = instance
        self._clock = clock
        self._entropy = entropy
        self._metrics = metrics
        self._begun_s = clock.monotonic_s()
        self._probe = probe
        self._opening = Opening(plan, admin, stores, checkpointing, clock, entropy, metrics)
        self._taking = [
            Taking(task, plan.stage(task.stage), inputs, TopicPartition(plan.journal_topic(task.stage), task.partition))
            for task, inputs in tasks.items()
        ]
        self._inputs = [tp for taking in self._taking for tp in taking.inputs]
        self._told: dict[TopicPartition, Committed] = {}
        """The committed offsets, as READ found them."""
        self._reader: Reader | None = None
        self._replayed_bytes = 0
        self._replay_begun_s: float | None = None
        """When the first frames had been read: what is measured is what comes after them."""
        self._tasks: list[Task] = []
        self._deadline_s = clock.monotonic_s() + limits.TAKEOVER_TIMEOUT_S
        self.step = Step.FENCE

    def advance(self) -> list[Task]:
        """A bounded piece. Returns the tasks, RUNNING, once: in the call that makes `step` DONE. Raises OffsetsLost
        when journal and offsets contradict each other, and MembershipChanged when they only seem to: a worker that
        slept since it read the offsets finds frames that others have committed."""
        try:
            return self._advance()
        except OffsetsLost as error:
            if self.step in (Step.RESTORE, Step.REPLAY) and self._read_again() != self._told:
                raise MembershipChanged(f"others committed while the tasks were taken over: {error.what}") from error
            raise

    def _advance(self) -> list[Task]:
        match self.step:
            case Step.FENCE:
                self._probe("takeover-before-fence")
                self._start.look_again(self._plan.job)
                self._fence()
                self._probe("takeover-after-fence")
                self.step = Step.READ
            case Step.READ:
                self._read()
                self._probe("takeover-after-read")
                self.step = Step.OPEN
            case Step.OPEN:
                first = self._beginnings()
                for taking in self._taking:
                    self._opening.open(taking, first[taking.journal])
                self.step = Step.RESTORE
            case Step.RESTORE:
                if all(self._opening.restored(taking) for taking in self._taking):
                    self._opening.over()
                    self._opening.measure()
                    self._open_reader()
                    self.step = Step.REPLAY
            case Step.REPLAY:
                if self._replay():
                    self._probe("takeover-after-replay")
                    self.step = Step.GENESIS
            case Step.GENESIS:
                if self._genesis():
                    self.step = Step.START
            case Step.START:
                self._run()
                self.step = Step.DONE
                self._probe("takeover-started")
                return self._tasks
            case Step.DONE:
                pass
        return []

    def drop(self) -> None:
        """The assignment changed, or the worker ends: nothing of this takeover stays open."""
        self._close_reader()
        for taking in self._taking:
            if taking.restoring is not None:
                taking.restoring.forsake()
            if taking.store is not None:
                taking.store.close()
        self._opening.over()
        for task in self._tasks:
            if task.state is not TaskState.CLOSED:
                task.move(TaskState.CLOSED)

    # --- 1 fence, 2 read --------------------------------------------------------------------------------------

    def _fence(self) -> None:
        found = self._admin.committed(self._plan.job, self._inputs, limits.CALL_TIMEOUT_S, stable=False)
        last = [metadata.decode(at.metadata, str(tp)) for tp, at in found.items()]
        writers = {told.slot for told in last if told.mode != "alo"}
        if not writers:
            return
        alive = {member.instance_id for member in self._admin.members(self._plan.job)}
        if not self._committer.transactional:
            alive.discard(self._committer.instance_id)  # that member is us, and no producer of ours has the id
        for slot in sorted(writers):
            if self._instance(slot) not in alive:
                producer = self._log.producer(self._instance(slot))
                try:
                    producer.init(limits.CALL_TIMEOUT_S)
                finally:
                    producer.close()

    def _read(self) -> None:
        found = self._told = self._read_again()
        for taking in self._taking:
            texts = {tp: found[tp].metadata for tp in taking.inputs if tp in found}
            if not texts:
                continue
            if len(texts) < len(taking.inputs) or len(set(texts.values())) > 1:
                raise OffsetsLost(
                    f"task {taking.id}: the committed offsets of {sorted(map(str, texts))} are not of one commit",
                    "another tool changed some: `streamcore recover JOB` rewrites them from the journal",
                )
            tp, text = next(iter(texts.items()))
            taking.metadata = metadata.decode(text, f"{self._plan.job}, {tp}")
            taking.offsets = {tp: found[tp].offset for tp in taking.inputs}

    def _read_again(self) -> dict[TopicPartition, Committed]:
        return self._admin.committed(self._plan.job, self._inputs, limits.TAKEOVER_TIMEOUT_S)

    # --- 3 open, 4 replay -------------------------------------------------------------------------------------

    def _beginnings(self) -> dict[TopicPartition, Offset]:
        """Of the journals; 0 where nothing trims them."""
        journals = [taking.journal for taking in self._taking]
        if self._checkpointing is None:
            return dict.fromkeys(journals, Offset(0))
        return self._admin.first_offsets(journals)

    def _replay_of(self, taking: Taking, store: Store, end: Offset) -> Replay:
        def check(origin: Origin) -> None:
            self._start.check(taking.id, taking.stage, origin)

        return Replay(taking.id, taking.journal, store, taking.metadata, check, taking.rejected, end)

    def _open_reader(self) -> None:
        """Of every journal not read to its end yet, from where the store stands."""
        self._close_reader()
        self._replay_begun_s = None
        journals = {t.journal: t for t in self._taking if not t.caught_up}
        new = [tp for tp, taking in journals.items() if taking.metadata is None]
        ends = self._admin.stable_ends(new) if new else {}
        for tp, taking in journals.items():
            assert taking.store is not None
            taking.replay = self._replay_of(taking, taking.store, ends.get(tp, Offset(0)))
        first = self._admin.first_offsets(list(journals))
        starts: dict[TopicPartition, Offset] = {}
        for tp, taking in journals.items():
            assert taking.replay is not None
            start = taking.replay.start
            if taking.metadata is None and first[tp] > 0:
                raise OffsetsLost(
                    f"task {taking.id}: its journal begins at offset {first[tp]}, so the job has run, but the group's "
                    "offsets know nothing of it: they were reset or expired",
                    "`streamcore recover JOB` rewrites the offsets from the journal's last frame; `streamcore reset "
                    "JOB` starts over",
                )
            if start is not None and start < first[tp]:
                raise OffsetsLost(
                    f"task {taking.id}: its state stands at journal offset {start}, and {tp} begins at {first[tp]}",
                    "the journal was trimmed by another tool; `streamcore reset JOB` starts over",
                )
            starts[tp] = first[tp] if start is None else start
        self._reader = self._log.reader(starts)

    def _replay(self) -> bool:
        """True when every task stands at its commit and its journal was read to the stable end."""
        assert self._reader is not None
        by_journal = {t.journal: t for t in self._taking}
        runs = self._reader.poll(limits.POLL_RECORDS, 0.05)
        if runs:
            now_s = self._clock.monotonic_s()
            self._deadline_s = now_s + limits.TAKEOVER_TIMEOUT_S
            if self._replay_begun_s is None:
                self._replay_begun_s, self._replayed_bytes = now_s, 0
            else:
                self._replayed_bytes += sum(len(value or b"") for run in runs for value in run.values)
        for run in runs:
            taking = by_journal[run.tp]
            assert taking.replay is not None
            taking.replay.feed(run)
        ended = self._reader.ended()
        restart = False
        for tp, taking in by_journal.items():
            assert taking.replay is not None
            if taking.replay.verdict is Verdict.FOREIGN:
                self._opening.start_over(taking, self._beginnings()[tp])
                restart = True
            elif tp in ended and taking.replay.ended(self._reader.position(tp)):
                taking.caught_up = True
        if restart:
            self.step = Step.RESTORE
            return False
        if all(taking.caught_up for taking in self._taking):
            self._close_reader()
            frames = sum(taking.replay.frames for taking in self._taking if taking.replay)
            now_s = self._clock.monotonic_s()
            self._metrics.took_over(frames=frames, seconds=now_s - self._begun_s)
            if self._checkpointing is not None and self._replay_begun_s is not None:
                self._checkpointing.rates.replayed(self._replayed_bytes, now_s - self._replay_begun_s)
            return True
        if self._clock.monotonic_s() > self._deadline_s:
            behind = [str(taking.id) for taking in self._taking if not taking.caught_up]
            raise LogUnavailable(
                f"job {self._plan.job}: the journals of {', '.join(behind)} do not reach their commits or ends within "
                f"{limits.TAKEOVER_TIMEOUT_S:.0f} s",
                "look for transactions that stay open, or partitions without a leader",
            )
        return False

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # --- 5 genesis, 6 start -----------------------------------------------------------------------------------

    def _genesis(self) -> bool:
        if not self._tasks:
            self._tasks = [self._task(taking) for taking in self._taking]
        new = [task for task in self._tasks if task.mark is None]
        if new:
            self._committer.commit(new)
        return all(task.mark is not None for task in self._tasks)

    def _task(self, taking: Taking) -> Task:
        assert taking.store is not None and taking.replay is not None
        mark = taking.replay.mark
        if mark is None:
            offsets = self._start.offsets(taking.stage, taking.inputs)
            origin = self._start.origin(taking.stage)
        else:
            offsets = taking.offsets
            origin = taking.replay.origin or {}
            self._start.check(taking.id, taking.stage, origin)
        return Task(
            id=taking.id,
            stage=taking.stage,
            inputs=taking.inputs,
            store=taking.store,
            runner=self._runner(taking.stage, taking.id, taking.store),
            origin=origin,
            lineage=mark.lineage if mark else self._entropy.token(),
            mark=mark,
            committed=dict(offsets),
            position=dict(offsets),
            cut=taking.metadata.cut if taking.metadata and self._checkpointing is not None else None,
            checkpoint=taking.metadata.checkpoint if taking.metadata else None,
            distrusted=taking.distrusted,
            tail=_tail(taking.metadata),
        )

    def _run(self) -> None:
        for task in self._tasks:
            task.move(TaskState.RUNNING)
            for tp, offset in task.committed.items():
                self._consumer.start(tp, offset)


def _tail(told: Metadata | None) -> Tail:
    if told is None:
        return Tail()
    named = parsed(told.checkpoint) if told.checkpoint else None
    return Tail(epochs_before=told.epoch - named[1] if named and named[0] == told.lineage else told.epoch)


def tasks_of(plan: Plan, assigned: Sequence[TopicPartition]) -> dict[TaskId, tuple[TopicPartition, ...]]:
    """The tasks all of whose inputs are assigned."""
    stage_of = {stage.topic: stage for stage in plan.stages}
    found: dict[TaskId, tuple[TopicPartition, ...]] = {}
    for tp in assigned:
        stage = stage_of.get(tp.topic)
        if stage is None:
            raise TopicError(f"job {plan.job}: assigned {tp}, which no stage reads", "is another job using this name?")
        found[TaskId(stage.name, tp.partition)] = (tp,)
    return found
