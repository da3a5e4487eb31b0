"""`savepoint`, `resume` and `rescale`: a job's state kept by name, and jobs that begin from it.

A running job makes its savepoints itself, at a barrier: these commands ask for one on the job's control topic and wait
for the answer. On the embedded log there is nobody to ask beside the one process that has it.
"""

from __future__ import annotations

import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.bundle import export, unpack
from streamcore.checkpoint.store import CheckpointStore
from streamcore.cli.connect import administered, opened, required_store
from streamcore.cli.load import job_name, load_job
from streamcore.cli.options import Config, JobName, Kafka, StateDir, Target, Yes, looking
from streamcore.clock import Clock, SystemClock, SystemEntropy
from streamcore.config import Settings, load
from streamcore.errors import SettingsError, StopError, TopicError
from streamcore.log.port import Admin, Log
from streamcore.runtime import reset as resetting
from streamcore.runtime.asking import Asked, ask
from streamcore.runtime.mapping import Changes, ResumePlan, plan_resume, refuse_count
from streamcore.runtime.resume import Resuming, ran_on

app = typer.Typer(help="A job's state and offsets at one consistent cut, kept by name.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The savepoint's name.")]
Where = Annotated[
    str | None, typer.Option("--checkpoints", metavar="URL", help="Where the job's checkpoints lie, as for run.")
]
Stop = Annotated[bool, typer.Option("--stop", help="The job's workers end at the savepoint.")]
Wait = Annotated[int, typer.Option("--wait", metavar="S", min=1, max=86_400, help="Seconds to wait for it.")]
Partitions = Annotated[int | None, typer.Option("--partitions", help="Of every shuffle; left out: as it was.")]
Drop = Annotated[list[str] | None, typer.Option("--drop", metavar="STEP", help="A step whose state may go.")]
Rename = Annotated[list[str] | None, typer.Option("--rename", metavar="OLD=NEW", help="A step's new name.")]
Repeats = Annotated[
    bool, typer.Option("--accept-repeats", help="What the job wrote since the savepoint may come again.")
]
WAIT_S: Final = 180
SCRATCH: Final = "resuming"


@app.command("create")
@looking
def create(
    job: JobName, name: Name, stop: Stop = False, kafka: Kafka = None, checkpoints: Where = None, wait: Wait = WAIT_S,
    state_dir: StateDir = None, config: Config = None,
) -> None:  # fmt: skip
    """Have a running job make a savepoint, and wait until it is whole."""
    settings, clock = settings_of(kafka, state_dir, checkpoints, config), SystemClock()
    savepoints.checked_name(name)
    with opened(_asking(settings), clock) as log, administered(log) as admin:
        done = _made(log, admin, job_name(job), name, stop, wait, clock)
    typer.echo(f"savepoint {name} stands: barrier {done.barrier}, {done.tasks} tasks")


@app.command("list")
@looking
def list_(job: JobName, checkpoints: Where = None, state_dir: StateDir = None, config: Config = None) -> None:
    """A job's savepoints."""
    store = store_of(settings_of(None, state_dir, checkpoints, config))
    for name in savepoints.names(store, job_name(job)):
        typer.echo(name)


@app.command("show")
@looking
def show(
    job: JobName, name: Name, checkpoints: Where = None, state_dir: StateDir = None, config: Config = None
) -> None:
    """What a savepoint holds, as JSON."""
    store = store_of(settings_of(None, state_dir, checkpoints, config))
    found = savepoints.load(store, job_name(job), name)
    typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())


@app.command("drop")
@looking
def drop(
    job: JobName, name: Name, checkpoints: Where = None, state_dir: StateDir = None, config: Config = None,
    yes: Yes = False,
) -> None:  # fmt: skip
    """Let a savepoint go; what only it kept is collected later."""
    store = store_of(settings_of(None, state_dir, checkpoints, config))
    savepoints.load(store, job_name(job), name)
    if not yes and not typer.confirm(f"Drop savepoint {name}?"):
        raise StopError("nothing was dropped", "")
    savepoints.drop(store, job_name(job), name)


@app.command("export")
@looking
def export_(
    job: JobName, name: Name, file: Annotated[Path, typer.Argument(help="A new file, as backup.tar.")],
    checkpoints: Where = None, state_dir: StateDir = None, config: Config = None,
) -> None:  # fmt: skip
    """All of a savepoint in one file, to be kept or taken elsewhere."""
    store = store_of(settings_of(None, state_dir, checkpoints, config))
    size = export(store, savepoints.load(store, job_name(job), name), file)
    typer.echo(f"{file}: {size} bytes")


@app.command("import")
@looking
def import_(
    file: Annotated[Path, typer.Argument(help="What `savepoint export` wrote.", exists=True, dir_okay=False)],
    checkpoints: Where = None, state_dir: StateDir = None, config: Config = None,
) -> None:  # fmt: skip
    """Put an exported savepoint into a checkpoint store."""
    store = store_of(settings_of(None, state_dir, checkpoints, config))
    try:
        found = unpack(store, file)
    except tarfile.TarError as error:
        raise SettingsError(
            f"{file} is no exported savepoint: {error}", "give what `savepoint export` wrote"
        ) from error
    typer.echo(f"savepoint {found.name} of job {found.job} stands in {store.place}")


