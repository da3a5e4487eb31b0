"""The run's history in the simulator's own form, from what an outsider can read: topics, offsets, disks.

All of it is read past the workers and past the engine: records by a plain read_committed consumer, a journal's frames
out of its records, the local state by opening what the ended workers left on their disks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from streamcore.log import metadata
from streamcore.log.kafka import KafkaLog
from streamcore.sink.shuffle import marker_in
from streamcore.state.frames import FrameAssembler
from streamcore.state.rocks import RocksStore
from streamcore.testing.history import History, JournalFrame, OffsetTold, Record, TaskState
from streamcore.topology.plan import Plan
from streamcore.types import Partition, TaskId, TopicPartition

READ_S = 120.0
TAKEN = 5_000
PASSING = frozenset(
    {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError.NOT_LEADER_FOR_PARTITION}
)
"""Errors that a reader gets over by itself when a broker is away."""

Owners = Mapping[TaskId, int]
"""Each task's slot."""


class Reader:
    """Committed records of whole partitions, from given offsets on, without a group."""

    def __init__(self, kafka: str, starts: Mapping[TopicPartition, int]) -> None:
        self._kafka = kafka
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka,
                "log_level": 0,
                "group.id": "chaos-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "socket.timeout.ms": 6_000,  # a silent broker must not hold it back until journals are trimmed
            }
        )
        self._consumer.assign([ClientPartition(tp.topic, tp.partition, at) for tp, at in starts.items()])
        self._ended: dict[TopicPartition, int] = dict.fromkeys(starts, -1)
        """Where the end of each was seen last."""

    def take(self, seconds: float) -> list[Record]:
        """What comes within `seconds`."""
        records: list[Record] = []
        for message in self._consumer.consume(TAKEN, seconds):
            tp = TopicPartition(str(message.topic()), Partition(int(message.partition() or 0)))
            if error := message.error():
                if error.code() == KafkaError._PARTITION_EOF:
                    self._ended[tp] = int(message.offset() or 0)
                elif error.code() not in PASSING:
                    raise KafkaException(error)
                continue
            at = int(message.offset() or 0)
            records.append(Record(tp, at, message.key(), message.value(), message.timestamp()[1]))  # type: ignore[arg-type]
        return records

    def to_the_end(self, bound_s: float = READ_S) -> list[Record]:
        """What is left of all that stands there now, in order a partition. Raises TimeoutError: an open transaction
        holds the end back, or no broker answers."""
        until = time.monotonic() + bound_s
        wanted = ends(self._kafka, self._ended)
        records: list[Record] = []
        while unfinished := [tp for tp, end in self._ended.items() if end < wanted[tp]]:
            if time.monotonic() > until:
                raise TimeoutError(f"{unfinished[:5]} could not be read to the end in {bound_s:.0f} s")
            records += self.take(0.2)
        return records

    def close(self) -> None:
        self._consumer.close()


def whole(topic: str, partitions: int) -> dict[TopicPartition, int]:
    """From the topic's beginning."""
    return {TopicPartition(topic, Partition(p)): 0 for p in range(partitions)}


def read(kafka: str, starts: Mapping[TopicPartition, int]) -> list[Record]:
    reader = Reader(kafka, starts)
    try:
        return reader.to_the_end()
    finally:
        reader.close()


def recorded(
    kafka: str,
    plan: Plan,
    partitions: int,
    owners: Owners,
    machines: Mapping[int, Iterable[Path]],
    journals: Iterable[Record],
) -> History:
    """After the end. `machines`: each slot's state directories, the one it used last first. `journals`: all that ever
    stood in them, which was read before it was trimmed."""
    history = History(
        job=plan.job,
        partitions={stage.topic: partitions for stage in plan.stages},
        stages={stage.name: stage.topic for stage in plan.stages},
    )
    for topic in plan.source_topics:
        history.inputs[topic] = read(kafka, whole(topic, partitions))
    for topic in (*plan.sink_topics, *plan.dead_letter_topics):
        history.outputs[topic] = read(kafka, whole(topic, partitions))
    history.frames = frames_of(plan, journals)
    history.committed = committed(kafka, plan, partitions)
    left = read(kafka, {tp: told.offset for tp, told in history.committed.items()})
    history.unprocessed = sum(marker_in(record.value, str(record.tp)) is None for record in left)
    history.open_transactions = open_transactions(kafka, f"{plan.job}.")
    history.states = [
        state
        for slot, roots in machines.items()
        for n, root in enumerate(roots)
        for state in states(root, plan, slot, owners, n == 0)
    ]
    return history


