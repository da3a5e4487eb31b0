"""The live line."""

from __future__ import annotations

from streamcore.runtime.restores import Restores
from streamcore.runtime.supervisor import Told
from streamcore.ui.live import bar, summary


def test_while_tasks_are_restored_the_line_says_how_far_they_are() -> None:
    told = Told(restored_bytes=300_000_000, restoring_bytes=1_200_000_000)
    assert summary("words", told, (0.0, 0.0)) == f"words  restoring  {bar(300_000_000, 1_200_000_000)}"
    assert bar(300_000_000, 1_200_000_000).endswith("25% of 1,200.0 MB")


def test_a_bar_is_as_wide_at_its_beginning_as_when_more_than_all_came() -> None:
    empty, full = bar(0, 10), bar(20, 10)
    assert empty.count("─") == full.count("━") == 30
    assert "100% of" in full


def test_the_line_is_of_records_again_when_the_restores_are_over() -> None:
    restores = Restores()
    restores.began(10)
    restores.wrote(4)
    assert (restores.done_bytes, restores.total_bytes) == (4, 10)
    restores.over()
    told = Told(restored_bytes=restores.done_bytes, restoring_bytes=restores.total_bytes)
    assert "restoring" not in summary("words", told, (0.0, 0.0))
