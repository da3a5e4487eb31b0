# pyright: reportPrivateUsage=false
"""A barrier makes tasks stand still as briefly as can be: what belongs together is said together, and heard at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from streamcore.runtime.barriers import BarrierState
from streamcore.runtime.checkpoints import Checkpoints
from streamcore.runtime.control import Abandon, Complete, Cut, Request, Said, decode
from streamcore.runtime.coordinator import Coordinator
from streamcore.runtime.cutting import Cutting, control_partition
from streamcore.runtime.worker import Worker
from streamcore.types import Offset, Partition, TaskId
from tests.unit.test_savepoints import LINES, Cluster, word_count


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as path:
        yield Cluster(Path(path))


def said(cluster: Cluster) -> list[Said]:
    control = control_partition("wc")
    reader = cluster.log.reader({control: Offset(0)})
    runs = reader.poll(10_000, 0.0)
    words = [decode(value or b"", "control") for run in runs for value in run.values]
    reader.close()
    return [word for word in words if word is not None]


def cuts(cluster: Cluster) -> list[Cut]:
    return [word for word in said(cluster) if isinstance(word, Cut)]


def run(worker: Worker, cluster: Cluster, turns: int) -> None:
    """In steps of a millisecond, as a worker does that has something to do."""
    for _ in range(turns):
        worker.turn()
        cluster.clock.advance(timedelta(milliseconds=1))


def test_a_workers_tasks_of_one_stage_cut_in_one_transaction(cluster: Cluster) -> None:
    worker = cluster.worker(word_count())
    cluster.send(*LINES)
    cluster.run(worker)
    cluster.ask("wc", None)
    run(worker, cluster, 600)
    nonces: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    tasks: defaultdict[tuple[int, str], int] = defaultdict(int)
    for cut in cuts(cluster):
        nonces[cut.barrier, cut.stage].add(cut.nonce)
        tasks[cut.barrier, cut.stage] += 1
    assert set(tasks.values()) == {2} and {stage for _, stage in tasks} == {"lines", "by-word"}
    assert {at: len(found) for at, found in nonces.items()} == dict.fromkeys(nonces, 1)
    worker.close()


def test_what_is_not_decided_is_not_heard(cluster: Cluster) -> None:
    worker = cluster.worker(word_count())
    cluster.send(*LINES)
    cluster.run(worker)
    cluster.ask("wc", None)
    barriers, cutting = worker.barriers, worker._cutting
    assert barriers is not None and cutting is not None
    while barriers.open is None:
        run(worker, cluster, 1)
    before = dict(barriers.open.cuts)
    tasks = [task for task in worker._owned if task.id not in before]
    assert tasks
    for task in tasks:
        task.cutting = barriers.open.number
    assert len(cutting.words(tasks, "nonce")) == len(tasks)
    cutting.settled([])  # the transaction was aborted
    assert barriers.open.cuts == before
    worker._cutting = None
    worker.close()


def test_what_a_worker_has_committed_of_a_barrier_it_does_not_wait_to_read(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = cluster.worker(word_count())
    cluster.send(*LINES)
    cluster.run(worker)
    barriers = worker.barriers
    assert barriers is not None
    before = barriers.next_number
    cluster.ask("wc", None)
    for _ in range(300):
        if barriers.next_number > before:
            break
        cluster.run(worker, 1)
    assert barriers.last is not None and barriers.last.state is BarrierState.OPEN
    monkeypatch.setattr(Cutting, "_read", lambda self: self._reader)  # pyright: ignore[reportUnknownLambdaType]
    cluster.run(worker, 300)
    assert barriers.completed is not None and barriers.completed.number >= before
    worker.close()


def dies_without_a_checkpoint(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    """A worker whose tasks cut for a barrier, and go on with `more`; the barrier's number."""
    worker = cluster.worker(word_count())
    cluster.send(*LINES[:20])
    cluster.run(worker)
    barriers = worker.barriers
    assert barriers is not None
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "begin", lambda *_: None)  # pyright: ignore[reportUnknownLambdaType]
        cluster.ask("wc", None)
        for _ in range(300):
            run(worker, cluster, 1)
            if barriers.open is not None and not barriers.open.missing_cuts():
                break
        assert barriers.open is not None and not barriers.open.stored
        cluster.send(*more)
        run(worker, cluster, 100)
        cluster.gone(worker)
    return barriers.open.number


def test_a_cut_whose_owner_died_is_checkpointed_by_the_next_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = dies_without_a_checkpoint(cluster, monkeypatch)
    worker = cluster.worker(word_count())
    run(worker, cluster, 400)
    assert [word.barrier for word in said(cluster) if isinstance(word, Complete)][:1] == [number]
    worker.close()


def test_a_cut_whose_state_has_gone_on_is_given_up_at_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    number = dies_without_a_checkpoint(cluster, monkeypatch, *LINES[20:])
    worker = cluster.worker(word_count())
    run(worker, cluster, 400)
    assert [word.barrier for word in said(cluster) if isinstance(word, Abandon)] == [number]
    worker.close()


def test_a_barrier_before_its_time_is_asked_for_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another worker's coordinator, however long it is until the question itself is read again."""
    monkeypatch.setattr(Checkpoints, "running", lambda *_: "a journal has grown")  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(Coordinator, "task", TaskId("lines", Partition(99)))
    worker = cluster.worker(word_count())
    monkeypatch.setattr(Cutting, "_ask", lambda *_: None)  # pyright: ignore[reportUnknownLambdaType]
    cluster.send(*LINES)
    cluster.run(worker)
    monkeypatch.undo()
    monkeypatch.setattr(Checkpoints, "running", lambda *_: "a journal has grown")  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(Coordinator, "task", TaskId("lines", Partition(99)))
    monkeypatch.setattr(Cutting, "_read", lambda self: self._reader)  # pyright: ignore[reportUnknownLambdaType]
    cluster.run(worker, 100)
    assert [type(word) for word in said(cluster)] == [Request]
    worker.close()