def journals_of(plan: Plan, partitions: int) -> dict[TopicPartition, int]:
    """From their beginning."""
    return {tp: 0 for stage in plan.stages for tp in whole(plan.journal_topic(stage.name), partitions)}


def frames_of(plan: Plan, journals: Iterable[Record]) -> dict[TaskId, list[JournalFrame]]:
    stage_of = {plan.journal_topic(stage.name): stage.name for stage in plan.stages}
    found: dict[TaskId, list[JournalFrame]] = {}
    assemblers: dict[TaskId, FrameAssembler] = {}
    for record in journals:
        task = TaskId(stage_of[record.tp.topic], record.tp.partition)
        assembler = assemblers.setdefault(task, FrameAssembler(str(task)))
        placed = assembler.feed(record.offset, record.value or b"")
        if placed is not None:
            found.setdefault(task, []).append(JournalFrame(task, placed.first, placed.end, placed.frame))
    return found


def committed(kafka: str, plan: Plan, partitions: int) -> dict[TopicPartition, OffsetTold]:
    tps = [TopicPartition(stage.topic, Partition(p)) for stage in plan.stages for p in range(partitions)]
    admin = KafkaLog(kafka).admin()
    try:
        found = admin.committed(plan.job, tps, READ_S)
    finally:
        admin.close()
    return {tp: OffsetTold(tp, at.offset, metadata.decode(at.metadata, str(tp))) for tp, at in found.items()}


def owners_now(kafka: str, plan: Plan) -> dict[TaskId, int]:
    """While the workers run: whom the group has given each task."""
    stage_of = {stage.topic: stage.name for stage in plan.stages}
    admin = KafkaLog(kafka).admin()
    try:
        members = admin.members(plan.job)
    finally:
        admin.close()
    return {
        TaskId(stage_of[tp.topic], tp.partition): int((member.instance_id or "").rpartition(".")[2])
        for member in members
        for tp in member.assignment
    }


def states(root: Path, plan: Plan, slot: int, owners: Owners, last: bool) -> Iterable[TaskState]:
    """What one machine's disk holds. `last`: it is the one on which the slot ran at the end."""
    for stage in plan.stages:
        for path in sorted((root / plan.job / f"slot-{slot}").glob(f"{stage.name}-*")):
            number = path.name.removeprefix(f"{stage.name}-")
            if not number.isdigit() or not (path / "db").exists():
                continue  # set aside as damaged
            task = TaskId(stage.name, Partition(int(number)))
            owner = last and owners.get(task) == slot
            store = RocksStore.open_read_only(path)
            steps = [node.name for node in stage.stateful] if owner else []
            rows = {step: dict(store.column(step).scan(b"", b"\xff")) for step in steps}
            yield TaskState(root.name, task, owner, store.mark(), rows)
            store.close()


def open_transactions(kafka: str, prefix: str) -> list[str]:
    """Partitions of the run's topics and of the offsets topic where what is stable is not all there is."""
    topics = AdminClient({"bootstrap.servers": kafka, "log_level": 0}).list_topics(timeout=10).topics
    tps = [
        TopicPartition(name, Partition(p))
        for name, topic in topics.items()
        if name.startswith(prefix) or name == "__consumer_offsets"
        for p in topic.partitions
    ]
    stable, high = ends(kafka, tps), ends(kafka, tps, IsolationLevel.READ_UNCOMMITTED)
    return [f"{tp}, stable to {stable[tp]} of {end}" for tp, end in high.items() if stable[tp] != end]


def ends(
    kafka: str, tps: Iterable[TopicPartition], level: IsolationLevel = IsolationLevel.READ_COMMITTED
) -> dict[TopicPartition, int]:
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    asked = {ClientPartition(tp.topic, tp.partition): OffsetSpec.latest() for tp in tps}
    answers = admin.list_offsets(asked, isolation_level=level, request_timeout=10)
    return {TopicPartition(tp.topic, Partition(tp.partition)): a.result(10).offset for tp, a in answers.items()}
