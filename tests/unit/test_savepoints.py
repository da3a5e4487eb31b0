"""A savepoint of a running job, and jobs that begin from it: under another name, other counts, after changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from streamcore import Job, State, Topic, Value, agg
from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.memory import Fault, MemoryObjects
from streamcore.checkpoint.store import read
from streamcore.clock import SeededEntropy
from streamcore.errors import CheckpointDamaged, OffsetsLost, SettingsError, StateMismatch, StreamcoreError, TopicError
from streamcore.log.local import LocalLog
from streamcore.log.metadata import RESUMING
from streamcore.observe.metrics import Metrics
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.control import Request, encode
from streamcore.runtime.cutting import control_partition
from streamcore.runtime.mapping import Changes, plan_resume
from streamcore.runtime.resume import Resuming
from streamcore.runtime.statedir import RocksStores
from streamcore.runtime.worker import Worker, WorkerSettings
from streamcore.testing.clock import ManualClock
from streamcore.topology.plan import Plan
from streamcore.types import Offset, Partition, Slot, TopicPartition

lines = Topic("lines", str)
counts = Topic("counts", int, key=str)
LINES = [f"to be or not to be {n % 11}" for n in range(60)]


def lower(word: str) -> str:
    return word.lower()


def word_count(name: str = "wc", step: str = "count", *, key: Any = lower, by: str = "by-word") -> Plan:
    job = Job(name)
    job.stream(lines).flat_map(str.split).key_by(by, key).aggregate(step, agg.count()).to(counts)
    return job.plan()


class Cluster:
    """One log, one checkpoint store, one worker at a time."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock()
        self.log = LocalLog.memory(self.clock, auto_create_partitions=4)
        self.store = MemoryObjects(self.clock)
        self.path = path
        self.entropy = SeededEntropy(1)
        self.admin = self.log.admin()
        self.admin.create("lines", 2, {})
        self.admin.create("counts", 4, {})
        self.admin.create("longest", 4, {})
        self._feeder = self.log.producer(None)
        self._feeder.init(1.0)
        self._disk = 0

    def send(self, *values: str) -> None:
        self._feeder.produce("lines", None, [value.encode() for value in values])
        self._feeder.flush(1.0)

    def ask(self, job: str, savepoint: str | None, stops: bool = False) -> None:
        self._feeder.send(control_partition(job), encode(Request("t", savepoint, stops)))
        self._feeder.flush(1.0)

    def worker(self, plan: Plan, *, fresh_disk: bool = True, slot: int = 0) -> Worker:
        self._disk += fresh_disk
        stores = RocksStores(self.path / f"disk{self._disk}", plan.job, Slot(slot))
        how = Checkpointing(self.store, stores, beside=False)
        worker = Worker(
            plan, self.log.connect(), WorkerSettings(Slot(slot)), clock=self.clock, entropy=self.entropy,
            metrics=Metrics(), stores=stores, checkpointing=how,
        )  # fmt: skip
        worker.open()
        return worker

    def run(self, worker: Worker, turns: int = 150) -> None:
        for _ in range(turns):
            if worker.stopping:
                return
            worker.turn()
            self.clock.advance(timedelta(milliseconds=20))

    def latest(self) -> dict[str, int]:
        starts = {TopicPartition("counts", Partition(p)): Offset(0) for p in range(4)}
        reader = self.log.reader(starts)
        found: dict[str, int] = {}
        repeated: list[tuple[str, int]] = []
        while len(reader.ended()) < len(starts):
            for run in reader.poll(10_000, 0.0):
                for key, value in zip(run.keys, run.values, strict=True):
                    word, count = (key or b"").decode(), int(value or b"0")
                    if count <= found.get(word, 0):
                        repeated.append((word, count))
                    found[word] = count
        assert not repeated, f"counts came again: {repeated[:5]}"
        return found

    def resume(self, plan: Plan, name: str, changes: Changes = Changes(), *, job: str = "wc") -> None:  # noqa: B008
        saved = savepoints.load(self.store, job, name)
        resuming = Resuming(
            plan, self.log, self.admin, self.store, self.store, self.path / "scratch", self.clock, self.entropy
        )
        resuming.begin(plan_resume(plan, saved, changes))

    def gone(self, worker: Worker) -> None:
        """Stopped, and out of the group."""
        worker.close()
        self.clock.advance(timedelta(seconds=11))
        self.admin.topics()

    def reset(self, job: str) -> None:
        own = [name for name in self.admin.topics() if name.startswith(f"{job}.")]
        self.admin.delete_group(job)
        self.admin.delete(own)


