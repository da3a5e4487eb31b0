"""The local log in a directory: it outlives its process, has one writer, and can be read beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streamcore.clock import SystemClock
from streamcore.errors import LogUnavailable, StateDirError
from streamcore.log.local import LocalLog
from streamcore.log.port import Committed, Membership, OffsetCommit
from streamcore.types import Offset, Partition, TopicPartition

T0 = TopicPartition("t", Partition(0))
UNJOINED = Membership(-1, "", None, raw="g")

WRITER = """
import os, signal, sys
from pathlib import Path
from streamcore.clock import SystemClock
from streamcore.log.local import LocalLog
from streamcore.log.port import Membership, OffsetCommit
from streamcore.types import TopicPartition

class Quiet:
    def assigned(self, tps): ...
    def revoked(self, tps): ...
    def lost(self, tps): ...

T0 = TopicPartition("t", 0)
log = LocalLog.open(Path(sys.argv[1]), SystemClock())
log.admin().create("t", 2, {"max.message.bytes": "5000"})
producer = log.producer("p")
producer.init(1)
unjoined = Membership(-1, "", None, raw="g")
for number in range(4):
    producer.begin()
    producer.produce("t", 0, [b"%d" % number], keys=[b"k"], times=[number], headers=[[("h", b"v")]])
    producer.send_offsets([OffsetCommit(T0, number, "m")], unjoined, 1)
    producer.flush(1)
    if number == 1:
        producer.abort(1)
    elif number < 3:
        producer.commit(1)
consumer = log.consumer("g", "g.0")
consumer.subscribe(["t"], Quiet())
consumer.poll(1, 0.0)
print("ready", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def start_writer(path: Path) -> subprocess.Popen[str]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def kill(writer: subprocess.Popen[str]) -> None:
    writer.communicate("die\n")
    assert writer.returncode == -signal.SIGKILL


def values(log: LocalLog, committed: bool = True) -> list[bytes | None]:
    reader = log.reader({T0: Offset(0)}, committed=committed)
    found: list[bytes | None] = []
    while runs := reader.poll(100, 0.0):
        found += [v for run in runs for v in run.values]
    return found


def test_everything_outlives_a_process_that_is_killed(path: Path) -> None:
    kill(start_writer(path))
    log = LocalLog.open(path, SystemClock())
    admin = log.admin()
    assert admin.topics()["t"].partitions == 2
    assert admin.config("t")["max.message.bytes"] == "5000"
    assert values(log) == [b"0", b"2"]
    assert values(log, committed=False) == [b"0", b"1", b"2", b"3"]
    (run,) = log.reader({T0: Offset(4)}, headers=True).poll(1, 0.0)
    assert (run.keys, run.times, run.headers) == ([b"k"], [2], [[("h", b"v")]])
    assert admin.stable_ends([T0]) == {T0: 6}
    assert admin.committed("g", [T0], 1, stable=False) == {T0: Committed(Offset(2), "m")}
    assert admin.members("g") == []
    assert admin.groups() == ["g"]
    assert log.broker.open_transactions() == ["p"]
    with pytest.raises(LogUnavailable):
        admin.committed("g", [T0], 0.01)
    log.producer("p").init(1)
    assert admin.committed("g", [T0], 1) == {T0: Committed(Offset(2), "m")}
    assert admin.stable_ends([T0]) == {T0: 8}
    log.close()


def test_another_process_reads_beside_a_running_one_and_follows_it(path: Path) -> None:
    writer = LocalLog.open(path, SystemClock())
    producer = writer.producer("p")
    producer.init(1)

    def commit(value: bytes) -> None:
        producer.begin()
        producer.produce("t", Partition(0), [value])
        producer.send_offsets([OffsetCommit(T0, Offset(int(value)), "")], UNJOINED, 1)
        producer.commit(1)

    commit(b"1")
    beside = LocalLog.open(path, SystemClock(), read_only=True)
    assert values(beside) == [b"1"]
    reader = beside.reader({T0: Offset(0)})
    assert [r.values for r in reader.poll(10, 0.0)] == [[b"1"]]
    commit(b"2")
    writer.admin().create("new", 1, {})
    assert [r.values for r in reader.poll(10, 0.0)] == [[b"2"]]
    assert sorted(beside.admin().topics()) == ["new", "t"]
    assert beside.admin().committed("g", [T0], 1) == {T0: Committed(Offset(2), "")}
    writer.admin().delete(["t"])
    assert sorted(beside.admin().topics()) == ["new"]
    beside.close()
    writer.close()


def test_a_reader_beside_sees_the_members_while_the_writer_lives(path: Path) -> None:
    writer = start_writer(path)
    beside = LocalLog.open(path, SystemClock(), read_only=True)
    (member,) = beside.admin().members("g")
    assert (member.instance_id, len(member.assignment)) == ("g.0", 2)
    kill(writer)
    assert beside.admin().members("g") == []
    assert values(beside) == [b"0", b"2"]
    beside.close()


def test_a_reader_beside_writes_nothing(path: Path) -> None:
    LocalLog.open(path, SystemClock()).close()
    beside = LocalLog.open(path, SystemClock(), read_only=True)
    with pytest.raises(StateDirError, match="reading only"):
        beside.admin().create("t", 1, {})
    with pytest.raises(StateDirError, match="reading only"):
        beside.producer("p").init(1)
    beside.close()


def test_a_directory_opened_twice_for_writing_is_refused_by_name(path: Path) -> None:
    log = LocalLog.open(path, SystemClock())
    with pytest.raises(StateDirError) as refused:
        LocalLog.open(path, SystemClock())
    assert str(refused.value) == (
        f"the embedded log in {path} is in use by process {os.getpid()}: one process at a time runs jobs on it\n"
        "  what to do: stop it, or give this job another --state-dir; `topics read` and `status` work beside it"
    )
    log.close()
    LocalLog.open(path, SystemClock()).close()


def test_reading_where_there_is_no_log_is_refused(path: Path) -> None:
    with pytest.raises(StateDirError, match="there is no embedded log"):
        LocalLog.open(path, SystemClock(), read_only=True)


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirError, match="cannot be opened, read or written"):
        LocalLog.open(tmp_path / "file" / "log", SystemClock())


