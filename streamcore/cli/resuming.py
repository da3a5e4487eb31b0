"""`resume` and `rescale`: jobs that begin from a savepoint, another's or their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import typer

from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.store import CheckpointStore
from streamcore.cli.connect import administered, opened
from streamcore.cli.load import load_job
from streamcore.cli.options import (
    Config,
    Drop,
    Kafka,
    Of,
    Partitions,
    Rename,
    StateDir,
    Target,
    Yes,
    changes_of,
    looking,
)
from streamcore.cli.savepoints import WAIT_S, Wait, Where, asking, made, settings_of, store_of
from streamcore.clock import Clock, SystemClock, SystemEntropy
from streamcore.config import Settings
from streamcore.errors import StopError, TopicError
from streamcore.log.port import Admin, Log
from streamcore.runtime import reset as resetting
from streamcore.runtime.mapping import Changes, ResumePlan, plan_resume, refuse_count
from streamcore.runtime.resume import Resuming, ran_on

Repeats = Annotated[
    bool, typer.Option("--accept-repeats", help="What the job wrote since the savepoint may come again.")
]
SCRATCH: Final = "resuming.local"
"""No job can have this name."""


@looking
def resume(
    target: Target, savepoint: Annotated[str, typer.Option("--from", metavar="NAME", help="The savepoint.")],
    of: Of = None, partitions: Partitions = None, drop: Drop = None, rename: Rename = None,
    accept_repeats: Repeats = False, kafka: Kafka = None, state_dir: StateDir = None, checkpoints: Where = None,
    config: Config = None, yes: Yes = False,
) -> None:  # fmt: skip
    """Have a job begin from a savepoint: its own, or another job's. Start it with `run` afterwards."""
    settings, clock = settings_of(kafka, state_dir, checkpoints, config), SystemClock()
    plan, store = load_job(target).plan(), store_of(settings)
    saved = savepoints.load(store, of or plan.job, savepoint)
    resuming = plan_resume(plan, saved, changes_of(partitions, drop, rename))
    with opened(settings, clock) as log, administered(log) as admin:

        def refuse_repeats() -> None:
            again = saved.job == plan.job and not accept_repeats and ran_on(admin, saved)
            if again:
                raise StopError(
                    f"job {plan.job} has gone on since savepoint {savepoint!r} ({again}): its outputs since come again",
                    "--accept-repeats, or resume under another job name, with output topics of its own",
                )

        refuse_repeats()
        if saved.job != plan.job and (members := admin.members(saved.job)):
            typer.echo(
                f"Job {saved.job} runs ({len(members)} workers) and goes on: both process what comes, each by itself."
            )
        _begin(settings, log, admin, resuming, target, store, clock, yes, refuse_repeats)


@looking
def rescale(
    target: Target, partitions: Annotated[int, typer.Option("--partitions", help="Of every shuffle, from now on.")],
    kafka: Kafka = None, state_dir: StateDir = None, checkpoints: Where = None, wait: Wait = WAIT_S,
    config: Config = None, yes: Yes = False,
) -> None:  # fmt: skip
    """Stop a running job at a savepoint, and move its shuffles to another partition count. Nothing is lost or repeated;
    start the job again with `run` afterwards."""
    settings, clock = settings_of(kafka, state_dir, checkpoints, config), SystemClock()
    plan, store = load_job(target).plan(), store_of(settings)
    refuse_count(plan, partitions)
    if not plan.shuffles:
        raise TopicError(
            f"job {plan.job} has no shuffle: its partitions are those of its topics",
            "give its source topics more partitions, and the job another name",
        )
    with opened(asking(settings), clock) as log, administered(log) as admin:
        if not yes and not typer.confirm(f"Stop job {plan.job}, and begin it anew with {partitions} partitions?"):
            raise StopError("nothing was changed", "")
        name = f"rescale-{clock.wall_ms()}"
        made(log, admin, plan.job, name, True, wait, clock)
        resuming = plan_resume(plan, savepoints.load(store, plan.job, name), Changes(partitions=partitions))
        _wait_until_gone(admin, plan.job, clock, wait)

        def refuse_run_on() -> None:
            if again := ran_on(admin, resuming.savepoint):
                raise StopError(
                    f"job {plan.job} went on behind the savepoint ({again}): a worker was started again meanwhile",
                    "stop what restarts its workers, then rescale again",
                )

        refuse_run_on()
        _begin(settings, log, admin, resuming, target, store, clock, True, refuse_run_on)


# --- helpers --------------------------------------------------------------------------------------------------------


def _begin(
    settings: Settings, log: Log, admin: Admin, resuming: ResumePlan, target: str, store: CheckpointStore, clock: Clock,
    yes: bool, still: Callable[[], None],
) -> None:  # fmt: skip
    plan = load_job(target).plan()
    for line in resuming.lines():
        typer.echo(line)
    state_dir = settings.worker.state_dir
    reset = resetting.found(admin, plan.job, state_dir)
    if not reset.empty:
        typer.echo(f"Once all of it is built, what job {plan.job} has now goes:")
        for line in reset.lines():
            typer.echo(f"  {line}")
    if not yes and not typer.confirm("Go on?"):
        raise StopError("nothing was changed", "")
    auto = settings.topics.partitions if settings.kafka.bootstrap is None else None
    Resuming(
        plan, log, admin, store, store, state_dir / SCRATCH, clock, SystemEntropy(),
        replication=settings.topics.replication, auto_partitions=auto, tell=typer.echo,
    ).begin(resuming, None if reset.empty else reset, still)  # fmt: skip
    typer.echo(
        f"job {plan.job} begins from savepoint {resuming.savepoint.name}: start it with `streamcore run {target}`"
    )


def _wait_until_gone(admin: Admin, job: str, clock: Clock, wait_s: int) -> None:
    until_s = clock.monotonic_s() + wait_s
    while admin.members(job):
        if clock.monotonic_s() > until_s:
            raise StopError(
                f"job {job} still has members, {wait_s} s after it stopped at the savepoint",
                "stop its workers, and what restarts them, then `streamcore resume`",
            )
        clock.sleep_s(0.5)
