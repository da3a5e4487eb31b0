"""The commands on a real Kafka, in real processes: workers, their supervisor, and what a person does when one fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import psutil
import pytest

from streamcore.errors import EXIT_STEP_ASIDE, EXIT_STOP
from streamcore.log.kafka import KafkaLog

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
PARTITIONS = 4

COUNT = """
from streamcore import Job, Topic, agg

job = Job("{job}")
words = job.stream(Topic("{job}-lines", str)).flat_map(str.split).key_by("by-word", str.lower)
words.aggregate("count", agg.count()).to(Topic("{job}-counts", int, key=str))
"""
DOUBLE = """
from streamcore import Job, Topic

job = Job("{job}")
job.stream(Topic("{job}-lines", int)).map(lambda n: 2 * n).to(Topic("{job}-counts", int))
"""


class Shell:
    """One job of its own name, in a directory of its own."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self.job = f"cli-{uuid4().hex[:8]}"
        self.lines, self.counts = f"{self.job}-lines", f"{self.job}-counts"
        self._bootstrap = bootstrap
        self._directory = directory
        self._started: list[subprocess.Popen[str]] = []
        (directory / "count.py").write_text(COUNT.format(job=self.job))
        (directory / "double.py").write_text(DOUBLE.format(job=self.job))

    def topics(self) -> None:
        for name in (self.lines, self.counts):
            self("topics", "create", name, "--partitions", str(PARTITIONS))

    def feed_file(self, *lines: str) -> str:
        (self._directory / "text").write_text("".join(f"{line}\n" for line in lines))
        return f"{self.lines}=text"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "STREAMCORE_WORKER__SESSION_TIMEOUT": "6s"}
        command = [sys.executable, "-m", "streamcore", *arguments, "--kafka", self._bootstrap]
        with (self._directory / "errors").open("a") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=self._directory
            )
        self._started.append(process)
        return process

    def __call__(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == code, f"{process.returncode}: {output}\n{self.errors()[-5000:]}"
        return output

    def errors(self) -> str:
        return (self._directory / "errors").read_text()

    def counted(self) -> dict[str, int]:
        """The last count of each word; committed records only."""
        output = self("topics", "read", self.counts, "--committed", "--json", "--until-end")
        found = [json.loads(line) for line in output.splitlines()]
        return {record["key"]: int(record["value"]) for record in found}

    def delete_group(self) -> None:
        admin = KafkaLog(self._bootstrap).admin()
        try:
            eventually(lambda: None if admin.members(self.job) else True)
            admin.delete_group(self.job)
        finally:
            admin.close()

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children():
                    child.kill()
                process.kill()
            process.communicate()


@pytest.fixture
def shell(bootstrap: str, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(bootstrap, tmp_path)
    yield shell
    shell.end()


def eventually(what: Callable[[], T | None], seconds: float = 60.0) -> T:
    """Other processes' pace: poll, with a bound."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found is not None:
            return found
    raise AssertionError("did not happen in time")


def children(process: subprocess.Popen[str], at_least: int = 1) -> list[psutil.Process]:
    def enough() -> list[psutil.Process] | None:
        found = psutil.Process(process.pid).children()
        return found if len(found) >= at_least else None

    return eventually(enough)


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def some_lines(number: int) -> list[str]:
    return [f"w{n % 97} w{n % 13} end" for n in range(number)]


def plain(lines: list[str]) -> Counter[str]:
    return Counter(word for line in lines for word in line.split())


def test_three_workers_count_a_file_and_are_gone_when_the_job_is_idle(shell: Shell) -> None:
    shell.topics()
    lines = some_lines(5_000)
    process = shell.start("run", "count.py:job", "--workers", "3", "--feed", shell.feed_file(*lines), "--until-idle")
    workers = children(process, 3)
    assert process.wait(timeout=120) == 0, shell.errors()[-5000:]
    assert not any(map(alive, workers))
    assert shell.counted() == plain(lines)


def test_workers_killed_at_any_moment_come_back_and_nothing_is_lost_or_repeated(shell: Shell) -> None:
    shell.topics()
    lines = some_lines(20_000)
    process = shell.start("run", "count.py:job", "--workers", "2", "--feed", shell.feed_file(*lines))
    for turn in range(4):
        victim = children(process, 2)[turn % 2]
        eventually(lambda victim=victim: at_work(victim) or None)
        victim.kill()
        eventually(lambda victim=victim: victim not in children(process, 2) or None)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0, shell.errors()[-5000:]
    assert shell.errors().count("starts again in") == 4
    shell("run", "count.py:job", "--workers", "2", "--until-idle")
    assert shell.counted() == plain(lines)


def at_work(process: psutil.Process) -> bool:
    """It has had some CPU: importing, joining, taking over, or counting."""
    return process.cpu_times().user > 0.4


def test_a_killed_supervisor_leaves_no_worker_behind(shell: Shell) -> None:
    shell.topics()
    process = shell.start("run", "count.py:job", "--workers", "2")
    workers = children(process, 2)
    process.kill()
    process.wait()
    eventually(lambda: None if any(map(alive, workers)) else True)


def test_a_supervisor_told_to_stop_lets_its_workers_commit_and_ends_with_0(shell: Shell) -> None:
    shell.topics()
    process = shell.start("run", "count.py:job", "--workers", "2")
    workers = children(process, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0, shell.errors()[-5000:]
    assert not any(map(alive, workers))


def test_the_first_stop_error_stops_every_worker_and_is_the_exit_code(shell: Shell) -> None:
    shell.topics()
    feed = shell.feed_file(*map(str, range(50)), "fifty", *map(str, range(51, 100)))
    shell("run", "double.py:job", "--workers", "2", "--feed", feed, "--until-idle", code=EXIT_STOP)
    told = shell.errors()
    assert "RecordFailed" in told and "fifty" in told and shell.lines in told
    assert "all are stopped" in told


def test_missing_topics_are_named_with_the_commands_that_create_them(shell: Shell) -> None:
    shell("run", "count.py:job", "--until-idle", code=EXIT_STOP)
    for topic in (shell.lines, shell.counts):
        assert f"streamcore topics create {topic} --partitions" in shell.errors()


def test_a_slot_taken_by_another_machine_makes_the_older_worker_step_aside(shell: Shell) -> None:
    shell.topics()
    older = shell.start("run", "count.py:job", "--slot", "1", "--state-dir", "machine-1")
    eventually(lambda: True if "running 8 tasks" in shell.errors() else None)
    newer = shell.start("run", "count.py:job", "--slot", "1", "--state-dir", "machine-2")
    assert older.wait(timeout=60) == EXIT_STEP_ASIDE, shell.errors()[-5000:]
    assert "slot 1" in shell.errors()
    newer.send_signal(signal.SIGTERM)
    assert newer.wait(timeout=60) == 0


def test_lost_offsets_stop_the_job_and_recover_brings_it_back(shell: Shell) -> None:
    shell.topics()
    feed = shell.feed_file("to be or not to be")
    shell("run", "count.py:job", "--feed", feed, "--until-idle")
    shell.delete_group()
    shell("run", "count.py:job", "--until-idle", code=EXIT_STOP)
    assert "streamcore recover" in shell.errors()
    eventually(lambda: True if _recovered(shell) else None)
    output = shell("run", "count.py:job", "--feed", feed, "--show", shell.counts, "--until-idle")
    assert "be\t4" in output.splitlines()


def _recovered(shell: Shell) -> bool:
    """Refused as long as the stopped worker's static membership lasts."""
    process = shell.start("recover", shell.job, "--yes")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 or "has members" in shell.errors()
    return "done" in output


def test_reset_lets_the_job_start_over(shell: Shell) -> None:
    shell.topics()
    shell("run", "count.py:job", "--feed", shell.feed_file("to be"), "--until-idle")
    tasks = json.loads(shell("status", shell.job, "--json"))
    assert len(tasks) == 2 * PARTITIONS and not any(task["lag"] for task in tasks)
    eventually(lambda: True if shell.start("reset", shell.job, "--yes").wait(timeout=60) == 0 else None)
    assert "no saved state" in shell("check", "count.py:job")
    output = shell("run", "count.py:job", "--show", shell.counts, "--until-idle")
    assert sorted(output.splitlines()) == ["be\t1", "to\t1"]
