"""One scenario a law: what is done to a cluster, and what must then hold. Each raises AssertionError when its law is
broken; test_laws.py runs them against the engine, test_broken_laws.py against engines with one law taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamcore.errors import SlotTaken, TransactionAborted
from streamcore.log.local.wire import Request
from streamcore.runtime.points import COMMIT_POINTS
from tests.laws import checks
from tests.laws.harness import Cluster, Fault, lose_answer, lose_request
from tests.laws.jobs import SENT, lines, word_count


def running(slots: int = 1) -> Cluster:
    """At rest, with something committed in every task that will see more."""
    cluster = Cluster(word_count())
    for slot in range(slots):
        cluster.start(slot)
    cluster.send(lines, *SENT[:2])
    cluster.settle()
    return cluster


# --- law 1 ----------------------------------------------------------------------------------------------------


def local_state_never_ahead(point: str) -> None:
    """Killed around the decision: what stands on disk is a committed epoch."""
    cluster = running()
    cluster.processes[0].dies_at = point
    cluster.send(lines, *SENT[2:])
    cluster.run(30)
    cluster.processes.clear()
    other = cluster.start(1)  # ends the dead one's transaction, as any takeover would
    cluster.pass_time(11)
    cluster.settle()
    assert other.worker.progress().tasks
    checks.local_state_is_not_ahead(cluster)


# --- law 2 ----------------------------------------------------------------------------------------------------


def nothing_committed_after_lost(point: str) -> None:
    """Paused in an open epoch until its tasks are another's, and then awake: its epoch is dropped."""
    cluster = running(slots=2)
    paused = cluster.processes[0]

    def pause(at: str) -> None:
        if at != point:
            return
        paused.on_point = None
        paused.wire.suspended = True
        cluster.pass_time(11)
        cluster.settle()
        paused.wire.suspended = False

    paused.on_point = pause
    cluster.send(lines, *SENT[2:])
    if point == "between-turns":
        while not paused.worker.progress().uncommitted or paused.worker.waiting_records:
            cluster.turn(0)
        pause(point)
    cluster.settle()
    checks.all_of_it(cluster, SENT)


def revoked_finishes_its_epoch() -> None:
    """A newcomer's rebalance finds an open epoch: it is committed before the tasks are let go."""
    cluster = running()
    cluster.send(lines, *SENT[2:])
    process = cluster.processes[0]
    while not any(task.touched for task in process.worker._owned):  # pyright: ignore[reportPrivateUsage]
        cluster.turn(0)
    process.points.clear()
    joins = cluster.start(1).worker._consumer  # pyright: ignore[reportPrivateUsage]
    joins.poll(1, 0.0)  # no time passes: nothing but the rebalance can end the epoch
    while process.worker._owned:  # pyright: ignore[reportPrivateUsage]
        cluster.turn(0)
    assert "after-apply" in process.points, "the epoch was not committed before the tasks were let go"
    assert not process.metrics_undone(), "the epoch was thrown away"
    cluster.settle()
    checks.all_of_it(cluster, SENT)


# --- law 3 ----------------------------------------------------------------------------------------------------


def unknown_outcome(fault: Fault) -> None:
    """The EndTxn's answer, or the request itself, is lost."""
    cluster = running()
    process = cluster.processes[0]
    process.wire.at("EndTxn", fault)
    cluster.send(lines, *SENT[2:])
    cluster.settle()
    assert process.metrics_unknown() == 1
    checks.all_of_it(cluster, SENT)


# --- law 4 ----------------------------------------------------------------------------------------------------


def a_slow_call_has_a_twin(request: Request, arrives: str, dies: bool) -> None:
    """A call takes 90 ms because librdkafka sent it twice; the twin arrives in the middle of the next transaction, and
    perhaps the worker dies there and then."""
    cluster = running()
    process = cluster.processes[0]
    twins: list[Callable[[], Any]] = []

    def slow(deliver: Callable[[], Any]) -> Any:
        cluster.clock.sleep_s(0.09)
        answer = deliver()
        twins.append(deliver)
        return answer

    def late(point: str) -> None:
        if point == arrives and twins:
            deliver_refused(twins.pop())
            process.dies_at = arrives if dies else ""

    cluster.send(lines, *SENT[2:3])
    process.wire.at(request, slow)
    while not twins:
        cluster.run(1)
    cluster.send(lines, *SENT[3:])
    process.on_point = late
    cluster.settle()
    assert not twins, "the twin never met a transaction"
    if 0 in cluster.processes:
        cluster.kill(0)
    cluster.start(0)
    cluster.settle()
    checks.all_of_it(cluster, SENT)


def deliver_refused(deliver: Callable[[], Any]) -> None:
    """What the broker says to a late request, nobody hears."""
    try:
        deliver()
    except Exception:
        return


# --- law 5 ----------------------------------------------------------------------------------------------------


def an_abort_seeks_back(request: Request) -> None:
    """A transaction fails before its decision: the same records are processed again, and count once."""
    cluster = running()
    process = cluster.processes[0]

    def refuse(deliver: Callable[[], Any]) -> Any:
        raise TransactionAborted("refused")

    process.wire.at(request, refuse, through, refuse)
    cluster.send(lines, *SENT[2:])
    cluster.settle()
    assert process.metrics_undone() in (1, 2)
    checks.all_of_it(cluster, SENT)


def through(deliver: Callable[[], Any]) -> Any:
    return deliver()


# --- law 6 ----------------------------------------------------------------------------------------------------


def fenced_by_the_timeout_alone(point: str) -> None:
    """The transaction times out while the worker stays a member: a new producer, and on it goes."""
    cluster = running()
    process = cluster.processes[0]

    def dawdle(at: str) -> None:
        if at == point:
            process.on_point = None
            cluster.pass_time(10.5)

    process.on_point = dawdle
    cluster.send(lines, *SENT[2:])
    cluster.settle()
    assert 0 in cluster.processes
    checks.all_of_it(cluster, SENT)


def replaced_by_a_newer_worker(point: str) -> None:
    """Another process joins with the slot while the older is about to commit: the older steps aside, and the newer is
    not disturbed."""
    cluster = running()
    older = cluster.processes[0]
    started: list[Any] = []

    def replace(at: str) -> None:
        if at == point and not started:
            del cluster.processes[0]
            cluster.disks[0] = type(cluster.disks[0])()
            started.append(cluster.start(0))
            cluster.run(5)

    older.on_point = replace
    cluster.send(lines, *SENT[2:])
    with pytest.raises(SlotTaken):
        for _ in range(60):
            older.worker.turn()
            cluster.clock.sleep_s(0.01)
    older.worker.close()
    cluster.settle()
    assert started[0].metrics_fenced() == 0, "the older worker fenced the newer"
    checks.all_of_it(cluster, SENT)


ASIDE = [point for point in COMMIT_POINTS if point not in ("after-commit", "after-apply")]
LOST = {"answer lost": lose_answer, "request lost": lose_request}
