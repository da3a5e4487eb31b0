"""The laws of commit and takeover, each by the scenario that would show it broken."""

from __future__ import annotations

import pytest

from tests.laws import scenarios
from tests.laws.scenarios import ASIDE, LOST


@pytest.mark.parametrize("point", ["before-commit", "after-commit", "after-apply", "after-send-offsets"])
def test_law_1_local_state_is_never_ahead_of_the_commit(point: str) -> None:
    scenarios.local_state_never_ahead(point)


@pytest.mark.parametrize("point", ["between-turns", "before-slice", "after-slice", *ASIDE])
def test_law_2_nothing_is_committed_after_lost(point: str) -> None:
    scenarios.nothing_committed_after_lost(point)


def test_law_2_a_revoked_task_finishes_its_epoch() -> None:
    scenarios.revoked_finishes_its_epoch()


@pytest.mark.parametrize("fault", LOST)
def test_law_3_a_commit_without_an_answer_is_looked_up_and_never_aborted(fault: str) -> None:
    scenarios.unknown_outcome(LOST[fault])


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("arrives", ["after-flush", "before-commit"])
@pytest.mark.parametrize("request_", ["EndTxn", "TxnOffsetCommit"])
def test_law_4_a_slow_calls_twin_never_reaches_the_next_transaction(request_: str, arrives: str, dies: bool) -> None:
    scenarios.a_slow_call_has_a_twin(request_, arrives, dies)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("request_", ["Produce", "AddOffsetsToTxn", "TxnOffsetCommit"])
def test_law_5_after_an_abort_the_same_records_count_once(request_: str) -> None:
    scenarios.an_abort_seeks_back(request_)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("point", ["before-slice", "after-slice", *ASIDE])
def test_law_6_a_transaction_that_timed_out_is_no_reason_to_step_aside(point: str) -> None:
    scenarios.fenced_by_the_timeout_alone(point)


@pytest.mark.parametrize("point", ["after-slice", *ASIDE])
def test_law_6_a_replaced_worker_steps_aside_and_leaves_the_newer_alone(point: str) -> None:
    scenarios.replaced_by_a_newer_worker(point)
