"""Three workers and a shuffle, duplicates and disorder in the input, kills and pauses; judged by chaos.judge."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chaos.wordcount import run

SEED = int(os.environ.get("STREAMCORE_CHAOS_SEED", "1"))


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_repeated_while_workers_are_killed_and_paused(bootstrap: str, tmp_path: Path) -> None:
    report = run(bootstrap, SEED, tmp_path)
    assert report.ok, report.explain()
    assert report.kills >= 20
    assert report.pauses >= 3
