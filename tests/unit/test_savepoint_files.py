"""A savepoint in one file, and the commands that look at savepoints."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.bundle import export, unpack
from streamcore.checkpoint.directory import DirectoryStore
from streamcore.checkpoint.manifest import File, Layout, Manifest, load
from streamcore.checkpoint.savepoint import SavedStage, SavedStep, SavedTask, Savepoint
from streamcore.checkpoint.store import CheckpointStore
from streamcore.cli.main import app
from streamcore.errors import CheckpointDamaged, SettingsError, StateMismatch
from streamcore.types import Epoch, Offset, Partition

DATA = {"a": b"first file", "b": b"second file"}


def stored(store: CheckpointStore) -> Savepoint:
    layout = Layout("job")
    files: list[File] = []
    for name, data in DATA.items():
        sha = hashlib.sha256(data).hexdigest()
        store.put_once(layout.object(sha), data)
        files.append(File(name, sha, len(data), sha))
    manifest = Manifest(
        job="job", stage="lines", partition=Partition(0), lineage="l1", epoch=Epoch(3), nonce="n", journal=Offset(5),
        journal_end=Offset(6), topology="t", steps={"count": None}, files=tuple(files), created_ms=1,
    )  # fmt: skip
    store.put_once(manifest.key, manifest.encode())
    task = SavedTask(Partition(0), "l1", Epoch(3), "n", {"lines": 40}, manifest.key)
    stage = SavedStage(False, "None", 1, {"count": SavedStep("aggregate", None)}, (task,))
    found = Savepoint(job="job", name="s1", barrier=1, topology="t", created_ms=1, stages={"lines": stage})
    assert savepoints.write(store, found)
    return savepoints.load(store, "job", "s1")


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def test_an_exported_savepoint_is_whole_in_another_store(store: DirectoryStore, tmp_path: Path) -> None:
    saved = stored(store)
    export(store, saved, tmp_path / "s1.tar")
    other = DirectoryStore(tmp_path / "other")
    assert unpack(other, tmp_path / "s1.tar") == saved
    (key,) = savepoints.load(other, "job", "s1").manifests
    manifest = load(other, key)
    found = {f.name: b"".join(other.get(Layout("job").object(f.object))) for f in manifest.files}
    assert found == DATA
    assert not list(tmp_path.glob("*.partial"))


def test_an_export_never_overwrites_a_file(store: DirectoryStore, tmp_path: Path) -> None:
    saved = stored(store)
    (tmp_path / "s1.tar").write_bytes(b"mine")
    with pytest.raises(SettingsError, match="exists already"):
        export(store, saved, tmp_path / "s1.tar")
    assert (tmp_path / "s1.tar").read_bytes() == b"mine"


def test_an_export_of_what_is_not_whole_leaves_no_file(store: DirectoryStore, tmp_path: Path) -> None:
    saved = stored(store)
    store.delete(store.list("job/objects/")[0].key)
    with pytest.raises(CheckpointDamaged, match="missing"):
        export(store, saved, tmp_path / "s1.tar")
    assert not (tmp_path / "s1.tar").exists()


@pytest.mark.parametrize("missing", [b"streamcore-savepoint", b"savepoint.json", b"manifests/0", b"second file"])
def test_a_file_that_was_half_copied_is_refused_and_names_nothing_whole(
    store: DirectoryStore, tmp_path: Path, missing: bytes
) -> None:
    saved = stored(store)
    export(store, saved, tmp_path / "s1.tar")
    half, whole = tmp_path / "half.tar", (tmp_path / "s1.tar").read_bytes()
    half.write_bytes(whole[: whole.index(missing)])
    other = DirectoryStore(tmp_path / "other")
    with pytest.raises((CheckpointDamaged, tarfile.TarError)):
        unpack(other, half)
    assert savepoints.names(other, "job") == []


def member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_a_file_of_a_newer_format_is_named(store: DirectoryStore, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "new.tar", "w") as tar:
        member(tar, "streamcore-savepoint", b"2\n")
    with pytest.raises(StateMismatch, match="format"):
        unpack(store, tmp_path / "new.tar")


def test_a_file_with_a_member_of_its_own_is_refused(store: DirectoryStore, tmp_path: Path) -> None:
    saved = stored(store)
    export(store, saved, tmp_path / "s1.tar")
    with tarfile.open(tmp_path / "s1.tar", "a") as tar:
        member(tar, "objects/../../../etc/passwd", b"x")
    with pytest.raises(CheckpointDamaged, match="does not name"):
        unpack(DirectoryStore(tmp_path / "other"), tmp_path / "s1.tar")


def test_a_wrong_byte_in_an_object_is_found(store: DirectoryStore, tmp_path: Path) -> None:
    saved = stored(store)
    export(store, saved, tmp_path / "s1.tar")
    data = (tmp_path / "s1.tar").read_bytes().replace(b"second file", b"sec0nd file")
    (tmp_path / "s1.tar").write_bytes(data)
    with pytest.raises(CheckpointDamaged, match="SHA-256"):
        unpack(DirectoryStore(tmp_path / "other"), tmp_path / "s1.tar")


def test_the_commands_list_show_export_import_and_drop(store: DirectoryStore, tmp_path: Path) -> None:
    stored(store)
    run, url = CliRunner().invoke, ["--checkpoints", (tmp_path / "store").as_uri()]
    assert run(app, ["savepoint", "list", "job", *url]).output.split() == ["s1"]
    shown = run(app, ["savepoint", "show", "job", "s1", *url])
    assert '"lines": 40' in shown.output, shown.output
    file = str(tmp_path / "s1.tar")
    assert run(app, ["savepoint", "export", "job", "s1", file, *url]).exit_code == 0
    other = ["--checkpoints", (tmp_path / "other").as_uri()]
    assert run(app, ["savepoint", "import", file, *other]).exit_code == 0
    again = run(app, ["savepoint", "import", file, *other])
    assert again.exit_code == 10 and "already" in again.output
    assert run(app, ["savepoint", "drop", "job", "s1", "--yes", *url]).exit_code == 0
    assert run(app, ["savepoint", "list", "job", *url]).output == ""
    missing = run(app, ["savepoint", "show", "job", "s1", *url])
    assert missing.exit_code == 10 and "no savepoint 's1'" in missing.output


def test_on_the_embedded_log_nobody_can_be_asked(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["savepoint", "create", "job", "s1", "--state-dir", str(tmp_path)])
    assert result.exit_code == 10
    assert "no other process can talk to a running job" in result.output
