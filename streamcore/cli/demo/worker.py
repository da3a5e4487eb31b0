"""The demo's worker, in a process of its own: feeds the text a few lines at a time, counts, and dies where it is told.

    python -m streamcore.cli.demo.worker DIR POINT NUMBER

POINT and NUMBER: the process ends, without any goodbye, when the commit reaches POINT for the NUMBER-th time; "never"
lets it finish.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from streamcore.cli.demo.job import job
from streamcore.cli.demo.text import COUNTS, LINES, text_lines
from streamcore.clock import SystemClock, SystemEntropy
from streamcore.log.local import LocalLog
from streamcore.log.port import Log
from streamcore.observe.metrics import Metrics
from streamcore.runtime.idle import IdleCheck
from streamcore.runtime.show import Show, partitions_of
from streamcore.runtime.worker import Worker, WorkerSettings

LINES_AT_ONCE: Final = 10
EXIT_CRASHED: Final = 137
"""What a shell reports of kill -9."""


def main(directory: Path, point: str, number: int) -> None:
    clock = SystemClock()
    log = LocalLog.open(directory / "log.local", clock)
    admin = log.admin()
    for topic in (LINES, COUNTS):
        admin.create(topic, 4, {})
    plan = job.plan()
    settings = WorkerSettings(state_dir=directory, commit_interval_ms=5)
    worker = Worker(
        plan, log, settings, clock=clock, entropy=SystemEntropy(), metrics=Metrics(), probe=_crash_at(point, number)
    )
    idle = IdleCheck(plan, log, admin, clock)
    producer = log.producer(None)
    producer.init(1.0)
    left = text_lines()[_already_there(log, clock) :]

    def between() -> None:
        """The next lines only when those before are counted: many small commits, one after the other."""
        if not idle.idle():
            return
        if not left:
            worker.stop()
            return
        producer.produce(LINES, None, [line.encode() for line in left[:LINES_AT_ONCE]])
        producer.flush(1.0)
        del left[:LINES_AT_ONCE]

    worker.run(between)
    log.close()


def _already_there(log: Log, clock: SystemClock) -> int:
    """Lines that an earlier process has fed."""
    lengths: list[int] = []
    admin = log.admin()
    show = Show(log, admin.first_offsets(partitions_of(admin, [LINES])), lambda run: lengths.append(len(run)), clock)
    show.finish()
    show.close()
    return sum(lengths)


def _crash_at(point: str, number: int) -> Callable[[str], None]:
    left = number

    def probe(reached: str) -> None:
        nonlocal left
        left -= reached == point
        if left == 0:
            os._exit(EXIT_CRASHED)

    return probe


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
