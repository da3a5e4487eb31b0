"""A worker's part in barriers: following the control topic, cutting its tasks, checkpointing and holding them.

    follow    read what was said; a checkpoint that is stored will be named by the task's next commit
    wanted    which tasks must commit now though nothing else would: to cut, to name a checkpoint, to coordinate
    words     what a task's transaction says on the control topic
    settled   after a commit: what was cut is checkpointed, what was said is heard

Invariants: a task is checkpointed with the state of its cut and no other, before it is fed again (epochs of words alone
may lie between); it names a checkpoint only after the last byte of it is stored (law 7); what the coordinator said
counts once it is committed.

Processing thread only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import OffsetsLost
from streamcore.log.port import Admin, Log, Reader
from streamcore.runtime.barriers import Barrier, Barriers, BarrierState
from streamcore.runtime.control import Cut, Failed, Recovery, Request, Said, Start, Stored, decode, encode
from streamcore.runtime.coordinator import Coordinator, Decision
from streamcore.runtime.task import Task
from streamcore.topology.plan import control_topic
from streamcore.types import Epoch, Offset, Partition, TaskId, TopicPartition

logger = logging.getLogger(__name__)

Message = tuple[TopicPartition, bytes]


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A checkpoint whose last byte is stored."""

    task: TaskId
    barrier: int | None
    epoch: Epoch
    manifest: str


@dataclass(frozen=True, slots=True)
class Unstored:
    """A checkpoint that came to nothing."""

    task: TaskId
    barrier: int | None
    why: str


class Checkpointer(Protocol):
    """Makes checkpoints beside the processing thread."""

    def running(self, tasks: Sequence[Task]) -> str:
        """These tasks run, at least one; called often. Why a checkpoint is wanted before its time ("": none is). Raises
        CheckpointStoreTaken, JournalTooLong."""
        ...

    def alone(self, task: Task) -> bool:
        """Just committed: whether it must be checkpointed without waiting for a barrier any longer."""
        ...

    def recovery(self, task: Task) -> Recovery | None:
        """What is told of it beside its cut, and beside its checkpoint."""
        ...

    def heard(self, told: Recovery) -> None:
        """From this worker or another one."""
        ...

    def flushed(self, barrier: int, tasks: Sequence[Task]) -> bool:
        """These tasks, all that run, will cut for the open barrier: whether those may now that need no marker."""
        ...

    def begin(self, task: Task, barrier: int | None) -> None:
        """Of the task as it stands, just committed: its files are taken now, and uploaded later."""
        ...

    def done(self) -> list[Checkpointed | Unstored]:
        """Since the last call."""
        ...

    def named(self, task: Task) -> None:
        """The task's commit names its newest checkpoint: what only older ones need may go (law 8)."""
        ...

    def decided(self, barrier: Barrier, coordinating: bool) -> None:
        """It is complete or abandoned. `coordinating`: by this worker."""
        ...

    def forget(self, control: TopicPartition, before: Offset) -> None:
        """What the control topic told before this is of use to nobody."""
        ...

    def save(self, barrier: Barrier) -> None:
        """Write the savepoint that the barrier was begun for."""
        ...

    def saved(self) -> list[tuple[int, str]]:
        """Since the last call: barriers whose savepoint was tried to write, and what went wrong ("": nothing)."""
        ...

    def drop(self) -> None:
        """The tasks are let go: what is under way is for nobody."""
        ...


