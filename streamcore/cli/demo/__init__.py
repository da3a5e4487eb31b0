"""`streamcore demo`: word count on the embedded log, crashed twice while it commits, compared with a Counter."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from streamcore.cli.demo.text import COUNTS, plain_count, text_lines
from streamcore.cli.options import by_remedy
from streamcore.clock import SystemClock
from streamcore.errors import StopError
from streamcore.log.local import LocalLog
from streamcore.log.port import Run
from streamcore.runtime.show import Show, partitions_of

EXIT_CRASHED: Final = 137
CRASHES: Final = (
    (
        "after-send-offsets",
        9,
        "dies in its 9th commit, after outputs, journal and offsets were written and before the transaction is "
        "decided: none of it counts, the lines are counted again",
    ),
    (
        "after-commit",
        7,
        "dies in its 7th commit, after the decision and before its own state was saved: all of it counts, the state is "
        "rebuilt from the journal",
    ),
    ("never", 1, "goes on to the end"),
)
SHOWN: Final = 8


@by_remedy
def demo() -> None:
    """Count words, crash in the middle of a commit, go on, compare with a plain count. Needs nothing but this."""
    console = Console(highlight=False)
    console.print(Syntax((files("streamcore.cli.demo") / "job.py").read_text().replace("  # fmt: skip", ""), "python"))
    console.print(f"{len(text_lines())} lines of Shakespeare, on the log embedded in this process: no Kafka needed.\n")
    with tempfile.TemporaryDirectory(prefix="streamcore-demo-") as directory:
        for turn, (point, number, story) in enumerate(CRASHES, 1):
            console.print(f"worker {turn} {story}.")
            _worker(directory, point, number)
        counted = _read_counts(Path(directory))
    _compare(console, counted)


def _worker(directory: str, point: str, number: int) -> None:
    arguments = [sys.executable, "-P", "-m", "streamcore.cli.demo.worker", directory, point, str(number)]
    code = subprocess.run(arguments, check=False).returncode
    expected = 0 if point == "never" else EXIT_CRASHED
    if code != expected:
        raise StopError(f"the demo's worker ended with {code} instead of {expected}", "its own message stands above")


def _read_counts(directory: Path) -> dict[str, int]:
    """The last count of each word, as any other consumer would read it."""
    counted: dict[str, int] = {}

    def take(run: Run) -> None:
        for key, value in zip(run.keys, run.values, strict=True):
            counted[(key or b"").decode()] = int(value or b"0")

    clock = SystemClock()
    log = LocalLog.open(directory / "log.local", clock, read_only=True)
    admin = log.admin()
    show = Show(log, admin.first_offsets(partitions_of(admin, [COUNTS])), take, clock)
    show.finish()
    show.close()
    log.close()
    return counted


def _compare(console: Console, counted: Mapping[str, int]) -> None:
    plain = plain_count()
    table = Table("word", "streamcore", "plain count", "")
    for word, count in plain.most_common(SHOWN):
        table.add_row(word, str(counted.get(word, 0)), str(count), _mark(counted.get(word, 0) == count))
    table.add_row("…", "", "", "", end_section=True)
    table.add_row("different words", str(len(counted)), str(len(plain)), _mark(len(counted) == len(plain)))
    table.add_row(
        "all words", str(sum(counted.values())), str(plain.total()), _mark(sum(counted.values()) == plain.total())
    )
    console.print(table)
    wrong = {word for word in counted.keys() | plain.keys() if counted.get(word, 0) != plain[word]}
    if wrong:
        raise StopError(
            f"{len(wrong)} of {len(plain)} words are counted wrong, such as {sorted(wrong)[:5]}",
            "this is a bug in streamcore: please report it",
        )
    typer.echo(f"All {len(plain)} words are counted exactly once, through two crashes in the middle of a commit.")


def _mark(equal: bool) -> str:
    return "[green]equal[/]" if equal else "[red]DIFFERENT[/]"
