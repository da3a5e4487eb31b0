"""The laws' tests can fail: with one law taken out of the engine, its scenario raises AssertionError (or an error of
the engine's own that names the contradiction)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamcore import limits
from streamcore.errors import SlotTaken, StreamcoreError
from streamcore.log.port import Membership
from streamcore.runtime.commit import Committer
from streamcore.runtime.task import Task
from streamcore.runtime.worker import Worker
from tests.laws import scenarios
from tests.laws.harness import lose_answer, lose_request

Patch = Callable[[pytest.MonkeyPatch], None]


def applied_before_the_decision(patch: pytest.MonkeyPatch) -> None:
    decide = Committer._decide

    def early(self: Any, prepared: Any, nonce: str) -> Any:
        for part in prepared:
            part.task.store.apply(part.frame.deltas, part.mark)
        return decide(self, prepared, nonce)

    patch.setattr(Committer, "_decide", early)


def committed_after_lost(patch: pytest.MonkeyPatch) -> None:
    """LOST is treated as REVOKED, and membership is not checked but that of an unjoined consumer, which passes."""

    def unchecked(self: Any, offsets: Any) -> Membership:
        return Membership(-1, "", None, raw=self._consumer.membership().raw)

    def lost(self: Any, tps: Any) -> None:
        self._producers.fence()
        touched = self._owned.touched
        if touched:
            self._committer.commit(touched)
        self._let_go()

    patch.setattr(Committer, "_checked_membership", unchecked)
    patch.setattr(Worker, "lost", lost)


def revoked_drops_its_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Worker, "revoked", Worker.lost)


def unknown_taken_for_aborted(patch: pytest.MonkeyPatch) -> None:
    def ask(self: Any, prepared: Any, nonce: str, why: Exception) -> Any:
        self._metrics.unknown()
        self.undo([part.task for part in prepared], why)
        return ()

    patch.setattr(Committer, "_ask", ask)


def unknown_taken_for_committed(patch: pytest.MonkeyPatch) -> None:
    def ask(self: Any, prepared: Any, nonce: str, why: Exception) -> Any:
        self._metrics.unknown()
        self._producers.fence()
        return prepared

    patch.setattr(Committer, "_ask", ask)


def slow_calls_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limits, "SLOW_CALL_MS", 1_000_000)


def no_seek_after_an_abort(patch: pytest.MonkeyPatch) -> None:
    def roll_back(self: Any, tasks: Any) -> None:
        for task in tasks:
            task.forget_epoch()

    patch.setattr(Committer, "_roll_back", roll_back)


def overlay_kept_after_an_abort(patch: pytest.MonkeyPatch) -> None:
    def forget(self: Task) -> None:
        self.position = dict(self.committed)
        self.touched = False
        self.records = 0

    patch.setattr(Task, "forget_epoch", forget)


def every_fencing_steps_aside(patch: pytest.MonkeyPatch) -> None:
    def step_aside(self: Any, error: Exception) -> None:
        raise SlotTaken("taken for granted") from error

    patch.setattr(Committer, "_step_aside_if_replaced", step_aside)


def no_fencing_steps_aside(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Committer, "_step_aside_if_replaced", lambda self, error: None)  # pyright: ignore[reportUnknownLambdaType]


BROKEN: list[tuple[Patch, Callable[[], None]]] = [
    (applied_before_the_decision, lambda: scenarios.local_state_never_ahead("before-commit")),
    (committed_after_lost, lambda: scenarios.nothing_committed_after_lost("between-turns")),
    (revoked_drops_its_epoch, scenarios.revoked_finishes_its_epoch),
    (unknown_taken_for_aborted, lambda: scenarios.unknown_outcome(lose_answer)),
    (unknown_taken_for_committed, lambda: scenarios.unknown_outcome(lose_request)),
    (slow_calls_ignored, lambda: scenarios.a_slow_call_has_a_twin("EndTxn", "after-flush", dies=True)),
    (slow_calls_ignored, lambda: scenarios.a_slow_call_has_a_twin("TxnOffsetCommit", "before-commit", dies=False)),
    (no_seek_after_an_abort, lambda: scenarios.an_abort_seeks_back("Produce")),
    (overlay_kept_after_an_abort, lambda: scenarios.an_abort_seeks_back("TxnOffsetCommit")),
    (every_fencing_steps_aside, lambda: scenarios.fenced_by_the_timeout_alone("before-commit")),
    (no_fencing_steps_aside, lambda: scenarios.replaced_by_a_newer_worker("before-commit")),
]


@pytest.mark.parametrize(("broken", "scenario"), BROKEN, ids=[f"{b.__name__}" for b, _ in BROKEN])
def test_an_engine_without_the_law_is_found_out(
    broken: Patch, scenario: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    with pytest.raises((AssertionError, StreamcoreError, pytest.fail.Exception)):
        scenario()
