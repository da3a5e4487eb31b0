"""`reset` and `recover`: commands that change what a job rests on. They show what they will do, and ask."""

from __future__ import annotations

import sys

import typer

from streamcore.cli.connect import administered, checkpoint_store, opened
from streamcore.cli.load import job_name
from streamcore.cli.options import Checkpoints, Config, JobName, Kafka, StateDir, Yes, looking
from streamcore.clock import SystemClock
from streamcore.config import load
from streamcore.errors import StopError
from streamcore.runtime import recover as recovering
from streamcore.runtime import reset as resetting


@looking
def reset(
    job: JobName,
    kafka: Kafka = None,
    state_dir: StateDir = None,
    checkpoints: Checkpoints = None,
    yes: Yes = False,
    config: Config = None,
) -> None:
    """Let a job start over: its offsets, internal topics, local state and checkpoints go. Your topics stay, and what
    savepoints hold; with `--checkpoints none` the checkpoints do."""
    settings = load(config, {"kafka.bootstrap": kafka, "worker.state_dir": state_dir, "checkpoints.store": checkpoints})
    name = job_name(job)
    with opened(settings, SystemClock()) as log, administered(log) as admin:
        plan = resetting.plan_reset(admin, name, settings.worker.state_dir, checkpoint_store(settings))
        typer.echo(f"This deletes, of job {name}:")
        for line in plan.lines():
            typer.echo(f"  {line}")
        typer.echo("What it has written to your own topics stays, and the job will write it again.")
        ask(yes)
        resetting.reset(admin, plan)
    typer.echo("done")


@looking
def recover(
    job: JobName, kafka: Kafka = None, state_dir: StateDir = None, yes: Yes = False, config: Config = None
) -> None:
    """Rewrite a job's offsets from its journals' last frames, after another tool reset them or they expired."""
    settings = load(config, {"kafka.bootstrap": kafka, "worker.state_dir": state_dir})
    name, clock = job_name(job), SystemClock()
    with opened(settings, clock) as log, administered(log) as admin:
        found = recovering.plan_recovery(log, admin, name, clock)
        changing = [recovery for recovery in found if recovery.changes]
        typer.echo(f"{len(found) - len(changing)} of {len(found)} tasks are as their journals say.")
        if not changing:
            return
        typer.echo("This sets the committed offsets of:")
        for recovery in changing:
            for line in recovery.lines():
                typer.echo(f"  {line}")
        ask(yes)
        recovering.recover(admin, name, changing)
    typer.echo("done")


def ask(yes: bool) -> None:
    """Raises StopError when the answer is no, or cannot be asked for."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise StopError("nothing was changed: nobody can be asked here", "give --yes")
    if not typer.confirm("Go on?"):
        raise StopError("nothing was changed")