FULL = """
import os, resource, signal, sys
from pathlib import Path
from streamcore.clock import SystemClock
from streamcore.errors import StateDirError
from streamcore.log.local import LocalLog

log = LocalLog.open(Path(sys.argv[1]), SystemClock())
log.admin().create("t", 1, {})
producer = log.producer(None)
producer.init(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for _ in range(9):
        producer.produce("t", 0, [os.urandom(50_000)])
        producer.flush(1)
except StateDirError as error:
    print(error)
log.close()
"""


def test_a_write_that_the_system_refuses_is_told_and_closing_hides_it_by_no_error(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=False)
    assert "cannot be opened, read or written" in done.stdout and "File too large" in done.stdout
    assert done.returncode == 0, done.stderr


def test_a_damaged_log_is_refused_and_not_emptied(path: Path) -> None:
    log = LocalLog.open(path, SystemClock())
    log.admin().create("t", 1, {})
    log.close()
    (path / "CURRENT").write_text("MANIFEST-999999\n")
    before = sorted(os.listdir(path))
    with pytest.raises(StateDirError, match=r"is damaged|cannot be opened"):
        LocalLog.open(path, SystemClock())
    assert set(before) <= set(os.listdir(path))


def test_a_block_damaged_on_disk_is_an_error_of_the_read_and_not_the_end_of_the_log(path: Path) -> None:
    log = LocalLog.open(path, SystemClock())
    producer = log.producer(None)
    producer.init(1)
    for _ in range(80):
        producer.produce("t", Partition(0), [os.urandom(1_000_000)])
        producer.flush(1)
    log.close()
    log = LocalLog.open(path, SystemClock())
    for file in path.glob("*.sst"):
        with file.open("r+b") as damaged:
            damaged.seek(file.stat().st_size // 2)
            damaged.write(bytes(4_096))
    reader = log.reader({T0: Offset(0)})
    with pytest.raises(StateDirError, match="is damaged"):
        while reader.poll(10, 0.0):
            pass
    log.close()


def test_trimming_and_deleting_survive_reopening(path: Path) -> None:
    log = LocalLog.open(path, SystemClock())
    producer = log.producer(None)
    producer.init(1)
    for start in range(0, 30, 10):
        producer.produce("t", Partition(0), [b"%d" % n for n in range(start, start + 10)])
    producer.produce("gone", Partition(0), [b"x"])
    producer.flush(1)
    log.admin().delete_records({T0: Offset(15)})
    log.admin().delete(["gone"])
    log.close()
    log = LocalLog.open(path, SystemClock())
    assert sorted(log.admin().topics()) == ["t"]
    assert log.admin().first_offsets([T0]) == {T0: 15}
    (run,) = log.reader({T0: Offset(15)}).poll(100, 0.0)
    assert run.offsets == list(range(15, 30))
    log.close()
