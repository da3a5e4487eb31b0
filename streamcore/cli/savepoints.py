"""`savepoint`: a job's state kept by name.

A running job makes its savepoints itself, at a barrier: `create` asks for one on the job's control topic and waits for
the answer. On the embedded log there is nobody to ask beside the one process that has it. The others need the
checkpoint store alone.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.bundle import export, unpack
from streamcore.checkpoint.store import CheckpointStore
from streamcore.cli.connect import administered, opened, required_store
from streamcore.cli.load import job_name, load_job
from streamcore.cli.options import (
    Config,
    Drop,
    JobName,
    Kafka,
    Of,
    Rename,
    StateDir,
    Target,
    Yes,
    changes_of,
    looking,
)
from streamcore.clock import Clock, SystemClock, SystemEntropy
from streamcore.config import Settings, load
from streamcore.errors import SettingsError, StopError, TopicError
from streamcore.log.port import Admin, Log
from streamcore.runtime.asking import Asked, ask
from streamcore.runtime.mapping import plan_resume
from streamcore.runtime.upgrade import Upgrading

app = typer.Typer(help="A job's state and offsets at one consistent cut, kept by name.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The savepoint's name.")]
Where = Annotated[
    str | None, typer.Option("--checkpoints", metavar="URL", help="Where the job's checkpoints lie, as for run.")
]
Stop = Annotated[bool, typer.Option("--stop", help="The job's workers end at the savepoint.")]
Wait = Annotated[int, typer.Option("--wait", metavar="S", min=1, max=86_400, help="Seconds to wait for it.")]
WAIT_S: Final = 180
SCRATCH: Final = "upgrading.local"
"""No job can have this name."""


@app.command("create")
@looking
def create(
    job: JobName, name: Name, stop: Stop = False, kafka: Kafka = None, checkpoints: Where = None, wait: Wait = WAIT_S,
    state_dir: StateDir = None, config: Config = None,
) -> None:  # fmt: skip
    """Have a running job make a savepoint, and wait until it is whole."""
    settings, clock = settings_of(kafka, state_dir, checkpoints, config), SystemClock()
    savepoints.checked_name(name)
    with opened(asking(settings), clock) as log, administered(log) as admin:
        done = made(log, admin, job_name(job), name, stop, wait, clock)
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


@app.command("upgrade")
@looking
def upgrade(
    target: Target, name: Name, to: Annotated[str, typer.Option("--to", metavar="NEW", help="The new one's name.")],
    of: Of = None, drop: Drop = None, rename: Rename = None, checkpoints: Where = None, state_dir: StateDir = None,
    config: Config = None,
) -> None:  # fmt: skip
    """Write a new savepoint, all of whose rows are of the code's State versions. The old one stays as it is."""
    settings, clock = settings_of(None, state_dir, checkpoints, config), SystemClock()
    savepoints.checked_name(to)
    plan, store = load_job(target).plan(), store_of(settings)
    resuming = plan_resume(plan, savepoints.load(store, of or plan.job, name), changes_of(None, drop, rename))
    scratch = settings.worker.state_dir / SCRATCH
    done = Upgrading(plan, store, scratch, clock, SystemEntropy(), typer.echo).write(resuming, to)
    typer.echo(
        f"savepoint {to} of job {done.savepoint.job} stands: {done.rows} rows upgraded, {done.tasks} of "
        f"{len(done.savepoint.manifests)} tasks written anew; {name} is as it was"
    )


# --- helpers --------------------------------------------------------------------------------------------------------


def made(log: Log, admin: Admin, job: str, name: str, stop: bool, wait_s: int, clock: Clock) -> Asked:
    done = ask(log, admin, job, name, stop, wait_s, clock, SystemEntropy())
    if done.trouble:
        raise StopError(f"job {job} made no savepoint {name!r}: {done.trouble}", done.remedy)
    return done


def asking(settings: Settings) -> Settings:
    """For commands that talk to running workers."""
    if settings.kafka.bootstrap is None:
        raise TopicError(
            "on the embedded log no other process can talk to a running job",
            "give --kafka HOST:PORT for a job on Kafka; on the embedded log stop the job: its offsets and state stand "
            "in the state directory, which can be copied",
        )
    return settings


def settings_of(kafka: str | None, state_dir: Path | None, checkpoints: str | None, config: Path | None) -> Settings:
    given = {"kafka.bootstrap": kafka, "worker.state_dir": state_dir, "checkpoints.store": checkpoints}
    return load(config, given)


def store_of(settings: Settings) -> CheckpointStore:
    return required_store(settings)
