"""docs/checkpoints.md tells what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from streamcore import limits
from streamcore.checkpoint.manifest import Manifest
from streamcore.checkpoint.savepoint import SavedStage, SavedTask, Savepoint

PAGE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()


@pytest.mark.parametrize(
    ("heading", "of"),
    [
        ("member", Manifest),
        ("savepoint's member", Savepoint),
        ("STAGE's member", SavedStage),
        ("TASK's member", SavedTask),
    ],
)
def test_the_page_names_every_member_in_order(heading: str, of: type[msgspec.Struct]) -> None:
    table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0]
    told = [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert told == [field.encode_name for field in msgspec.structs.fields(of)]


def test_the_page_tells_the_times_that_are_set() -> None:
    assert limits.CHECKPOINT_GRACE_S == 3600
    assert limits.CHECKPOINT_REUSE_S == limits.CHECKPOINT_UPLOAD_S == 20 * 60
    assert limits.CHECKPOINT_SKEW_S == 10 * 60
    assert limits.CHECKPOINT_RETRY_S == 2 * 60
    for told in ("than an hour", "twenty minutes", "ten\nminutes", "two minutes"):
        assert told in PAGE
