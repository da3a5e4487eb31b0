"""Checkpoints in real processes: a real Kafka, a directory and a real S3-compatible server, disks that are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from streamcore.checkpoint.manifest import Layout, load
from streamcore.checkpoint.opening import open_store
from streamcore.errors import EXIT_STOP
from streamcore.log.kafka import KafkaLog
from streamcore.types import Offset, Partition, TopicPartition
from tests.checkpoint.s3 import KEY_ID, SECRET, S3Server
from tests.kafka.test_command_line import ROOT, Shell, eventually, plain, some_lines

PARTITIONS = 2
SHUFFLE = "by-word"


class Keeping(Shell):
    """A job that keeps checkpoints."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        super().__init__(bootstrap, directory)
        self.bootstrap = bootstrap
        self.directory = directory
        self.log = KafkaLog(bootstrap)
        self.metrics = _free_port()

    def topics(self, lines: int = PARTITIONS) -> None:
        """`lines`: how many partitions the input has, and so has the shuffle."""
        admin = self.log.admin()
        for name, partitions in ((self.lines, lines), (self.counts, PARTITIONS)):
            admin.create(name, partitions, {})
        admin.close()

    def start(self, *arguments: str, kafka: bool = True, module: str = "streamcore") -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "STREAMCORE_WORKER__SESSION_TIMEOUT": "6s"}
        if kafka:
            environment["STREAMCORE_KAFKA__BOOTSTRAP"] = self.bootstrap
        command = [sys.executable, "-m", module, *arguments]
        with (self.directory / "errors").open("a") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=self.directory
            )
        self._started.append(process)
        return process

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        return self.start("run", "count.py:job", "--metrics-port", str(self.metrics), *arguments)

    def produce(self, *lines: str) -> None:
        producer = self.log.producer(None)
        producer.init(10)
        producer.produce(self.lines, None, [line.encode() for line in lines])
        producer.flush(30)
        producer.close()

    def read(self) -> list[tuple[str, int]]:
        """Committed counts, each word's in their order."""
        tps = [TopicPartition(self.counts, Partition(number)) for number in range(PARTITIONS)]
        reader = self.log.reader(dict.fromkeys(tps, Offset(0)))
        found: list[tuple[str, int]] = []
        while reader.ended() != frozenset(tps):
            for run in reader.poll(10_000, 0.1):
                found += [
                    ((key or b"").decode(), int(value or b"")) for key, value in zip(run.keys, run.values, strict=True)
                ]
        reader.close()
        return found

    def until_counted(self, lines: list[str]) -> None:
        eventually(lambda: True if dict(self.read()) == plain(lines) else None)

    def refuse_repeats(self) -> None:
        """A count comes once, and only rises."""
        last: dict[str, int] = {}
        for word, count in self.read():
            assert count > last.get(word, 0), f"{word}: {count} after {last[word]}"
            last[word] = count

    def kill(self, worker: subprocess.Popen[str]) -> None:
        worker.kill()
        worker.wait()

    def stop(self, worker: subprocess.Popen[str]) -> None:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=60) == 0, self.errors()[-5000:]

    def journals_begin(self) -> list[int]:
        tps = [TopicPartition(f"{self.job}.journal.{SHUFFLE}", Partition(p)) for p in range(PARTITIONS)]
        admin = self.log.admin()
        try:
            return list(admin.first_offsets(tps).values())
        finally:
            admin.close()

    def metric(self, name: str) -> float:
        with urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def until_said(self, words: str, times: int = 1) -> None:
        eventually(lambda: True if self.errors().count(words) >= times else None)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def keeping(bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeping]:
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__INTERVAL", "1h")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__STORE", f"file://{tmp_path}/disk/kept")
    (tmp_path / "disk").mkdir()
    keeping = Keeping(bootstrap, tmp_path)
    keeping.topics()
    yield keeping
    keeping.end()
    keeping.log.close()


