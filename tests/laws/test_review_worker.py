"""Rebalances that meet trouble, slow functions beside fast ones, damaged state, and what a worker leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamcore import Job, agg, limits
from streamcore.errors import (
    LogUnavailable,
    MembershipChanged,
    OutcomeUnknown,
    ProducerFenced,
    RecordFailed,
    TopicError,
    TransactionAborted,
)
from streamcore.log.local.wire import Request
from streamcore.runtime.statedir import RocksStores
from streamcore.state import rocks
from streamcore.types import Slot
from tests.laws import checks
from tests.laws.harness import Cluster, lose_answer, lose_request
from tests.laws.jobs import SENT, copies, counts, lines, word_count
from tests.laws.scenarios import running


def refused(error: Exception) -> Callable[[Callable[[], Any]], Any]:
    def refuse(deliver: Callable[[], Any]) -> Any:
        raise error

    return refuse


def left_open(cluster: Cluster) -> list[str]:
    """Partitions that end with something undecided."""
    stable = cluster.ends()
    reader = cluster.log.reader(stable, committed=False)
    while reader.ended() < stable.keys():
        reader.poll(1000, 0.0)
    found = [str(tp) for tp, end in stable.items() if reader.position(tp) > end]
    reader.close()
    return found


IN_REVOKED: list[tuple[Request, Any]] = [
    ("Produce", refused(TransactionAborted("refused"))),
    ("Produce", refused(LogUnavailable("away"))),
    ("TxnOffsetCommit", refused(MembershipChanged("generation"))),
    ("TxnOffsetCommit", refused(OutcomeUnknown("no answer"))),
    ("TxnOffsetCommit", refused(ProducerFenced("timed out"))),
    ("EndTxn", lose_answer),
    ("EndTxn", lose_request),
    ("EndTxn", refused(TransactionAborted("refused"))),
    ("EndTxn", refused(ProducerFenced("timed out"))),
]


@pytest.mark.parametrize("more", [[], ["InitProducerId"], ["OffsetFetch"], ["InitProducerId", "EndTxn"]], ids=str)
@pytest.mark.parametrize(("request_", "fault"), IN_REVOKED)
def test_a_commit_that_fails_inside_the_revocation_costs_nothing(request_: Request, fault: Any, more: Any) -> None:
    cluster = running()
    process = cluster.processes[0]
    cluster.send(lines, *SENT[2:])
    while not any(task.touched for task in process.worker._owned):  # pyright: ignore[reportPrivateUsage]
        cluster.turn(0)
    process.wire.at(request_, fault)
    for other in more:
        process.wire.at(other, refused((OutcomeUnknown if other == "EndTxn" else LogUnavailable)("away")))
    cluster.start(1)
    cluster.settle()
    checks.all_of_it(cluster, SENT)


def test_a_record_that_stops_the_job_inside_the_revocation_leaves_no_transaction_open() -> None:
    """The table's emission fails while the epoch is closed in the group's callback."""
    job = Job("wc")
    words = job.stream(lines)
    words.to(copies)

    def emitted(count: int) -> int:
        if armed:
            raise ValueError("no")
        return count

    armed: list[bool] = []
    words.flat_map(str.split).key_by("by-word", str.lower).aggregate("count", agg.count()).updates().map(emitted).to(
        counts
    )
    cluster = Cluster(job)
    process = cluster.start(0)
    cluster.send(lines, *SENT[:2])
    cluster.settle()
    cluster.send(lines, *SENT[2:])
    while not any(t.touched and t.stage.is_shuffle for t in process.worker._owned):  # pyright: ignore[reportPrivateUsage]
        cluster.turn(0)
        cluster.clock.sleep_s(0.02)
    armed.append(True)
    cluster.start(1)
    with pytest.raises(RecordFailed):
        for _ in range(20):
            cluster.turn(1)
            process.worker.turn()
    cluster.processes.pop(0).worker.close()
    armed.clear()
    assert not left_open(cluster)
    cluster.pass_time(11)  # the stopped member's session
    cluster.settle()
    checks.all_of_it(cluster, SENT)


@pytest.mark.parametrize("seed", range(6))
def test_many_rebalances_in_a_row_lose_and_repeat_nothing(seed: int) -> None:
    """Members come and go faster than any takeover gets done; each at another point of it."""
    cluster = Cluster(word_count(), partitions=4, seed=seed)
    cluster.start(0)
    sent: list[str] = []
    for n in range(24):
        line = SENT[n % len(SENT)]
        cluster.send(lines, line)
        sent.append(line)
        slot = 1 + (n * 7 + seed) % 3
        if slot in cluster.processes:
            if (n + seed) % 2:
                cluster.kill(slot)
            else:
                cluster.processes.pop(slot).worker.close()
        else:
            cluster.start(slot)
        cluster.run(1 + (n * 5 + seed) % 6)
        if n % 8 == 7:
            cluster.pass_time(11)
    cluster.pass_time(11)
    cluster.settle(rounds=80)
    checks.all_of_it(cluster, sent)


# --- slow functions -----------------------------------------------------------------------------------------------


def test_an_epoch_that_outlasts_its_transaction_is_done_again_in_smaller_pieces() -> None:
    """A fast task has begun the transaction, and a slow one beside it outlasts the timeout, each time they meet."""
    cluster = running()
    process = cluster.processes[0]

    def outlast(point: str) -> None:
        touched = [t for t in process.worker._owned if t.touched]  # pyright: ignore[reportPrivateUsage]
        if point == "after-flush" and len(touched) > 1:
            cluster.pass_time(10.5)

    process.on_point = outlast
    cluster.send(lines, *SENT[2:])
    cluster.settle()
    assert process.metrics_undone(), "no transaction timed out: the scenario shows nothing"
    checks.all_of_it(cluster, SENT)


# --- damaged state --------------------------------------------------------------------------------------------------


def test_state_that_turns_out_damaged_while_running_is_rebuilt_and_the_worker_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every read of one database fails, as with a block whose checksum does not match, until it is another one."""
    cluster = Cluster(word_count())
    cluster.disks[0] = RocksStores(tmp_path, "wc", Slot(0))  # type: ignore[assignment]
    process = cluster.start(0)
    cluster.send(lines, *SENT[:2])
    cluster.settle()
    bad = {tmp_path / "wc" / "slot-0" / "by-word-0", tmp_path / "wc" / "slot-0" / "by-word-1"}
    get_many, set_aside = rocks.RocksColumn.get_many, rocks.RocksStore.set_aside

    def damaged(self: Any, keys: list[bytes]) -> Any:
        if self._path in bad:
            raise self._failed(Exception("Corruption: block checksum mismatch"))
        return get_many(self, keys)

    def mended(path: Path, why: str) -> None:
        bad.discard(path)
        set_aside(path, why)

    monkeypatch.setattr(rocks.RocksColumn, "get_many", damaged)
    monkeypatch.setattr(rocks.RocksStore, "set_aside", staticmethod(mended))
    cluster.send(lines, *SENT[2:])
    cluster.settle()
    assert not bad, "the damaged state is still in use"
    checks.nothing_lost_or_repeated(cluster, SENT)
    checks.epochs_rise_by_one(cluster)
    process.worker.close()


@pytest.mark.parametrize("joins", [False, True])
def test_a_topic_made_anew_under_a_running_worker_is_named_for_what_it_is(joins: bool) -> None:
    """The client reads on in the new topic, at the old offset."""
    cluster = running()
    cluster.admin.delete(["lines"])
    cluster.admin.create("lines", 2, {})
    cluster.send(lines, *SENT * 10)
    if joins:
        cluster.start(1)
    cluster.pass_time(limits.TOPICS_INTERVAL_S)
    with pytest.raises(TopicError, match="deleted and created again"):
        cluster.run(40)