def expected(sent: list[str]) -> dict[str, int]:
    return dict(Counter(word.lower() for line in sent for word in line.split()))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """RocksDB syncs what it makes, which costs the most here: in memory where there is such a place."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as path:
        yield Cluster(Path(path))


@pytest.fixture
def stopped(cluster: Cluster) -> Cluster:
    """A job that was stopped at the savepoint `s1`, in the middle of its input."""
    worker = cluster.worker(word_count())
    cluster.send(*LINES[:30])
    cluster.run(worker)
    cluster.send(*LINES[30:40])
    cluster.ask("wc", "s1", stops=True)
    cluster.run(worker, 400)
    assert worker.stopping
    cluster.gone(worker)
    return cluster


def test_a_savepoint_holds_offsets_and_state_of_every_task(stopped: Cluster) -> None:
    saved = savepoints.load(stopped.store, "wc", "s1")
    assert {name: len(stage.tasks) for name, stage in saved.stages.items()} == {"lines": 2, "by-word": 2}
    assert savepoints.names(stopped.store, "wc") == ["s1"]
    assert all(stopped.store.stat(key) is not None for key in saved.manifests)


def test_a_job_that_stopped_at_a_savepoint_goes_on_when_started_again(stopped: Cluster) -> None:
    worker = stopped.worker(word_count())
    stopped.send(*LINES[40:])
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_a_worker_that_hears_of_the_stop_when_it_is_over_ends_too(cluster: Cluster) -> None:
    """It has no task, or slept: it was there when the savepoint was asked for."""
    workers = [cluster.worker(word_count(), slot=slot) for slot in range(3)]
    cluster.send(*LINES[:30])
    for _ in range(400):
        for worker in workers:
            cluster.run(worker, 1)
    (idle,) = [worker for worker in workers if not worker.progress().tasks]
    cluster.ask("wc", "s1", stops=True)
    busy = [worker for worker in workers if worker is not idle]
    for _ in range(600):
        for worker in busy:
            cluster.run(worker, 1)
    assert all(worker.stopping for worker in busy)
    cluster.run(idle, 50)
    assert idle.stopping
    for worker in workers:
        worker.close()


def test_what_is_spoilt_on_its_way_from_the_store_once_is_asked_for_again(stopped: Cluster) -> None:
    """A job that has just begun from a savepoint has no older checkpoint to go back to."""
    stopped.reset("wc")
    stopped.resume(word_count(), "s1", Changes(partitions=3))
    spoilt: set[str] = set()

    def once(call: str, key: str) -> Fault | None:
        if call != "get" or key in spoilt or "owner" in key:
            return None
        spoilt.add(key)
        return Fault("corrupt")

    stopped.store.faults = once
    worker = stopped.worker(word_count())
    stopped.send(*LINES[40:])
    stopped.run(worker, 300)
    assert spoilt and stopped.latest() == expected(LINES)
    worker.close()


def test_a_begun_job_whose_checkpoint_is_damaged_says_what_is_wrong_with_it(stopped: Cluster) -> None:
    stopped.resume(word_count("copy"), "s1")
    for stat in stopped.store.list("copy/objects/"):
        stopped.store.replace(stat.key, bytes(stat.size))
    worker = stopped.worker(word_count("copy"))
    with pytest.raises(OffsetsLost, match=r"was not restored .*is not what its name says"):
        stopped.run(worker)
    worker.close()


@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 12])
def test_a_stopped_job_is_rescaled_and_nothing_is_lost_or_repeated(stopped: Cluster, partitions: int) -> None:
    stopped.reset("wc")
    stopped.resume(word_count(), "s1", Changes(partitions=partitions))
    assert stopped.admin.topics()["wc.shuffle.by-word"].partitions == partitions
    worker = stopped.worker(word_count())
    stopped.send(*LINES[40:])
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_rescaled_twice_under_load(stopped: Cluster) -> None:
    stopped.reset("wc")
    stopped.resume(word_count(), "s1", Changes(partitions=12))
    worker = stopped.worker(word_count())
    stopped.send(*LINES[40:50])
    stopped.run(worker, 20)
    stopped.ask("wc", "s2", stops=True)
    stopped.run(worker, 600)
    assert worker.stopping
    stopped.gone(worker)
    stopped.reset("wc")
    stopped.resume(word_count(), "s2", Changes(partitions=3))
    worker = stopped.worker(word_count())
    stopped.send(*LINES[50:])
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_another_job_begins_where_the_savepoint_stands(stopped: Cluster) -> None:
    """Under a new name; the old one's topics stay as they are."""
    stopped.resume(word_count("copy"), "s1")
    worker = stopped.worker(word_count("copy"))
    stopped.send(*LINES[40:])
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_a_lost_disk_after_a_resume_is_restored(stopped: Cluster) -> None:
    stopped.reset("wc")
    stopped.resume(word_count(), "s1", Changes(partitions=3))
    worker = stopped.worker(word_count())
    stopped.send(*LINES[40:50])
    stopped.run(worker, 200)
    stopped.gone(worker)
    worker = stopped.worker(word_count(), fresh_disk=True)
    stopped.send(*LINES[50:])
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_a_resumed_job_without_its_checkpoints_stops_instead_of_beginning_empty(stopped: Cluster) -> None:
    stopped.resume(word_count("copy"), "s1")
    worker = Worker(
        word_count("copy"), stopped.log.connect(), WorkerSettings(state_dir=stopped.path / "other"),
        clock=stopped.clock, entropy=stopped.entropy, metrics=Metrics(),
    )  # fmt: skip
    worker.open()
    with pytest.raises(OffsetsLost, match="began with the checkpoint"):
        stopped.run(worker)
    worker.close()


