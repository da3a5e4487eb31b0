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
from streamcore.errors import EXIT_STOP
from streamcore.runtime.estimate import Estimate, estimate

Rto = Annotated[
    float | None, typer.Option("--rto", metavar="SECONDS", min=0.1, help="The budget: exit 10 when a task is over it.")
]


@looking
def replay_estimate(
    job: JobName, rto: Rto = None, kafka: Kafka = None, state_dir: StateDir = None, checkpoints: Where = None,
    config: Config = None,
) -> None:  # fmt: skip
    """What a takeover of each task would take now, at this job's own rates, measured from here."""
    settings, clock = settings_of(kafka, state_dir, checkpoints, config), SystemClock()
    store = None if settings.checkpoints.store == "none" else store_of(settings)
    with opened(settings, clock, read_only=True) as log, administered(log) as admin:
        found = estimate(log, admin, job_name(job), store, clock)
    _show(found, rto)
    if rto is not None and any(task.left_s(rto) < 0 for task in found.tasks):
        raise typer.Exit(EXIT_STOP)


def _show(found: Estimate, rto: float | None) -> None:
    table = Table("task", "epoch", "state", "journal behind it", "same machine", "another machine")
    if rto is not None:
        table.add_column("left of the budget")
    for task in found.tasks:
        row = [
            str(task.task), str(task.epoch), _size(task.state_bytes) if task.checkpoint else "no checkpoint",
            _size(task.tail_bytes), f"{task.local_s:.1f} s", f"{task.other_s:.1f} s",
        ]  # fmt: skip
        table.add_row(*row, *([] if rto is None else [f"{task.left_s(rto):.1f} s"]))
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(
        f"restore {_size(found.restore_bytes_s)}/s, replay {_size(found.replay_bytes_s)}/s, measured from here"
    )


def _size(size: float) -> str:
    return f"{size / (1 << 20):.1f} MB"
