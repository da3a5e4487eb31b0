"""A job of four stages: how long a barrier makes a task stand still."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from benchmarks.checkpoints.jobs import WORDS, Names
from benchmarks.checkpoints.processes import Event, Running, feeding
from benchmarks.checkpoints.table import Line, p99, spread
from benchmarks.runs import Cluster

RATE = 5_000
EVERY_S = "1.5"
WAIT_S = 180.0


def lines(cluster: Cluster, run: str, directory: Path, store: Path, barriers: int) -> list[Line]:
    names = Names(run)
    cluster.create([names.rows, names.output])
    running = Running("four", cluster.kafka, run, directory, store)
    running.start("--every-s", EVERY_S)
    try:
        with feeding("words", cluster.kafka, names.rows, WORDS, RATE):
            running.until(lambda: len(running.events("decided")) > barriers + 1, "all barriers", WAIT_S)
        found = running.events()
    finally:
        running.end(signal.SIGKILL)
    longest = list(longest_of_each(found))[1:]
    outcomes = [event["outcome"] for event in found if event["what"] == "decided"]
    snapshots = [event["seconds"] for event in found if event["what"] == "snapshot"]
    told = (
        f"ms: {spread(longest, 1e3)}; a snapshot's median {median(snapshots) * 1e3:.0f}, 16 tasks in one worker, "
        f"{RATE:,} records/s; {outcomes.count('complete')} of {len(outcomes)} barriers complete"
    )
    return [Line("pause at a barrier, four stages, p99", p99(longest) * 1e3, 150, told, "ms")]


def longest_of_each(found: Iterable[Event]) -> Iterable[float]:
    pauses: list[float] = []
    for event in found:
        if event["what"] == "pause":
            pauses.append(event["seconds"])
        elif event["what"] == "decided" and pauses:
            yield max(pauses)
            pauses = []
