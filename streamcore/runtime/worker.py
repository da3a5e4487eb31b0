"""A worker: one member of the job's consumer group, one processing thread, one producer.

The loop, each turn of it:

    1 poll     records, and through the listener the group's decisions; nothing is polled while slices wait, but the
               group is served (with everything paused) when they wait long
    2 take     the next piece of a takeover under way
    3 slice    one slice of the oldest waiting run
    4 follow   what the control topic says of barriers; who has to cut, or may go on
    5 commit   when the epoch is due: by time, by records, by bytes, by a barrier
    6 tell     progress, for whoever asks

A failure of one epoch is undone by the committer and the loop goes on. Where more than an epoch is in doubt (the log
does not answer, local state is damaged), the tasks are let go and taken over anew, for as long as an outage may last.
Errors that no turn can mend leave `run` by their remedy, with the epoch undone and the consumer closed.

Threads: everything runs on the thread that called `run`, listener methods inside its poll; `stop` may be called from
any thread or signal handler.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from streamcore import limits
from streamcore.clock import Clock, Entropy
from streamcore.errors import (
    ProducerFenced,
    RebuildError,
    RetryError,
    StreamcoreError,
    TopologyError,
    TransactionAborted,
)
from streamcore.log.port import Consumer, Log, Run, TopicInfo
from streamcore.observe.metrics import Metrics
from streamcore.runtime.barriers import Barriers
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.checkpoints import Checkpoints
from streamcore.runtime.commit import Committer
from streamcore.runtime.coordinator import Coordinator
from streamcore.runtime.cutting import Cutting, control_partition
from streamcore.runtime.outage import Outage, patiently
from streamcore.runtime.owned import OwnedTasks, Tasks, closing
from streamcore.runtime.pace import Pace
from streamcore.runtime.points import Probe, quiet
from streamcore.runtime.producers import Producers
from streamcore.runtime.progress import Progress
from streamcore.runtime.slices import SliceRunner
from streamcore.runtime.start import Start
from streamcore.runtime.statedir import RocksStores, StoreFactory
from streamcore.runtime.takeover import Takeover
from streamcore.runtime.task import Task
from streamcore.runtime.topics import prepare, size_limits
from streamcore.runtime.trim import Trim
from streamcore.runtime.waiting import Waiting
from streamcore.runtime.watchdog import Watchdog
from streamcore.state.store import Store
from streamcore.topology.plan import Plan, Stage
from streamcore.types import Offset, Slot, TaskId, TopicPartition

logger = logging.getLogger(__name__)

T = TypeVar("T")
Mode = Literal["exactly-once", "at-least-once"]
SERVE_GROUP_S = 1.0
"""While slices wait, the group is served this often."""
IDLE_POLL_S = 0.5
"""Records end a poll as soon as they come; only what is told otherwise waits for its end."""
CONTROL_POLL_S = 0.1
"""With barriers: until the control topic is read again."""
OPEN_BARRIER_POLL_S = 0.01
"""While a barrier is open, tasks may be standing still until the control topic is read again."""
LAG_EVERY_S = 1.0
"""The metric of the lag: asking takes 0.3 ms a partition while the client fetches."""
FIRST_SLOT = Slot(0)


@dataclass(frozen=True)
class WorkerSettings:
    slot: Slot = FIRST_SLOT
    state_dir: Path = Path(".streamcore")
    commit_interval_ms: int = limits.COMMIT_INTERVAL_MS
    rpo_ms: int = 0
    """How long input may stay uncommitted; 0: as long as the interval says."""
    mode: Mode = "exactly-once"
    replication: int | None = None
    """Of the internal topics; None: the broker's default."""
    checkpoint_interval_s: float = limits.CHECKPOINT_INTERVAL_S
    auto_partitions: int | None = None
    """On the embedded log the user's topics appear by themselves with this many; None: they must exist."""


