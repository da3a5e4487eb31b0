"""The `streamcore` command: one file a group of commands, put together here."""

from __future__ import annotations

import typer

from streamcore.cli import (
    asking,
    chaos,
    checkpoints,
    demo,
    estimate,
    inspect,
    repair,
    replay,
    resuming,
    run,
    savepoints,
    topics,
)
from streamcore.cli.options import EXIT_CODES

app = typer.Typer(
    name="streamcore",
    help="Stream processing on Kafka, exactly once, in plain Python.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run", epilog=EXIT_CODES)(run.run)
app.command("check")(inspect.check)
app.command("explain")(inspect.explain)
app.command("status")(inspect.status)
app.command("reset")(repair.reset)
app.command("recover")(repair.recover)
app.command("demo")(demo.demo)
app.command("chaos")(chaos.chaos)
app.command("resume")(resuming.resume)
app.command("replay", epilog=replay.EPILOG)(replay.replay)
app.command("replay-estimate")(estimate.replay_estimate)
app.command("rescale")(resuming.rescale)
app.add_typer(topics.app, name="topics")
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(asking.app, name="checkpoint")
app.add_typer(savepoints.app, name="savepoint")
