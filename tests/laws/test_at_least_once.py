"""One setting, the same topology: nothing is ever lost; after a crash records may come again, and state stays whole."""

from __future__ import annotations

from collections import Counter

import pytest

from streamcore.runtime.points import POINTS
from tests.laws import checks
from tests.laws.harness import Cluster, cut_off
from tests.laws.jobs import SENT, copies, counts, expected, lines, word_count

DIE = [p for p in POINTS if p not in ("before-abort", "after-abort", "after-send-offsets")]


def nothing_lost(cluster: Cluster) -> None:
    assert not Counter(SENT) - Counter(value for _, value in cluster.read(copies)), "records were lost"
    latest = dict(cluster.read(counts))
    wanted = expected(SENT)
    assert latest.keys() >= wanted.keys()
    assert all(latest[word] >= total for word, total in wanted.items()), f"counts are too low: {latest}"


def test_without_a_fault_it_is_exact() -> None:
    cluster = Cluster(word_count(), mode="at-least-once")
    cluster.start(0)
    cluster.send(lines, *SENT)
    cluster.settle()
    checks.nothing_lost_or_repeated(cluster, SENT)
    assert not any("InitProducerId" not in p.wire.calls for p in cluster.processes.values())
    assert cluster.processes[0].wire.calls["EndTxn"] == 0, "a transaction was used"


@pytest.mark.parametrize("disk", ["kept", "lost"])
@pytest.mark.parametrize("point", DIE)
def test_killed_at_any_point_nothing_is_lost_and_state_stands_at_the_commit(point: str, disk: str) -> None:
    cluster = Cluster(word_count(), mode="at-least-once")
    process = cluster.start(0)
    cluster.send(lines, *SENT[:3])
    cluster.settle()
    if point.startswith("takeover"):
        cluster.kill(0)
        process = cluster.start(0)
    process.dies_at = point
    cluster.send(lines, *SENT[3:])
    cluster.run(30)
    assert 0 not in cluster.processes
    if disk == "lost":
        cluster.disks[0].lose_disk()
    cluster.start(0)
    cluster.settle()
    nothing_lost(cluster)


def test_frames_of_a_commit_that_failed_are_passed_over_by_replay() -> None:
    """A frame is in the journal and its offsets were never committed: a later replay must not count it."""
    cluster = Cluster(word_count(), mode="at-least-once")
    process = cluster.start(0)
    cluster.send(lines, *SENT[:2])
    cluster.settle()
    process.wire.at("OffsetCommit", cut_off, cut_off)
    cluster.send(lines, *SENT[2:])
    cluster.settle()
    written = sum(len(cluster.frames(s.name, p, committed=False)) for s in cluster.plan.stages for p in range(2))
    committed = sum(m.epoch + 1 for _, m in cluster.committed().values())
    assert written > committed, "no frame was left behind: the scenario shows nothing"
    before = dict(cluster.read(counts))
    cluster.kill(0)
    cluster.disks[0].lose_disk()
    cluster.start(0)
    cluster.send(lines, "the end")
    cluster.settle()
    after = dict(cluster.read(counts))
    assert after["the"] == before["the"] + 1 and after["end"] == 1
    nothing_lost(cluster)


def test_a_lost_answer_of_the_offset_commit_is_looked_up() -> None:
    cluster = Cluster(word_count(), mode="at-least-once")
    process = cluster.start(0)
    cluster.send(lines, *SENT[:2])
    cluster.settle()

    def happened(deliver: object) -> None:
        deliver()  # type: ignore[operator]
        cut_off(lambda: None)

    process.wire.at("OffsetCommit", happened)
    cluster.send(lines, *SENT[2:])
    cluster.settle()
    assert process.metrics_unknown() == 1
    checks.nothing_lost_or_repeated(cluster, SENT)
