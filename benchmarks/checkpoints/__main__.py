"""`make bench-checkpoints`: what barriers, checkpoints and restores cost, beside what they may.

    python -m benchmarks.checkpoints [--mb N] [--changed-mb N] [--barriers N] [--records N] [--rounds N] [--only PART]

A Kafka broker is started for the run and ended with it; the store is a directory on the same disk. The table goes to
the terminal and to benchmarks/checkpoints/results.md. A benchmark reports; it fails for no figure.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable
from contextlib import closing
from datetime import date
from pathlib import Path
from uuid import uuid4

from benchmarks.__main__ import console, machine
from benchmarks.checkpoints import restores, stages, throughput
from benchmarks.checkpoints.large import Large, Shape
from benchmarks.checkpoints.table import Line, markdown
from benchmarks.runs import ROOT, Cluster
from tests.kafka.broker import Local

PARTS = ("large", "stages", "throughput")
RESULTS = ROOT / "benchmarks" / "checkpoints" / "results.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1_000, help="state of the one task, in keys of 100 bytes")
    parser.add_argument("--changed-mb", type=float, default=20)
    parser.add_argument("--barriers", type=int, default=20)
    parser.add_argument("--records", type=int, default=12_000_000, help="of the throughput's runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS, action="append")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="streamcore-bench-") as directory,
        closing(Local(heap="1g", fast_start=False)) as broker,
    ):
        found = list(run(given, Cluster(broker.bootstrap), Path(directory)))
    report(given, found, load)


def run(given: argparse.Namespace, cluster: Cluster, directory: Path) -> Iterable[Line]:
    base = f"bench-{uuid4().hex[:6]}"
    shape = Shape(given.mb * 1_000_000, int(given.changed_mb * 1e6), given.barriers)
    for part in given.only or PARTS:
        room = directory / part
        (room / "store").mkdir(parents=True)
        where = f"{base}-{part}"
        if part == "large":
            found = large(cluster, where, room, shape)
        elif part == "stages":
            found = stages.lines(cluster, where, room, room / "store", given.barriers)
        else:
            found = throughput.lines(cluster, where, given.records, given.rounds)
        for line in found:
            console.print("  " + " · ".join(cell for cell in line.cells() if cell))
            yield line
        for name in [name for name in cluster.names() if name.startswith(where)]:
            cluster.admin.delete_topics([name])[name].result(30)


def large(cluster: Cluster, where: str, room: Path, shape: Shape) -> Iterable[Line]:
    task = Large(cluster.kafka, where, room, room / "store", shape)
    try:
        task.load()
        yield from task.barriers()
        yield from task.takeovers()
    finally:
        task.close()
    yield from restores.lines(where, room / "store", room)


def report(given: argparse.Namespace, found: list[Line], load: float) -> None:
    """`load`: of the machine before the run."""
    shape = f"MB={given.mb} CHANGED_MB={given.changed_mb:g} BARRIERS={given.barriers}"
    told = [
        f"`make bench-checkpoints {shape}`, {date.today().isoformat()}: {machine()}. Load before it: {load:.1f}.",
        "",
        *markdown(found),
    ]
    console.print("\n".join(["", *told]))
    if not given.only:
        RESULTS.write_text("\n".join(told) + "\n")


if __name__ == "__main__":
    main()