def in_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str, where: str) -> None:
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__STORE", where)
    for name, value in {
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("where", ["directory", "s3"])
def test_a_lost_disk_comes_back_from_the_store_though_the_journal_is_trimmed(
    keeping: Keeping, where: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__KEEP", "1")
    if where == "s3":
        in_s3(monkeypatch, s3_server.endpoint, f"s3://{s3_server.bucket(f'kept-{keeping.job}')}/some/prefix")
    lines = some_lines(3_000)
    worker = keeping.run("--feed", keeping.feed_file(*lines[:1_000]))
    keeping.until_counted(lines[:1_000])
    assert f"{2 * PARTITIONS} tasks are checkpointed" in keeping("checkpoint", "now", keeping.job)
    eventually(lambda: True if all(keeping.journals_begin()) else None)
    keeping.produce(*lines[1_000:2_000])
    keeping.until_counted(lines[:2_000])
    keeping.kill(worker)

    shutil.rmtree(keeping.directory / ".streamcore")
    worker = keeping.run()
    keeping.until_said("restored at epoch", 2 * PARTITIONS)
    keeping.produce(*lines[2_000:])
    keeping.until_counted(lines)
    assert keeping.metric("streamcore_restore_seconds_count") == 2 * PARTITIONS
    keeping.kill(worker)

    worker = keeping.run()
    keeping.until_said("running 4 tasks", 3)
    assert keeping.metric("streamcore_restore_seconds_count") == 0
    assert f"{2 * PARTITIONS} tasks are checkpointed" in keeping("checkpoint", "now", keeping.job)
    keeping.stop(worker)
    keeping.refuse_repeats()
    assert "ok    " in keeping("checkpoints", "verify", keeping.job)
    assert SECRET not in keeping.errors() and KEY_ID not in keeping.errors()


def test_a_store_that_goes_away_is_told_of_and_the_job_goes_on_and_checkpoints_when_it_is_back(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__INTERVAL", "500ms")
    lines = some_lines(2_000)
    worker = keeping.run("--feed", keeping.feed_file(*lines[:1_000]))
    keeping.until_said("barrier: Complete(")
    (keeping.directory / "disk").rename(keeping.directory / "gone")
    eventually(lambda: keeping.metric("streamcore_checkpoint_failures_total") or None)
    keeping.until_said("the job goes on without it")
    keeping.until_said("barrier: Abandon(")
    keeping.produce(*lines[1_000:])
    keeping.until_counted(lines)
    assert "No such file or directory" in keeping.errors()
    (keeping.directory / "gone").rename(keeping.directory / "disk")
    complete = keeping.errors().count("barrier: Complete(")
    keeping.until_said("barrier: Complete(", complete + 1)
    keeping.stop(worker)
    keeping.refuse_repeats()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("no bucket", "create the bucket"),
        ("nobody answers", "CheckpointStoreUnavailable"),
        ("a file in its place", "File exists"),
    ],
)
def test_a_job_starts_and_commits_whatever_is_wrong_with_its_store(
    keeping: Keeping, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, wrong: str, told: str
) -> None:
    if wrong == "no bucket":
        in_s3(monkeypatch, s3_server.endpoint, f"s3://none-{keeping.job}/kept")
    elif wrong == "nobody answers":
        in_s3(monkeypatch, f"http://127.0.0.1:{_free_port()}", "s3://bucket/kept")
    else:
        (keeping.directory / "disk" / "kept").write_text("in the way")
    lines = some_lines(500)
    worker = keeping.run("--feed", keeping.feed_file(*lines))
    keeping.until_said("the job goes on without it")
    eventually(lambda: keeping.metric("streamcore_checkpoint_failures_total") or None)
    keeping.until_counted(lines)
    assert told in keeping.errors() or keeping.metric(f'streamcore_checkpoint_failures_total{{cause="{told}"}}')
    keeping.stop(worker)


def test_two_jobs_do_not_share_a_prefix(keeping: Keeping) -> None:
    worker = keeping.run("--feed", keeping.feed_file("to be"))
    owner = keeping.directory / "disk" / "kept" / keeping.job / "owner.json"
    eventually(lambda: owner.exists() or None)
    other = keeping.start("run", "count.py:job", "--state-dir", "elsewhere", kafka=False)
    assert other.wait(timeout=60) == EXIT_STOP, keeping.errors()
    assert "CheckpointStoreTaken" in keeping.errors() and f"another job {keeping.job}" in keeping.errors()
    assert json.loads(owner.read_text())["identity"] in keeping.errors()
    keeping.stop(worker)


def test_a_wrong_object_is_named_by_verify_and_a_restore_takes_the_next_older(keeping: Keeping) -> None:
    lines = some_lines(2_000)
    worker = keeping.run("--feed", keeping.feed_file(*lines[:1_000]))
    keeping.until_counted(lines[:1_000])
    keeping("checkpoint", "now", keeping.job)
    keeping.produce(*lines[1_000:])
    keeping.until_counted(lines)
    keeping("checkpoint", "now", keeping.job)
    keeping.stop(worker)

    wrong = spoil_the_newest(keeping)
    told = keeping("checkpoints", "verify", keeping.job, code=EXIT_STOP)
    assert told.count("BAD ") == 1 and wrong in told
    shutil.rmtree(keeping.directory / ".streamcore")
    worker = keeping.run()
    keeping.until_said("restored at epoch", 2 * PARTITIONS)
    assert f"{wrong} is not what its name says" in keeping.errors()
    assert keeping.errors().count("cannot be restored, an older one is tried") == 1
    keeping.produce("at last")
    keeping.until_counted([*lines, "at last"])
    keeping("checkpoint", "now", keeping.job)
    keeping.stop(worker)
    keeping.refuse_repeats()
    newest = newest_of(keeping, f"{SHUFFLE}/0")
    assert f"ok    {newest}" in keeping("checkpoints", "verify", keeping.job, newest)


def newest_of(keeping: Keeping, task: str) -> str:
    found = json.loads(keeping("checkpoints", "list", keeping.job, "--json"))
    return [each["checkpoint"] for each in found if each["checkpoint"].startswith(f"{task}/")][-1]


def spoil_the_newest(keeping: Keeping) -> str:
    """A byte of an object that the newest checkpoint of one task names, and no other. Its name."""
    path = keeping.directory / "disk" / "kept"
    store, layout = open_store(f"file://{path}"), Layout(keeping.job)
    newest = f"{layout.manifests}{newest_of(keeping, f'{SHUFFLE}/0')}.json"
    others = [load(store, stat.key) for stat in store.list(layout.manifests) if stat.key != newest]
    elsewhere = {file.object for manifest in others for file in manifest.files}
    own = next(file for file in load(store, newest).files if file.size and file.object not in elsewhere)
    spoilt = path / layout.object(own.object)
    data = bytearray(spoilt.read_bytes())
    data[len(data) // 2] ^= 1
    spoilt.write_bytes(data)
    return own.object


def test_a_default_store_is_warned_of_and_keeps_the_journals_whole(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STREAMCORE_CHECKPOINTS__STORE")
    lines = some_lines(1_000)
    worker = keeping.run("--feed", keeping.feed_file(*lines))
    keeping.until_counted(lines)
    keeping("checkpoint", "now", keeping.job)
    assert keeping.errors().count("are lost with this machine") == 1
    keeping.stop(worker)
    assert not any(keeping.journals_begin())
    worker = keeping.run("--state-dir", "another-machine")
    keeping.until_said("running 4 tasks", 2)
    keeping.produce("at last")
    keeping.until_counted([*lines, "at last"])
    keeping.stop(worker)
    keeping.refuse_repeats()


def test_asking_is_refused_where_nobody_would_answer_and_reset_takes_the_control_topic(keeping: Keeping) -> None:
    keeping("checkpoint", "now", keeping.job, code=EXIT_STOP)
    assert "has no control topic" in keeping.errors()
    worker = keeping.run()
    keeping.until_said("running 4 tasks")
    keeping.stop(worker)
    assert f"{keeping.job}.control" in keeping("topics", "list")
    eventually(lambda: True if keeping.start("reset", keeping.job, "--yes").wait(timeout=60) == 0 else None)
    assert f"{keeping.job}.control" not in keeping("topics", "list")


def test_a_drill_replays_the_journal_behind_a_checkpoint_and_so_does_verify(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__DRILL", "1s")
    lines = some_lines(1_500)
    worker = keeping.run()
    for begin in (0, 500, 1_000):
        keeping.produce(*lines[begin : begin + 500])
        keeping.until_counted(lines[: begin + 500])
        if begin < 1_000:
            keeping("checkpoint", "now", keeping.job)
    eventually(lambda: keeping.metric("streamcore_checkpoint_drill_epochs_total") or None)
    keeping.until_said("with the digest that its task recorded")
    told = keeping("checkpoints", "verify", keeping.job, "--replay")
    assert told.count("epochs replayed behind it") == told.count("ok  ") >= 2 * PARTITIONS
    for outcome in ("damaged", "differs", "unknown"):
        assert not keeping.metric(f'streamcore_checkpoint_drills_total{{outcome="{outcome}"}}')
    keeping.stop(worker)
    keeping.refuse_repeats()
