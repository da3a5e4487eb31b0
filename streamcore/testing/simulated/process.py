"""One life of one worker: the real runtime behind ports that give way, fail, and die.

Every call of a port is a site: the schedule may put a fault there. `Process` is also the wire, the probe and the
listener's witness of its worker; it knows nothing of other workers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, cast

from streamcore import limits
from streamcore.checkpoint.memory import Fault, Kind
from streamcore.clock import SeededEntropy
from streamcore.errors import LogUnavailable, OutcomeUnknown, StateDamaged, StreamcoreError, TransactionAborted
from streamcore.log.local.consumer import LocalConsumer
from streamcore.log.local.log import LocalLog
from streamcore.log.local.wire import Request
from streamcore.log.port import Listener
from streamcore.observe.metrics import Metrics
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.worker import Worker, WorkerSettings
from streamcore.state.store import EpochMark
from streamcore.testing.history import DoubtfulCall
from streamcore.testing.simulated.disk import Disk, SimulatedStores
from streamcore.testing.simulated.faults import NO_COPY, TWIN_REQUESTS, Injection
from streamcore.testing.simulated.recorder import RecordingBroker, late
from streamcore.testing.simulated.scheduler import Actor, Scheduler, SimulatedClock
from streamcore.topology.plan import Plan
from streamcore.types import Slot, TaskId, TopicPartition

if TYPE_CHECKING:
    from streamcore.testing.simulated.simulation import Simulation

T = TypeVar("T")
SOON_S = 0.05
LATER_S = 1.5
_metrics: list[Metrics] = []


def shared_metrics() -> Metrics:
    """One for all: nobody reads them, and making one costs a millisecond."""
    if not _metrics:
        _metrics.append(Metrics())
    return _metrics[0]


class Process:
    def __init__(self, simulation: Simulation, slot: int, life: int, disk: Disk) -> None:
        self.slot = slot
        self.name = f"{slot}.{life}"
        self.disk = disk
        self.worker: Worker | None = None
        self.actor: Actor | None = None
        self.most_waiting = 0
        self._simulation = simulation
        self._broker: RecordingBroker = simulation.broker
        self._scheduler: Scheduler = simulation.scheduler
        self.clock = SimulatedClock(simulation.scheduler, lambda: self.actor)
        self._late: defaultdict[str, list[Callable[[], Any]]] = defaultdict(list)
        self._producer = (-1, -1)

    def run(
        self, plan: Plan, seed: str, partitions: int, checkpointing: Checkpointing | None = None, every_s: float = 2.0
    ) -> None:
        """The actor's body. Raises what the worker raises."""
        entropy = SeededEntropy(int.from_bytes(Random(f"{seed}/{self.name}").randbytes(8), "big"))
        log = _Log(self._broker, self.clock, self, Random(f"{seed}/{self.name}/log"))
        self.worker = Worker(
            plan,
            log,
            WorkerSettings(slot=Slot(self.slot), auto_partitions=partitions, checkpoint_interval_s=every_s),
            clock=self.clock,
            entropy=entropy,
            metrics=shared_metrics(),
            stores=SimulatedStores(self.disk, self.port, self._applied),
            probe=self.probe,
            checkpointing=checkpointing,
        )
        self.worker.run(between=self._turned)

    def _turned(self) -> None:
        worker = self.worker
        if worker is not None:
            self.most_waiting = max(self.most_waiting, worker.waiting_records)

    def actor_of(self) -> Actor:
        assert self.actor is not None
        return self.actor

    # --- the wire -------------------------------------------------------------------------------------------------

    def alive(self) -> bool:
        actor = self.actor
        return actor is not None and not actor.dead and not actor.done and not actor.paused

    def call(self, request: Request, deliver: Callable[[], T]) -> T:
        actor = self.actor_of()
        actor.give_way()
        fault = self._simulation.fault_at_call(self, request)
        begun_s = self._scheduler.now_s
        try:
            self._wait_for_coordinator(request)
            answer = self._delivered(request, deliver) if fault is None else self._faulty(fault, request, deliver)
            actor.give_way()
        except StreamcoreError:
            self._doubt(request)
            raise
        if request in TWIN_REQUESTS and (self._scheduler.now_s - begun_s) * 1000 >= limits.SLOW_CALL_MS:
            self._doubt(request)
        return answer

    def _wait_for_coordinator(self, request: Request) -> None:
        """A client asks again and again, until its own timeout."""
        wait_s = self._broker.moving_s(request)
        if wait_s > 0:
            self.actor_of().sleep_s(min(wait_s, limits.CALL_TIMEOUT_S))
        if wait_s > limits.CALL_TIMEOUT_S:
            raise self._no_answer(request, "its coordinator is moving")

    def _delivered(self, request: Request, deliver: Callable[[], T]) -> T:
        self._broker.delivering = self.name
        answer = deliver()
        if request in ("AddPartitionsToTxn", "AddOffsetsToTxn") and self._broker.opened:
            last = self._broker.opened[-1]
            self._producer = last.producer if last.actor == self.name else self._producer
        return answer

    def _doubt(self, request: Request) -> None:
        if request in TWIN_REQUESTS:
            self._broker.doubtful.append(DoubtfulCall(self._scheduler.steps, self.name, self._producer, request))

    def _faulty(self, fault: Injection, request: Request, deliver: Callable[[], T]) -> T:
        actor = self.actor_of()
        how: Any = fault.how
        match fault.kind:
            case "kill-before":
                self._simulation.kill(self, fault)
            case "kill-after":
                self._broker.delivering = self.name
                late(deliver)
                self._simulation.kill(self, fault)
            case "pause":
                self._simulation.pause(self, how[0])
            case "lost-request":
                self._copy(how[1], deliver)
                actor.sleep_s(how[0])
                raise self._no_answer(request, "the request was lost")
            case "lost-answer":
                self._delivered(request, deliver)
                self._copy(how[1], deliver)
                actor.sleep_s(how[0])
                raise self._no_answer(request, "the answer was lost")
            case "slow":
                actor.sleep_s(how[0])
                self._copy(how[1], deliver)
            case "delay":
                actor.sleep_s(how[0])
            case "evict":
                self._simulation.evict(self)
                actor.sleep_s(how[0])
            case "refused":
                raise TransactionAborted(f"{request} is refused")
            case _:
                raise LogUnavailable(f"no broker answers {request}")
        return self._delivered(request, deliver)

    def _no_answer(self, request: Request, why: str) -> StreamcoreError:
        return OutcomeUnknown(why) if request in TWIN_REQUESTS else LogUnavailable(why)

    def _copy(self, arrives: str, deliver: Callable[[], Any]) -> None:
        def arrive() -> None:
            self._broker.delivering = f"a late copy of {self.name}"
            late(deliver)

        if arrives == "soon" or arrives == "later":
            self._scheduler.at(self._scheduler.now_s + (SOON_S if arrives == "soon" else LATER_S), arrive)
        elif arrives != NO_COPY:
            self._late[arrives].append(arrive)

    # --- probe, disk, group -----------------------------------------------------------------------------------------

    def probe(self, point: str) -> None:
        actor = self.actor_of()
        actor.give_way()
        for arrive in self._late.pop(point, ()):
            arrive()
        fault = self._simulation.fault_at_point(self, point)
        if fault is None:
            return
        if fault.kind == "kill":
            self._simulation.kill(self, fault)
        if fault.kind == "evict":
            self._simulation.evict(self)
            actor.sleep_s(float(fault.how[0]))
            return
        self._simulation.pause(self, float(fault.how[0]))

    def port(self, name: str) -> None:
        """Of the disk."""
        self.actor_of().give_way()
        if name in ("Open", "Apply"):
            fault = self._simulation.fault_at_call(self, name)
            if fault is not None and fault.kind == "damage":
                raise StateDamaged("the disk gives back something else than was written")
            if fault is not None:
                self._faulty(fault, "Metadata", lambda: None)

    def _applied(self, task: TaskId, mark: EpochMark) -> None:
        self._simulation.applied[task, mark] = self.name

    def store_call(self, call: str) -> Fault | None:
        """Of the checkpoint store."""
        actor = self.actor_of()
        actor.give_way()
        fault = self._simulation.fault_at_store(self, call)
        if fault is None:
            return None
        match fault.kind:
            case "kill-before":
                self._simulation.kill(self, fault)
            case "pause":
                self._simulation.pause(self, float(fault.how[0]))
            case "store slow":
                actor.sleep_s(float(fault.how[0]))
            case "store late":
                return Fault("late", float(fault.how[0]))
            case _:
                return Fault(cast(Kind, fault.kind.removeprefix("store ")))
        return None

    def told(self, what: str, tps: Sequence[TopicPartition]) -> None:
        self._broker.tell(self.name, what, tps)


