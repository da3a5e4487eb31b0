"""The page that is kept of a run: what struck, what was checked, the timeline."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from pathlib import Path

from chaos.faults import PER_MINUTE
from chaos.judge import LEFT_OUT
from chaos.run import Report
from chaos.timeline import svg, text
from chaos.workers import ROOT


def keep(report: Report, page: Path, command: str) -> None:
    """`page` and, beside it, the picture."""
    picture = page.with_suffix(".svg")
    picture.write_text(svg(report))
    page.write_text(written(report, picture.name, command))


def written(report: Report, picture: str, command: str) -> str:
    shape = report.shape
    counted = Counter(fault.kind for fault in report.faults)
    points = Counter(
        fault.target.partition(", ")[2] for fault in report.faults if fault.kind in ("kill at point", "zombie at point")
    )
    checked = [f"| {verdict.checker} | {'holds' if verdict.holds else str(verdict)} |" for verdict in report.verdicts]
    left_out = [f"| {check.__name__} | {why} |" for check, why in LEFT_OUT.items()]
    return "\n".join(
        [
            "# A run of the real chaos",
            "",
            f"`{command}`, seed {report.seed}, commit {_commit()}; Apache Kafka 4.3.1, three brokers (replication 3, "
            f"min ISR 2), {shape.workers} workers, {shape.partitions} partitions, all on one machine with "
            f"{os.cpu_count()} cores ({platform.system()} {platform.machine()}, Python {platform.python_version()}).",
            "",
            f"{report.kills} worker kills, {report.zombies} zombies, {report.broker_faults} broker faults in "
            f"{report.took_s / 60:.0f} minutes. {shape.records:,} records were sent, one in twenty a copy of another, "
            f"out of order; {report.outputs:,} outputs came of it, in {report.epochs:,} epochs of tasks. "
            + ("Nothing was lost, nothing repeated." if report.ok else "**The run failed.**"),
            "",
            f"![faults against throughput and lag]({picture})",
            "",
            "## What struck",
            "",
            "| fault | times |",
            "|---|---|",
            *[f"| {kind} | {counted[kind]} |" for kind in PER_MINUTE],
            f"| a worker started with a wrong clock, by up to half an hour | {report.wrong_clocks} |",
            "",
            "What each is stands in [chaos/faults.py](../chaos/faults.py). At the named points: "
            + ", ".join(f"{point} {n}" for point, n in sorted(points.items()) if point)
            + f". Workers that ended by themselves and asked to be started again: {report.restarts}. Tasks "
            f"restored from a checkpoint: {report.restores}."
            + (
                f" Planned faults that found nothing to strike in time: {report.left_over}." if report.left_over else ""
            ),
            "",
            "## What was checked",
            "",
            "| checker | |",
            "|---|---|",
            *checked,
            *[f"| {problem} | |" for problem in report.problems],
            "",
            "Not checked, because an outsider cannot know (the simulator checks them):",
            "",
            "| checker | why |",
            "|---|---|",
            *left_out,
            "",
            "## Timeline",
            "",
            "```",
            text(report),
            "```",
            "",
        ]
    )


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"
