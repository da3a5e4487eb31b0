"""Records that were polled and wait to be sliced: at most one poll's, in order, of tasks that run.

A task that has come to a marker is fed nothing more until its cut is committed. The markers of a shuffle are written in
one transaction, so the tasks of a stage come to them at about the same time: one commit for all of them.

Processing thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from streamcore.clock import Clock
from streamcore.log.port import Run
from streamcore.runtime.task import Task

CUT_TOGETHER_S: Final = 0.03
"""So long a task that has come to its marker waits for others: a transaction of its own takes about as long."""


class Waiting:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._runs: deque[tuple[Task, Run, int]] = deque()
        self._marker_s = 0.0
        """When the first of the tasks that are to cut came to its marker."""

    def __bool__(self) -> bool:
        return bool(self._runs)

    @property
    def records(self) -> int:
        return sum(len(run) - begin for _, run, begin in self._runs)

    def put(self, task: Task, run: Run) -> None:
        self._runs.append((task, run, 0))

    def take(self) -> tuple[Task, Run, int] | None:
        """The oldest, and where in it to begin; None when all are of tasks that are to cut."""
        at = next((i for i, (task, _, _) in enumerate(self._runs) if task.cutting is None), None)
        if at is None:
            return None
        taken = self._runs[at]
        del self._runs[at]
        return taken

    def put_back(self, task: Task, run: Run, begin: int) -> None:
        """What is left of it, if anything."""
        if begin < len(run):
            self._runs.appendleft((task, run, begin))

    def forget(self, tasks: Iterable[Task]) -> None:
        gone = set(map(id, tasks))
        self._runs = deque(item for item in self._runs if id(item[0]) not in gone)

    def clear(self) -> None:
        self._runs.clear()

    # --- cuts that belong together --------------------------------------------------------------------------------

    def at_marker(self, task: Task, marker: int, tasks: Iterable[Task]) -> None:
        """The task is to cut for it. `tasks`: all that run."""
        if all(other.cutting is None for other in tasks):
            self._marker_s = self._clock.monotonic_s()
        task.cutting = marker

    def more_will_cut(self, must: Sequence[Task], tasks: Iterable[Task]) -> bool:
        """Whether all that must commit have come to a marker just now, and others of their stages are about to."""
        if not all(task.cutting is not None and task.stage.is_shuffle for task in must):
            return False
        if self._clock.monotonic_s() - self._marker_s > CUT_TOGETHER_S:
            return False
        wanted = {task.id.stage: task.cutting or 0 for task in must}
        if not any(task.cutting is None and (task.cut or 0) < wanted.get(task.id.stage, 0) for task in tasks):
            return False
        return not self._runs or any(task.cutting is None for task, _, _ in self._runs)
