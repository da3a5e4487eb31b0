"""Worker processes as the operating system sees them: started, killed, paused, continued, ended, by their id."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil

from chaos.faults import Fault
from chaos.worker import CLOCK, TRAP, set_trap
from streamcore.errors import EXIT_HUNG, EXIT_REBUILD, EXIT_RETRY

ROOT = Path(__file__).resolve().parent.parent
RESTARTABLE = (EXIT_REBUILD, EXIT_RETRY, EXIT_HUNG)
STOP_S = 30

Condition = Literal["down", "up", "paused"]


class Process:
    """One run of a worker, from its start to its end."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.paused = False
        self.fault: Fault | None = None
        """That fills its disk."""
        with log.open("wb") as out:
            self._popen = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """Once it has ended; negative: the signal that ended it."""
        return self._popen.poll()

    @property
    def full_disk(self) -> bool:
        return self.fault is not None

    def stopped(self) -> bool:
        """By SIGSTOP, its own or ours."""
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._popen.wait(STOP_S)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        self.signal(signal.SIGCONT)
        self.paused = False

    def fill_disk(self, limit: int, fault: Fault) -> None:
        """No file of its grows over `limit` bytes from now on: every write past it fails."""
        self.fault = fault
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def end(self) -> int | None:
        """SIGTERM, and the exit code; None when it had to be killed after all."""
        self.signal(signal.SIGTERM)
        try:
            return self._popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def last_words(self, count: int) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


class Worker:
    """One slot, in a state directory of its own, as on a machine of its own. Its spare machine has another."""

    def __init__(self, slot: int, kafka: str, directory: Path, environment: Mapping[str, str]) -> None:
        self.slot = slot
        self.trap = directory / f"trap-{slot}"
        self.process: Process | None = None
        self._kafka = kafka
        self._directory = directory
        self._environment = os.environ | environment | {TRAP: str(self.trap)}
        self._machine = 0
        self._starts = 0

    @property
    def condition(self) -> Condition:
        if self.process is None:
            return "down"
        return "paused" if self.process.paused else "up"

    @property
    def machines(self) -> list[Path]:
        """The state directories of the machine it runs on, and of its spare one."""
        both = [self._directory / f"machine-{self.slot}{name}" for name in "ab"]
        return [both[self._machine], both[1 - self._machine]]

    def start(self, clock_ms: int = 0) -> None:
        assert self.process is None
        self.trap.unlink(missing_ok=True)
        self._starts += 1
        command = [sys.executable, "-m", "chaos.worker", "run", "chaos/topology.py:job", "--kafka", self._kafka]
        command += ["--slot", str(self.slot), "--workers", "1", "--state-dir", str(self.machines[0])]
        log = self._directory / f"worker-{self.slot}-{self._starts:04d}.log"
        self.process = Process(command, self._environment | {CLOCK: str(clock_ms)}, log)

    def start_elsewhere(self, clock_ms: int = 0) -> Process:
        """The slot is started on its spare machine; what runs (or sleeps) on the old one is returned."""
        old, self.process = self.process, None
        assert old is not None
        self._machine = 1 - self._machine
        self.start(clock_ms)
        return old

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None

    def lose_disk(self) -> None:
        """Of the machine it ran on."""
        assert self.process is None
        shutil.rmtree(self.machines[0], ignore_errors=True)

    @property
    def restores(self) -> int:
        """Of tasks from a checkpoint, in all its runs."""
        logs = self._directory.glob(f"worker-{self.slot}-*.log")
        return sum(log.read_text(errors="replace").count(": restored at epoch ") for log in logs)

    def set_trap(self, point: str, how: str) -> None:
        set_trap(self.trap, point, how)

    def trap_is_set(self) -> bool:
        return self.trap.exists()

    def has_joined(self) -> bool:
        """Since its last start: before that it has no handler for SIGTERM yet, and nothing to end in order."""
        return self.process is not None and b": joined as " in self.process.log.read_bytes()
