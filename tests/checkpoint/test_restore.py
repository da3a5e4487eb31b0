"""The newest that verifies; what does not is named, and the next older one is taken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from streamcore.checkpoint.directory import DirectoryStore
from streamcore.checkpoint.manifest import Manifest
from streamcore.checkpoint.restore import SUFFIX, Restorer
from streamcore.checkpoint.upload import Uploader
from streamcore.clock import SeededEntropy
from streamcore.errors import CheckpointStoreError, CheckpointStoreUnavailable, StateDirError
from streamcore.state.rocks import RocksStore
from streamcore.testing.clock import ManualClock
from streamcore.types import Epoch
from tests.checkpoint.kit import FACTS, JOB, LAYOUT, LINE, TASK, Fault, Kit, key, mark


def test_the_newest_committed_one_is_restored(kit: Kit) -> None:
    for epoch in (1, 2, 9, 10, 11):
        kit.checkpoint(epoch, a=b"%d" % epoch)
    found = kit.restore(10)
    assert found.manifest is not None
    assert (found.manifest.epoch, found.rejected) == (10, ())
    assert kit.restored() == {b"a": b"10"}


def test_what_is_restored_is_opened_and_goes_on(rocks: Kit) -> None:
    rocks.checkpoint(1, a=b"1")
    rocks.restore(1)
    store = RocksStore.open(rocks.path / "restored", ["count", "seen", "added"], job=JOB, task=TASK)
    assert store.mark() == mark(1)
    store.apply({}, mark(2))
    assert rocks.contents(store) == {b"a": b"1"}


def test_another_lineage_is_no_candidate(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    found = kit.restore(9, line="another")
    assert (found.manifest, found.rejected) == (None, ())
    assert not (kit.path / "restored").exists()


def test_nothing_there_is_no_error(kit: Kit) -> None:
    assert kit.restore(9).manifest is None


@pytest.mark.parametrize("how", ["corrupt", "lost", "short", "long"])
def test_a_spoilt_object_is_named_and_the_older_one_is_restored(
    kit: Kit, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    kit.checkpoint(1, a=b"1")
    kit.checkpoint(2, a=b"2")
    older = {file.object for file in kit.manifest(1).files}
    bad = next(file for file in kit.manifest(2).files if file.object not in older and file.size)
    at = LAYOUT.object(bad.object)
    if how == "corrupt":
        kit.objects.corrupt(at)
    elif how == "lost":
        kit.objects.lose(at)
    else:
        kit.objects.replace(at, bytes(bad.size - 1 if how == "short" else bad.size + 1))
    found = kit.restore(2)
    assert found.manifest is not None
    assert found.manifest.epoch == 1
    assert kit.restored() == {b"a": b"1"}
    assert [(rejected.key, rejected.objects) for rejected in found.rejected] == [(key(2), {bad.object})]
    told = {
        "corrupt": "is not what its name says: its SHA-256 differs",
        "lost": "is missing in the checkpoint store memory",
    }.get(how, f"has not the {bad.size} bytes that its manifest says")
    assert f"{at} {told}" in found.rejected[0].why
    assert f"checkpoint {key(2)} cannot be restored, an older one is tried: {at}" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"epoch":2', b'"epoch":3', "seal does not fit"),
        (b'"format":1', b'"format":2', "has format 2, newer than this streamcore's 1"),
        (b'"seal"', b'"sea', "cannot be read"),
    ],
)
def test_a_manifest_that_was_edited_torn_or_is_newer_is_named(kit: Kit, old: bytes, new: bytes, why: str) -> None:
    kit.checkpoint(1, a=b"1")
    kit.checkpoint(2, a=b"2")
    kit.edit(2, old, new)
    found = kit.restore(2)
    assert found.manifest is not None
    assert found.manifest.epoch == 1
    assert [rejected.key for rejected in found.rejected] == [key(2)]
    assert why in found.rejected[0].why


def test_a_manifest_of_another_task_copied_here_is_named(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    kit.rewrite(1, partition=4)
    assert "is another checkpoint's: job/manifests/lines/4/" in kit.restore(1).rejected[0].why


def test_files_that_are_not_of_the_manifests_commit_are_named(kit: Kit) -> None:
    """Every hash fits, and the state is another epoch's."""
    kit.checkpoint(1, a=b"1")
    kit.checkpoint(2, a=b"2")
    kit.rewrite(2, files=kit.manifest(1).files)
    found = kit.restore(2)
    assert found.manifest is not None
    assert found.manifest.epoch == 1
    assert "its files stand at" in found.rejected[0].why


