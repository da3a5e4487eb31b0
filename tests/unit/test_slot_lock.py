"""One slot, one process: on one machine a lock file refuses the second."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamcore.errors import StateDirError
from streamcore.runtime.statedir import RocksStores
from streamcore.types import Slot


def test_a_slot_taken_twice_on_one_machine_is_refused_with_its_holder(tmp_path: Path) -> None:
    first = RocksStores(tmp_path, "word-count", Slot(3))
    try:
        with pytest.raises(StateDirError) as refused:
            RocksStores(tmp_path, "word-count", Slot(3))
        assert f"slot 3 is taken on this machine (process {os.getpid()} holds" in refused.value.what
        assert "--slot" in refused.value.remedy
    finally:
        first.close()


def test_other_slots_and_other_jobs_are_not_in_the_way(tmp_path: Path) -> None:
    stores = [RocksStores(tmp_path, job, Slot(slot)) for job in ("a", "b") for slot in (0, 1)]
    for one in stores:
        one.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_slot_is_free_again_once_its_holder_let_go(tmp_path: Path) -> None:
    for _ in range(2):
        RocksStores(tmp_path, "word-count", Slot(0)).close()
    assert (tmp_path / "word-count" / "slot-0.lock").exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirError, match="cannot be written"):
        RocksStores(tmp_path / "file", "word-count", Slot(0))
