"""What the owner of the first source's partition 0 has to say next about barriers.

One thing at a time, each in a transaction of its worker with that task's offsets, so that a coordinator that was
replaced says nothing more: its transaction is fenced. Whoever takes the task over goes on from what the control topic
holds.

    1 start      when a checkpoint is due, or asked for, and none is open
    2 resume     for each shuffle all of whose upstream tasks have cut: one marker a partition
    3 complete   when every task has cut and its checkpoint is stored, and the savepoint, if one was asked for, written
    4 abandon    when a checkpoint is not stored, or it takes too long, or another version of the topology has begun it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from streamcore import limits
from streamcore.clock import Clock
from streamcore.runtime.barriers import Barrier, Barriers
from streamcore.runtime.control import Abandon, Complete, Resume, Said, Start, encode
from streamcore.sink.shuffle import encode_marker
from streamcore.topology.plan import Plan
from streamcore.types import Partition, TaskId, TopicPartition


@dataclass
class Decision:
    """Messages for one transaction, and what they say."""

    said: list[Said]
    markers: list[tuple[TopicPartition, bytes]] = field(default_factory=list[tuple[TopicPartition, bytes]])

    def messages(self, control: TopicPartition) -> list[tuple[TopicPartition, bytes]]:
        return [*self.markers, *((control, encode(said)) for said in self.said)]


class Coordinator:
    def __init__(
        self, plan: Plan, partitions: Mapping[str, int], barriers: Barriers, clock: Clock, every_s: float
    ) -> None:
        """`partitions`: of each stage's input topic. `every_s`: the soft timer, counted from the last start."""
        self._plan = plan
        self._partitions = partitions
        self._barriers = barriers
        self._clock = clock
        self._every_s = every_s
        self._last_s = clock.monotonic_s()
        self._opened_s: float | None = None
        """When the open barrier was first seen by this worker; its age, whoever began it."""
        self._seen = 0
        self._saving: set[int] = set()
        self.wanted = False
        """A milestone was reached: do not wait for the timer."""
        self.saved: dict[int, str] = {}
        """Barriers whose savepoint was tried to write: what went wrong, or nothing."""
        self.save: Callable[[Barrier], None] = lambda barrier: None
        """Begins to write the savepoint of a barrier whose every checkpoint is stored."""

    @property
    def task(self) -> TaskId:
        """Who owns it coordinates."""
        return TaskId(next(stage.name for stage in self._plan.stages if not stage.is_shuffle), Partition(0))

    def next(self) -> Decision | None:
        """What is to be said now. When it is committed, the caller has `Barriers` hear it at once."""
        barriers, now_s = self._barriers, self._clock.monotonic_s()
        barrier = barriers.open
        if barrier is None:
            self._opened_s = None
            return self._start(now_s)
        if barrier.number != self._seen or self._opened_s is None:
            self._seen, self._opened_s, self._last_s = barrier.number, now_s, now_s
        if barrier.failed:
            failed = next(iter(barrier.failed.values()))
            return Decision([Abandon(barrier.number, f"the checkpoint of {failed.task} is not stored: {failed.why}")])
        ready = barriers.ready_shuffles()
        if ready:
            return Decision([Resume(barrier.number, name) for name in ready], self._markers(barrier.number, ready))
        if not barrier.missing_cuts() and not barrier.missing_checkpoints:
            if barrier.start.savepoint is not None and barrier.number not in self.saved:
                return self._unsaved(barrier)
            if wrong := self.saved.get(barrier.number):
                return Decision([Abandon(barrier.number, wrong)])
            return Decision([Complete(barrier.number, self._clock.wall_ms())])
        if barrier.start.topology != self._plan.version:
            return Decision([Abandon(barrier.number, "another version of the topology began it")])
        if now_s - self._opened_s > limits.BARRIER_TIMEOUT_S:
            return Decision([Abandon(barrier.number, self._late(now_s - self._opened_s))])
        return None

    def _start(self, now_s: float) -> Decision | None:
        requests = self._barriers.requests
        if not (requests or self.wanted or now_s - self._last_s >= self._every_s):
            return None
        self._last_s, self.wanted = now_s, False
        asked = next((request for request in requests if request.savepoint), None)
        stages = {stage.name: self._partitions[stage.name] for stage in self._plan.stages}
        number = self._barriers.next_number
        start = Start(
            number,
            self._plan.version,
            stages,
            self._clock.wall_ms(),
            asked.savepoint if asked else None,
            asked.stops if asked else False,
        )
        return Decision([start])

    def _unsaved(self, barrier: Barrier) -> Decision | None:
        """Written beside the loop: first asked for, then waited for."""
        if barrier.number not in self._saving:
            self._saving.add(barrier.number)
            self.save(barrier)
        return None

    def wrote(self, barrier: int, wrong: str) -> None:
        """The savepoint of the barrier is written, or `wrong` says why it cannot be."""
        self.saved[barrier] = wrong

    def forget(self) -> None:
        """The tasks are let go, and with them what was to be written: if they come back, it is asked for again."""
        self._saving.clear()

    def _markers(self, barrier: int, shuffles: list[str]) -> list[tuple[TopicPartition, bytes]]:
        marker = encode_marker(barrier)
        return [
            (TopicPartition(self._plan.stage(name).topic, Partition(p)), marker)
            for name in shuffles
            for p in range(self._partitions[name])
        ]

    def _late(self, seconds: float) -> str:
        barrier = self._barriers.open
        if barrier is None:
            return ""
        cuts, stored = barrier.missing_cuts(), barrier.missing_checkpoints
        behind = (
            f"no cut of {', '.join(map(str, cuts[:5]))}" if cuts else f"not stored: {', '.join(map(str, stored[:5]))}"
        )
        return f"after {seconds:.0f} s: {behind}"