def test_files_that_do_not_open_are_named(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    kit.checkpoint(2, a=b"2")
    dropped = "MANIFEST" if kit.form == "rocks" else "tables"
    files = tuple(file for file in kit.manifest(2).files if not file.name.startswith(dropped))
    kit.rewrite(2, files=files)
    found = kit.restore(2)
    assert found.manifest is not None
    assert found.manifest.epoch == 1


def test_when_none_is_left_every_reason_is_told_and_the_target_is_as_it_was(kit: Kit) -> None:
    for epoch in (1, 2, 3):
        kit.checkpoint(epoch, a=b"%d" % epoch)
        kit.edit(epoch, b'"nonce":"n', b'"nonce":"m')
    found = kit.restore(3)
    assert found.manifest is None
    assert [rejected.key for rejected in found.rejected] == [key(3), key(2), key(1)]
    assert not (kit.path / "restored").exists()
    assert [path.name for path in kit.path.iterdir() if SUFFIX in path.name] == []


def test_the_caller_may_refuse_one_before_it_is_downloaded(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    kit.checkpoint(2, a=b"2")

    def accept(manifest: Manifest) -> str | None:
        return "its journal was trimmed" if manifest.epoch == 2 else None

    found = kit.restorer().restore(JOB, TASK, LINE, Epoch(2), kit.path / "restored", accept=accept)
    assert found.manifest is not None
    assert found.manifest.epoch == 1
    assert [rejected.why for rejected in found.rejected] == ["its journal was trimmed"]


@pytest.mark.parametrize(("call", "part"), [("list", ""), ("get", "manifests"), ("get", "objects")])
def test_a_store_that_is_away_is_no_reason_to_take_an_older_one(kit: Kit, call: str, part: str) -> None:
    kit.checkpoint(1, a=b"1")
    kit.checkpoint(2, a=b"2")
    kit.script.plan(call, part, Fault("fail"), times=10_000)
    with pytest.raises(CheckpointStoreUnavailable):
        kit.restore(2)
    kit.script.planned = [(call, part, Fault("denied"))]
    with pytest.raises(CheckpointStoreError):
        kit.restore(2)
    assert not (kit.path / "restored").exists()


@pytest.mark.parametrize("fault", [Fault("fail"), Fault("torn"), Fault("slow", 30)])
def test_a_store_that_stumbles_is_asked_again(kit: Kit, fault: Fault) -> None:
    kit.checkpoint(1, a=b"1")
    for part in ("manifests", "objects"):
        kit.script.plan("get", part, fault, times=3)
    found = kit.restore(1)
    assert (found.manifest is not None, found.rejected) == (True, ())
    assert kit.restored() == {b"a": b"1"}


def test_a_restore_that_was_killed_is_begun_anew(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    left = kit.path / f"restored{SUFFIX}" / "db"
    left.mkdir(parents=True)
    (left / "999999.sst").write_bytes(b"half")
    (left.parent / "damaged").write_text("of old")
    kit.restore(1)
    assert kit.restored() == {b"a": b"1"}
    assert not (kit.path / "restored" / "db" / "999999.sst").exists()


def test_a_state_that_stands_there_is_not_replaced(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    (kit.path / "restored").mkdir()
    (kit.path / "restored" / "something").write_text("")
    with pytest.raises(StateDirError, match="cannot be moved"):
        kit.restore(1)
    assert [path.name for path in (kit.path / "restored").iterdir()] == ["something"]


def test_a_full_disk_stops_and_is_no_reason_to_take_an_older_one(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.checkpoint(1, a=b"1")
    real = Path.open

    def full(path: Path, mode: str = "r", *args: int, **named: int) -> object:
        if mode == "wb":
            raise OSError(28, os.strerror(28))
        return real(path, mode, *args, **named)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StateDirError, match="No space left on device"):
        kit.restore(1)


@pytest.mark.parametrize("threads", [0, 8])
def test_it_is_the_same_with_many_threads_and_says_how_far_it_is(rocks: Kit, tmp_path: Path, threads: int) -> None:
    shared = DirectoryStore(tmp_path / "shared")
    clock, entropy = ManualClock(), SeededEntropy(1)
    uploader = Uploader(shared, JOB, TASK, clock, entropy)
    for epoch in range(1, 6):
        rocks.commit(epoch, **{f"k{epoch}-{n}": bytes(50) for n in range(300)})
        uploader.upload(rocks.snapshot(), FACTS)
    sizes: list[int] = []
    target = tmp_path / "restored"
    found = Restorer(shared, clock, entropy, threads=threads).restore(
        JOB, TASK, LINE, Epoch(5), target, progress=sizes.append
    )
    assert found.manifest is not None
    assert sum(sizes) == found.manifest.size_bytes
    assert rocks.contents(RocksStore.open_read_only(target)) == rocks.contents(rocks.store)


def test_a_lost_machine_comes_back_from_the_store_alone(rocks: Kit, tmp_path: Path) -> None:
    shared = DirectoryStore(tmp_path / "shared")
    clock, entropy = ManualClock(), SeededEntropy(1)
    rocks.commit(1, a=b"1", b=b"2")
    Uploader(shared, JOB, TASK, clock, entropy).upload(rocks.snapshot(), FACTS)
    rocks.close()
    shutil.rmtree(tmp_path / "task")
    other = Restorer(DirectoryStore(tmp_path / "shared"), clock, entropy)
    assert other.restore(JOB, TASK, LINE, Epoch(1), tmp_path / "task").manifest is not None
    store = RocksStore.open(tmp_path / "task", ["count", "seen"], job=JOB, task=TASK)
    assert rocks.contents(store) == {b"a": b"1", b"b": b"2"}


def test_a_late_listing_gives_an_older_one_and_not_a_wrong_one(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    kit.script.plan("put_once", "manifests", Fault("late", 60))
    kit.checkpoint(2, a=b"2")
    found = kit.restore(2)
    assert found.manifest is not None
    assert found.manifest.epoch == 1
    kit.advance(61)
    assert kit.restorer().candidates(JOB, TASK, LINE, Epoch(2)) == [2, 1]
