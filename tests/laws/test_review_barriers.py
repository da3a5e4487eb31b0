# pyright: reportPrivateUsage=false
"""Savepoints, rescaling and resuming where it is easy to be wrong: requests that meet, stops under load."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from typer.testing import CliRunner

from streamcore import Job, Topic
from streamcore.checkpoint import holds
from streamcore.checkpoint import savepoint as savepoints
from streamcore.cli.main import app
from streamcore.errors import OffsetsLost, RetryError
from streamcore.observe.metrics import Metrics
from streamcore.runtime.asking import Asked, _follow
from streamcore.runtime.barriers import Barrier, Barriers
from streamcore.runtime.control import Complete, Request, Start
from streamcore.runtime.mapping import Changes
from streamcore.runtime.resume import Resuming, ran_on
from streamcore.runtime.worker import Worker, WorkerSettings
from streamcore.state.keys import encode_key
from streamcore.topology.plan import Plan
from streamcore.types import Offset, Partition, TopicPartition
from tests.unit.test_savepoints import LINES, Cluster, expected, word_count

lines = Topic("lines", str)
longest = Topic("longest", str, key=str)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as path:
        yield Cluster(Path(path))


def once(name: str = "wc") -> Plan:
    job = Job(name)
    words = job.stream(lines).key_by("by-word", str.lower)
    words.dedupe("once", by=str.lower, keep=timedelta(hours=1)).to(longest)
    return job.plan()


def written(cluster: Cluster) -> list[str]:
    starts = {TopicPartition("longest", Partition(p)): Offset(0) for p in range(4)}
    reader, found = cluster.log.reader(starts), list[str]()
    while len(reader.ended()) < len(starts):
        for run in reader.poll(10_000, 0.0):
            found += [(value or b"").decode() for value in run.values]
    return sorted(found)


def group_of(key: str) -> int:
    return zlib.crc32(encode_key(key)) % 61440


@pytest.mark.parametrize("partitions", [1, 3])
def test_what_a_rescaled_dedupe_knew_before_it_knows_after(cluster: Cluster, partitions: int) -> None:
    """Its tasks stand at different times: each one's buckets must be known to whoever gets its keys."""
    ids = [f"id{n}" for n in range(24)]
    worker = cluster.worker(once())
    for partition in (1, 0):
        cluster.send(*[one for one in ids if group_of(one) % 2 == partition])
        cluster.run(worker, 50)
        cluster.clock.advance(timedelta(minutes=20))
    cluster.ask("wc", "s1", stops=True)
    cluster.run(worker, 400)
    assert worker.stopping
    cluster.gone(worker)
    assert written(cluster) == sorted(ids)
    cluster.reset("wc")
    cluster.resume(once(), "s1", Changes(partitions=partitions))
    worker = cluster.worker(once())
    cluster.send(*ids)
    cluster.run(worker, 300)
    assert written(cluster) == sorted(ids)
    worker.close()


def test_nothing_is_read_behind_a_savepoint_that_stops_the_job(cluster: Cluster) -> None:
    """Not even by the worker that says that it is complete, and not with input waiting."""
    worker = cluster.worker(word_count())
    cluster.send(*["to be or not to be"] * 30)
    cluster.run(worker)
    cluster.ask("wc", "s1", stops=True)
    for _ in range(400):
        if worker.stopping:
            break
        cluster.send("that is the question", "whether")
        worker.turn()
        cluster.clock.advance(timedelta(milliseconds=1))
    assert worker.stopping
    worker._commit()
    cluster.gone(worker)
    assert ran_on(cluster.admin, savepoints.load(cluster.store, "wc", "s1")) == ""


def test_a_worker_without_a_task_ends_with_the_others(cluster: Cluster) -> None:
    """Else it takes their tasks over, and the job goes on behind its savepoint."""
    workers = [cluster.worker(word_count(), slot=slot) for slot in range(3)]
    cluster.send(*["to be or not to be"] * 30)

    def run(turns: int) -> None:
        for _ in range(turns):
            for worker in workers:
                if not worker.stopping:
                    worker.turn()
            cluster.clock.advance(timedelta(milliseconds=20))

    run(300)
    assert sorted(len(worker.progress().tasks) for worker in workers) == [0, 2, 2]
    cluster.ask("wc", "s1", stops=True)
    run(300)
    assert [worker.stopping for worker in workers] == [True, True, True]
    for worker in workers:
        worker.close()


def test_two_savepoints_that_are_asked_for_at_once_are_both_made(cluster: Cluster) -> None:
    worker = cluster.worker(word_count())
    cluster.send(*["to be or not to be"] * 30)
    cluster.run(worker)
    cluster.ask("wc", "s1")
    cluster.ask("wc", "s2")
    cluster.run(worker, 400)
    assert sorted(savepoints.names(cluster.store, "wc")) == ["s1", "s2"]
    worker.close()


def test_a_request_that_crosses_a_start_is_not_answered_by_it() -> None:
    """The coordinator had not read it: the barrier that begins behind it is somebody else's, or the timer's."""
    asked, request = Asked(), Request("t", "s1", True)
    stages = {"lines": 2}
    for said in (Start(1, "v", stages, 0), Start(2, "v", stages, 0, "s0"), Complete(2, 0)):
        assert not _follow(asked, request, said)
    assert not _follow(asked, request, Start(3, "v", stages, 0, "s1", True))
    assert not _follow(asked, request, Complete(2, 0))
    assert _follow(asked, request, Complete(3, 0))
    barriers = Barriers(word_count())
    for said in (request, Start(1, "v", stages, 0), Start(2, "v", stages, 0, "s0")):
        barriers.hear(said)
    assert barriers.requests == [request]
    barriers.hear(Start(3, "v", stages, 0, "s1", True))
    assert barriers.requests == []


