"""The log goes away while a worker runs, and comes back: nothing is lost or repeated, nobody has to restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from streamcore import limits
from streamcore.errors import LogUnavailable, OutcomeUnknown, RetryError
from streamcore.log.local.wire import Request
from tests.laws import checks
from tests.laws.harness import Cluster, FaultyWire, lose_answer
from tests.laws.jobs import SENT, lines, word_count

UNDECIDED = ("TxnOffsetCommit", "EndTxn", "AddOffsetsToTxn")


class Away(FaultyWire):
    """A connection that can be cut whole."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    def call(self, request: Request, deliver: Callable[[], Any]) -> Any:
        if self.away:
            if request in ("Fetch", "Heartbeat", "JoinGroup"):  # the client keeps trying by itself
                return super().call(request, deliver)
            raise (OutcomeUnknown if request in UNDECIDED else LogUnavailable)("the broker is away")
        return super().call(request, deliver)


def start(cluster: Cluster, wire: Away, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr("tests.laws.harness.FaultyWire", lambda: wire)
        return cluster.start(0)


POINTS = ["before-slice", "before-epoch", "after-flush", "before-commit", "after-send-offsets", "takeover-before-fence"]


@pytest.mark.parametrize("point", [*POINTS, "takeover-after-fence", "takeover-after-read", "takeover-after-replay"])
def test_a_log_that_is_away_for_a_while_costs_time_only(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(word_count())
    wire = Away()
    process = start(cluster, wire, monkeypatch)
    cluster.send(lines, *SENT[:2])
    if not point.startswith("takeover"):
        cluster.settle()

    def go_away(at: str) -> None:
        if at == point:
            process.on_point = None
            wire.away = True

    process.on_point = go_away
    cluster.send(lines, *SENT[2:])
    cluster.run(60)
    assert wire.away, f"{point} was never reached"
    assert 0 in cluster.processes
    wire.away = False
    cluster.pass_time(limits.RETRY_CAP_S * 2)
    cluster.settle()
    checks.all_of_it(cluster, SENT)


def test_a_log_that_stays_away_ends_the_worker_with_a_request_for_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(word_count())
    wire = Away()
    start(cluster, wire, monkeypatch)
    cluster.send(lines, *SENT)
    cluster.settle()
    wire.away = True
    cluster.send(lines, *SENT)
    with pytest.raises(RetryError):
        for _ in range(200):
            cluster.run(5)
            cluster.pass_time(limits.RETRY_CAP_S)


def test_a_commit_of_unknown_outcome_that_nobody_can_be_asked_about_is_settled_by_a_takeover(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Law 3 with the log gone between the question and its answer: it was committed, and must count once."""
    cluster = Cluster(word_count())
    wire = Away()
    start(cluster, wire, monkeypatch)
    cluster.send(lines, *SENT[:2])
    cluster.settle()

    def then_away(deliver: Callable[[], Any]) -> Any:
        wire.away = True
        return lose_answer(deliver)

    wire.at("EndTxn", then_away)
    cluster.send(lines, *SENT[2:])
    cluster.run(40)
    wire.away = False
    cluster.pass_time(limits.RETRY_CAP_S * 2)
    cluster.settle()
    checks.all_of_it(cluster, SENT)
    checks.state_is_the_fold_of_the_frames(cluster, 0)


@pytest.mark.parametrize("request_", [r for r in get_args(Request) if r not in ("Fetch", "Heartbeat", "JoinGroup")])
@pytest.mark.parametrize("mode", ["exactly-once", "at-least-once"])
def test_any_one_request_that_fails_in_takeover_or_work_is_made_again(request_: Any, mode: Any) -> None:
    def fail(deliver: Callable[[], Any]) -> Any:
        raise (OutcomeUnknown if request_ in UNDECIDED else LogUnavailable)("lost")

    cluster = Cluster(word_count(), mode=mode)
    cluster.send(lines, *SENT[:2])
    process = cluster.start(0)
    process.wire.at(request_, fail, fail, lambda deliver: deliver(), fail)
    cluster.settle()
    cluster.send(lines, *SENT[2:])
    cluster.settle()
    cluster.kill(0)
    cluster.start(0).wire.at(request_, fail, fail)
    cluster.settle()
    if mode == "exactly-once":
        checks.all_of_it(cluster, SENT)
