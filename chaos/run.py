"""One chaos run: workers count words while a seeded nemesis strikes, and a judge looks at what came of it.

    1 feed     records at a steady rate, with copies and out of order, so that every fault strikes while they flow
    2 strike   the planned faults, each with its heal, as soon as there is something to strike
    3 heal     everything runs again, until every output is there
    4 judge    workers end by SIGTERM; the history is read from outside and given to the checkers

The seed decides what is fed, which faults come when, and whom they strike; what the processes are doing then is theirs.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from chaos.events import Event, events
from chaos.faults import PER_MINUTE, Fault, kinds_without_brokers, planned
from chaos.history import Reader, committed, ends, journals_of, owners_now, recorded, whole
from chaos.judge import verdicts
from chaos.nemesis import SESSION_TIMEOUT_S, Failed, Nemesis
from chaos.network import Network
from chaos.topology import named
from chaos.workers import Worker
from streamcore.errors import StreamcoreError
from streamcore.testing.history import Record
from streamcore.testing.judge import Verdict, failed
from tests.kafka.broker import HOST, Cluster, Local

COPIES = 0.05
TICK_S = 0.1
CHECKPOINT_S = 10
SETTLE_S = 90.0
HEAL_S = 180.0
KILLS = ("kill", "kill at point", "machine lost")
ZOMBIES = ("zombie", "zombie at point", "zombie replaced")
BROKERS = ("broker kill", "broker stop", "broker pause")


@dataclass(frozen=True)
class Shape:
    minutes: float = 2.5
    records_a_second: int = 500
    workers: int = 3
    partitions: int = 8

    @property
    def records(self) -> int:
        return int(self.minutes * 60 * self.records_a_second)


@dataclass(frozen=True)
class Sample:
    """Once a second."""

    at_s: float
    sent: int
    """Different records."""
    read: int


@dataclass
class Report:
    seed: int
    shape: Shape
    problems: list[str] = field(default_factory=list[str])
    verdicts: list[Verdict] = field(default_factory=list[Verdict])
    faults: list[Fault] = field(default_factory=list[Fault])
    samples: list[Sample] = field(default_factory=list[Sample])
    told: list[str] = field(default_factory=list[str])
    outputs: int = 0
    epochs: int = 0
    restarts: int = 0
    wrong_clocks: int = 0
    restores: int = 0
    """Of tasks, from checkpoints."""
    left_over: int = 0
    """Faults that found nothing to strike in time."""
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems and bool(self.verdicts)

    def count(self, *kinds: str) -> int:
        return sum(fault.kind in kinds for fault in self.faults)

    @property
    def kills(self) -> int:
        return self.count(*KILLS)

    @property
    def zombies(self) -> int:
        return self.count(*ZOMBIES)

    @property
    def broker_faults(self) -> int:
        return self.count(*BROKERS)

    def summary(self) -> str:
        counted = Counter(fault.kind for fault in self.faults if fault.kind != "nothing")
        faults = ", ".join(f"{kind} {counted[kind]}" for kind in PER_MINUTE if counted[kind])
        return (
            f"seed {self.seed}, {self.took_s:.0f} s: {self.outputs} outputs in {self.epochs} epochs; {self.kills} "
            f"worker kills, {self.zombies} zombies, {self.broker_faults} broker faults ({faults}; wrong clocks"
            f" {self.wrong_clocks}, restarts by exit code {self.restarts}, faults left over {self.left_over})"
        )

    def explain(self) -> str:
        return "\n".join([self.summary(), *self.problems, *map(str, self.verdicts), "what happened:", *self.told])


def run(cluster: Cluster, seed: int, directory: Path, shape: Shape | None = None, keep: bool = False) -> Report:
    """Leaves no process behind; logs and state directories stay in `directory`. `keep`: after a failure the topics
    stay too."""
    chaos = Scene(cluster, seed, directory, shape or Shape())
    try:
        for part in (chaos.prepare, chaos.strike, chaos.heal, chaos.stop_workers):
            if not chaos.attempt(part):
                break
        chaos.attempt(chaos.judge)
    finally:
        chaos.close(keep and not chaos.report.ok)
    return chaos.report


class Scene:
    """Brokers, network, workers, records, a reader: what a run, or a game day, plays on."""

    def __init__(self, cluster: Cluster, seed: int, directory: Path, shape: Shape) -> None:
        self.shape = shape
        self.report = Report(seed, shape)
        self.rng = random.Random(seed)
        self.begun = time.monotonic()
        self.name = f"chaos-{seed}-{time.time_ns() % 1_000_000_007}"
        local = cluster if isinstance(cluster, Local) else None
        self.kafka = local.internal if local else cluster.bootstrap
        self.admin = AdminClient({"bootstrap.servers": self.kafka, "log_level": 0})
        self.producer = Producer(
            {
                "bootstrap.servers": self.kafka,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "log_level": 0,
            }
        )
        self.network = Network(_advertised(cluster), shape.workers)
        environment = {
            "CHAOS_RUN": self.name,
            "STREAMCORE_WORKER__SESSION_TIMEOUT": f"{SESSION_TIMEOUT_S}s",
            "STREAMCORE_CHECKPOINTS__STORE": f"file://{directory / 'checkpoints'}",  # one for all machines
            "STREAMCORE_CHECKPOINTS__INTERVAL": f"{CHECKPOINT_S}s",
        }
        self.workers = [
            Worker(slot, self.network.bootstrap(slot), directory, environment) for slot in range(shape.workers)
        ]
        self.nemesis = Nemesis(self.rng, self.workers, self.network, local, self.now)
        self.watch: Callable[[], None] = self.nemesis.step
        """What is done several times a second."""
        self.report.faults = self.nemesis.faults
        self.report.told = self.nemesis.told
        self.plan = named(self.name).plan()
        self.planned = planned(self.rng, shape.minutes, PER_MINUTE if local else kinds_without_brokers())
        self.sent = events(seed, shape.records, COPIES, first_ms=time.time_ns() // 1_000_000 - 600_000)
        self.fed = 0
        self.different: set[str] = set()
        self.read = 0
        self.refused: list[str] = []
        self.reader: Reader | None = None
        self.journal_reader: Reader | None = None
        self.journals: list[Record] = []
        """Read as they are written, before they can be trimmed."""
        self.owners: dict[object, int] = {}

    def now(self) -> float:
        return time.monotonic() - self.begun

    def attempt(self, part: Callable[[], None]) -> bool:
        """False: it failed, and the report says so. What was written is judged all the same."""
        try:
            part()
        except (Failed, TimeoutError, KafkaException, StreamcoreError) as error:
            self.nemesis.tell(f"{part.__name__}: {type(error).__name__}")
            self.report.problems.append(f"{part.__name__}: {type(error).__name__}: {error}")
            return False
        return True

    # --- the parts ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        names = [f"{self.name}.{topic}" for topic in ("words", "counts", "dead")]
        for created in self.admin.create_topics([NewTopic(name, self.shape.partitions) for name in names]).values():
            created.result(30)
        self.reader = Reader(self.kafka, whole(names[1], self.shape.partitions))
        self.nemesis.start_all()
        self.feed(self.shape.records_a_second)
        self.wait_for_outputs(1, SETTLE_S)
        self.journal_reader = Reader(self.kafka, journals_of(self.plan, self.shape.partitions))

    def strike(self) -> None:
        self.nemesis.tell("the faults begin")
        begun = self.now()
        waiting: list[str] = []
        while (at := self.now() - begun) < self.shape.minutes * 60:
            self.feed(int(at * self.shape.records_a_second))
            waiting += [kind for moment, kind in self.planned if moment <= at]
            self.planned = [(moment, kind) for moment, kind in self.planned if moment > at]
            waiting = [kind for kind in waiting if not self.nemesis.strike(kind)]
            self.live(TICK_S)
        self.report.left_over = len(waiting) + len(self.planned)

    def heal(self) -> None:
        self.nemesis.heal_all()
        self.feed(len(self.sent))
        self.nemesis.tell("all records are sent, everything is healed")
        self.wait_until(lambda: self.nemesis.healed, "not everything can be healed")
        if self.producer.flush(60) or self.refused:
            raise Failed(f"the brokers did not take all records: {self.refused[:3]}")
        self.wait_for_outputs(len({event.id for event in self.sent}), HEAL_S)
        self.wait_until(lambda: all(w.has_joined() for w in self.workers), "a worker does not join the group")
        self.wait_until(lambda: self.unprocessed() == 0, "not every record is behind a commit")
        self.wait_until(self.settled, "the group does not come to rest")

    def stop_workers(self) -> None:
        codes: dict[int, int | None] = {}
        for worker in self.workers:
            assert worker.process is not None
            codes[worker.slot] = worker.process.end()
            if codes[worker.slot] != 0:
                raise Failed(f"slot {worker.slot} ended with {codes}:\n{worker.process.last_words(40)}")
            worker.process = None

    def judge(self) -> None:
        self.nemesis.close()
        self.producer.flush(30)
        machines = {worker.slot: worker.machines for worker in self.workers}
        if self.journal_reader is None:
            raise Failed("the run did not begin")
        self.journals += self.journal_reader.to_the_end()
        history = recorded(self.kafka, self.plan, self.shape.partitions, self.owners, machines, self.journals)
        self.report.outputs = len(history.outputs[f"{self.name}.counts"])
        self.report.epochs = sum(map(len, history.frames.values()))
        self.report.verdicts = verdicts(history, self.sent[: self.fed])
        self.report.problems += map(str, failed(self.report.verdicts))
        self.nemesis.tell(f"judged {self.report.outputs} outputs")

    # --- what they are made of ------------------------------------------------------------------------------------

    def feed(self, until: int) -> None:
        """Records up to the given number of all."""
        for event in self.sent[self.fed : until]:
            self.different.add(event.id)
            self.feed_one(event)
        self.fed = max(self.fed, min(until, len(self.sent)))
        self.producer.poll(0)

    def feed_one(self, event: Event) -> None:
        """Beside what is planned."""
        while True:
            try:
                self.producer.produce(
                    f"{self.name}.words",
                    _value(event),
                    event.user,
                    timestamp=event.time_ms,
                    on_delivery=self.sent_one,
                )
                return
            except BufferError:  # the brokers are away for long
                self.producer.poll(0.5)

    def sent_one(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.refused.append(str(error))

    def live(self, seconds: float) -> None:
        """Let time pass: outputs are counted, what is due is healed, exits are looked at."""
        assert self.reader is not None
        self.read += len(self.reader.take(seconds))
        if self.journal_reader is not None:
            self.journals += self.journal_reader.take(0.0)
        self.watch()
        if not self.report.samples or self.now() - self.report.samples[-1].at_s >= 1.0:
            self.report.samples.append(Sample(self.now(), len(self.different), self.read))

    def unprocessed(self) -> int:
        """Records sent that lie behind no commit: copies, too, which leave no output."""
        sent = ends(self.kafka, whole(f"{self.name}.words", self.shape.partitions))
        found = committed(self.kafka, self.plan, self.shape.partitions)
        return sum(end - (found[tp].offset if tp in found else 0) for tp, end in sent.items())

    def settled(self) -> bool:
        """Each task has an owner, twice in a row."""
        before, self.owners = self.owners, dict(owners_now(self.kafka, self.plan))
        until = self.now() + 1.0
        while self.now() < until:
            self.live(TICK_S)
        return before == self.owners and len(self.owners) == len(self.plan.stages) * self.shape.partitions

    def wait_for_outputs(self, count: int, bound_s: float) -> None:
        self.wait_until(lambda: self.read >= count, f"fewer than {count} outputs", bound_s)

    def wait_until(self, true: Callable[[], bool], otherwise: str, bound_s: float = HEAL_S) -> None:
        until = self.now() + bound_s
        while not true():
            if self.now() > until:
                raise Failed(f"{otherwise} after {bound_s:.0f} s; {self.read} outputs were read")
            self.live(TICK_S)

    def close(self, keep: bool) -> None:
        """Whatever happened: no process, no client stays, and no topic unless they are to be kept."""
        self.nemesis.close()
        self.network.close()
        for reader in (self.reader, self.journal_reader):
            if reader is not None:
                reader.close()
        self.report.restarts = self.nemesis.restarts
        self.report.wrong_clocks = self.nemesis.wrong_clocks
        self.report.restores = sum(worker.restores for worker in self.workers)
        self.report.took_s = self.now()
        if keep:
            return
        doomed = [name for name in self.admin.list_topics(timeout=10).topics if name.startswith(f"{self.name}.")]
        for deleted in self.admin.delete_topics(doomed).values() if doomed else ():
            deleted.result(30)


def _value(event: Event) -> bytes:
    return b'{"id":"%s","user":"%s","word":"%s"}' % tuple(s.encode() for s in (event.id, event.user, event.word))


def _advertised(cluster: Cluster) -> list[str]:
    """What the brokers tell clients of themselves, in the order of their numbers. The proxies can stand in for hosts
    written as theirs only."""
    found = AdminClient({"bootstrap.servers": cluster.bootstrap}).list_topics(timeout=10).brokers
    addresses = [f"{found[number].host}:{found[number].port}" for number in sorted(found)]
    if any(not address.startswith(f"{HOST}:") for address in addresses):
        raise Failed(f"the brokers are not on {HOST}: {addresses}")
    return addresses
