"""A worker as `streamcore run` has it, in a process of its own, that tells what its processing thread goes through.

Each line that it appends to --events is a JSON object, `what` one of

    assigned, running      a takeover's begin; its tasks run
    slice                  the first one since then
    gap                    from one slice's end to the next one's begin: seconds, whether a commit, and a snapshot, lay
                           between, and how much of it came after the commit
    stored                 a checkpoint: its new bytes and all of its bytes
    pause                  a task stood still at a barrier: from the commit that was its cut until it was fed again
    decided                a barrier is over
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import time
from collections import deque
from pathlib import Path

from benchmarks.checkpoints.jobs import JOBS
from streamcore.checkpoint.collect import Retention
from streamcore.checkpoint.opening import open_store
from streamcore.cli.run import _collect_seldom
from streamcore.clock import SystemClock, SystemEntropy
from streamcore.log.kafka import KafkaLog
from streamcore.observe.metrics import Metrics
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.statedir import RocksStores
from streamcore.runtime.worker import FIRST_SLOT, Worker, WorkerSettings

GAP_S = 0.005
"""Shorter ones are told only when a snapshot lies in them."""


class Watched(Metrics):
    """Also the worker's probe."""

    def __init__(self, events: Path) -> None:
        super().__init__()
        self._events = events.open("a", buffering=1)
        self._slice_end_s = 0.0
        self._first = False
        self._commit = self._snapshot = False
        self._applied_s: deque[float] = deque(maxlen=1_000)

    def tell(self, what: str, **facts: object) -> None:
        self._events.write(json.dumps({"what": what, "at": time.time(), **facts}) + "\n")

    def probe(self, point: str) -> None:
        if point == "before-slice":
            self._before_slice(time.monotonic())
        elif point == "after-slice":
            self._slice_end_s = time.monotonic()
        elif point == "after-apply":
            self._commit = True
            self._applied_s.append(time.monotonic())
        elif point == "takeover-started":
            self._first, self._slice_end_s = True, 0.0
            self.tell("running")

    def _before_slice(self, now_s: float) -> None:
        if self._first:
            self._first = False
            self.tell("slice")
        gap_s = now_s - self._slice_end_s
        if self._slice_end_s and (gap_s >= GAP_S or self._snapshot):
            after_s = now_s - self._applied_s[-1] if self._commit else 0.0
            self.tell("gap", seconds=gap_s, commit=self._commit, snapshot=self._snapshot, after=after_s)
        self._commit = self._snapshot = False

    def rebalanced(self, what: str) -> None:  # type: ignore[override]
        super().rebalanced(what)  # type: ignore[arg-type]
        self.tell(what)

    def snapshot(self, seconds: float) -> None:
        super().snapshot(seconds)
        self._snapshot = True
        self.tell("snapshot", seconds=seconds)

    def checkpointed(self, seconds: float, bytes_new: int, bytes_total: int) -> None:
        super().checkpointed(seconds, bytes_new, bytes_total)
        self.tell("stored", seconds=seconds, new=bytes_new, total=bytes_total)

    def held(self, seconds: float) -> None:
        """`seconds` begins after the snapshots of the cut: we ask for the commit before them."""
        super().held(seconds)
        now_s = time.monotonic()
        applied_s = max((at for at in self._applied_s if at <= now_s - seconds), default=now_s - seconds)
        self.tell("pause", seconds=now_s - applied_s)

    def barrier_decided(self, outcome: str) -> None:
        super().barrier_decided(outcome)
        self.tell("decided", outcome=outcome)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    for name in ("--kafka", "--store"):
        parser.add_argument(name, required=True)
    for name in ("--state-dir", "--events"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--every-s", type=float, default=3_600.0)
    parser.add_argument("--every-records", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    clock, plan, watched = SystemClock(), JOBS[given.job].plan(), Watched(given.events)
    log, stores = KafkaLog(given.kafka), RocksStores(given.state_dir, plan.job, FIRST_SLOT)
    checkpointing = Checkpointing(
        open_store(given.store),
        stores,
        retention=Retention(3, 0),
        milestone_records=given.every_records,
        log=log,
    )
    settings = WorkerSettings(state_dir=given.state_dir, checkpoint_interval_s=given.every_s)
    worker = Worker(
        plan, log, settings, clock=clock, entropy=SystemEntropy(), metrics=watched, stores=stores,
        probe=watched.probe, checkpointing=checkpointing,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    parent = os.getppid()

    def with_parent() -> None:
        if os.getppid() != parent:
            worker.stop()

    _collect_seldom()
    worker.run(with_parent)
    log.close()


if __name__ == "__main__":
    main()
