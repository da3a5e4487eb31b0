"""The measure: the benchmark's jobs as one would write them by hand with confluent-kafka, for speed, exactly once.

Every loop gives what streamcore gives: outputs, state and offsets commit together, state survives kill -9 and moves
with its partition. That is: one transactional producer, `send_offsets_to_transaction`, each epoch's changed counts as
one journal message a partition inside the transaction, then in a RocksDB write batch; a partition that is assigned
reads the rest of its journal first. Ends, committed, at SIGTERM.

What makes it fast: large fetches, thousands of messages a `consume`, producing while the epoch runs (positional
arguments), msgspec, a flush before the offsets, and only what changed, once an epoch.

    python -m benchmarks.handwritten CASE --kafka HOST:PORT --run NAME --orders TOPIC --state-dir DIR
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from zlib import crc32

import msgspec
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from rocksdict import Options, Rdict, WriteBatch

from benchmarks.records import FILTER_FROM, PARTITIONS, Counted, Order, Priced, Topics

COMMIT_S = 0.1
POLL_RECORDS = 4_000
CACHE_KEYS = 200_000

Produce = Callable[..., None]

decode_order = msgspec.json.Decoder(Order).decode
encode_json = msgspec.json.Encoder().encode
encode_msgpack = msgspec.msgpack.Encoder().encode


class Work(Protocol):
    """What differs between the loops. `process` sees consecutive messages; `end_epoch` runs before each commit."""

    inputs: tuple[str, ...]
    journal: str | None

    def process(self, messages: list[Message]) -> None: ...
    def end_epoch(self) -> None: ...
    def committed(self) -> None: ...
    def assigned(self, partition: int) -> None: ...
    def revoked(self, partition: int) -> None: ...


class Stateless:
    journal: str | None = None

    def end_epoch(self) -> None: ...
    def committed(self) -> None: ...
    def assigned(self, partition: int) -> None: ...
    def revoked(self, partition: int) -> None: ...


class MapFilter(Stateless):
    def __init__(self, topics: Topics, produce: Produce, **_: object) -> None:
        self.inputs = (topics.orders,)
        self.output, self.produce = topics.output, produce

    def process(self, messages: list[Message]) -> None:
        produce, output = self.produce, self.output
        for message in messages:
            order = decode_order(message.value())
            if order.amount >= FILTER_FROM:
                priced = Priced(order.id, order.user, order.amount * 100)
                produce(output, encode_json(priced), message.key(), -1, None, None, message.timestamp()[1])


class Delta(msgspec.Struct, array_like=True):
    """A journal message: one partition's changed keys of one epoch."""

    epoch: int
    keys: list[str]
    numbers: list[int]


