"""`replay`: an interval of a job's input run again, and what comes of it compared with what was published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import typer

from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.savepoint import Savepoint
from streamcore.checkpoint.store import CheckpointStore
from streamcore.cli.connect import administered, opened
from streamcore.cli.load import load_job
from streamcore.cli.options import Config, Drop, Json, Kafka, Rename, StateDir, Target, changes_of, looking
from streamcore.cli.run import graceful
from streamcore.cli.savepoints import Where, settings_of, store_of
from streamcore.clock import SystemClock, SystemEntropy
from streamcore.errors import EXIT_DIFFERENT, EXIT_DONE, EXIT_UNKNOWN, SettingsError, shown
from streamcore.runtime.compare import Compared, Difference, Outcome, Seen
from streamcore.runtime.reprocess import Asked, Reprocessing, outputs, verdict
from streamcore.types import TimestampMs

SCRATCH: Final = "replaying.local"
CODES: Final = {Outcome.EQUAL: EXIT_DONE, Outcome.DIFFERENT: EXIT_DIFFERENT, Outcome.UNKNOWN: EXIT_UNKNOWN}
EPILOG: Final = (
    f"Exit codes: {EXIT_DONE} equal · {EXIT_DIFFERENT} different · {EXIT_UNKNOWN} unknown: nobody can say · others: no "
    "verdict, see `streamcore --help`"
)


@looking
def replay(
    target: Target,
    savepoint: Annotated[str, typer.Option("--from", metavar="SAVEPOINT", help="Where the interval begins.")],
    until: Annotated[
        str,
        typer.Option("--until", metavar="TIME|SAVEPOINT", help="Where it ends: 2024-05-01T12:00:00Z, or a later one."),
    ],
    compare: Annotated[
        list[str] | None, typer.Option("--compare", metavar="TOPIC", help="What is compared. Default: all it writes.")
    ] = None,
    drop: Drop = None, rename: Rename = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the scratch topics, JOB.replay.NAME.TOPIC.")] = False,
    wait: Annotated[
        int, typer.Option("--wait", metavar="S", min=0, help="Seconds to wait for the job to have got there itself.")
    ] = 60,
    kafka: Kafka = None, state_dir: StateDir = None, checkpoints: Where = None, as_json: Json = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Run an interval again into scratch topics and compare with what the job published. Nothing of the job itself is
    touched; it may run meanwhile (on Kafka)."""
    settings, clock = settings_of(kafka, state_dir, checkpoints, config), SystemClock()
    plan, store = load_job(target).plan(), store_of(settings)
    asked = Asked(
        plan,
        savepoints.load(store, plan.job, savepoint),
        end_of(store, plan.job, until),
        tuple(dict.fromkeys(compare)) if compare else outputs(plan),
        changes_of(None, drop, rename),
        keep,
        wait,
    )
    with opened(settings, clock) as log, administered(log) as admin:
        running = Reprocessing(
            log, admin, store, settings.worker.state_dir / SCRATCH, clock, SystemEntropy(),
            replication=settings.topics.replication, session_s=settings.worker.session_timeout / 1000,
            tell=lambda line: typer.echo(line, err=True),
        )  # fmt: skip
        with graceful(running.stop):
            found = running.run(asked)
    if as_json:
        typer.echo(json.dumps([_facts(each) for each in found]))
    else:
        _tell(found)
    code = CODES[verdict(found)]
    if code != EXIT_DONE:
        raise typer.Exit(code)


def end_of(store: CheckpointStore, job: str, text: str) -> TimestampMs | Savepoint:
    """Raises SettingsError for what is neither."""
    if savepoints.NAME.fullmatch(text) and text in savepoints.names(store, job):
        return savepoints.load(store, job, text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(
            f"--until {shown(text)} is neither a time nor a savepoint of job {job}",
            f"write 2024-05-01T12:00:00Z, or one of: {', '.join(savepoints.names(store, job)) or 'there is none'}",
        ) from error
    if time.tzinfo is None:
        raise SettingsError(f"--until {text} has no zone", f"write {text}Z for UTC, or as 2024-05-01T12:00:00+02:00")
    return TimestampMs(int(time.timestamp() * 1000))


# --- telling ----------------------------------------------------------------------------------------------------------


def _tell(found: Sequence[Compared]) -> None:
    for each in found:
        typer.echo(f"{each.outcome.value:9}  {each.topic}: {_summary(each)}")
        for difference in each.differences:
            for line in _lines(difference):
                typer.echo(f"             {line}")
        if each.differences and each.mixes:
            typer.echo(
                f"             Steps {', '.join(each.mixes)} take records of several partitions, in an order between "
                "them that no log keeps:"
            )
            typer.echo("             if what they give depends on that order, two good runs differ, too.")


def _summary(each: Compared) -> str:
    if each.why:
        return each.why
    told = f"{each.replayed:,} replayed, {each.published:,} published"
    if each.differing:
        told = f"{each.differing:,} differ; {told}"
    if each.undecided:
        told += f"; {each.undecided:,} not compared: they may be of input beside the interval"
    return told


def _lines(difference: Difference) -> list[str]:
    key = "no key" if difference.key is None else f"key {_text(difference.key)}"
    order = " (both are there, in another order)" if difference.order else ""
    return [
        f"{key}{order}",
        f"  replayed   {_place(difference.replayed)}",
        f"  published  {_place(difference.published)}",
    ]


def _place(seen: Seen | None) -> str:
    return "nothing" if seen is None else f"{_text(seen.value)}  ({seen.tp} offset {seen.offset}, time {seen.time_ms})"


def _text(data: bytes | None) -> str:
    return "null" if data is None else shown(data.decode(errors="backslashreplace"))


def _facts(each: Compared) -> dict[str, object]:
    return {
        "topic": each.topic,
        "outcome": each.outcome.value,
        "why": each.why,
        "replayed": each.replayed,
        "published": each.published,
        "differing": each.differing,
        "undecided": each.undecided,
        "differences": [
            {
                "key": None if one.key is None else one.key.decode(errors="backslashreplace"),
                "order": one.order,
                "replayed": _seen(one.replayed),
                "published": _seen(one.published),
            }
            for one in each.differences
        ],
    }


def _seen(seen: Seen | None) -> dict[str, object] | None:
    if seen is None:
        return None
    value = None if seen.value is None else seen.value.decode(errors="backslashreplace")
    return {"topic": seen.tp.topic, "partition": seen.tp.partition, "offset": seen.offset, "value": value,
            "timestamp": seen.time_ms}  # fmt: skip
