"""A worker as `streamcore run` makes it, with a trap at the named points and a clock that may be wrong.

    python -m chaos.worker run FILE.py:JOB ...      whatever stands behind it is the command line of `streamcore`

    CHAOS_TRAP      a file that the nemesis writes while the worker runs: "POINT kill", "POINT stop". The first time
                    that the worker comes to POINT with the file there, it takes the file away and sends itself SIGKILL
                    or SIGSTOP: right there, on the processing thread, between two calls of the engine
    CHAOS_CLOCK_MS  this machine's clock is off by so much

The engine runs as it is: the probe is the one it offers (streamcore.runtime.points), the clock the one it is given.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from streamcore.cli import run as command
from streamcore.cli.main import app
from streamcore.clock import SystemClock
from streamcore.runtime.points import POINTS
from streamcore.runtime.worker import Worker

TRAP: Final = "CHAOS_TRAP"
CLOCK: Final = "CHAOS_CLOCK_MS"
SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class SkewedClock(SystemClock):
    def wall_ms(self) -> int:
        return super().wall_ms() + int(os.environ.get(CLOCK, "0"))


def trap(path: Path) -> Callable[[str], None]:
    def probe(reached: str) -> None:
        try:
            point, how = path.read_text().split()
            if point == reached:
                path.unlink()
                os.kill(os.getpid(), SIGNALS[how])
        except FileNotFoundError:
            pass  # none is set, or the nemesis has just taken it back

    return probe


def set_trap(path: Path, point: str, how: str) -> None:
    """For the nemesis."""
    if point not in POINTS or how not in SIGNALS:
        raise ValueError(f"no point {point!r}, or no way {how!r}")
    written = path.with_suffix(".new")
    written.write_text(f"{point} {how}")
    written.rename(path)


def main() -> None:
    command.SystemClock = SkewedClock
    if path := os.environ.get(TRAP):
        command.Worker = functools.partial(Worker, probe=trap(Path(path)))
    app()


if __name__ == "__main__":
    main()
