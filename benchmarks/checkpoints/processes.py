"""The benchmark's child processes: the feed, and a worker whose events are read back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.runs import ROOT

POLL_S = 0.05
Event = dict[str, Any]


@contextmanager
def feeding(what: str, kafka: str, topic: str, keys: int, rate: int) -> Generator[subprocess.Popen[bytes]]:
    arguments = [what, "--kafka", kafka, "--topic", topic, "--keys", str(keys), "--rate", str(rate)]
    feed = subprocess.Popen([sys.executable, "-m", "benchmarks.checkpoints.feed", *arguments], cwd=ROOT)
    try:
        yield feed
    finally:
        feed.kill()
        feed.wait()


class Running:
    """One worker process after the other, of one job and state directory. Their events are in one file each."""

    def __init__(self, job: str, kafka: str, run: str, directory: Path, store: Path) -> None:
        self._job, self._kafka, self._run = job, kafka, run
        self.directory = directory
        self._store = store
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._log_from = 0
        """Where the present process's lines begin."""

    @property
    def events_file(self) -> Path:
        return self.directory / f"events-{self._number}"

    def start(self, *settings: str) -> float:
        """The time at which it was started."""
        self._number += 1
        self.events_file.touch()
        arguments = [self._job, "--kafka", self._kafka, "--store", f"file://{self._store}", "--events"]
        arguments += [str(self.events_file), "--state-dir", str(self.directory / "state"), *settings]
        with (self.directory / "log").open("ab") as out:
            self._log_from = out.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.checkpoints.worker", *arguments],
                cwd=ROOT,
                env=os.environ | {"BENCH_RUN": self._run},
                stdout=out,
                stderr=out,
            )
        return time.time()

    def events(self, what: str = "") -> list[Event]:
        lines = self.events_file.read_text().splitlines(keepends=True)
        found: list[Event] = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if not what or event["what"] == what]

    def until(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        """Raises SystemExit with the worker's log when it ends before, or it takes too long."""
        until = time.monotonic() + seconds
        while not done():
            if self._process is None or self._process.poll() is not None:
                raise SystemExit(f"the worker ended before {what}\n{self._log()}")
            if time.monotonic() > until:
                raise SystemExit(f"not within {seconds:.0f} s: {what}\n{self._log()}")
            time.sleep(POLL_S)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _log(self) -> str:
        return (self.directory / "log").read_text()[-4_000:]

    def log_of_this(self) -> str:
        """Of the process that was started last."""
        return (self.directory / "log").read_bytes()[self._log_from :].decode(errors="replace")