def test_a_job_that_has_begun_is_not_begun_again(stopped: Cluster) -> None:
    with pytest.raises(OffsetsLost, match="has begun already"):
        stopped.resume(word_count(), "s1")


def test_a_savepoint_that_was_edited_is_refused(stopped: Cluster) -> None:
    key = savepoints.key_of("wc", "s1")
    stopped.store.replace(key, read(stopped.store, key).replace(b'"barrier":1', b'"barrier":7'))
    with pytest.raises(CheckpointDamaged, match="changed after it was written"):
        savepoints.load(stopped.store, "wc", "s1")


def test_a_savepoint_that_misses_an_object_is_named(stopped: Cluster) -> None:
    for stat in stopped.store.list("wc/objects/"):
        stopped.store.lose(stat.key)
    with pytest.raises(CheckpointDamaged, match=r"not whole: wc/objects/\w+.* and \d+ more"):
        stopped.resume(word_count("copy"), "s1")
    assert stopped.admin.committed("copy", [TopicPartition("lines", Partition(0))], 1.0) == {}, "nothing was begun"


def test_a_savepoint_with_a_wrong_byte_is_named_and_the_job_does_not_begin_empty(stopped: Cluster) -> None:
    for stat in stopped.store.list("wc/objects/"):
        stopped.store.replace(stat.key, bytes(stat.size))
    with pytest.raises(CheckpointDamaged, match=r"not whole: .*objects/.* is not what its name says"):
        stopped.resume(word_count("copy"), "s1")
    (at,) = stopped.admin.committed("copy", [TopicPartition("lines", Partition(0))], 1.0).values()
    assert at.metadata == RESUMING, "it has not begun, and does not begin empty"


