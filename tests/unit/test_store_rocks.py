"""The directory on disk: whose it is, who holds it, damage, and a process that dies."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from streamcore.errors import StateDamaged, StateDirError, StopError
from streamcore.state.rocks import RocksStore, mapped
from streamcore.state.store import RESERVED, Delta, EpochMark
from streamcore.types import Epoch, Offset, Partition, TaskId

TASK = TaskId("lines", Partition(3))
MARK = EpochMark("line", Epoch(5), "nonce", Offset(8), Offset(9))


def opened(path: Path, job: str = "job", task: TaskId = TASK) -> RocksStore:
    return RocksStore.open(path, ["count"], job=job, task=task)


def filled(path: Path) -> RocksStore:
    store = opened(path)
    store.apply({"count": Delta([b"a"], [b"1"])}, MARK)
    return store


def child(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Another process, with the state directory as its argument."""
    preamble = (
        "import os, resource, signal, sys\nfrom pathlib import Path\n"
        "from streamcore.errors import *\nfrom streamcore.state.rocks import RocksStore\n"
        "from streamcore.state.store import Delta, EpochMark\nfrom streamcore.types import TaskId\n"
        "task, path, mark = TaskId('lines', 3), Path(sys.argv[1]), EpochMark('line', 5, 'nonce', 8, 9)\n"
        "def opened(): return RocksStore.open(path, ['count'], job='job', task=task)\n"
    )
    run = [sys.executable, "-c", preamble + code, str(path)]
    return subprocess.run(run, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


def test_what_was_applied_survives_kill_9(tmp_path: Path) -> None:
    code = "s = opened(); s.apply({'count': Delta([b'a'], [b'1'])}, mark); os.kill(os.getpid(), signal.SIGKILL)"
    assert child(code, tmp_path / "t").returncode == -9
    store = opened(tmp_path / "t")
    assert store.mark() == MARK
    assert store.column("count").get(b"a") == b"1"
    store.close()


def test_a_directory_held_by_another_process_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path / "t")
    other = child("opened()", tmp_path / "t")
    assert other.returncode == 1
    assert "StateDirError" in other.stderr
    assert "is in use by another process" in other.stderr
    assert store.mark() == MARK
    store.close()


def test_it_can_be_read_beside_a_running_job(tmp_path: Path) -> None:
    store = filled(tmp_path / "t")
    code = "s = RocksStore.open_read_only(path); print(s.mark().epoch, s.column('count').get(b'a')); s.close()"
    assert child(code, tmp_path / "t").stdout == "5 b'1'\n"
    store.apply({"count": Delta([b"b"], [b"2"])}, MARK)
    assert dict(store.column("count").scan(b"", RESERVED)) == {b"a": b"1", b"b": b"2"}
    store.close()


def test_reading_only_leaves_no_trace(tmp_path: Path) -> None:
    filled(tmp_path / "t").close()
    before = sorted(file.name for file in (tmp_path / "t" / "db").iterdir())
    reader = RocksStore.open_read_only(tmp_path / "t")
    assert reader.mark() == MARK
    reader.close()
    assert sorted(file.name for file in (tmp_path / "t" / "db").iterdir()) == before


def test_another_jobs_or_tasks_directory_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "t").close()
    with pytest.raises(StateDirError, match=r"belongs to job job, task lines\[3\], not to job other, task lines\[3\]"):
        opened(tmp_path / "t", job="other")
    with pytest.raises(StateDirError, match=r"not to job job, task lines\[4\]"):
        opened(tmp_path / "t", task=TaskId("lines", Partition(4)))


def test_a_newer_versions_directory_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "t").close()
    (tmp_path / "t" / "streamcore.json").write_text('{"format": 2, "job": "job", "stage": "lines", "partition": 3}')
    with pytest.raises(StateDirError, match="has format 2, newer than this streamcore's 1"):
        opened(tmp_path / "t")


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1}', b'{"format": 1, "job": "\xff", "stage": 1}', None])
def test_an_unreadable_format_file_is_damage(tmp_path: Path, content: bytes | None) -> None:
    filled(tmp_path / "t").close()
    file = tmp_path / "t" / "streamcore.json"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(StateDamaged, match=r"streamcore\.json"):
        opened(tmp_path / "t")


def damage(path: Path, pattern: str) -> None:
    (file,) = (path / "db").glob(pattern)
    data = bytearray(file.read_bytes())
    data[len(data) // 3 : len(data) // 2] = b"\xaa" * (len(data) // 2 - len(data) // 3)
    file.write_bytes(data)


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*"])
def test_a_damaged_database_is_named_as_such_set_aside_and_made_anew(
    tmp_path: Path, pattern: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lines-3"
    filled(path).close()
    damage(path, pattern)
    with pytest.raises(StateDamaged, match=f"the state in {path} failed"):
        opened(path)
    with caplog.at_level(logging.WARNING):
        RocksStore.set_aside(path, "damaged")
    assert "is set aside as lines-3.damaged-1 and rebuilt from the journal: damaged" in caplog.text
    fresh = opened(path)
    assert fresh.mark() is None
    fresh.close()


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    filled(tmp_path / "t").close()
    for file in (tmp_path / "t" / "db").glob("*.sst"):
        file.unlink()
    with pytest.raises(StateDamaged):
        opened(tmp_path / "t").mark()


def test_only_the_newest_damaged_directory_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "t"
    for _ in range(3):
        filled(path).close()
        RocksStore.set_aside(path, "test")
    assert [file.name for file in tmp_path.iterdir()] == ["t.damaged-3"]
    RocksStore.set_aside(path, "nothing there")


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("not a directory")
    with pytest.raises(StateDirError, match="creating the state directory"):
        opened(tmp_path / "t")


def test_a_write_that_the_system_refuses_stops_with_the_remedy(tmp_path: Path) -> None:
    code = (
        "s = opened(); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    [s.apply({'count': Delta([b'a'], [os.urandom(50_000)])}, mark) for _ in range(9)]\n"
        "except StateDirError as error: print(error)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    told = child(code, tmp_path / "t").stdout
    assert "writing the state directory" in told
    assert "File too large" in told
    assert "ulimit -f" in told


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("IO error: No space left on device: While appending to file: /x/000004.log", StateDirError),
        ("IO error: While lock file: /x/LOCK: Resource temporarily unavailable", StateDirError),
        ("IO error: lock hold by current process, acquire time 1: /x/LOCK: No locks available", StateDirError),
        ("IO error: While mkdir if missing: /x: Permission denied", StateDirError),
        ("IO error: While open a file for appending: /x: Read-only file system", StateDirError),
        ("IO error: While open a file for random read: /x/9.sst: Too many open files", StateDirError),
        ("IO error: While pread: /x/9.sst: Input/output error", StateDirError),
        ("IO error: No such file or directory: While open a file for random read: /x/9.sst", StateDamaged),
        ("Corruption: block checksum mismatch", StateDamaged),
        ("Invalid argument: Column families not opened: a", StateDamaged),
        ("Operation aborted: ", StateDamaged),
    ],
)
def test_every_status_of_rocksdb_is_one_of_our_errors(status: str, expected: type[Exception]) -> None:
    error = mapped(Exception(status), Path("/x"), "reading")
    assert type(error) is expected
    assert status in error.what
    assert error.remedy or not isinstance(error, StopError)


def test_a_flush_on_another_thread_of_a_store_that_was_closed_does_nothing(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path / "task", ["count"], job="job", task=TaskId("lines", Partition(0)))
    store.close()
    store.flush(wait=True)
