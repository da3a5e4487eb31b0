"""What is a directory's own: where it lies, what it refuses, what a killed process leaves."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from streamcore import limits
from streamcore.checkpoint.directory import DirectoryStore
from streamcore.checkpoint.store import read
from streamcore.errors import CheckpointStoreError, CheckpointStoreUnavailable


def test_a_disk_that_is_not_mounted_is_not_taken_for_an_empty_store(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "not" / "there")
    with pytest.raises(CheckpointStoreError, match=r"No such file(.|\n)*create the directory, or mount its disk"):
        store.put_once("job/a", b"")
    with pytest.raises(CheckpointStoreError, match="No such file"):
        store.list("")
    assert not (tmp_path / "not").exists()


def test_a_file_where_the_directory_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointStoreError, match=r"file:///.*/file: writing job/a failed"):
        DirectoryStore(tmp_path / "file").put_once("job/a", b"")
    with pytest.raises(CheckpointStoreError, match="Not a directory"):
        DirectoryStore(tmp_path / "file").list("")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space there"),
        (errno.EDQUOT, "free some space there"),
        (errno.EROFS, "the right to write there"),
        (errno.EACCES, "the right to write there"),
        (errno.ENOTSUP, "hard links"),
    ],
)
def test_a_disk_that_refuses_stops_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    store = DirectoryStore(tmp_path)
    refuse(monkeypatch, "link", number)
    with pytest.raises(CheckpointStoreError, match=f"writing job/a failed: {os.strerror(number)}(.|\n)*{remedy}"):
        store.put_once("job/a", b"1")
    assert store.list("") == []
    assert list((tmp_path / ".new").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_disk_that_does_not_answer_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = DirectoryStore(tmp_path)
    refuse(monkeypatch, "fsync", number)
    with pytest.raises(CheckpointStoreUnavailable):
        store.put_once("job/a", b"1")
    monkeypatch.undo()
    assert store.put_once("job/a", b"1") is True


def refuse(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    def refused(*args: Any, **named: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refused)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"not ours")
    root = tmp_path / "store"
    (root / "job").mkdir(parents=True)
    (root / "job" / "objects").symlink_to(outside)
    store = DirectoryStore(root)
    with pytest.raises(CheckpointStoreError, match="lies outside of the checkpoint store"):
        read(store, "job/objects/secret")
    with pytest.raises(CheckpointStoreError):
        store.put_once("job/objects/more", b"")
    with pytest.raises(CheckpointStoreError):
        store.delete("job/objects/secret")
    assert [file.name for file in outside.iterdir()] == ["secret"]


def test_what_a_killed_process_left_half_written_is_no_object_and_goes_when_it_is_old(tmp_path: Path) -> None:
    DirectoryStore(tmp_path).put_once("job/a", b"1")
    for name, age_s in (("old", limits.CHECKPOINT_GRACE_S + 60), ("young", limits.CHECKPOINT_GRACE_S - 60)):
        left = tmp_path / ".new" / name
        left.write_bytes(b"half")
        time_s = left.stat().st_mtime - age_s
        os.utime(left, (time_s, time_s))
    store = DirectoryStore(tmp_path)
    assert [stat.key for stat in store.list("")] == ["job/a"]
    store.put_once("job/b", b"2")
    assert [left.name for left in (tmp_path / ".new").iterdir()] == ["young"]


def test_bytes_and_name_are_synced_before_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)
    store.put_once("job/objects/first", b"1")
    calls: list[str] = []
    fsync, link = os.fsync, os.link

    def synced(handle: int) -> None:
        calls.append("sync " + os.readlink(f"/proc/self/fd/{handle}").removeprefix(str(tmp_path)).split("/")[1])
        fsync(handle)

    def linked(*names: str) -> None:
        calls.append("link")
        link(*names)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    store.put_once("job/objects/a", b"1")
    assert calls == ["sync .new", "link", "sync job"]


def test_a_store_that_is_taken_away_and_comes_back_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    store = DirectoryStore(tmp_path / "disk" / "store")
    store.put_once("job/objects/a", b"1")
    (tmp_path / "disk").rename(tmp_path / "gone")
    with pytest.raises(CheckpointStoreError, match="No such file or directory"):
        store.put_once("job/objects/b", b"2")
    assert not (tmp_path / "disk").exists()
    (tmp_path / "gone").rename(tmp_path / "disk")
    assert store.put_once("job/objects/b", b"2")


def test_a_store_that_was_deleted_begins_anew(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    store.put_once("job/objects/a", b"1")
    shutil.rmtree(tmp_path / "store")
    assert store.put_once("job/objects/a", b"1")