class _Log(LocalLog):
    """One process's connection, whose consumer's listener has a witness."""

    def __init__(self, broker: RecordingBroker, clock: SimulatedClock, process: Process, random: Random) -> None:
        super().__init__(broker, clock, process, random)
        self._process = process

    def consumer(self, group: str, instance_id: str, *, headers: bool = False) -> LocalConsumer:
        return _Consumer(self._process, self.broker, self._process.clock, group, instance_id, headers)


class _Consumer(LocalConsumer):
    def __init__(
        self, process: Process, broker: Any, clock: SimulatedClock, group: str, instance_id: str, headers: bool
    ) -> None:
        super().__init__(broker, process, clock, group, instance_id, headers=headers)
        self._process = process

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        super().subscribe(topics, _Witness(self._process, listener))


class _Witness(Listener):
    def __init__(self, process: Process, listener: Listener) -> None:
        self._process = process
        self._listener = listener

    def assigned(self, tps: list[TopicPartition]) -> None:
        self._process.told("assigned", tps)
        self._listener.assigned(tps)

    def revoked(self, tps: list[TopicPartition]) -> None:
        self._process.told("revoked", tps)
        self._listener.revoked(tps)

    def lost(self, tps: list[TopicPartition]) -> None:
        self._process.told("lost", tps)
        self._listener.lost(tps)
