"""The tasks of a worker: from the group's decision to the last let-go.

    take_over ──▶ a Takeover under way ──advance()──▶ running tasks ──let_go()──▶ none
                        └──drop_takeover()──▶ none

Invariants: `assigned` is what the group gave last, and the committer commits within it alone; a partition leads to its
task only while the task runs; after `let_go` no store of a task is open. Processing thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from streamcore.errors import StreamcoreError
from streamcore.log.port import Consumer
from streamcore.observe.metrics import Metrics
from streamcore.runtime.commit import Committer
from streamcore.runtime.takeover import Step, Takeover, tasks_of
from streamcore.runtime.task import Task, TaskState
from streamcore.topology.plan import Plan
from streamcore.types import TaskId, TopicPartition

logger = logging.getLogger(__name__)

Tasks = dict[TaskId, tuple[TopicPartition, ...]]


class OwnedTasks:
    def __init__(
        self,
        plan: Plan,
        consumer: Consumer,
        committer: Committer,
        metrics: Metrics,
        begin: Callable[[Tasks], Takeover],
    ) -> None:
        """`begin` makes the takeover of some tasks."""
        self._plan = plan
        self._consumer = consumer
        self._committer = committer
        self._metrics = metrics
        self._begin = begin
        self._tasks: dict[TaskId, Task] = {}
        self._task_of: dict[TopicPartition, Task] = {}
        self._takeover: Takeover | None = None
        self.assigned: list[TopicPartition] = []

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)

    def of(self, tp: TopicPartition) -> Task | None:
        """Whose input it is."""
        return self._task_of.get(tp)

    @property
    def inputs(self) -> list[TopicPartition]:
        return list(self._task_of)

    @property
    def touched(self) -> list[Task]:
        """Those with an open epoch."""
        return [task for task in self._tasks.values() if task.touched]

    @property
    def taking_over(self) -> bool:
        return self._takeover is not None

    def lag(self, tp: TopicPartition) -> int:
        """Records behind the stable end that fetching saw last."""
        end = self._consumer.end(tp)
        return 0 if end is None else max(0, end - self._task_of[tp].position[tp])

    # --- steps ------------------------------------------------------------------------------------------------

    def take_over(self, tps: list[TopicPartition]) -> None:
        """What the group gave: a takeover of it begins."""
        self.drop_takeover()
        self.assigned = tps
        self._committer.assignment = frozenset(tps)
        tasks = tasks_of(self._plan, tps)
        if tasks:
            self._takeover = self._begin(tasks)

    def advance(self) -> bool:
        """A piece of the takeover under way; True when it is done and its tasks run."""
        takeover = self._takeover
        if takeover is None:
            return False
        for task in takeover.advance():
            self._tasks[task.id] = task
            for tp in task.inputs:
                self._task_of[tp] = task
        if takeover.step is not Step.DONE:
            return False
        self._takeover = None
        self._metrics.running(len(self._tasks))
        logger.info("running %d tasks", len(self._tasks))
        return True

    def drop_takeover(self) -> None:
        if self._takeover is not None:
            self._takeover.drop()
            self._takeover = None

    def forget_epochs(self) -> None:
        """Every open epoch, without the log: who lets its producer go as well has undone them."""
        for task in self._tasks.values():
            task.forget_epoch()

    def let_go(self) -> None:
        self.assigned = []
        self._committer.assignment = frozenset()
        for task in self._tasks.values():
            task.move(TaskState.CLOSED)
            closing(task.store.close)
        self._tasks.clear()
        self._task_of.clear()
        self._metrics.running(0)


def closing(close: Callable[[], None]) -> None:
    """Letting go must not hide why: an error of it is told and no more."""
    try:
        close()
    except StreamcoreError as error:
        logger.warning("closing: %s", error)
