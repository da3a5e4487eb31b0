"""What a takeover would take, told from outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from streamcore.clock import SystemClock
from streamcore.runtime.estimate import estimate
from tests.unit.test_savepoints import LINES, Cluster, word_count


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as path:
        yield Cluster(Path(path))


def test_the_journal_behind_a_checkpoint_is_what_is_replayed(cluster: Cluster) -> None:
    worker = cluster.worker(word_count())
    cluster.send(*LINES[:30])
    cluster.run(worker, 50)
    cluster.ask("wc", None)
    cluster.run(worker, 100)
    without = estimate(cluster.log, cluster.admin, "wc", None, SystemClock())
    assert all(task.checkpoint is None and task.tail_bytes > 0 for task in without.tasks)
    found = estimate(cluster.log, cluster.admin, "wc", cluster.store, SystemClock())
    assert {str(task.task) for task in found.tasks} == {"lines[0]", "lines[1]", "by-word[0]", "by-word[1]"}
    assert all(task.checkpoint is not None for task in found.tasks)
    for before, now in zip(without.tasks, found.tasks, strict=True):
        assert now.tail_bytes < before.tail_bytes, "a checkpoint shortens what is replayed"
        assert now.state_bytes > 0 and now.other_s > now.local_s
    assert found.restore_bytes_s > 0 and found.replay_bytes_s > 0
    worker.close()


def test_what_is_left_of_a_budget(cluster: Cluster) -> None:
    worker = cluster.worker(word_count())
    cluster.send(*LINES)
    cluster.run(worker, 50)
    (first, *_) = estimate(cluster.log, cluster.admin, "wc", None, SystemClock()).tasks
    assert first.left_s(first.other_s + 5) == pytest.approx(5)  # pyright: ignore[reportUnknownMemberType]
    assert first.left_s(0.0) < 0
    worker.close()
