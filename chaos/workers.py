"""Worker processes as the operating system sees them: started, killed, paused, continued, ended, by their id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil

from streamcore.errors import EXIT_HUNG, EXIT_REBUILD, EXIT_RETRY

ROOT = Path(__file__).resolve().parent.parent
RESTARTABLE = (EXIT_REBUILD, EXIT_RETRY, EXIT_HUNG)
STOP_S = 30

Condition = Literal["down", "up", "paused"]


class Worker:
    """One slot, in a state directory of its own, as on a machine of its own."""

    def __init__(self, slot: int, kafka: str, directory: Path, environment: Mapping[str, str]) -> None:
        self.slot = slot
        self.log = directory / f"worker-{slot}.log"
        self.condition: Condition = "down"
        self._told_before = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = os.environ | environment
        state_dir = str(directory / f"state-{slot}")
        self._command = [sys.executable, "-m", "streamcore", "run", "chaos/topology.py:job", "--kafka", kafka]
        self._command += ["--slot", str(slot), "--workers", "1", "--state-dir", state_dir]

    def start(self) -> None:
        self._told_before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(self._command, cwd=ROOT, env=self._environment, stdout=out, stderr=out)
        self.condition = "up"

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._wait(STOP_S)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)
        self.condition = "paused"

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self.condition = "up"

    def has_joined(self) -> bool:
        """Since its last start: before that it has no handler for SIGTERM yet, and nothing to end in order."""
        return b": joined as " in self.log.read_bytes()[self._told_before :]

    def exited(self) -> int | None:
        """The exit code of a process that ended by itself since the last call."""
        if self.condition != "up" or self._process is None or self._process.poll() is None:
            return None
        self.condition = "down"
        return self._process.returncode

    def stop(self) -> int | None:
        """SIGTERM and the exit code; None when it had to be killed after all."""
        if self.condition == "paused":
            self.resume()
        if self.condition == "down" or self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def last_words(self, count: int) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:]) if self.log.exists() else ""

    def _wait(self, seconds: float) -> int:
        assert self._process is not None
        code = self._process.wait(seconds)
        self.condition = "down"
        return code

    def _signal(self, number: int) -> None:
        """To the process and to whatever it started."""
        assert self._process is not None
        if self._process.poll() is not None:
            return
        process = psutil.Process(self._process.pid)
        for one in (process, *process.children(recursive=True)):
            try:
                one.send_signal(number)
            except psutil.NoSuchProcess:
                continue