class Cutting:
    def __init__(
        self,
        control: TopicPartition,
        log: Log,
        barriers: Barriers,
        coordinator: Coordinator,
        checkpointer: Checkpointer,
        clock: Clock,
        tasks: Callable[[], Iterable[Task]],
    ) -> None:
        """`tasks`: those that run."""
        self._control = control
        self._log = log
        self.barriers = barriers
        self._coordinator = coordinator
        self._checkpointer = checkpointer
        self._clock = clock
        self._tasks = tasks
        coordinator.save = checkpointer.save
        self._there = False
        """The control topic was read to its end once: what comes behind that is said while we run."""
        self._stops_at: int | None = None
        self.stopping = False
        """The barrier that stops the job is complete."""
        self._reader: Reader | None = None
        self._starts: deque[Offset] = deque(maxlen=limits.CONTROL_KEPT)
        """Where the last barriers' starts stand."""
        self._open = 0
        """The barrier that this worker has seen open, and not decided."""
        self._due_s = 0.0
        self._decision: Decision | None = None
        self._said: dict[TaskId, list[Said]] = {}
        """Of the barrier, by the tasks of the transaction under way."""
        self._all_until: Offset | None = None
        """The control topic ended there when our tasks were taken over. Readers stop below it while a transaction of
        anybody is open: what was decided behind that is not heard yet, of our own tasks too."""
        self._lost: dict[TaskId, int] = {}
        """Tasks that cannot checkpoint their cut for a barrier any more: said once all is heard."""
        self._asked_for = 0
        """The barrier that a task of ours has asked for before its time."""

    # --- 1 follow -------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Raises what the log raises, StateMismatch for a newer version's words."""
        now_s = self._clock.monotonic_s()
        if now_s < self._due_s:
            return
        is_open = self.barriers.open is not None
        self._due_s = now_s + (limits.CONTROL_INTERVAL_OPEN_S if is_open else limits.CONTROL_INTERVAL_S)
        self._read()
        for done in self._checkpointer.done():
            self._take(done)
        tasks = list(self._tasks())
        self._give_up(tasks)
        if tasks and (why := self._checkpointer.running(tasks)):
            self._ask(tasks, why)
        self._look_for_decisions()
        for barrier, wrong in self._checkpointer.saved():
            self._coordinator.wrote(barrier, wrong)
        self._look_for_the_stop()

    def _ask(self, tasks: Sequence[Task], why: str) -> None:
        """For a barrier before its time: of our own coordinator, or, once for each barrier, of another worker's. Not
        beside an open one, which may not have come to the tasks yet; and behind one that was abandoned the timer has
        its say: what was wrong may be so for long."""
        number, last = self.barriers.next_number, self.barriers.last
        if last is not None and last.state is not BarrierState.COMPLETE:
            return
        if any(task.id == self._coordinator.task for task in tasks):
            self._coordinator.wanted = True
        elif self.barriers.requests or self._asked_for == number:
            return
        else:
            free = next((task for task in tasks if task.to_say is None), None)
            if free is None:
                return
            free.to_say = Request(f"{free.id}, epoch {free.next_epoch}")
        if self._asked_for != number:
            self._asked_for = number
            logger.info("a barrier before its time: %s", why)

    def _look_for_decisions(self) -> None:
        last = self.barriers.last
        if last is None:
            return
        if last is self.barriers.open:
            self._open = last.number
        elif last.number == self._open:
            self._open = 0
            coordinating = any(task.id == self._coordinator.task for task in self._tasks())
            self._checkpointer.decided(last, coordinating)
            if coordinating and len(self._starts) == self._starts.maxlen:
                self._checkpointer.forget(self._control, self._starts[0])

    def _look_for_the_stop(self) -> None:
        """A worker that was there when the barrier began, or was open, ends with it; one that is started later goes
        on."""
        last = self.barriers.last
        if last is None or not last.start.stops:
            return
        if last is self.barriers.open:
            self._stops_at = last.number
        elif last is self.barriers.completed and self._stops_at == last.number:
            self.stopping = True

    def caught_up(self) -> bool:
        """Whether the control topic has been read to its stable end, as a takeover must before its tasks run."""
        reader = self._read()
        return self._control in reader.ended()

    def _read(self) -> Reader:
        if self._reader is None:
            self._reader = self._log.reader({self._control: self._first()})
        try:
            runs = self._reader.poll(limits.POLL_RECORDS, 0.0)
        except OffsetsLost:
            # What we would have read next was forgotten: so long ago that nothing of it is open any more.
            self._reader.close()
            self._reader = self._log.reader({self._control: self._first()})
            runs = []
        for run in runs:
            for offset, value in zip(run.offsets, run.values, strict=True):
                said = decode(value or b"", f"{run.tp} at offset {offset}")
                if isinstance(said, Start):
                    self._starts.append(Offset(offset))
                    if said.stops and self._there:
                        self._stops_at = said.barrier  # it may be complete when we hear of it: we had no task, or slept
                if isinstance(said, Recovery):
                    self._checkpointer.heard(said)
                elif said is not None:
                    self.barriers.hear(said)
        self._there = self._there or self._control in self._reader.ended()
        return self._reader

    def _first(self) -> Offset:
        return self._asked(lambda admin: admin.first_offsets([self._control]))

    def _asked(self, ask: Callable[[Admin], Mapping[TopicPartition, Offset]]) -> Offset:
        admin = self._log.admin()
        try:
            return ask(admin)[self._control]
        finally:
            admin.close()

    def _take(self, done: Checkpointed | Unstored) -> None:
        task = next((task for task in self._tasks() if task.id == done.task), None)
        if task is None:
            return
        if isinstance(task.to_say, Request):
            self._asked_for = 0  # what it says now goes first
        if isinstance(done, Unstored):
            if done.barrier is not None:
                task.to_say = Failed(done.barrier, task.id.stage, task.id.partition, done.why)
            return
        task.tail.stored()
        task.checkpoint = done.manifest
        task.to_say = Stored(done.barrier, done.task.stage, done.task.partition, done.epoch, done.manifest)

    # --- 2 wanted -------------------------------------------------------------------------------------------------

    def wanted(self) -> list[Task]:
        """Marks the tasks that have to cut now, and gives all that have to commit whether or not they were fed."""
        found: list[Task] = []
        self._decision = None
        tasks, barrier = list(self._tasks()), self.barriers.open
        may_cut = barrier is not None and self._checkpointer.flushed(barrier.number, tasks)
        for task in tasks:
            if task.cutting is None and may_cut:
                task.cutting = self.barriers.must_cut(task.stage, task.cut)
            if task.id == self._coordinator.task and self._all_heard():
                self._decision = self._coordinator.next()
            says = task.id == self._coordinator.task and self._decision is not None
            if says or task.cutting is not None or task.to_say is not None:
                found.append(task)
        return found

    # --- 3 words --------------------------------------------------------------------------------------------------

    def words(self, tasks: Sequence[Task], nonce: str) -> list[Message]:
        """For the transaction of these tasks' epochs."""
        messages: list[Message] = []
        for task in tasks:
            said = self._said[task.id] = list[Said]()
            if task.cutting is not None:
                offsets = {tp.topic: int(offset) for tp, offset in task.position.items()}
                said.append(Cut(task.cutting, *task.id, task.lineage, task.next_epoch, nonce, offsets))
            if isinstance(task.to_say, Stored | Failed):
                said.append(task.to_say)
            messages += [(self._control, encode(word)) for word in said]
            if isinstance(task.to_say, Request):
                messages.append((self._control, encode(task.to_say)))
            if task.cutting is not None or isinstance(task.to_say, Stored):
                told = self._checkpointer.recovery(task)
                if told is not None:
                    messages.append((self._control, encode(told)))
            if task.id == self._coordinator.task and self._decision is not None:
                messages += self._decision.messages(self._control)
        return messages

    # --- 4 settled ------------------------------------------------------------------------------------------------

    def settled(self, decided: Sequence[Task]) -> None:
        """These tasks' epochs are committed, and what they said with them: it is heard now, and once more when the
        topic is read, which changes nothing."""
        decision, self._decision = self._decision, None
        for word in [word for task in decided for word in self._said.get(task.id, ())]:
            self.barriers.hear(word)
        self._said.clear()
        for task in decided:
            if task.just_cut is not None:
                self._checkpointer.begin(task, task.just_cut)
                task.just_cut = None
            elif self._checkpointer.alone(task) and not self._has_cut(task):
                logger.info("task %s: checkpointed alone, no barrier has come to it", task.id)
                self._checkpointer.begin(task, None)
            said, task.to_say = task.to_say, None
            if isinstance(said, Stored):
                self._checkpointer.named(task)
            if decision is not None and task.id == self._coordinator.task:
                for word in decision.said:
                    logger.info("barrier: %s", word)
                    self.barriers.hear(word)
                self._look_for_decisions()
                self._look_for_the_stop()

    def _has_cut(self, task: Task) -> bool:
        """For the open barrier, which needs the checkpoint of that cut."""
        barrier = self.barriers.open
        return barrier is not None and task.cut == barrier.number

    def taken_over(self, tasks: Iterable[Task]) -> None:
        """These are ours, and have not been fed. Raises what the log raises."""
        self._all_until = self._asked(lambda admin: admin.ends([self._control]))
        self._lost.clear()
        for task in tasks:
            self._resumed(task)

    def _resumed(self, task: Task) -> None:
        """Where it has cut for the open barrier, and its checkpoint was
        not stored, only its new owner can still make it, while its state is that of the cut: it is held, or has
        processed nothing since. Else nobody can, and the barrier need not wait for it."""
        barrier = self.barriers.open
        if barrier is None or task.cut != barrier.number or task.id in barrier.stored:
            return
        cut = barrier.cuts.get(task.id)
        if task.held or (cut is not None and cut.offsets == {tp.topic: at for tp, at in task.committed.items()}):
            self._checkpointer.begin(task, barrier.number)
        else:
            self._lost[task.id] = barrier.number

    def _all_heard(self) -> bool:
        """Whatever was decided before our tasks were taken over."""
        if self._all_until is not None and self._read().position(self._control) >= self._all_until:
            self._all_until = None
        return self._all_until is None

    def _give_up(self, tasks: Iterable[Task]) -> None:
        barrier = self.barriers.open
        if not self._lost or not self._all_heard():
            return
        for task in tasks:
            if barrier is not None and self._lost.get(task.id) == barrier.number and task.id not in barrier.stored:
                task.to_say = Failed(barrier.number, *task.id, "its owner was lost before it was stored")
        self._lost.clear()

    def holds(self, task: Task) -> bool:
        """A job that stops at a barrier stays there, once it is complete too."""
        last = self.barriers.last
        stops = last is not None and last is self.barriers.completed and last.number == self._stops_at == task.cut
        return stops or self.barriers.holds(task.stage, task.cut)

    def drop(self) -> None:
        """The tasks are let go."""
        self._decision = None
        self._said.clear()
        self._lost.clear()
        self._asked_for = 0
        self._coordinator.forget()
        self._checkpointer.drop()

    def close(self) -> None:
        self.drop()
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def control_partition(job: str) -> TopicPartition:
    return TopicPartition(control_topic(job), Partition(0))