@looking
def resume(
    target: Target, savepoint: Annotated[str, typer.Option("--from", metavar="NAME", help="The savepoint.")],
    of: Annotated[str | None, typer.Option("--of", metavar="JOB", help="Whose; left out: this job's own.")] = None,
    partitions: Partitions = None, drop: Drop = None, rename: Rename = None, accept_repeats: Repeats = False,
    kafka: Kafka = None, state_dir: StateDir = None, checkpoints: Where = None, config: Config = None, yes: Yes = False,
) -> None:  # fmt: skip
    """Have a job begin from a savepoint: its own, or another job's. Start it with `run` afterwards."""
    settings, clock = settings_of(kafka, state_dir, checkpoints, config), SystemClock()
    plan, store = load_job(target).plan(), store_of(settings)
    saved = savepoints.load(store, of or plan.job, savepoint)
    resuming = plan_resume(plan, saved, _changes(partitions, drop, rename))
    with _at_the_log(settings, clock) as (log, admin):
        again = saved.job == plan.job and ran_on(admin, saved)
        if again and not accept_repeats:
            raise StopError(
                f"job {plan.job} has gone on since savepoint {savepoint!r} ({again}): its outputs since come again",
                "--accept-repeats, or resume under another job name, with output topics of its own",
            )
        _begin(settings, log, admin, resuming, target, store, clock, yes)


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
    with opened(_asking(settings), clock) as log, administered(log) as admin:
        if not yes and not typer.confirm(f"Stop job {plan.job}, and begin it anew with {partitions} partitions?"):
            raise StopError("nothing was changed", "")
        name = f"rescale-{clock.wall_ms()}"
        _made(log, admin, plan.job, name, True, wait, clock)
        resuming = plan_resume(plan, savepoints.load(store, plan.job, name), Changes(partitions=partitions))
        _wait_until_gone(admin, plan.job, clock, wait)
        if again := ran_on(admin, resuming.savepoint):
            raise StopError(
                f"job {plan.job} went on behind the savepoint ({again}): a worker was started again meanwhile",
                "stop what restarts its workers, then rescale again",
            )
        _begin(settings, log, admin, resuming, target, store, clock, yes=True)


# --- helpers --------------------------------------------------------------------------------------------------------


def _begin(
    settings: Settings, log: Log, admin: Admin, resuming: ResumePlan, target: str, store: CheckpointStore, clock: Clock,
    yes: bool,
) -> None:  # fmt: skip
    plan = load_job(target).plan()
    for line in resuming.lines():
        typer.echo(line)
    state_dir = settings.worker.state_dir
    reset = resetting.found(admin, plan.job, state_dir)
    if not reset.empty:
        typer.echo(f"First what job {plan.job} has now goes:")
        for line in reset.lines():
            typer.echo(f"  {line}")
    if not yes and not typer.confirm("Go on?"):
        raise StopError("nothing was changed", "")
    auto = settings.topics.partitions if settings.kafka.bootstrap is None else None
    Resuming(
        plan, log, admin, store, store, state_dir / SCRATCH, clock, SystemEntropy(),
        replication=settings.topics.replication, auto_partitions=auto, tell=typer.echo,
    ).begin(resuming, None if reset.empty else reset)  # fmt: skip
    typer.echo(
        f"job {plan.job} begins from savepoint {resuming.savepoint.name}: start it with `streamcore run {target}`"
    )


def _made(log: Log, admin: Admin, job: str, name: str, stop: bool, wait_s: int, clock: Clock) -> Asked:
    done = ask(log, admin, job, name, stop, wait_s, clock, SystemEntropy())
    if done.trouble:
        raise StopError(f"job {job} made no savepoint {name!r}: {done.trouble}", done.remedy)
    return done


def _wait_until_gone(admin: Admin, job: str, clock: Clock, wait_s: int) -> None:
    until_s = clock.monotonic_s() + wait_s
    while admin.members(job):
        if clock.monotonic_s() > until_s:
            raise StopError(
                f"job {job} still has members, {wait_s} s after it stopped at the savepoint",
                "stop its workers, and what restarts them, then `streamcore resume`",
            )
        clock.sleep_s(0.5)


@contextmanager
def _at_the_log(settings: Settings, clock: Clock) -> Generator[tuple[Log, Admin]]:
    with opened(settings, clock) as log, administered(log) as admin:
        yield log, admin


def _asking(settings: Settings) -> Settings:
    """For commands that talk to running workers."""
    if settings.kafka.bootstrap is None:
        raise TopicError(
            "on the embedded log no other process can talk to a running job",
            "give --kafka HOST:PORT for a job on Kafka; on the embedded log stop the job: its offsets and state stand "
            "in the state directory, which can be copied",
        )
    return settings


def _changes(partitions: int | None, drop: list[str] | None, rename: list[str] | None) -> Changes:
    pairs: dict[str, str] = {}
    for text in rename or ():
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise SettingsError(f"--rename {text!r} is not OLD=NEW", "write --rename count=total")
        pairs[old] = new
    return Changes(frozenset(drop or ()), pairs, partitions)


def settings_of(kafka: str | None, state_dir: Path | None, checkpoints: str | None, config: Path | None) -> Settings:
    given = {"kafka.bootstrap": kafka, "worker.state_dir": state_dir, "checkpoints.store": checkpoints}
    return load(config, given)


def store_of(settings: Settings) -> CheckpointStore:
    return required_store(settings)