def test_a_name_is_given_once(cluster: Cluster) -> None:
    worker = cluster.worker(word_count())
    cluster.send(*LINES[:5])
    for _ in range(2):
        cluster.ask("wc", "s1")
        cluster.run(worker, 200)
    last = worker.barriers
    assert last is not None and last.last is not None
    assert (last.last.number, last.last.state.value) == (2, "abandoned")
    assert savepoints.load(cluster.store, "wc", "s1").barrier == 1
    worker.close()


def test_no_such_savepoint_names_those_there_are(stopped: Cluster) -> None:
    with pytest.raises(SettingsError, match="s1"):
        savepoints.load(stopped.store, "wc", "other")


def test_a_dropped_savepoint_is_gone(stopped: Cluster) -> None:
    savepoints.drop(stopped.store, "wc", "s1")
    assert savepoints.names(stopped.store, "wc") == []


# --- changes of the topology ----------------------------------------------------------------------------------------


class Seen(State):
    count = Value(int, default=0)


def two_steps() -> Plan:
    job = Job("wc")
    words = job.stream(lines).flat_map(str.split).key_by("by-word", str.lower)
    words.aggregate("count", agg.count()).to(counts)
    words.aggregate("longest", agg.max(len)).to(Topic("longest", int, key=str))
    return job.plan()


def test_an_added_step_begins_empty(stopped: Cluster) -> None:
    stopped.reset("wc")
    saved = savepoints.load(stopped.store, "wc", "s1")
    told = plan_resume(two_steps(), saved, Changes()).lines()
    assert "  step longest: new, begins empty" in told and "  step count: kept" in told
    stopped.resume(two_steps(), "s1")
    worker = stopped.worker(two_steps())
    stopped.send(*LINES[40:])
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_a_renamed_step_keeps_its_state_when_it_is_said_so(stopped: Cluster) -> None:
    renamed = word_count(step="total")
    saved = savepoints.load(stopped.store, "wc", "s1")
    with pytest.raises(StateMismatch, match="--rename count=NEW"):
        plan_resume(renamed, saved, Changes())
    stopped.reset("wc")
    stopped.resume(renamed, "s1", Changes(renamed={"count": "total"}))
    worker = stopped.worker(renamed)
    stopped.send(*LINES[40:])
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_a_dropped_step_must_be_named(stopped: Cluster) -> None:
    saved = savepoints.load(stopped.store, "wc", "s1")
    dropped = word_count(step="total")
    assert plan_resume(dropped, saved, Changes(dropped=frozenset({"count"})))


def test_a_changed_key_is_refused(stopped: Cluster) -> None:
    saved = savepoints.load(stopped.store, "wc", "s1")

    def length(word: str) -> int:
        return len(word)

    job = Job("wc")
    by_length = job.stream(lines).flat_map(str.split).key_by("by-word", length)
    by_length.aggregate("count", agg.count()).to(Topic("lengths", int, key=int))
    with pytest.raises(StateMismatch, match="regrouped by int in the code and regrouped by str"):
        plan_resume(job.plan(), saved, Changes())


@pytest.mark.parametrize("count", [0, -1, 61_441])
def test_a_count_that_cannot_be_is_refused_with_what_is_allowed(stopped: Cluster, count: int) -> None:
    saved = savepoints.load(stopped.store, "wc", "s1")
    with pytest.raises(TopicError, match=r"61440|cannot have") as told:
        plan_resume(word_count(), saved, Changes(partitions=count))
    assert isinstance(told.value, StreamcoreError) and "1 to 61440" in told.value.remedy
