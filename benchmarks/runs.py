"""One measured run: topics made, a process started, watched from outside until its input is committed, ended.

Both sides are watched alike: progress is what the group has committed of the orders (with a shuffle: the mean of that
and of what stands in the output, so that each half of the way counts half), CPU and memory are the process's own, and
rates are those between 10% and 90% of the input.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from benchmarks.records import PARTITIONS, Topics

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_S = 0.05
STALL_S = 120.0
SIDES = ("handwritten", "streamcore")


@dataclass(frozen=True)
class Sample:
    at_s: float
    records: float
    cpu_s: float


@dataclass(frozen=True)
class Measured:
    records_a_second: float
    cpu_s_a_million: float
    peak_bytes: int


class Cluster:
    """The few admin calls that a run needs."""

    def __init__(self, kafka: str) -> None:
        self.kafka = kafka
        self.admin = AdminClient({"bootstrap.servers": kafka})
        self._groups: dict[str, Consumer] = {}

    def create(self, names: Iterable[str]) -> None:
        keep = {"retention.ms": "-1"}  # the orders' timestamps are years old
        new = [NewTopic(name, PARTITIONS, config=keep) for name in names]
        for created in self.admin.create_topics(new).values():
            created.result(30)
        for name in names:
            self.await_leaders(name)

    def await_leaders(self, topic: str) -> None:
        """A client remembers for seconds that a new topic had none, so it is told to ask anew."""
        for _ in range(200):
            self.admin.list_topics(topic, timeout=10)
            try:
                self.ends(topic)
                return
            except KafkaException as error:
                told = error
                time.sleep(SAMPLE_S)
        raise SystemExit(f"{topic} has no leaders: {told}")

    def names(self) -> set[str]:
        return set(self.admin.list_topics(timeout=10).topics)

    def delete(self, prefix: str) -> None:
        """Every topic of a run, the job's internal ones too."""
        if prefix in self._groups:
            self._groups.pop(prefix).close()
        doomed = [name for name in self.names() if name.startswith(prefix + ".")]
        for deleted in self.admin.delete_topics(doomed).values() if doomed else ():
            deleted.result(30)

    def ends(self, topic: str) -> list[int]:
        query = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(PARTITIONS)}
        answers = self.admin.list_offsets(query, isolation_level=IsolationLevel.READ_COMMITTED)
        return [answer.result(10).offset for answer in answers.values()]

    def committed(self, group: str, topic: str) -> int:
        """By a consumer that never joins: the admin client's call can kill the process while a coordinator loads."""
        if group not in self._groups:
            self._groups[group] = Consumer({"bootstrap.servers": self.kafka, "group.id": group})
        try:
            found = self._groups[group].committed([TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=10)
        except KafkaException:
            return 0  # its coordinator is being found
        return sum(max(at.offset, 0) for at in found)

    def read(self, topic: str) -> Iterable[tuple[bytes, bytes]]:
        """Every committed record's key and value, partition by partition in order."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka,
                "group.id": "benchmark-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.message.max.bytes": 16 << 20,
                "enable.partition.eof": True,
            }
        )
        consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
        unfinished = PARTITIONS
        while unfinished:
            for message in consumer.consume(10_000, 0.2):
                if message.error():
                    unfinished -= message.error().code() == KafkaError._PARTITION_EOF
                else:
                    yield message.key() or b"", message.value() or b""
        consumer.close()


def command(side: str, case: str, kafka: str, topics: Topics, state_dir: str, profile: str | None = None) -> list[str]:
    python = [sys.executable, "-m"]
    if profile:
        python += ["pyinstrument", "--interval", "0.002", "--renderer", "text", "--outfile", profile, "-m"]
    if side == "handwritten":
        run = ["--run", topics.run, "--orders", topics.orders]
        return [*python, "benchmarks.handwritten", case, "--kafka", kafka, *run, "--state-dir", state_dir]
    job = f"benchmarks/jobs.py:{case}"
    settings = ["--workers", "1", "--slot", "0", "--commit-interval", "100ms"]
    return [*python, "streamcore", "run", job, "--kafka", kafka, *settings, "--state-dir", state_dir]


def measure(
    cluster: Cluster, side: str, case: str, topics: Topics, records: int, profile: str | None = None
) -> Measured:
    """Runs one side of one case to the end of its input. The topics of the run stay, to be compared."""
    own = [topics.output, *([topics.journal, topics.shuffle] if side == "handwritten" else [])]
    cluster.create(own)
    state_dir = tempfile.mkdtemp(prefix=f"{topics.run}-")
    environment = os.environ | {"BENCH_RUN": topics.run, "BENCH_ORDERS": topics.orders}
    log = Path(state_dir) / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(side, case, cluster.kafka, topics, state_dir, profile),
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=out,
        )
        try:
            return watch(cluster, process, topics, records, shuffled=case == "regroup")
        except RuntimeError as error:
            raise SystemExit(f"{side} {case}: {error}\n{log.read_text()[-4_000:]}") from error
        finally:
            stop(process)
            shutil.rmtree(state_dir)


def watch(
    cluster: Cluster, process: subprocess.Popen[bytes], topics: Topics, records: int, *, shuffled: bool
) -> Measured:
    samples: list[Sample] = []
    peak = 0
    moved = time.monotonic()
    while not samples or samples[-1].records < records * 0.999:
        if process.poll() is not None:
            raise RuntimeError(f"ended early with {process.returncode}")
        progress = float(cluster.committed(topics.run, topics.orders))
        if shuffled:
            progress = (progress + sum(cluster.ends(topics.output))) / 2
        cpu, memory = usage(process.pid)
        now = time.monotonic()
        if not samples or progress > samples[-1].records:
            moved = now
        if now - moved > STALL_S:
            raise RuntimeError(f"no progress for {STALL_S:.0f} s, at {progress:.0f} of {records} records")
        samples.append(Sample(now, progress, cpu))
        peak = max(peak, memory)
        time.sleep(SAMPLE_S)
    begin, end = crossing(samples, records * 0.1), crossing(samples, records * 0.9)
    middle = end.records - begin.records
    return Measured(
        records_a_second=middle / (end.at_s - begin.at_s),
        cpu_s_a_million=(end.cpu_s - begin.cpu_s) / middle * 1e6,
        peak_bytes=peak,
    )


def crossing(samples: list[Sample], records: float) -> Sample:
    """The moment at which `records` were committed, between two samples on a straight line."""
    after = next(i for i, sample in enumerate(samples) if sample.records >= records)
    a, b = samples[max(after - 1, 0)], samples[after]
    share = (records - a.records) / (b.records - a.records) if b.records > a.records else 1.0
    return Sample(a.at_s + share * (b.at_s - a.at_s), records, a.cpu_s + share * (b.cpu_s - a.cpu_s))


def usage(pid: int) -> tuple[float, int]:
    """CPU seconds and resident bytes of a process and its children."""
    cpu, memory = 0.0, 0
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        with one.oneshot():
            times = one.cpu_times()
            cpu += times.user + times.system
            memory += one.memory_info().rss
    return cpu, memory


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM commits the last epoch; what does not end within 30 s is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
