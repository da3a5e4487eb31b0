"""The simulator's disk: what a kill, a power cut and an old copy leave."""

from __future__ import annotations

import pytest

from streamcore.errors import StateDamaged
from streamcore.state.store import Delta, EpochMark
from streamcore.testing.simulated.disk import UNSYNCED, Disk, MemoryDisk
from streamcore.types import Epoch, Offset, Partition, TaskId

TASK = TaskId("words", Partition(0))
EPOCHS = 6


def written() -> MemoryDisk:
    """Each epoch sets one key of its own; none of them counts as synced yet."""
    assert EPOCHS < UNSYNCED
    disk = MemoryDisk()
    store = disk.open(TASK, ["count"])
    for n in range(EPOCHS):
        mark = EpochMark("line", Epoch(n), f"nonce {n}", Offset(n), Offset(n + 1))
        store.apply({"count": Delta([b"%d" % n], [b"x"])}, mark)
    return disk


def epochs(disk: Disk) -> int:
    """How many it holds: as its mark says, and its rows."""
    store = disk.open(TASK, ["count"])
    mark, rows = store.mark(), list(store.column("count").scan(b"", b"\xff"))
    assert len(rows) == (0 if mark is None else mark.epoch + 1)
    return len(rows)


def test_a_kill_loses_nothing() -> None:
    disk = written()
    disk.killed()
    assert epochs(disk) == EPOCHS


def test_a_power_cut_loses_the_last_batches() -> None:
    disk = written()
    disk.power_cut(2, torn=False)
    assert epochs(disk) == EPOCHS - 2


def test_a_torn_batch_is_named() -> None:
    disk = written()
    disk.power_cut(2, torn=True)
    with pytest.raises(StateDamaged, match="torn"):
        disk.open(TASK, ["count"])


def test_an_old_copy_is_some_epochs_behind_and_not_empty() -> None:
    disk = written()
    assert epochs(disk.old_copy()) == EPOCHS // 2
    assert epochs(disk) == EPOCHS


def test_a_copy_of_another_life_has_the_same_epoch_with_another_nonce_and_no_rows() -> None:
    store = written().estranged(lineage=True).open(TASK, ["count"])
    mark = store.mark()
    assert mark is not None and mark.epoch == EPOCHS - 1
    assert (mark.lineage, mark.nonce) == ("line-before", "another")
    assert not list(store.column("count").scan(b"", b"\xff"))