def test_a_savepoint_is_written_though_the_tasks_were_let_go_meanwhile(cluster: Cluster) -> None:
    """What was to be written is dropped with the tasks; the barrier must not wait for it for ever."""
    worker = cluster.worker(word_count())
    cluster.send(*["to be or not to be"] * 30)
    cluster.run(worker)
    dropped: list[int] = []
    cutting = worker._cutting
    assert cutting is not None

    def never(barrier: Barrier) -> None:
        dropped.append(barrier.number)
        cutting._coordinator.save = save

    save, cutting._coordinator.save = cutting._coordinator.save, never
    cluster.ask("wc", "s1")
    for _ in range(400):
        if dropped:
            break
        worker.turn()
        cluster.clock.advance(timedelta(milliseconds=5))
    worker._begin_again(RetryError("the log does not answer"))
    cluster.run(worker, 400)
    assert savepoints.names(cluster.store, "wc") == ["s1"]
    assert cutting.barriers.open is None
    worker.close()


@pytest.mark.parametrize("left", ["savepoint and hold", "hold"])
def test_a_savepoint_that_was_half_written_is_written_by_the_next(cluster: Cluster, left: str) -> None:
    """By a coordinator that was replaced before it could say so. Another's hold that was left behind is replaced."""
    worker = cluster.worker(word_count())
    cluster.send(*["to be or not to be"] * 30)
    cluster.run(worker)
    cluster.ask("wc", "s1")
    cluster.run(worker, 400)
    worker.close()
    saved = savepoints.load(cluster.store, "wc", "s1")
    if left == "hold":
        cluster.store.delete(savepoints.key_of("wc", "s1"))
        holds.drop(cluster.store, "wc", "savepoint-s1")
        assert holds.put(cluster.store, "wc", "savepoint-s1", ["wc/manifests/of/another/1.json"])
    again = msgspec.structs.replace(saved, created_ms=saved.created_ms + 1)
    assert savepoints.write(cluster.store, again)
    assert holds.held(cluster.store, "wc") == frozenset(saved.manifests)
    assert not savepoints.write(cluster.store, msgspec.structs.replace(saved, barrier=99))


def test_a_barrier_that_was_open_before_a_run_without_barriers_is_never_complete(cluster: Cluster) -> None:
    """Its tasks were fed behind their cuts meanwhile: state and offsets of its savepoint would not be one."""
    worker = cluster.worker(word_count())
    cluster.send(*["to be or not to be"] * 30)
    cluster.run(worker)
    cutting = worker._cutting
    assert cutting is not None
    cutting._checkpointer.begin = lambda task, barrier: None
    cluster.ask("wc", "s1")
    cluster.run(worker, 20)
    assert cutting.barriers.open is not None
    cluster.gone(worker)
    worker = Worker(
        word_count(), cluster.log.connect(), WorkerSettings(state_dir=cluster.path / "other"),
        clock=cluster.clock, entropy=cluster.entropy, metrics=Metrics(),
    )  # fmt: skip
    worker.open()
    cluster.send(*["that is the question"] * 30)
    cluster.run(worker)
    cluster.gone(worker)
    worker = cluster.worker(word_count())
    cluster.run(worker, 400)
    assert worker.barriers is not None and worker.barriers.open is None
    assert savepoints.names(cluster.store, "wc") == []
    cluster.ask("wc", "s2")
    cluster.run(worker, 400)
    assert savepoints.names(cluster.store, "wc") == ["s2"]
    worker.close()


@pytest.mark.parametrize("step", ["_tasks", "_genesis"])
def test_a_job_whose_resume_was_interrupted_does_not_begin_empty(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    worker = cluster.worker(word_count())
    cluster.send(*LINES[:30])
    cluster.run(worker)
    cluster.ask("wc", "s1", stops=True)
    cluster.run(worker, 400)
    cluster.gone(worker)
    cluster.reset("wc")
    with monkeypatch.context() as patch:

        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Resuming, step, dies)
        with pytest.raises(KeyboardInterrupt):
            cluster.resume(word_count(), "s1")
    worker = cluster.worker(word_count())
    with pytest.raises(OffsetsLost, match="was interrupted before it began"):
        cluster.run(worker)
    cluster.gone(worker)
    assert ran_on(cluster.admin, savepoints.load(cluster.store, "wc", "s1")) == ""
    cluster.resume(word_count(), "s1")
    worker = cluster.worker(word_count())
    cluster.send(*LINES[30:])
    cluster.run(worker, 300)
    assert cluster.latest() == expected(LINES)
    worker.close()


RESCALED = """
from streamcore import Job, Topic, agg
lines, words, counts = Topic("lines", str), Topic("words", str), Topic("counts", int, key=str)
flat = Job("flat")
flat.stream(lines).map(str.upper).to(words)
wc = Job("wc")
wc.stream(lines).flat_map(str.split).key_by("by-word", str.lower).aggregate("count", agg.count()).to(counts)
"""


@pytest.mark.parametrize(("job", "count", "told"), [("wc", 0, "shuffles of 0"), ("flat", 3, "has no shuffle")])
def test_a_rescale_that_cannot_be_is_refused_before_the_job_is_stopped(
    tmp_path: Path, job: str, count: int, told: str
) -> None:
    file = tmp_path / "jobs.py"
    file.write_text(RESCALED)
    options = ["--kafka", "127.0.0.1:1", "--checkpoints", f"file://{tmp_path}/checkpoints", "--yes"]
    result = CliRunner().invoke(app, ["rescale", f"{file}:{job}", "--partitions", str(count), *options])
    assert result.exit_code == 10, result.output
    assert told in result.output
