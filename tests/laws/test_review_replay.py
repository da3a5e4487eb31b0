"""What a takeover makes of a journal: frames of both modes, local states that do not fit, frames that are gone."""

from __future__ import annotations

from typing import Any

import pytest

from streamcore import limits
from streamcore.errors import OffsetsLost
from streamcore.runtime.replay import Replay
from streamcore.state.store import EpochMark
from streamcore.types import Offset, Partition, TaskId, TopicPartition
from tests.laws import checks
from tests.laws.harness import Cluster, cut_off
from tests.laws.jobs import SENT, counts, expected, lines, word_count


def stopped(cluster: Cluster) -> None:
    cluster.processes.pop(0).worker.close()
    cluster.pass_time(30)


@pytest.mark.parametrize("disk", ["kept", "lost"])
def test_a_job_may_change_from_at_least_once_to_exactly_once_after_commits_that_failed(disk: str) -> None:
    cluster = Cluster(word_count(), mode="at-least-once")
    process = cluster.start(0)
    cluster.send(lines, *SENT[:2])
    cluster.settle()
    process.wire.at("OffsetCommit", cut_off, cut_off)
    cluster.send(lines, *SENT[2:4])
    cluster.settle()
    process.wire.at("OffsetCommit", *[cut_off] * 50)
    cluster.send(lines, SENT[4])
    cluster.run(8)  # frames newer than the last commit
    before = {tp: m.epoch for tp, (_, m) in cluster.committed().items()}
    left_over = [f for s in cluster.plan.stages for p in range(2) for f in cluster.frames(s.name, p, committed=False)]
    assert len(left_over) > sum(epoch + 1 for epoch in before.values()), "no frame was left behind"
    stopped(cluster)
    if disk == "lost":
        cluster.disks[0].lose_disk()
    cluster.mode = "exactly-once"
    cluster.start(0)
    cluster.settle()
    latest = dict(cluster.read(counts))
    assert all(latest[word] >= total for word, total in expected(SENT).items())
    assert process.metrics_undone() or process.metrics_unknown()
    cluster.kill(0)
    cluster.disks[0].lose_disk()
    cluster.start(0)  # a journal of both modes
    cluster.send(lines, "the end")
    cluster.settle()
    assert dict(cluster.read(counts))["the"] == latest["the"] + 1


@pytest.mark.parametrize("disk", ["kept", "lost"])
@pytest.mark.parametrize("point", ["after-flush", "after-send-offsets", "after-apply"])
def test_a_job_may_change_from_exactly_once_to_at_least_once_with_a_transaction_left_open(
    point: str, disk: str
) -> None:
    cluster = Cluster(word_count())
    process = cluster.start(0)
    cluster.send(lines, *SENT[:2])
    cluster.settle()
    process.dies_at = point
    cluster.send(lines, *SENT[2:])
    cluster.run(30)
    assert 0 not in cluster.processes
    if disk == "lost":
        cluster.disks[0].lose_disk()
    cluster.mode = "at-least-once"
    begun = cluster.clock.monotonic_s()
    cluster.start(0)
    while not cluster.processes[0].worker.progress().tasks:
        cluster.run(1)
        waited_s = cluster.clock.monotonic_s() - begun
        assert waited_s < limits.TRANSACTION_TIMEOUT_MS / 1000, "the takeover waits for the transaction's timeout"
    cluster.settle()
    assert dict(cluster.read(counts)) == expected(SENT)


def test_at_least_once_replay_keeps_few_frames_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(word_count(), mode="at-least-once")
    cluster.start(0)
    for _ in range(12):
        cluster.send(lines, *SENT)
        cluster.settle()
    cluster.kill(0)
    cluster.disks[0].lose_disk()
    most = 0
    take = Replay._take  # pyright: ignore[reportPrivateUsage]

    def watched(self: Any, placed: Any) -> None:
        nonlocal most
        take(self, placed)
        most = max(most, len(self._candidates))

    monkeypatch.setattr(Replay, "_take", watched)
    cluster.start(0)
    cluster.send(lines, "the end")
    cluster.settle()
    assert most == 1
    assert dict(cluster.read(counts)) == expected([*SENT * 12, "the end"])


def foreign(cluster: Cluster, task: TaskId) -> None:
    """The store's mark becomes one that the journal does not know."""
    stage = cluster.plan.stage(task.stage)
    store = cluster.disks[0].open(task, [node.name for node in stage.stateful])
    mark = store.mark()
    assert mark is not None
    store.apply({}, EpochMark(mark.lineage, mark.epoch, "0123456789abcdef", mark.journal, mark.journal_end))


@pytest.mark.parametrize("partition", [0, 1])
def test_one_foreign_local_state_does_not_disturb_the_replay_of_the_others(
    partition: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are behind their commits, and half way when the foreign one is found out."""
    cluster = Cluster(word_count())
    cluster.start(0)
    cluster.send(lines, *SENT[:2])
    cluster.settle()
    old = {task: {n: dict(t) for n, t in tables.items()} for task, tables in cluster.disks[0]._disk.items()}  # pyright: ignore[reportPrivateUsage]
    for n in (2, 3, 4):
        cluster.send(lines, SENT[n])
        cluster.settle()
    cluster.kill(0)
    cluster.disks[0]._disk = old  # pyright: ignore[reportPrivateUsage]
    foreign(cluster, TaskId("by-word", Partition(partition)))
    monkeypatch.setattr(limits, "POLL_RECORDS", 2)
    cluster.start(0)
    cluster.settle()
    checks.all_of_it(cluster, SENT)
    checks.state_is_the_fold_of_the_frames(cluster, 0)


def test_a_journal_that_was_emptied_is_named_at_once() -> None:
    cluster = Cluster(word_count())
    cluster.start(0)
    cluster.send(lines, *SENT)
    cluster.settle()
    stopped(cluster)
    cluster.disks[0].lose_disk()
    ends = cluster.admin.stable_ends([TopicPartition("wc.journal.by-word", Partition(p)) for p in (0, 1)])
    cluster.admin.delete_records({tp: Offset(end) for tp, end in ends.items()})
    cluster.start(0)
    with pytest.raises(OffsetsLost, match="frames are missing"):
        cluster.run(60)


def test_a_journal_that_takes_long_is_waited_for_as_long_as_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(word_count())
    cluster.start(0)
    for line in SENT:
        cluster.send(lines, line)
        cluster.settle()
    cluster.kill(0)
    cluster.disks[0].lose_disk()
    monkeypatch.setattr(limits, "POLL_RECORDS", 1)
    cluster.start(0)
    for _ in range(40):
        cluster.turn(0)
        cluster.pass_time(8.0)  # each frame takes its time
    cluster.settle()
    checks.all_of_it(cluster, SENT)
