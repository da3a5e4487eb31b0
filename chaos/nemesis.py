"""The nemesis: strikes workers, brokers and the network between them, and heals whatever it struck.

A worker suffers one fault of its process at a time, a link one of its own, and of the brokers one is struck at a time
(replication 3, min ISR 2: two would only be an outage). `step` is called several times a second by the run's one loop;
nothing here waits, but for the death of a process that was just killed.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from chaos.faults import Fault
from chaos.network import Network
from chaos.workers import RESTARTABLE, Process, Worker
from streamcore.errors import EXIT_STEP_ASIDE, EXIT_STOP
from streamcore.runtime.points import POINTS
from tests.kafka.broker import Local, Node

SESSION_TIMEOUT_S = 6
"""The least that a broker allows by default."""
TRAP_S = 20.0
"""A point that is not reached within this time: the worker is struck where it is."""
DISK_S = 30.0
GHOST_S = 90.0
DISK_BYTES = 16 << 10
CLOCK_MS = 30 * 60_000


class Failed(Exception):
    """The run cannot go on: a worker ended as it must not, or the outputs do not come."""


@dataclass
class _Trap:
    worker: Worker
    fault: Fault
    until_s: float
    stops: bool


@dataclass
class _Ghost:
    slot: int
    process: Process
    fault: Fault
    until_s: float
    """By when it must have stepped aside, once it is awake."""


class Nemesis:
    def __init__(
        self,
        rng: random.Random,
        workers: list[Worker],
        network: Network | None,
        brokers: Local | None,
        now: Callable[[], float],
    ) -> None:
        """`now`: seconds since the run began."""
        self.faults: list[Fault] = []
        self.told: list[str] = []
        self.restarts = 0
        """Of workers that ended by themselves with an exit code that asks for it."""
        self.wrong_clocks = 0
        self._rng = rng
        self._workers = workers
        self._network = network
        self._brokers = brokers
        self._now = now
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._traps: list[_Trap] = []
        self._ghosts: list[_Ghost] = []
        self._links: set[tuple[int, int]] = set()
        self._broker: Fault | None = None
        self._rejoining = False
        self._looked_s = 0.0
        self._threads: list[threading.Thread] = []

    # --- for the run ------------------------------------------------------------------------------------------------

    def start_all(self) -> None:
        for worker in self._workers:
            worker.start()

    def strike(self, kind: str) -> bool:
        """False: there is nothing to strike just now."""
        if kind.startswith("broker"):
            return self._strike_broker(kind)
        if kind in ("cut", "stall", "slow"):
            return self._strike_link(kind)
        victims = [w for w in self._workers if w.condition == "up" and not self._struck(w)]
        if not victims:
            return False
        worker = self._rng.choice(victims)
        match kind:
            case "kill":
                self._kill(worker)
            case "machine lost":
                self._lose_machine(worker)
            case "kill at point" | "zombie at point":
                self._set_trap(worker, kind)
            case "zombie" | "zombie replaced":
                self._pause(worker, self._begin(kind, f"slot {worker.slot}"), replaced=kind == "zombie replaced")
            case "disk full":
                self._fill_disk(worker)
            case _:
                raise ValueError(f"no fault {kind!r}")
        return True

    def step(self) -> None:
        """Heal what is due, look at traps, exits and brokers. Raises Failed."""
        now = self._now()
        for item in [item for item in self._due if item[0] <= now]:
            self._due.remove(item)
            item[1]()
        for trap in list(self._traps):
            self._look_at_trap(trap)
        for worker in self._workers:
            self._look_at_exit(worker)
        for ghost in list(self._ghosts):
            self._look_at_ghost(ghost)
        self._look_at_brokers()

    def heal_all(self) -> None:
        """Everything that is still broken is healed now, or as soon as it can be."""
        for trap in self._traps:
            trap.worker.trap.unlink(missing_ok=True)
        self._due = [(0.0, heal) for _, heal in self._due]

    @property
    def healed(self) -> bool:
        return not (self._due or self._traps or self._ghosts or self._links or self._broker) and all(
            worker.condition == "up" for worker in self._workers
        )

    def tell(self, what: str) -> None:
        self.told.append(f"{self._now():7.1f} s  {what}")

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        for ghost in self._ghosts:
            ghost.process.kill()
        for thread in self._threads:
            thread.join()

    # --- workers ----------------------------------------------------------------------------------------------------

    def _struck(self, worker: Worker) -> bool:
        return (
            any(trap.worker is worker for trap in self._traps)
            or worker.process is None
            or worker.process.full_disk
            or any(ghost.slot == worker.slot for ghost in self._ghosts)
        )

    def _kill(self, worker: Worker) -> None:
        worker.kill()
        self._start_later(worker, self._begin("kill", f"slot {worker.slot}"))

    def _lose_machine(self, worker: Worker) -> None:
        worker.kill()
        worker.lose_disk()
        self._start_later(worker, self._begin("machine lost", f"slot {worker.slot}"))

    def _start_later(self, worker: Worker, fault: Fault | None, away_s: float | None = None) -> None:
        if away_s is None:
            away_s = self._rng.choice([0.0, 0.0, 0.5, 0.5, 1.0, 2.0, 3.0, SESSION_TIMEOUT_S + 2.0])
        clock_ms = self._clock_ms()

        def start() -> None:
            worker.start(clock_ms)
            if fault is not None:
                self._end(fault)

        self._later(away_s, start)

    def _clock_ms(self) -> int:
        if self._rng.random() < 2 / 3:
            return 0
        self.wrong_clocks += 1
        return self._rng.randrange(-CLOCK_MS, CLOCK_MS)

    def _set_trap(self, worker: Worker, kind: str) -> None:
        point = self._rng.choice(POINTS)
        stops = kind.startswith("zombie")
        if point.startswith("takeover"):
            worker.kill()
            self._end(self._begin("kill", f"slot {worker.slot}"))
            worker.start(self._clock_ms())
        worker.set_trap(point, "stop" if stops else "kill")
        fault = self._begin(kind, f"slot {worker.slot}, {point}")
        self._traps.append(_Trap(worker, fault, self._now() + TRAP_S, stops))

    def _look_at_trap(self, trap: _Trap) -> None:
        worker, process = trap.worker, trap.worker.process
        taken = not worker.trap_is_set()
        if process is None or process.code is not None:
            self._traps.remove(trap)
            if process is not None and not trap.stops and taken:
                worker.process = None
                self._start_later(worker, trap.fault)
            else:  # it ended by itself before it came there
                trap.fault.kind = "nothing"
                self._end(trap.fault)
            worker.trap.unlink(missing_ok=True)
        elif taken and trap.stops and process.stopped():
            self._traps.remove(trap)
            self._pause(worker, trap.fault)
        elif self._now() > trap.until_s:
            worker.trap.unlink(missing_ok=True)
            if worker.process is not None and not (trap.stops and process.stopped()):
                self._traps.remove(trap)
                trap.fault.kind = trap.fault.kind.removesuffix(" at point")
                if trap.stops:
                    self._pause(worker, trap.fault)
                else:
                    worker.kill()
                    self._start_later(worker, trap.fault)

    def _pause(self, worker: Worker, fault: Fault, replaced: bool = False) -> None:
        process = worker.process
        assert process is not None
        process.pause()
        away_s = SESSION_TIMEOUT_S + self._rng.uniform(1.5, 6.0)
        if not replaced:

            def resume() -> None:
                process.resume()
                self._end(fault)

            self._later(away_s, resume)
            return
        ghost = _Ghost(worker.slot, process, fault, self._now() + away_s + GHOST_S)
        clock_ms = self._clock_ms()

        def replace() -> None:
            worker.start_elsewhere(clock_ms)
            self._ghosts.append(ghost)
            self._later(away_s / 2, process.resume)

        self._later(away_s / 2, replace)

    def _look_at_ghost(self, ghost: _Ghost) -> None:
        code = ghost.process.code
        if code is None:
            if self._now() > ghost.until_s:
                raise Failed(f"a zombie of slot {ghost.slot}, replaced, runs on:\n{ghost.process.last_words(40)}")
            return
        if code != EXIT_STEP_ASIDE and code not in RESTARTABLE:
            raise Failed(f"a zombie of slot {ghost.slot} ended with {code}:\n{ghost.process.last_words(40)}")
        self._ghosts.remove(ghost)
        self.tell(f"the zombie of slot {ghost.slot} ended with {code}")
        self._end(ghost.fault)

    def _fill_disk(self, worker: Worker) -> None:
        assert worker.process is not None
        process = worker.process
        fault = self._begin("disk full", f"slot {worker.slot}")
        process.fill_disk(DISK_BYTES, fault)

        def heal() -> None:
            if fault.ended_s is None and worker.process is process:
                fault.kind = "kill"  # nothing was written past the limit
                worker.kill()
                self._start_later(worker, fault, 0.5)

        self._later(DISK_S, heal)

    def _look_at_exit(self, worker: Worker) -> None:
        process = worker.process
        if process is None or process.code is None or any(trap.worker is worker for trap in self._traps):
            return
        code = process.code
        worker.process = None
        if process.full_disk and (code == EXIT_STOP or code in RESTARTABLE):
            assert process.fault is not None
            if code != EXIT_STOP:
                process.fault.kind = "nothing"
            self.tell(f"slot {worker.slot} ended with {code}, its disk is full")
            self._start_later(worker, process.fault, 1.0)
            return
        ghostly = code == EXIT_STEP_ASIDE and any(ghost.slot == worker.slot for ghost in self._ghosts)
        if code not in RESTARTABLE and not ghostly:
            raise Failed(f"slot {worker.slot} ended with {code}:\n{process.last_words(40)}")
        self.tell(f"slot {worker.slot} ended with {code}, by itself: {process.last_words(1)}")
        self.restarts += 1
        self._start_later(worker, None, 0.5)

    # --- the network --------------------------------------------------------------------------------------------------

    def _strike_link(self, kind: str) -> bool:
        free = [pair for pair in self._pairs() if pair not in self._links]
        if self._network is None or not free:
            return False
        worker, broker = pair = self._rng.choice(free)
        link = self._network.link(worker, broker)
        seconds = self._rng.uniform(1.0, 12.0)
        fault = self._begin(kind, f"slot {worker} and broker {broker + 1}")
        self._links.add(pair)
        match kind:
            case "cut":
                link.cut()
            case "stall":
                link.stall()
            case _:
                link.slow(self._rng.uniform(0.02, 0.3))

        def heal() -> None:
            link.slow(0.0)
            link.restore()
            self._links.discard(pair)
            self._end(fault)

        self._later(seconds, heal)
        return True

    def _pairs(self) -> Iterator[tuple[int, int]]:
        if self._network is not None:
            yield from ((w, b) for w in range(len(self._workers)) for b in range(self._network.brokers))

    # --- brokers ------------------------------------------------------------------------------------------------------

    def _strike_broker(self, kind: str) -> bool:
        if self._brokers is None or self._broker is not None:
            return False
        number = self._rng.randrange(len(self._brokers.nodes))
        node = self._brokers.nodes[number]
        self._broker = self._begin(kind, f"broker {number + 1}")
        self._rejoining = False
        match kind:
            case "broker kill":
                node.kill()
                self._later(self._rng.uniform(1.0, 6.0), lambda: self._start_broker(node))
            case "broker stop":
                stopping = threading.Thread(target=node.stop, name="stopping a broker")
                stopping.start()
                self._threads.append(stopping)
                self._later(1.0, lambda: self._start_stopped(node, stopping))
            case _:
                node.pause()
                self._later(self._rng.uniform(3.0, 14.0), lambda: self._resume_broker(node))
        return True

    def _start_broker(self, node: Node) -> None:
        assert self._brokers is not None
        self._brokers.start(node)
        self._rejoining = True

    def _start_stopped(self, node: Node, stopping: threading.Thread) -> None:
        """From this thread: a broker does not outlive the thread that started it."""
        if stopping.is_alive():
            self._later(0.5, lambda: self._start_stopped(node, stopping))
        else:
            self._start_broker(node)

    def _resume_broker(self, node: Node) -> None:
        node.resume()
        self._rejoining = True

    def _look_at_brokers(self) -> None:
        """The fault is over when every replica is in sync again."""
        if self._broker is None or not self._rejoining or self._now() - self._looked_s < 1.0:
            return
        assert self._brokers is not None
        self._looked_s = self._now()
        for node in self._brokers.nodes:
            if log := node.failed():
                raise Failed(f"a broker ended by itself: {log}")
        if in_sync(self._brokers.internal, len(self._brokers.nodes)):
            self._end(self._broker)
            self._broker = None

    # --- bookkeeping ------------------------------------------------------------------------------------------------

    def _begin(self, kind: str, target: str) -> Fault:
        fault = Fault(kind, target, self._now())
        self.faults.append(fault)
        self.tell(f"{kind}: {target}")
        return fault

    def _end(self, fault: Fault) -> None:
        fault.ended_s = self._now()

    def _later(self, seconds: float, heal: Callable[[], None]) -> None:
        self._due.append((self._now() + seconds, heal))


def in_sync(kafka: str, brokers: int) -> bool:
    client = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    try:
        found = client.list_topics(timeout=2)
    except KafkaException:
        return False
    partitions = [p for topic in found.topics.values() for p in topic.partitions.values()]
    return len(found.brokers) == brokers and all(len(p.isrs) == len(p.replicas) for p in partitions)
