"""One task with a large state: what its barriers cost, and how it comes back on its own disk."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.checkpoints.jobs import Names
from benchmarks.checkpoints.processes import Event, Running, feeding
from benchmarks.checkpoints.table import Line, p99, spread

ROW_BYTES = 100
RATE = 40_000
"""Changes a second while there are barriers: about half of what the worker could take."""
TAKEOVERS = 5
LOAD_S = 600.0
BARRIER_S = 120.0
TAKEOVER_S = 60.0
SLOW_S = 1.0
"""Of a takeover that takes as long the worker's log is shown."""


@dataclass(frozen=True)
class Shape:
    state_bytes: int
    changed_bytes: int
    barriers: int

    @property
    def keys(self) -> int:
        return self.state_bytes // ROW_BYTES

    @property
    def changes(self) -> int:
        return self.changed_bytes // ROW_BYTES


def one_partition(kafka: str, names: Names) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    new = [NewTopic(topic, 1, config={"retention.ms": "-1"}) for topic in (names.rows, names.output)]
    for created in admin.create_topics(new).values():
        created.result(30)


class Large:
    """In order: `load`, `barriers`, `takeovers`, `close`."""

    def __init__(self, kafka: str, run: str, directory: Path, store: Path, shape: Shape) -> None:
        self._kafka = kafka
        self._shape = shape
        self._names = Names(run)
        self._running = Running("kept", kafka, run, directory, store)

    def load(self) -> None:
        """Every key once; ends with a checkpoint of all of it."""
        keys = self._shape.keys
        one_partition(self._kafka, self._names)
        self._running.start("--every-records", str(keys))
        with feeding("load", self._kafka, self._names.rows, keys + 1, 0):
            self._running.until(lambda: bool(self._running.events("stored")), "the state is loaded", LOAD_S)
        self._running.end()

    def barriers(self) -> list[Line]:
        """The first one is left out: it also has what was written after the load's checkpoint."""
        wanted = self._shape.barriers + 1
        self._running.start("--every-records", str(self._shape.changes))
        with feeding("change", self._kafka, self._names.rows, self._shape.keys, RATE):
            self._running.until(
                lambda: len(self._running.events("stored")) >= wanted, "all barriers", BARRIER_S + wanted * 30
            )
        found = self._running.events()
        self._running.end(signal.SIGKILL)
        return self._lines(found)

    def _lines(self, found: list[Event]) -> list[Line]:
        gaps = [event for event in found if event["what"] == "gap"]
        cuts = [gap for gap in gaps if gap["snapshot"]][1:]
        stalls, whole = [gap["after"] for gap in cuts], [gap["seconds"] for gap in cuts]
        commits = [gap["seconds"] for gap in gaps if gap["commit"] and not gap["snapshot"]]
        snapshots = [event["seconds"] for event in found if event["what"] == "snapshot"][1:]
        stored = [event for event in found if event["what"] == "stored"]
        shares = [event["new"] / self._shape.changed_bytes for event in stored[1:]]
        size = f"{stored[-1]['total'] / 1e6:.0f} MB, {self._shape.changed_bytes / 1e6:g} MB change"
        return [
            Line(
                f"a barrier stalls processing beyond its commit, p99 ({size})",
                p99(stalls) * 1e3,
                100,
                f"ms: {spread(stalls, 1e3)}; of this the snapshot {spread(snapshots, 1e3)}",
                "ms",
            ),
            Line(
                "the same with its commit",
                p99(whole) * 1e3,
                None,
                f"ms: {spread(whole, 1e3)}; a commit without a barrier {spread(commits, 1e3)}",
                "ms",
            ),
            Line(
                "uploaded / changed bytes, mean",
                mean(shares),
                5,
                f"{spread(shares, 1, '{:.1f}')}; {spread([event['seconds'] for event in stored[1:]], 1, '{:.1f}')} s",
            ),
        ]

    def takeovers(self) -> list[Line]:
        """After kill -9 under load, on the same disk: from the assignment to the first slice."""
        taken: list[float] = []
        whole: list[float] = []
        with feeding("change", self._kafka, self._names.rows, self._shape.keys, RATE):
            for _ in range(TAKEOVERS):
                began = self._running.start()
                self._running.until(lambda: bool(self._running.events("slice")), "a takeover", TAKEOVER_S)
                at = {event["what"]: event["at"] for event in reversed(self._running.events())}
                taken.append(at["slice"] - at["assigned"])
                if taken[-1] > SLOW_S:
                    print(f"a takeover of {taken[-1]:.2f} s:", self._running.log_of_this(), sep="\n")
                whole.append(at["slice"] - began)
                self._run_on()
                self._running.end(signal.SIGKILL)
        told = f"{spread(taken, 1, '{:.2f}')}; from the process's start {median(whole):.1f} s"
        return [Line("takeover with local disk, largest", max(taken), 1, told, "s")]

    def _run_on(self) -> None:
        """A while, so that there is something to replay and a write-ahead log to read."""
        began = self._running.events("slice")[0]["at"]
        self._running.until(
            lambda: any(event["at"] > began + 3 for event in self._running.events("gap")), "more commits", TAKEOVER_S
        )

    def close(self) -> None:
        self._running.end(signal.SIGKILL)
