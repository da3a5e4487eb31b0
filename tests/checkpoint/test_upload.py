"""Law 7: a checkpoint counts only once every byte is uploaded, hashed and named; nothing is overwritten."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from streamcore import limits
from streamcore.checkpoint.background import Beside, Done, Failed, Inline, Work
from streamcore.checkpoint.store import read
from streamcore.checkpoint.upload import Facts
from streamcore.errors import (
    CheckpointDamaged,
    CheckpointStoreError,
    CheckpointStoreUnavailable,
    InvariantBroken,
    StateDirError,
)
from streamcore.state.rocks import RocksStore
from tests.checkpoint.kit import FACTS, JOB, LAYOUT, TASK, Fault, Kit, key, mark

HOUR_S = 3600.0


def whole(kit: Kit) -> bool:
    """Every manifest names objects that are there and are what they are said to be."""
    for at in kit.manifests():
        for file in kit.manifest(int(at.rpartition("/")[2].removesuffix(".json"))).files:
            data = read(kit.objects, LAYOUT.object(file.object), limits.CHECKPOINT_OBJECT_BYTES)
            if (len(data), hashlib.sha256(data).hexdigest()) != (file.size, file.sha256):
                return False
    return True


def test_everything_is_uploaded_and_the_manifest_comes_last(kit: Kit) -> None:
    done = kit.checkpoint(1, a=b"1")
    *objects, last = kit.script.puts()
    assert last == done.key == key(1)
    assert objects
    assert all(name.startswith(LAYOUT.objects) for name in objects)
    assert {LAYOUT.object(file.object) for file in done.manifest.files} == set(objects)
    assert done.bytes_new == done.bytes_total == sum(file.size for file in done.manifest.files)
    assert whole(kit)


def test_a_manifest_says_which_commit_and_code_it_is_of(kit: Kit) -> None:
    kit.commit(1, a=b"1")
    done = kit.upload(Facts("topology", {"count": 2}, barrier=9, digest="d"))
    found = kit.manifest(1)
    assert found == done.manifest or found.encode() == done.manifest.encode()
    assert found.mark == mark(1)
    assert (found.job, found.task) == (JOB, TASK)
    assert (found.topology, found.steps, found.barrier, found.digest) == (
        "topology",
        {"count": 2, "seen": None},
        9,
        "d",
    )
    assert found.created_ms == kit.clock.wall_ms()
    assert found.previous is None


def test_objects_are_named_by_their_content(kit: Kit) -> None:
    done = kit.checkpoint(1)
    assert [file.object for file in done.manifest.files] == [file.sha256 for file in done.manifest.files]


def test_only_what_the_store_lacks_is_uploaded(rocks: Kit) -> None:
    many = {f"k{n:05d}": bytes(100) for n in range(2_000)}
    first = rocks.checkpoint(1, **many)
    second = rocks.checkpoint(2, one=b"more")
    assert second.manifest.previous == 1
    assert second.bytes_total > first.bytes_total
    assert second.bytes_new < first.bytes_new
    kept = {file.object for file in first.manifest.files if file.name.endswith(".sst")}
    assert kept < {file.object for file in second.manifest.files}
    assert whole(rocks)


def test_a_new_owner_goes_on_from_what_the_former_one_left(rocks: Kit) -> None:
    rocks.checkpoint(1, **{f"k{n:05d}": bytes(100) for n in range(2_000)})
    rocks.uploader = rocks.another_uploader()
    second = rocks.checkpoint(2, one=b"more")
    assert second.manifest.previous == 1
    assert second.bytes_new < second.bytes_total / 2


def test_a_file_that_was_read_once_is_not_read_again(rocks: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    rocks.checkpoint(1, **{f"k{n:05d}": bytes(100) for n in range(2_000)})
    opened: list[str] = []
    real = Path.read_bytes

    def noted(path: Path) -> bytes:
        opened.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    first = {file.name for file in rocks.manifest(1).files if file.name.endswith(".sst")}
    rocks.checkpoint(2, one=b"more")
    assert first
    assert not first & set(opened)


def test_nothing_changed_costs_a_manifest_and_no_object(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    again = kit.upload()
    assert again.manifest == kit.manifest(1) or again.manifest.encode() == kit.manifest(1).encode()
    assert kit.manifests() == [key(1)]
    assert whole(kit)


# --- a manifest is created once -----------------------------------------------------------------------------------


def test_a_manifest_is_never_overwritten(kit: Kit) -> None:
    """Two owners at one commit: a zombie's checkpoint and the new owner's. The first that came stays, and counts."""
    first = kit.checkpoint(1, a=b"1")
    before = read(kit.objects, key(1))
    kit.uploader = kit.another_uploader()
    kit.advance(5)
    second = kit.upload(replace(FACTS, barrier=7))
    assert read(kit.objects, key(1)) == before
    assert second.manifest.encode() == first.manifest.encode() == before


def test_one_epoch_with_two_commits_is_a_broken_law(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    kit.rewrite(1, nonce="another")
    kit.uploader = kit.another_uploader()
    with pytest.raises(InvariantBroken, match="is a checkpoint of"):
        kit.upload()


def test_a_torn_manifest_does_not_count_and_the_next_epoch_is_not_hindered(kit: Kit) -> None:
    kit.script.plan("put_once", key(1), Fault("torn"))
    with pytest.raises(CheckpointDamaged, match=r"1\.json cannot be read"):
        kit.checkpoint(1, a=b"1")
    done = kit.checkpoint(2, a=b"2")
    assert kit.manifest(2).encode() == done.manifest.encode()
    assert kit.restore(2).manifest is not None
    assert kit.restored() == {b"a": b"2"}


# --- faults of the store ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["put_once", "list"])
def test_an_upload_that_fails_leaves_no_manifest_and_the_next_goes_on_from_it(kit: Kit, call: str) -> None:
    kit.commit(1, a=b"1")
    kit.script.plan(call, "", Fault("fail"), times=1000)
    with pytest.raises(CheckpointStoreUnavailable):
        kit.upload()
    kit.script.planned.clear()
    assert kit.manifests() == []
    kit.upload()
    assert whole(kit)


def test_an_upload_killed_anywhere_before_its_manifest_leaves_nothing_that_counts(kit: Kit) -> None:
    """Killed: the store refuses from the n-th put on; then another process uploads."""
    kit.commit(1, a=b"1")
    total, at = 1000, 0
    while at < total:
        kit.uploader = kit.another_uploader()
        before = len(kit.script.puts())
        kit.objects.faults = refusing_after(kit, at)
        try:
            total = len(kit.upload().manifest.files)
        except CheckpointStoreError:
            assert kit.manifests() == []
        kit.objects.faults = kit.script
        at += 1 if len(kit.script.puts()) == before else total
    kit.uploader = kit.another_uploader()
    kit.upload()
    assert whole(kit)


def refusing_after(kit: Kit, puts: int) -> Callable[[str, str], Fault | None]:
    left = puts

    def fault(call: str, key: str) -> Fault | None:
        nonlocal left
        if call == "put_once":
            left -= 1
            return Fault("denied") if left < 0 else None
        return None

    return fault


def test_what_a_killed_upload_put_is_not_uploaded_again_while_it_is_young(rocks: Kit) -> None:
    rocks.commit(1, **{f"k{n:05d}": bytes(100) for n in range(2_000)})
    rocks.script.plan("put_once", "manifests", Fault("denied"))
    with pytest.raises(CheckpointStoreError):
        rocks.upload()
    rocks.advance(limits.CHECKPOINT_REUSE_S - 60)
    rocks.uploader = rocks.another_uploader()
    done = rocks.upload()
    assert done.bytes_new < done.bytes_total / 2
    assert all(file.object == file.sha256 for file in done.manifest.files if file.name.endswith(".sst"))


def test_an_old_object_that_nothing_names_is_not_relied_upon(kit: Kit) -> None:
    """It may be collected at this moment, by somebody who listed manifests before this one was there."""
    kit.commit(1, a=b"1")
    kit.script.plan("put_once", "manifests", Fault("denied"))
    with pytest.raises(CheckpointStoreError):
        kit.upload()
    old = kit.stored()
    kit.advance(limits.CHECKPOINT_REUSE_S + 1)
    kit.upload()
    assert not old & kit.named()
    for name in old:
        kit.objects.delete(name)
    assert whole(kit)


def test_an_answer_that_was_lost_is_no_second_upload(kit: Kit) -> None:
    kit.script.plan("put_once", "", Fault("answer lost"), times=3)
    done = kit.checkpoint(1, a=b"1")
    assert whole(kit)
    assert kit.stored() == kit.named()
    assert kit.manifest(1).encode() == done.manifest.encode()


def test_an_answer_to_the_manifest_that_was_lost_counts_the_manifest(kit: Kit) -> None:
    kit.script.plan("put_once", key(1), Fault("answer lost"))
    done = kit.checkpoint(1, a=b"1")
    assert kit.manifest(1).encode() == done.manifest.encode()


def test_a_torn_object_is_not_named(kit: Kit) -> None:
    torn: set[str] = set()

    def first_of_each_content(call: str, at: str) -> Fault | None:
        if call != "put_once" or at.partition(".")[0] in torn or "objects" not in at:
            return None
        torn.add(at)
        return Fault("torn")

    kit.objects.faults = first_of_each_content
    kit.checkpoint(1, a=b"1")
    assert whole(kit)
    assert kit.stored() - kit.named()


def test_repeating_is_bounded_and_backs_off(kit: Kit) -> None:
    kit.commit(1, a=b"1")
    kit.script.plan("put_once", "", Fault("fail"), times=10_000)
    began = kit.clock.monotonic_s()
    with pytest.raises(CheckpointStoreUnavailable):
        kit.upload()
    passed = kit.clock.monotonic_s() - began
    assert limits.CHECKPOINT_RETRY_S - 2 * limits.RETRY_CAP_S <= passed <= limits.CHECKPOINT_RETRY_S
    assert 10 < len(kit.script.puts()) < 100


def test_what_a_person_must_mend_is_not_repeated(kit: Kit) -> None:
    kit.script.plan("put_once", "", Fault("denied"))
    with pytest.raises(CheckpointStoreError):
        kit.checkpoint(1, a=b"1")
    assert len(kit.script.puts()) == 1


@pytest.mark.parametrize("part", ["objects", "manifests"])
def test_an_upload_that_takes_too_long_does_not_count(kit: Kit, part: str) -> None:
    kit.script.plan("put_once", part, Fault("slow", limits.CHECKPOINT_UPLOAD_S + 1.0))
    with pytest.raises(CheckpointStoreUnavailable, match=r"took longer than 1200 s and does not count"):
        kit.checkpoint(1, a=b"1")
    assert kit.manifests() == ([] if part == "objects" else [key(1)])


def test_what_a_restore_found_wrong_is_uploaded_again_under_another_name(rocks: Kit) -> None:
    rocks.checkpoint(1, a=b"1")
    bad = next(file.object for file in rocks.manifest(1).files if file.name.endswith(".sst"))
    rocks.objects.corrupt(LAYOUT.object(bad))
    rejected = rocks.restore(1).rejected
    assert [found.objects for found in rejected] == [{bad}]
    rocks.uploader.distrust(rejected[0].objects)
    done = rocks.checkpoint(2, b=b"2")
    assert bad not in {file.object for file in done.manifest.files}
    assert rocks.verify(key(2)).whole


def test_a_base_that_was_deleted_is_not_built_upon(rocks: Kit) -> None:
    rocks.checkpoint(1, **{f"k{n:05d}": bytes(100) for n in range(2_000)})
    rocks.objects.delete(key(1))
    rocks.advance(HOUR_S)
    done = rocks.checkpoint(2, one=b"more")
    assert done.manifest.previous is None
    assert done.bytes_new == done.bytes_total


def test_an_object_that_is_missing_is_noticed_by_the_next_owner(rocks: Kit) -> None:
    rocks.checkpoint(1, **{f"k{n:05d}": bytes(100) for n in range(2_000)})
    rocks.objects.lose(LAYOUT.object(rocks.manifest(1).files[0].object))
    rocks.uploader = rocks.another_uploader()
    rocks.checkpoint(2, one=b"more")
    assert rocks.verify(key(2)).whole


# --- the snapshot -------------------------------------------------------------------------------------------------


def test_a_snapshot_is_of_the_commit_whatever_is_applied_afterwards(kit: Kit) -> None:
    kit.commit(1, a=b"1")
    snapshot = kit.snapshot()
    if kit.form == "rocks":
        kit.commit(2, a=b"2", b=b"2")
    kit.uploader.upload(snapshot, FACTS)
    assert kit.restore(2).manifest is not None
    assert kit.restored() == {b"a": b"1"}


def test_the_snapshot_is_gone_when_the_upload_is_over_well_or_badly(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    kit.script.plan("put_once", "", Fault("denied"))
    with pytest.raises(CheckpointStoreError):
        kit.checkpoint(2, a=b"2")
    assert [path.name for path in kit.path.iterdir() if "snapshot" in path.name] == []


def test_a_snapshot_left_by_a_killed_process_is_in_nobodys_way(kit: Kit) -> None:
    kit.commit(1, a=b"1")
    kit.snapshot()
    kit.commit(2, a=b"2")
    kit.upload()
    assert kit.restore(2).manifest is not None
    assert kit.restored() == {b"a": b"2"}


def test_what_is_uploaded_is_read_back_first(kit: Kit) -> None:
    kit.commit(1, a=b"1")
    with pytest.raises(InvariantBroken, match="is not of"):
        kit.uploader.upload(replace(kit.snapshot(), mark=mark(2)), FACTS)
    with pytest.raises(InvariantBroken, match="has not the steps"):
        kit.uploader.upload(replace(kit.snapshot(), steps=frozenset({"count"})), FACTS)
    assert kit.script.puts() == []


def test_there_is_no_checkpoint_before_the_first_epoch(kit: Kit) -> None:
    with pytest.raises(InvariantBroken, match="before its first epoch"):
        kit.snapshot()


def test_a_disk_that_cannot_hold_a_snapshot_stops_by_name(rocks: Kit) -> None:
    rocks.commit(1, a=b"1")
    from streamcore.checkpoint import snapshot

    with pytest.raises(StateDirError):
        snapshot.take(rocks.store, Path("/proc/task.snapshot"))


def test_a_snapshot_costs_the_disk_nothing(rocks: Kit) -> None:
    rocks.commit(1, **{f"k{n:05d}": bytes(100) for n in range(2_000)})
    tables = [path for path in rocks.snapshot().files() if path.suffix == ".sst"]
    assert tables
    assert all(path.stat().st_nlink == 2 for path in tables)


def test_what_was_flushed_before_is_not_flushed_by_the_snapshot(rocks: Kit) -> None:
    rocks.commit(1, a=b"1")
    assert isinstance(rocks.store, RocksStore)
    rocks.store.flush(wait=True)
    before = {path.name for path in (rocks.path / "task" / "db").glob("*.sst")}
    assert {path.name for path in rocks.snapshot().files() if path.suffix == ".sst"} == before


# --- beside the processing thread ---------------------------------------------------------------------------------


@pytest.fixture(params=[Beside, Inline])
def work(request: pytest.FixtureRequest) -> Work[int]:
    return Inline[int]("inline") if request.param is Inline else Beside[int]("beside")


def test_a_result_is_picked_up_once(work: Work[int]) -> None:
    assert work.poll() is None
    work.submit(lambda: 7)
    work.wait(10)
    assert work.busy
    assert work.poll() == Done(7)
    assert work.poll() is None
    assert not work.busy


def test_a_failure_is_a_result_and_a_bug_is_raised_where_it_is_polled(work: Work[int]) -> None:
    error = CheckpointStoreUnavailable("away")

    def fail() -> int:
        raise error

    work.submit(fail)
    work.wait(10)
    assert work.poll() == Failed(error)
    work.submit(lambda: 1 // 0)
    work.wait(10)
    with pytest.raises(ZeroDivisionError):
        work.poll()
    work.submit(lambda: 8)
    work.wait(10)
    assert work.poll() == Done(8)


def test_there_is_never_a_second_one_in_flight() -> None:
    work, go = Beside[int]("beside"), threading.Event()
    work.submit(lambda: int(go.wait(10)))
    assert work.poll() is None
    with pytest.raises(InvariantBroken, match="a second piece of work"):
        work.submit(lambda: 2)
    go.set()
    work.wait(10)
    assert work.poll() == Done(1)


def test_an_upload_runs_beside_the_thread_that_commits(rocks: Kit) -> None:
    work = Beside[str]("upload")
    rocks.commit(1, a=b"1")
    snapshot = rocks.snapshot()
    work.submit(lambda: rocks.uploader.upload(snapshot, FACTS).key)
    rocks.commit(2, a=b"2")
    work.wait(30)
    assert work.poll() == Done(key(1))
