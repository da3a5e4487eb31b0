"""Killed at every named point, with its disk and without, the job gives each record once."""

from __future__ import annotations

import pytest

from streamcore.runtime.points import POINTS
from tests.laws import checks
from tests.laws.harness import Cluster
from tests.laws.jobs import SENT, lines, word_count

DIE = [point for point in POINTS if point not in ("before-abort", "after-abort")]


@pytest.mark.parametrize("disk", ["kept", "lost"])
@pytest.mark.parametrize("point", DIE)
def test_a_worker_killed_at_any_point_loses_and_repeats_nothing(point: str, disk: str) -> None:
    cluster = Cluster(word_count())
    process = cluster.start(0)
    cluster.send(lines, *SENT[:2])
    cluster.settle()
    cluster.send(lines, *SENT[2:4])
    if point.startswith("takeover"):
        cluster.kill(0)
        process = cluster.start(0, dies_at=point)
    process.dies_at = point
    cluster.run(30)
    assert 0 not in cluster.processes, f"{point} was never reached"
    if disk == "lost":
        cluster.disks[0].lose_disk()
    cluster.send(lines, *SENT[4:])
    cluster.start(0)
    cluster.settle()
    checks.all_of_it(cluster, SENT)
    checks.state_is_the_fold_of_the_frames(cluster, 0)


@pytest.mark.parametrize("nth", range(1, 4))
@pytest.mark.parametrize("point", DIE)
def test_a_worker_killed_again_and_again_at_one_point_still_gets_there(point: str, nth: int) -> None:
    cluster = Cluster(word_count(), seed=nth)
    cluster.send(lines, *SENT)
    for _ in range(nth):
        cluster.start(0, dies_at=point)
        cluster.run(30)
        if 0 in cluster.processes:
            cluster.kill(0)
    cluster.start(0)
    cluster.settle()
    checks.all_of_it(cluster, SENT)


@pytest.mark.parametrize("point", DIE)
def test_another_slot_takes_over_from_a_worker_that_died_at_any_point(point: str) -> None:
    cluster = Cluster(word_count())
    cluster.start(0)
    cluster.start(1)
    cluster.send(lines, *SENT[:3])
    cluster.settle()
    cluster.processes[0].dies_at = point
    cluster.send(lines, *SENT[3:])
    cluster.run(20)
    if 0 in cluster.processes:
        cluster.kill(0)
    cluster.pass_time(11)
    cluster.settle()
    assert list(cluster.processes) == [1]
    checks.all_of_it(cluster, SENT)
