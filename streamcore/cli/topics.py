"""`streamcore topics`: list, create, read, produce; on Kafka, or on the embedded log."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from streamcore.cli.connect import administered, ensure_topics, opened
from streamcore.cli.options import Config, Json, Kafka, StateDir, looking
from streamcore.clock import SystemClock
from streamcore.config import Settings, load
from streamcore.errors import StopError
from streamcore.log.port import Run
from streamcore.runtime.feed import Feed, FeedSpec
from streamcore.runtime.show import Show, as_json, as_text, partitions_of

app = typer.Typer(help="Topics: list, create, read, produce.", no_args_is_help=True, rich_markup_mode=None)

WAIT_S = 0.2

Name = Annotated[str, typer.Argument(metavar="TOPIC")]


def _settings(config: Config, kafka: Kafka, state_dir: StateDir) -> Settings:
    return load(config, {"kafka.bootstrap": kafka, "worker.state_dir": state_dir})


@app.command("list")
@looking
def list_topics(kafka: Kafka = None, state_dir: StateDir = None, as_json_: Json = False, config: Config = None) -> None:
    """Names and partition counts."""
    with opened(_settings(config, kafka, state_dir), SystemClock(), read_only=True) as log, administered(log) as admin:
        found = sorted(admin.topics().values(), key=lambda info: info.name)
    for info in found:
        typer.echo(
            f'{{"topic": "{info.name}", "partitions": {info.partitions}}}'
            if as_json_
            else f"{info.name}\t{info.partitions}"
        )


@app.command()
@looking
def create(
    topic: Name,
    partitions: Annotated[int, typer.Option(min=1, help="How many; a job's keys and tasks follow it.")],
    replication: Annotated[int | None, typer.Option(min=1, help="Default: the broker's.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--setting", metavar="NAME=VALUE", help="As cleanup.policy=compact.")
    ] = None,
    kafka: Kafka = None,
    state_dir: StateDir = None,
    config: Config = None,
) -> None:
    """Create a topic; one that exists is refused."""
    pairs = dict(_pair(text) for text in setting or ())
    with opened(_settings(config, kafka, state_dir), SystemClock()) as log, administered(log) as admin:
        existing = admin.topics([topic]).get(topic)
        if existing is not None:
            raise StopError(f"topic {topic} exists, with {existing.partitions} partitions", "use it, or another name")
        admin.create(topic, partitions, pairs, replication)
    typer.echo(f"created {topic} with {partitions} partitions")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise StopError(f"--setting {text!r} is not understood", "write --setting NAME=VALUE")
    return name, value


@app.command()
@looking
def read(
    topic: Name,
    committed: Annotated[
        bool, typer.Option("--committed", help="Committed records only; without it, undecided and aborted ones too.")
    ] = False,
    as_json_: Json = False,
    headers: Annotated[bool, typer.Option("--headers", help="With --json: a dead letter's story.")] = False,
    until_end: Annotated[bool, typer.Option("--until-end", help="Stop at the end of what is there now.")] = False,
    kafka: Kafka = None,
    state_dir: StateDir = None,
    config: Config = None,
) -> None:
    """Print a topic from its beginning, a record a line. Works beside a running job."""
    clock = SystemClock()

    def emit(run: Run) -> None:
        sys.stdout.write("\n".join(as_json(run) if as_json_ else as_text(run)) + "\n")

    with opened(_settings(config, kafka, state_dir), clock, read_only=True) as log, administered(log) as admin:
        show = Show(log, admin.first_offsets(partitions_of(admin, [topic])), emit, clock, committed, headers)
        try:
            while not (show.step(WAIT_S) and until_end):
                sys.stdout.flush()
        except KeyboardInterrupt:
            return
        finally:
            show.close()
    sys.stdout.flush()


@app.command()
@looking
def produce(
    topic: Name,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A record a line; - is standard input.")] = "-",
    keyed: Annotated[bool, typer.Option("--key", help="A line is key<TAB>value.")] = False,
    kafka: Kafka = None,
    state_dir: StateDir = None,
    config: Config = None,
) -> None:
    """Send each line as a record. On the embedded log: while no job runs on it (else use `run --feed`)."""
    settings = _settings(config, kafka, state_dir)
    with opened(settings, SystemClock()) as log, administered(log) as admin:
        ensure_topics(settings, admin, [topic])
        feed = Feed(log, FeedSpec(topic, file, keyed))
        try:
            while not feed.step(WAIT_S):
                continue
        finally:
            feed.close()
    typer.echo(f"{feed.records} records to {topic}", err=True)
