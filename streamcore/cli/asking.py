"""`checkpoint now`: ask a running job for a checkpoint of all its tasks."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from streamcore import limits
from streamcore.cli.connect import EMBEDDED, administered, opened
from streamcore.cli.load import job_name
from streamcore.cli.options import Config, JobName, Kafka, StateDir, looking
from streamcore.clock import Clock, SystemClock, SystemEntropy
from streamcore.config import Settings, load
from streamcore.errors import StateDirError, StopError, TopicError
from streamcore.log.port import Log
from streamcore.runtime.asking import ask
from streamcore.runtime.control import Request, encode
from streamcore.runtime.cutting import control_partition

app = typer.Typer(help="Ask a running job for a checkpoint.", no_args_is_help=True, rich_markup_mode=None)

WAIT_S: Final = 180


@app.callback()
def group() -> None:
    """Ask a running job for a checkpoint."""


@app.command()
@looking
def now(
    job: JobName, kafka: Kafka = None, state_dir: StateDir = None,
    wait: Annotated[int, typer.Option("--wait", metavar="S", min=1, max=86_400, help="Seconds to wait.")] = WAIT_S,
    config: Config = None,
) -> None:  # fmt: skip
    """Have all tasks checkpointed along one line now, and wait until that is done."""
    settings = load(config, {"kafka.bootstrap": kafka, "worker.state_dir": state_dir})
    clock, name = SystemClock(), job_name(job)
    if settings.kafka.bootstrap is None:
        _leave_word(settings, name, clock)
        return
    with opened(settings, clock) as log, administered(log) as admin:
        done = ask(log, admin, name, None, False, wait, clock, SystemEntropy())
    if done.trouble:
        raise StopError(f"job {name} made no checkpoint: {done.trouble}", done.remedy)
    typer.echo(f"barrier {done.barrier} is complete: {done.tasks} tasks are checkpointed along one line")


def _leave_word(settings: Settings, job: str, clock: Clock) -> None:
    """On the embedded log, which one process has: the job itself, or we."""
    if not (settings.worker.state_dir / EMBEDDED).exists():
        raise TopicError(
            f"there is no embedded log in {settings.worker.state_dir}",
            "give --kafka HOST:PORT, or the --state-dir that the job ran with",
        )
    try:
        with opened(settings, clock) as log:
            _request(log, job)
    except StateDirError as error:
        raise StopError(
            f"nobody can be asked: {error.what}",
            f"a job on the embedded log checkpoints by itself, every {settings.checkpoints.interval / 1000:g} s "
            "(checkpoints.interval); or stop it (SIGTERM), give this command again, and start it: it begins with one",
        ) from error
    typer.echo(f"job {job} does not run: it begins with a checkpoint when it is started")


def _request(log: Log, job: str) -> None:
    control = control_partition(job)
    with administered(log) as admin:
        if not admin.topics([control.topic]):
            raise TopicError(f"job {job} has never run here with checkpoints", "run it first")
    producer = log.producer(None)
    try:
        producer.init(limits.CALL_TIMEOUT_S)
        producer.send(control, encode(Request(SystemEntropy().token())))
        producer.flush(limits.CALL_TIMEOUT_S)
    finally:
        producer.close()