class Numbers:
    """One partition's state: a number a key. `fresh` is this epoch's, not yet committed; RocksDB is never ahead."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.db = Rdict(str(path), Options(raw_mode=True))
        self.epoch = int(self.db.get(b"epoch") or 0)
        self.fresh: dict[str, int] = {}
        self.cache: dict[str, int] = {}

    def load(self, key: str) -> int:
        number = self.cache.get(key)
        if number is None:
            stored = self.db.get(b"k" + key.encode())
            number = int(stored) if stored else 0
        return number

    def delta(self) -> bytes:
        return encode_msgpack(Delta(self.epoch + 1, list(self.fresh), list(self.fresh.values())))

    def apply(self, keys: list[str], numbers: list[int]) -> None:
        self.epoch += 1
        batch = WriteBatch(raw_mode=True)
        for key, number in zip(keys, numbers, strict=True):
            batch.put(b"k" + key.encode(), b"%d" % number)
        batch.put(b"epoch", b"%d" % self.epoch)
        self.db.write(batch)

    def committed(self) -> None:
        self.apply(list(self.fresh), list(self.fresh.values()))
        if len(self.cache) > CACHE_KEYS:
            self.cache.clear()
        self.cache.update(self.fresh)
        self.fresh = {}

    def catch_up(self, kafka: str, topic: str, partition: int) -> None:
        """Apply what the journal has and RocksDB has not: after a crash, or where another process wrote it."""
        decoder = msgspec.msgpack.Decoder(Delta)
        for payload in read_to_end(kafka, topic, partition):
            delta = decoder.decode(payload)
            if delta.epoch == self.epoch + 1:
                self.apply(delta.keys, delta.numbers)


class Stateful:
    def __init__(self, topics: Topics, produce: Produce, *, kafka: str, state_dir: Path) -> None:
        self.inputs: tuple[str, ...] = (topics.orders,)
        self.journal: str | None = topics.journal
        self.output, self.produce, self.kafka, self.state_dir = topics.output, produce, kafka, state_dir
        self.tasks: dict[int, Numbers] = {}

    def end_epoch(self) -> None:
        for partition, task in self.tasks.items():
            if task.fresh:
                self.produce(self.journal, task.delta(), None, partition)

    def committed(self) -> None:
        for task in self.tasks.values():
            if task.fresh:
                task.committed()

    def assigned(self, partition: int) -> None:
        task = self.tasks[partition] = Numbers(self.state_dir / str(partition))
        task.catch_up(self.kafka, str(self.journal), partition)

    def revoked(self, partition: int) -> None:
        self.tasks.pop(partition).db.close()


class RunningCount(Stateful):
    def process(self, messages: list[Message]) -> None:
        produce, output, tasks = self.produce, self.output, self.tasks
        for message in messages:
            order = decode_order(message.value())
            task = tasks[message.partition()]
            fresh, user = task.fresh, order.user
            count = fresh.get(user)
            fresh[user] = count = (task.load(user) if count is None else count) + 1
            counted = Counted(user, count, order.amount)
            produce(output, encode_json(counted), message.key(), -1, None, None, message.timestamp()[1])


class Latest(Stateful):
    """Sums by user, the latest of each changed user once an epoch."""

    def __init__(self, topics: Topics, produce: Produce, *, kafka: str, state_dir: Path) -> None:
        super().__init__(topics, produce, kafka=kafka, state_dir=state_dir)
        self.times: dict[str, int] = {}

    def process(self, messages: list[Message]) -> None:
        tasks, times = self.tasks, self.times
        for message in messages:
            order = decode_order(message.value())
            task = tasks[message.partition()]
            fresh, user = task.fresh, order.user
            total = fresh.get(user)
            fresh[user] = (task.load(user) if total is None else total) + order.amount
            time_ms = message.timestamp()[1]
            if times.get(user, 0) < time_ms:
                times[user] = time_ms

    def end_epoch(self) -> None:
        produce, output, times = self.produce, self.output, self.times
        for task in self.tasks.values():
            for user, total in task.fresh.items():
                produce(output, b"%d" % total, user.encode(), -1, None, None, times[user])
        times.clear()
        super().end_epoch()


class Packed(msgspec.Struct, array_like=True):
    """A shuffle message: many orders on their way to one partition."""

    orders: list[tuple[str, int]]
    """City, the key, and the amount: all that the second stage reads."""
    times: list[int]


class Regroup(Stateful):
    """By city instead of user: packed over an internal topic, then a running count. Both stages in one process."""

    def __init__(self, topics: Topics, produce: Produce, *, kafka: str, state_dir: Path) -> None:
        super().__init__(topics, produce, kafka=kafka, state_dir=state_dir)
        self.inputs = (topics.orders, topics.shuffle)
        self.source, self.shuffle = topics.orders, topics.shuffle
        self.partition_of: dict[str, int] = {}
        self.unpack = msgspec.msgpack.Decoder(Packed).decode

    def process(self, messages: list[Message]) -> None:
        packed = [Packed([], []) for _ in range(PARTITIONS)]
        source, partition_of = self.source, self.partition_of
        for message in messages:
            if message.topic() != source:
                self.count(message)
                continue
            order = decode_order(message.value())
            city = order.city
            partition = partition_of.get(city)
            if partition is None:
                partition = partition_of[city] = crc32(city.encode()) % PARTITIONS
            frame = packed[partition]
            frame.orders.append((city, order.amount))
            frame.times.append(message.timestamp()[1])
        for partition, frame in enumerate(packed):
            if frame.times:
                self.produce(self.shuffle, encode_msgpack(frame), None, partition)

    def count(self, message: Message) -> None:
        produce, output, task = self.produce, self.output, self.tasks[message.partition()]
        fresh, frame = task.fresh, self.unpack(message.value())
        for (city, amount), time_ms in zip(frame.orders, frame.times, strict=True):
            count = fresh.get(city)
            fresh[city] = count = (task.load(city) if count is None else count) + 1
            produce(output, encode_json(Counted(city, count, amount)), city.encode(), -1, None, None, time_ms)


CASES: dict[str, Callable[..., Work]] = {
    "map_filter": MapFilter,
    "running_count": RunningCount,
    "latest": Latest,
    "regroup": Regroup,
}


class Loop:
    """Consume, process, commit each 100 ms. An error ends the process; the next start goes on from the last commit."""

    def __init__(self, case: str, kafka: str, topics: Topics, state_dir: Path) -> None:
        shared = {"bootstrap.servers": kafka}
        self.producer = Producer(
            shared
            | {
                "transactional.id": f"{topics.run}.0",
                "transaction.timeout.ms": 10_000,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "batch.size": 1 << 20,
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 256 << 10,
                "delivery.report.only.error": True,
            }
        )
        self.producer.init_transactions(10)
        self.work = CASES[case](topics, self.producer.produce, kafka=kafka, state_dir=state_dir)
        self.consumer = Consumer(
            shared
            | {
                "group.id": topics.run,
                "group.instance.id": f"{topics.run}.0",
                "session.timeout.ms": 10_000,
                "partition.assignment.strategy": "range",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.message.max.bytes": 16 << 20,
                "fetch.max.bytes": 64 << 20,
                "queued.max.messages.kbytes": 64 << 10,
                "queued.min.messages": 500_000,
                "check.crcs": False,
            }
        )
        self.consumer.subscribe(list(self.work.inputs), on_assign=self.assigned, on_revoke=self.revoked)
        self.open = False
        self.stopped = False

    def run(self) -> None:
        due = 0.0
        while not self.stopped:
            messages = self.consumer.consume(POLL_RECORDS, 0.02)
            if messages:
                if any(map(Message.error, messages)):
                    raise KafkaException(next(filter(None, map(Message.error, messages))))
                if not self.open:
                    self.producer.begin_transaction()
                    self.open, due = True, time.monotonic() + COMMIT_S
                self.work.process(messages)
                self.producer.poll(0)
            if self.open and time.monotonic() >= due:
                self.commit()
        self.commit()
        self.consumer.close()

    def commit(self) -> None:
        if not self.open:
            return
        self.work.end_epoch()
        if self.producer.flush(10):
            raise SystemExit("the broker did not take the epoch's records in time")
        positions = [at for at in self.consumer.position(self.consumer.assignment()) if at.offset >= 0]
        self.producer.send_offsets_to_transaction(positions, self.consumer.consumer_group_metadata(), 10)
        self.producer.commit_transaction(10)
        self.open = False
        self.work.committed()

    def assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.committed(partitions, 30)  # waits until the former owner's transaction is decided
        for partition in sorted({at.partition for at in partitions if at.topic == self.work.inputs[-1]}):
            self.work.assigned(partition)

    def revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.commit()
        for partition in sorted({at.partition for at in partitions if at.topic == self.work.inputs[-1]}):
            self.work.revoked(partition)

    def stop(self, *_: object) -> None:
        self.stopped = True


def read_to_end(kafka: str, topic: str, partition: int) -> list[bytes]:
    """Every committed message of a partition. Called when nothing in it is undecided."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "none",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0)])
    found: list[bytes] = []
    while True:
        message = consumer.poll(10)
        if message is None:
            raise SystemExit(f"{topic}[{partition}] could not be read in time")
        if message.error():
            consumer.close()
            return found
        found.append(message.value() or b"")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--orders", required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    given = parser.parse_args()
    loop = Loop(given.case, given.kafka, Topics(given.run, given.orders), given.state_dir)
    signal.signal(signal.SIGTERM, loop.stop)
    loop.run()


if __name__ == "__main__":
    main()
