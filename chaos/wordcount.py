"""The first chaos run: three workers count words while a seeded nemesis kills and pauses them, and a judge recounts.

    1 feed     one wave of records a step, so that every fault strikes while records flow
    2 strike   kill -9 a worker (back at once, or only after its session is over), or SIGSTOP it for longer than its
               session timeout
    3 heal     everything runs again, until every output is there
    4 judge    workers end by SIGTERM; a fresh reader and a plain recount say whether anything was lost or repeated

The seed decides what is fed and which faults come at which step; what the processes are doing then is theirs. The
history is kept from the start and told when the judge finds something.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from chaos.events import Event, events
from chaos.judge import Reader, judged, no_open_transaction
from chaos.workers import RESTARTABLE, Worker

WORKERS = 3
PARTITIONS = 8
COPIES = 0.05
SESSION_TIMEOUT_S = 6
"""The least that a broker allows by default."""
SETTLE_S = 60.0
HEAL_S = 60.0


@dataclass(frozen=True)
class Shape:
    records: int = 200_000
    kills: int = 22
    pauses: int = 4
    steps: int = 200
    step_s: float = 0.55


class Failed(Exception):
    """The run cannot go on: a worker ended as it must not, or the outputs do not come."""


@dataclass
class Report:
    seed: int
    shape: Shape
    problems: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    kills: int = 0
    pauses: int = 0
    outputs: int = 0
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    def explain(self) -> str:
        return "\n".join([f"seed {self.seed}, {self.shape}", *self.problems, "history:", *self.history])


def run(kafka: str, seed: int, directory: Path, shape: Shape | None = None, keep: bool = False) -> Report:
    """Leaves no process behind; logs and state directories stay in `directory`. `keep`: after a failure the topics
    stay too."""
    chaos = _Run(kafka, seed, directory, shape or Shape())
    try:
        for part in (chaos.prepare, chaos.strike, chaos.heal):
            if not chaos.attempt(part):
                break
        chaos.attempt(chaos.judge)
    finally:
        chaos.close(keep and not chaos.report.ok)
    return chaos.report


class _Run:
    def __init__(self, kafka: str, seed: int, directory: Path, shape: Shape) -> None:
        self.kafka = kafka
        self.shape = shape
        self.report = Report(seed, shape)
        self.rng = random.Random(seed)
        self.begun = time.monotonic()
        self.name = f"chaos-{seed}-{time.time_ns() % 1_000_000_007}"
        self.admin = AdminClient({"bootstrap.servers": kafka})
        self.producer = Producer(
            {"bootstrap.servers": kafka, "enable.idempotence": True, "partitioner": "murmur2_random"}
        )
        environment = {
            "CHAOS_RUN": self.name,
            "STREAMCORE_WORKER__SESSION_TIMEOUT": f"{SESSION_TIMEOUT_S}s",
        }
        self.workers = [Worker(slot, kafka, directory, environment) for slot in range(WORKERS)]
        self.sent = events(seed, shape.records, COPIES, first_ms=time.time_ns() // 1_000_000 - 600_000)
        self.expected = len({event.id for event in self.sent})
        self.due: list[tuple[float, Worker, str]] = []
        self.reader: Reader | None = None

    def attempt(self, part: Callable[[], None]) -> bool:
        """False: it failed, and the report says so. What was written is judged all the same."""
        try:
            part()
        except (Failed, TimeoutError, KafkaException) as error:
            self.tell(f"{part.__name__}: {type(error).__name__}")
            self.report.problems.append(f"{part.__name__}: {type(error).__name__}: {error}")
            return False
        return True

    # --- the four parts -------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        names = (f"{self.name}.words", f"{self.name}.counts")
        for created in self.admin.create_topics([NewTopic(name, PARTITIONS) for name in names]).values():
            created.result(30)
        self.reader = Reader(self.kafka, names[1], PARTITIONS)
        for worker in self.workers:
            worker.start()
        self.waves = self._waves()
        self.feed(next(self.waves))
        self.wait_for_outputs(1, SETTLE_S)

    def strike(self) -> None:
        faults = self._planned()
        waiting: list[str] = []
        for step, wave in enumerate(self.waves, 1):
            self.feed(wave)
            waiting += faults.get(step, [])
            if waiting and (up := [worker for worker in self.workers if worker.condition == "up"]):
                self.fault(waiting.pop(0), self.rng.choice(up))
            self.live(self.shape.step_s)
        if waiting:
            raise Failed(f"faults {waiting} found no worker to strike")

    def heal(self) -> None:
        for _, worker, what in self.due:
            self.bring_back(worker, what)
        self.due = []
        self.tell("all records are sent, all workers run")
        self.wait_for_outputs(self.expected, HEAL_S)
        until = time.monotonic() + HEAL_S
        while not all(worker.has_joined() for worker in self.workers):
            if time.monotonic() > until:
                raise Failed(f"a worker does not join the group within {HEAL_S:.0f} s")
            self.live(0.2)

    def judge(self) -> None:
        self.attempt(self.stop_workers)
        fresh = Reader(self.kafka, f"{self.name}.counts", PARTITIONS)
        outputs = fresh.to_the_end(SETTLE_S)
        fresh.close()
        self.report.outputs = len(outputs)
        self.report.problems += judged(self.sent, outputs)
        self.report.problems += no_open_transaction(self.kafka, f"{self.name}.")
        self.tell(f"judged {len(outputs)} outputs of {self.expected} records")

    # --- what they are made of ------------------------------------------------------------------------------------

    def _waves(self) -> Iterator[list[Event]]:
        size = -(-len(self.sent) // (self.shape.steps + 1))
        return (self.sent[i : i + size] for i in range(0, len(self.sent), size))

    def _planned(self) -> dict[int, list[str]]:
        """Faults by step; the last tenth of the steps stays without, so that each finds records after it."""
        faults = ["kill"] * self.shape.kills + ["pause"] * self.shape.pauses
        self.rng.shuffle(faults)
        steps = sorted(self.rng.sample(range(2, self.shape.steps * 9 // 10), len(faults)))
        return {step: [fault] for step, fault in zip(steps, faults, strict=True)}

    def feed(self, wave: list[Event]) -> None:
        for event in wave:
            value = b'{"id":"%s","user":"%s","word":"%s"}' % tuple(
                s.encode() for s in (event.id, event.user, event.word)
            )
            self.producer.produce(f"{self.name}.words", value, event.user, timestamp=event.time_ms)
        if self.producer.flush(30):
            raise Failed("the broker did not take a wave of records")

    def fault(self, fault: str, worker: Worker) -> None:
        if fault == "kill":
            worker.kill()
            self.report.kills += 1
            away_s = self.rng.choice([0.0, 0.5, 2.0, SESSION_TIMEOUT_S + 2.0])
            self.later(away_s, worker, "start")
        else:
            worker.pause()
            self.report.pauses += 1
            away_s = SESSION_TIMEOUT_S + self.rng.uniform(1.5, 6.0)
            self.later(away_s, worker, "resume")
        self.tell(f"{fault} slot {worker.slot} for {away_s:.1f} s")

    def later(self, seconds: float, worker: Worker, what: str) -> None:
        self.due.append((time.monotonic() + seconds, worker, what))

    def bring_back(self, worker: Worker, what: str) -> None:
        worker.start() if what == "start" else worker.resume()
        self.tell(f"{what} slot {worker.slot}")

    def live(self, seconds: float) -> None:
        """Let time pass: outputs are read, workers brought back when due, exits looked at."""
        assert self.reader is not None
        self.reader.poll(seconds)
        now = time.monotonic()
        for at, worker, what in [one for one in self.due if one[0] <= now]:
            self.due.remove((at, worker, what))
            self.bring_back(worker, what)
        for worker in self.workers:
            code = worker.exited()
            if code is None:
                continue
            self.tell(f"slot {worker.slot} ended with {code}")
            if code not in RESTARTABLE:
                raise Failed(f"slot {worker.slot} ended with {code}:\n{worker.last_words(40)}")
            self.later(0.5, worker, "start")

    def wait_for_outputs(self, count: int, bound_s: float) -> None:
        assert self.reader is not None
        until = time.monotonic() + bound_s
        while len(self.reader.outputs) < count:
            if time.monotonic() > until:
                raise Failed(f"{len(self.reader.outputs)} of {count} outputs after {bound_s:.0f} s")
            self.live(0.2)

    def stop_workers(self) -> None:
        for worker in self.workers:
            if worker.condition == "paused":
                worker.resume()
        codes = {worker.slot: worker.stop() for worker in self.workers}
        if any(codes.values()) or None in codes.values():
            raise Failed(f"workers did not end with 0 on SIGTERM: {codes}\n{self.workers[0].last_words(40)}")

    def tell(self, what: str) -> None:
        read = len(self.reader.outputs) if self.reader else 0
        self.report.history.append(f"{time.monotonic() - self.begun:7.1f} s  {read:7d} outputs  {what}")

    def close(self, keep: bool) -> None:
        """Whatever happened: no process, no client stays, and no topic unless they are to be kept."""
        for worker in self.workers:
            if worker.condition != "down":
                worker.kill()
        if self.reader:
            self.reader.close()
        self.report.took_s = time.monotonic() - self.begun
        if keep:
            return
        doomed = [name for name in self.admin.list_topics(timeout=10).topics if name.startswith(f"{self.name}.")]
        for deleted in self.admin.delete_topics(doomed).values() if doomed else ():
            deleted.result(30)
