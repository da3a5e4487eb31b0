"""Options that several commands share, and how a command's errors become its exit code."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, ParamSpec

import typer

from streamcore.errors import (
    EXIT_DONE,
    EXIT_HUNG,
    EXIT_REBUILD,
    EXIT_RETRY,
    EXIT_STEP_ASIDE,
    EXIT_STOP,
    SettingsError,
    StreamcoreError,
)
from streamcore.observe import logs
from streamcore.runtime.mapping import Changes

P = ParamSpec("P")

EXIT_CODES: Final = f"""
Exit codes, by what to do next: {EXIT_DONE} done · 2 the command was not understood · {EXIT_STOP} a person must act, the
message says how · {EXIT_STEP_ASIDE} stepped aside, a newer worker has the slot: do not restart · {EXIT_REBUILD} start
again, what was spoilt is rebuilt · {EXIT_RETRY} start again later, the log did not answer · {EXIT_HUNG} start again, a
call hung past the transaction timeout.
"""

Target = Annotated[str, typer.Argument(metavar="FILE.py:JOB", help="The file, and the name of the Job in it.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="The job's name, or FILE.py:JOB.")]
Kafka = Annotated[
    str | None,
    typer.Option("--kafka", metavar="HOST:PORT", help="The Kafka cluster. Left out: the log embedded in --state-dir."),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", metavar="DIR", help="Local state, and the embedded log. Default: .streamcore", file_okay=False
    ),
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        "--checkpoints",
        metavar="URL",
        help="file:///DIR, s3://BUCKET/PREFIX, or none. Default: a directory in --state-dir",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings in TOML. Default: streamcore.toml, if there is one."),
]
Of = Annotated[str | None, typer.Option("--of", metavar="JOB", help="Whose savepoint; left out: this job's own.")]
Partitions = Annotated[int | None, typer.Option("--partitions", help="Of every shuffle; left out: as it was.")]
Drop = Annotated[list[str] | None, typer.Option("--drop", metavar="STEP", help="A step whose state may go.")]
Rename = Annotated[list[str] | None, typer.Option("--rename", metavar="OLD=NEW", help="A step's new name.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="For programs: JSON.")]


def looking(command: Callable[P, None]) -> Callable[P, None]:
    """As `by_remedy`, for commands without a view of their own: warnings go to stderr."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        handler = logs.configure("warning", sys.stderr)
        try:
            command(*args, **kwargs)
        finally:
            logs.remove(handler)

    return by_remedy(wrapped)


def by_remedy(command: Callable[P, None]) -> Callable[P, None]:
    """The message on stderr, the exit code by remedy."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except StreamcoreError as error:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            # Whoever read us has had enough (`| head`): no error, and Python's own flush at exit must not make it one.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_DONE) from None

    return wrapped


def changes_of(partitions: int | None, drop: list[str] | None, rename: list[str] | None) -> Changes:
    """Raises SettingsError."""
    pairs: dict[str, str] = {}
    for text in rename or ():
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise SettingsError(f"--rename {text!r} is not OLD=NEW", "write --rename count=total")
        pairs[old] = new
    return Changes(frozenset(drop or ()), pairs, partitions)
