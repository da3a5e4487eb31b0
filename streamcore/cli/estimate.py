"""`replay-estimate`: how long each task of a job would be away, if its machine died now."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from streamcore.cli.connect import administered, opened
from streamcore.cli.load import job_name
from streamcore.cli.options import Config, JobName, Kafka, StateDir, looking
from streamcore.cli.savepoints import Where, settings_of, store_of
from streamcore.clock import SystemClock
from streamcore.config import load
from streamcore.errors import EXIT_STOP
from streamcore.runtime.estimate import Estimate, estimate

Rto = Annotated[
    str | None,
    typer.Option("--rto", metavar="TIME", help="The budget, as 60s: exit 10 beyond it. Default: the job's own."),
]


@looking
def replay_estimate(
    job: JobName, rto: Rto = None, kafka: Kafka = None, state_dir: StateDir = None, checkpoints: Where = None,
    config: Config = None,
) -> None:  # fmt: skip
    """What a takeover of each task, and of each worker's tasks together, would take now, at this job's own rates,
    measured from here. Exit 10 when a worker's is over the RTO, or cannot be told."""
    given_s = None if rto is None else load(config, {"guarantee.rto": rto}).guarantee.rto / 1000
    settings, clock = settings_of(kafka, state_dir, checkpoints, config), SystemClock()
    store = None if settings.checkpoints.store == "none" else store_of(settings)
    with opened(settings, clock, read_only=True) as log, administered(log) as admin:
        found = estimate(log, admin, job_name(job), store, clock)
    rto_s = found.rto_s if given_s is None else given_s
    _show(found, rto_s)
    if rto_s and not found.within(rto_s):
        raise typer.Exit(EXIT_STOP)


def _show(found: Estimate, rto_s: float) -> None:
    table = Table("task", "epoch", "state", "journal behind it", "same machine", "another machine")
    if rto_s:
        table.add_column("left of the RTO")
    for task in found.tasks:
        row = [
            str(task.task), str(task.epoch), _size(task.state_bytes) if task.checkpoint else "no checkpoint",
            _size(task.tail_bytes), f"{task.local_s:.1f} s", "unknown" if task.trouble else f"{task.other_s:.1f} s",
        ]  # fmt: skip
        left = "" if task.trouble else f"{task.left_s(rto_s):.1f} s"
        table.add_row(*row, *([left] if rto_s else []))
    console = Console(soft_wrap=True, width=None if Console().is_terminal else 160)
    console.print(table)
    for line in _lines(found, rto_s):
        console.print(line, highlight=False, markup=False)


def _lines(found: Estimate, rto_s: float) -> list[str]:
    how = "measured" if found.measured else "assumed where there is too little to measure"
    lines = [f"restore {_size(found.restore_bytes_s)}/s, replay {_size(found.replay_bytes_s)}/s, {how}"]
    for slot, seconds in sorted(found.together_s().items()):
        lines.append(f"slot {slot}, its tasks together: {seconds:.1f} s on another machine{left_of(rto_s, seconds)}")
    return [*lines, *(f"{task.task}: {task.trouble}" for task in found.tasks if task.trouble)]


def left_of(rto_s: float, seconds: float) -> str:
    """Ends a line about a takeover; "" without a budget."""
    if not rto_s:
        return ""
    if seconds > rto_s:
        return f": OVER the RTO of {rto_s:g} s by {seconds - rto_s:.1f} s"
    return f": {rto_s - seconds:.1f} s left of the RTO of {rto_s:g} s"


def _size(size: float) -> str:
    return f"{size / (1 << 20):.1f} MB"
