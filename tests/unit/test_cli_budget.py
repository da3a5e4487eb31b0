"""What commands say of RPO and RTO, beside and after a job on the embedded log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamcore import limits
from streamcore.cli.main import app
from streamcore.errors import EXIT_STOP
from tests.unit.test_cli_checkpoints import STORE, _elsewhere, ran, streamcore  # pyright: ignore[reportPrivateUsage]

__all__ = ["_elsewhere", "ran"]


@pytest.fixture
def there(ran: Path) -> None:
    """A job that has stopped, with checkpoints; it had the default budget."""
    for name in (STORE, Path(".streamcore")):
        shutil.copytree(ran / name, name)


@pytest.mark.usefixtures("there")
def test_status_tells_what_a_takeover_would_take_and_leave_of_the_jobs_rto() -> None:
    told = streamcore("status", "words")
    assert "its 2 tasks together 0.5 s on another machine: 59.5 s left of the RTO of 60 s" in told
    assert "at assumed" in told, "the job is too small to have measured anything"
    for task in json.loads(streamcore("status", "words", "--json")):
        assert task["recovery_local_s"] == limits.TAKEOVER_S and task["recovery_other_s"] < 1
        assert task["rto_s"] == 60 and task["rto_left_s"] == pytest.approx(60 - task["recovery_other_s"])  # pyright: ignore[reportUnknownMemberType]
        assert not task["rates_measured"]


@pytest.mark.usefixtures("there")
def test_the_estimate_ends_with_10_beyond_the_jobs_own_rto_or_the_one_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "59.5 s left of the RTO of 60 s" in streamcore("replay-estimate", "words")
    assert "left of the RTO of 1 s" in streamcore("replay-estimate", "words", "--rto", "1s")
    monkeypatch.setattr(limits, "TAKEOVER_S", 100.0)
    assert "OVER the RTO of 60 s by 40.0 s" in streamcore("replay-estimate", "words", code=EXIT_STOP)
    assert "80.0 s left of the RTO of 180 s" in streamcore("replay-estimate", "words", "--rto", "3m")
    assert "RTO" not in streamcore("replay-estimate", "words", "--rto", "0")


@pytest.mark.usefixtures("there")
def test_the_estimate_does_not_pass_what_it_cannot_know(tmp_path: Path) -> None:
    told = streamcore("replay-estimate", "words", "--checkpoints", f"file://{tmp_path}/elsewhere", code=EXIT_STOP)
    assert "unknown" in told and "its newest checkpoint is not to be had in" in told


def test_a_run_refuses_an_interval_beyond_its_rpo() -> None:
    told = streamcore("run", "count.py:job", "--rpo", "50ms", "--commit-interval", "100ms", code=EXIT_STOP)
    assert "worker.commit_interval (a flag): 100ms is longer than guarantee.rpo (a flag), 50ms" in told


def test_an_rto_without_checkpoints_is_warned_of() -> None:
    assert "the RTO will not be kept" in streamcore_told("--rto", "5s", "--checkpoints", "none")
    assert "the RTO will not be kept" not in streamcore_told("--checkpoints", "none")


def streamcore_told(*flags: str) -> str:
    result = CliRunner().invoke(app, ["run", "count.py:job", "--until-idle", *flags])
    assert result.exit_code == 0, result.output
    return result.stderr