class Worker:
    def __init__(
        self,
        plan: Plan,
        log: Log,
        settings: WorkerSettings,
        *,
        clock: Clock,
        entropy: Entropy,
        metrics: Metrics,
        stores: StoreFactory | None = None,
        probe: Probe = quiet,
        watchdog: Watchdog | None = None,
        checkpointing: Checkpointing | None = None,
    ) -> None:
        """Takes the slot's lock (StateDirError) and nothing else; `run` does the rest."""
        self._plan = plan
        self._log = log
        self._settings = settings
        self._clock = clock
        self._entropy = entropy
        self._metrics = metrics
        self._probe = probe
        self._watchdog = watchdog
        self._checkpointing = checkpointing
        self._stores = stores or RocksStores(settings.state_dir, plan.job, settings.slot)
        self._waiting = Waiting(clock)
        self._pace = Pace(settings.commit_interval_ms, settings.rpo_ms, clock, metrics)
        self._outage = Outage(clock, entropy)
        self._cutting: Cutting | None = None
        self._paused = False
        self._stopping = False
        self._failure: BaseException | None = None
        self._polled_s = 0.0
        self._looked_s = 0.0
        self._records_in = 0
        self._records_out = 0
        self._commits = 0
        self._lag_due_s = 0.0

    # --- life -------------------------------------------------------------------------------------------------

    def run(self, between: Callable[[], None] | None = None) -> None:
        """Until `stop`; `between` is called after each turn. Raises StreamcoreError by remedy."""
        try:
            self.open()
            while not self._stopping:
                self.turn()
                if between is not None:
                    between()
            self._commit()
        finally:
            self.close()

    def stop(self) -> None:
        """The epoch is finished and committed, then `run` returns."""
        self._stopping = True

    def open(self) -> None:
        """Fence our own id, check topics, join the group."""
        settings, plan = self._settings, self._plan
        instance = self.instance(settings.slot)
        self._admin = self._with_retries(self._log.admin)
        topics = self._with_retries(
            lambda: prepare(
                plan, self._admin, settings.replication, settings.auto_partitions, control=self._has_control
            )
        )
        self._start = Start(self._admin, [stage.topic for stage in plan.stages], topics)
        self._trim = Trim(self._admin, self._clock)
        self._limits = self._with_retries(lambda: size_limits(plan, self._admin))
        self._partitions = {stage.name: topics[stage.topic].partitions for stage in plan.stages}
        self._producers = Producers(
            self._log,
            instance if settings.mode == "exactly-once" else None,
            self._clock,
            self._metrics.producer_rebuilt,
            self._watchdog,
        )
        self._with_retries(self._producers.fence)
        self._consumer: Consumer = self._log.consumer(plan.job, instance, headers=plan.needs_headers)
        self._committer = Committer(
            plan, settings.slot, instance, self._producers, self._consumer, self._admin,
            self._clock, self._entropy, self._metrics, self._probe,
        )  # fmt: skip
        self._owned = OwnedTasks(plan, self._consumer, self._committer, self._metrics, self._takeover)
        self._cutting = self._cuts(topics)
        self._consumer.subscribe([stage.topic for stage in plan.stages], self)
        logger.info("job %s, slot %d: joined as %s", plan.job, settings.slot, instance)

    def close(self) -> None:
        """After run, or after an error. What is still open is dropped: whoever takes over goes on from the commit."""
        owned: OwnedTasks | None = getattr(self, "_owned", None)
        if owned is not None:
            closing(owned.drop_takeover)
            owned.forget_epochs()
            closing(self._committer.end_transaction)
        for name in ("_consumer", "_producers", "_admin"):
            part = getattr(self, name, None)
            if part is not None:
                closing(part.close)
        if owned is not None:
            owned.let_go()
            if self._cutting is not None:
                closing(self._cutting.close)
        self._stores.close()

    @property
    def _has_control(self) -> bool:
        return self._checkpointing is not None and self._settings.mode == "exactly-once"

    def instance(self, slot: Slot) -> str:
        """group.instance.id and transactional.id of a slot."""
        return f"{self._plan.job}.{slot}"

    def drain(self) -> None:
        """Turn until a whole round brings no record and leaves nothing to commit: for a single worker in a test."""
        while True:
            before = self._records_in, self._commits
            running = bool(self._owned) and not self._owned.taking_over
            self.turn()
            self._commit()
            if running and (self._records_in, self._commits) == before and not self._waiting:
                return

    # --- the loop ---------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """One turn; the module's docstring numbers its phases."""
        try:
            self._poll()
            self._take()
            if self._waiting:
                self._slice()
            must = self._follow()
            now = must and not self._waiting.more_will_cut(must, self._owned)
            if now or (self._pace.due(self._owned.touched) and not self._stopping):
                self._commit(must)
            if self._owned and not self._producers.in_transaction:
                self._look_at_topics()
            self._tell_lag()
        except (RetryError, RebuildError) as error:
            self._begin_again(error)

    def _begin_again(self, why: StreamcoreError) -> None:
        """What is open or in memory is trusted no more: the tasks are let go, as if lost, and taken over anew."""
        self._outage.failed(why)
        assigned = self._owned.assigned
        logger.warning("taking %d inputs over anew, in %.1f s: %s", len(assigned), self._outage.wait_s, why)
        self._owned.drop_takeover()
        self._owned.forget_epochs()
        self._producers.abandon()
        self._let_go()
        self._consumer.pause(assigned)
        self._owned.take_over(assigned)

    def _poll(self) -> None:
        now = self._clock.monotonic_s()
        if self._waiting:
            if now - self._polled_s < SERVE_GROUP_S:
                return
            self._pause()
            self._polled_s = now
            runs = self._consumer.poll(1, 0.0)
        else:
            self._unpause()
            self._polled_s = now
            runs = self._consumer.poll(limits.POLL_RECORDS, self._patience_s(now))
        self._raise_failure()
        self._producers.fence_if_abandoned()
        for run in runs:
            task = self._owned.of(run.tp)
            if task is not None:
                self._waiting.put(task, run)

    def _patience_s(self, now: float) -> float:
        idle_s = IDLE_POLL_S if self._cutting is None else CONTROL_POLL_S
        if self._owned.taking_over:
            return min(idle_s, self._outage.wait_s)
        if self._cutting is not None and self._cutting.barriers.open is not None:
            return OPEN_BARRIER_POLL_S
        if any(task.cutting is not None for task in self._owned):
            return OPEN_BARRIER_POLL_S  # at its marker, before the barrier's start was read
        if self._owned.touched:
            return max(0.0, min(idle_s, self._pace.left_s(now)))
        return idle_s

    def _take(self) -> None:
        if not self._owned.taking_over or self._outage.wait_s > 0:
            return
        if self._cutting is not None and not self._cutting.caught_up():
            return
        if self._owned.advance():
            self._outage.over()
            self._hold_and_release()
            if self._cutting is not None:
                self._cutting.taken_over(self._owned)

    def _slice(self) -> None:
        """Of the oldest run."""
        taken = self._waiting.take()
        if taken is None:
            return
        task, run, begin = taken
        marker = task.runner.marker(run, begin)
        if marker is not None:
            self._at_marker(task, run, begin, marker)
            return
        self._open_epoch(task)
        self._probe("before-slice")
        after = task.runner.slice(run, begin)
        task.advance(run.tp, Offset(run.offsets[after - 1] + 1), after - begin)
        self._records_in += after - begin
        try:
            self._records_out += task.runner.release(self._producers.open)
        except (RetryError, TransactionAborted, ProducerFenced) as error:
            self._undo(error)
            return
        self._probe("after-slice")
        self._waiting.put_back(task, run, after)

    def _open_epoch(self, task: Task) -> None:
        if not self._owned.touched:
            self._pace.begin()
        if not task.touched:
            task.runner.open_epoch(task.lineage, task.next_epoch)

    def _at_marker(self, task: Task, run: Run, begin: int, marker: int) -> None:
        """The task's epoch ends here when the marker's barrier is still to be cut for."""
        self._open_epoch(task)
        task.advance(run.tp, Offset(run.offsets[begin] + 1), 0)
        self._waiting.put_back(task, run, begin + 1)
        if self._cutting is not None and self._cutting.barriers.takes(marker, task.cut):
            self._waiting.at_marker(task, marker, self._owned)

    def _follow(self) -> list[Task]:
        """The tasks that must commit now for a barrier's sake."""
        cutting = self._cutting
        if cutting is None or self._owned.taking_over or (not self._owned and self._outage.wait_s > 0):
            return []
        cutting.follow()
        if cutting.stopping:
            self._stopping = True
            return []
        if not self._owned:  # it is there to take over, and ends with the others at a savepoint that stops the job
            self._outage.over()
            return []
        self._hold_and_release()
        return cutting.wanted()

    def _hold_and_release(self) -> None:
        """A task that has cut is fed nothing until its markers are written; then it goes on where it stands."""
        cutting = self._cutting
        if cutting is None:
            return
        for task in self._owned:
            hold = cutting.holds(task)
            if hold and not task.held:
                task.held_since_s = self._clock.monotonic_s()
                self._consumer.pause(task.inputs)
                self._waiting.forget([task])
            elif task.held and not hold:
                self._metrics.held(self._clock.monotonic_s() - task.held_since_s)
                for tp, offset in task.position.items():
                    self._consumer.start(tp, offset)
            task.held = hold

    def _commit(self, also: Sequence[Task] = ()) -> None:
        """Every open epoch, and empty ones of the tasks that have something to say."""
        touched = self._owned.touched
        fed = bool(touched)
        touched += [task for task in also if not task.touched]
        if not touched:
            return
        begun = self._clock.monotonic_s()
        self._metrics.overlay(sum(task.runner.epoch_bytes for task in touched))
        decided = self._committer.commit(touched)
        if decided:
            self._commits += 1
            self._outage.committed()
            self._pace.committed(begun, fed=fed)
            self._trim.after_commit(self._owned)
        undone = [task for task in touched if task not in decided]
        self._pace.ended(undone=bool(undone), fed=fed)
        self._waiting.forget(undone)
        self._after_commit(decided, undone)

    def _after_commit(self, decided: Sequence[Task], undone: Sequence[Task]) -> None:
        if self._cutting is None:
            return
        self._cutting.settled(decided)
        self._stopping = self._stopping or self._cutting.stopping
        for task in undone:
            task.held = False  # its inputs were started again
        self._hold_and_release()

    def _look_at_topics(self) -> None:
        """While no transaction is open. Raises TopicError when one is not what it was."""
        now = self._clock.monotonic_s()
        if now - self._looked_s < limits.TOPICS_INTERVAL_S:
            return
        self._looked_s = now
        try:
            self._start.look_again(self._plan.job)
        except RetryError as error:
            logger.warning("topics are not looked at this time: %s", error)

    def _undo(self, why: Exception) -> None:
        touched = self._owned.touched
        self._committer.undo(touched, why)
        self._pace.ended(undone=True)
        self._waiting.forget(touched)
        self._after_commit((), touched)

    def _tell_lag(self) -> None:
        now = self._clock.monotonic_s()
        if now >= self._lag_due_s:
            self._lag_due_s = now + LAG_EVERY_S
            self._metrics.lagging((tp, self._owned.lag(tp)) for tp in self._owned.inputs)

    # --- backpressure -----------------------------------------------------------------------------------------

    def _pause(self) -> None:
        if not self._paused:
            self._consumer.pause(self._owned.inputs)
            self._paused = True
            self._metrics.paused()

    def _unpause(self) -> None:
        if self._paused:
            self._consumer.resume([tp for task in self._owned if not task.held for tp in task.inputs])
            self._paused = False

    # --- the group's decisions (inside poll) --------------------------------------------------------------------

    def assigned(self, tps: list[TopicPartition]) -> None:
        self._metrics.rebalanced("assigned")
        self._committer.member_id = self._consumer.membership().member_id
        logger.info("assigned %d partitions: %s", len(tps), ", ".join(map(str, tps)))
        self._owned.take_over(tps)

    def revoked(self, tps: list[TopicPartition]) -> None:
        """Law 2: finish the epoch, then let go."""
        self._metrics.rebalanced("revoked")
        try:
            self._owned.drop_takeover()
            self._commit()
        except BaseException as error:  # raised again once poll() has returned
            self._failure = error
        finally:
            self._let_go()

    def lost(self, tps: list[TopicPartition]) -> None:
        """Law 2: drop it. The open transaction is not ours to commit; a fresh producer ends it."""
        self._metrics.rebalanced("lost")
        logger.warning("job %s: lost %d partitions", self._plan.job, len(tps))
        self._owned.drop_takeover()
        self._owned.forget_epochs()
        self._producers.abandon()
        self._let_go()

    def _let_go(self) -> None:
        self._waiting.clear()
        self._paused = False
        self._pace.forget()
        self._owned.let_go()
        if self._cutting is not None:
            self._cutting.drop()

    # --- helpers ----------------------------------------------------------------------------------------------

    def _takeover(self, tasks: Tasks) -> Takeover:
        return Takeover(
            self._plan, tasks, self._log, self._admin, self._consumer, self._committer, self._stores,
            self._runner, self._start, self.instance, self._clock, self._entropy, self._metrics, self._probe,
            self._checkpointing if self._has_control else None,
        )  # fmt: skip

    def _cuts(self, topics: Mapping[str, TopicInfo]) -> Cutting | None:
        """None without a place for checkpoints, and in at-least-once mode, where no transaction says what was cut."""
        plan, settings = self._plan, self._settings
        how = self._checkpointing
        if how is None or not self._has_control:
            return None
        partitions = {stage.name: topics[stage.topic].partitions for stage in plan.stages}
        barriers = Barriers(plan)
        coordinator = Coordinator(plan, partitions, barriers, self._clock, settings.checkpoint_interval_s)
        checkpoints = Checkpoints(plan, how, self._admin, self._clock, self._entropy, self._metrics)
        cutting = Cutting(
            control_partition(plan.job), self._log, barriers, coordinator, checkpoints, self._clock,
            lambda: self._owned,
        )  # fmt: skip
        self._committer.words = cutting.words
        return cutting

    def _runner(self, stage: Stage, task: TaskId, store: Store) -> SliceRunner:
        return SliceRunner(
            self._plan, stage, task, store, self._partitions, self._limits, self._clock, self._entropy, self._metrics
        )

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _with_retries(self, call: Callable[[], T]) -> T:
        return patiently(call, self._clock, self._entropy)

    @property
    def waiting_records(self) -> int:
        """Polled and not yet fed; never more than one poll's."""
        return self._waiting.records

    def peek(self, step: str, key: Any) -> Any:
        """For tests, of the one worker that runs all tasks: the state object of a key of a `process` step."""
        tasks = [task for task in self._owned if any(node.name == step for node in task.stage.stateful)]
        if not tasks:
            raise TopologyError(f"job {self._plan.job} has no step {step!r} with state", "name a `process` step")
        found = [task.runner.peek(step, key) for task in tasks if task.runner.holds(step, key)]
        return found[0] if found else tasks[0].runner.peek(step, key)

    @property
    def at_savepoint(self) -> bool:
        """The job has stopped, at a savepoint: nothing is to be started again."""
        return self._cutting is not None and self._cutting.stopping

    @property
    def stopping(self) -> bool:
        """`run` returns after this turn: it was asked to, or the job stopped at a savepoint."""
        return self._stopping

    @property
    def barriers(self) -> Barriers | None:
        """What this worker knows of them; None where there are none."""
        return None if self._cutting is None else self._cutting.barriers

    @property
    def joined(self) -> bool:
        """`open` has come to its end: `progress` may be asked."""
        return hasattr(self, "_owned") and hasattr(self, "_committer")

    def progress(self) -> Progress:
        return Progress(
            records_in=self._records_in,
            records_out=self._records_out + self._committer.records_out,
            lag=sum(map(self._owned.lag, self._owned.inputs)),
            commits=self._commits,
            tasks={task.id: task.mark.epoch for task in self._owned if task.mark},
            taking_over=self._owned.taking_over,
            uncommitted=self.waiting_records + sum(task.records for task in self._owned),
        )
