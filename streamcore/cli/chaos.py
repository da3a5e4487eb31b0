"""`streamcore chaos FILE.py[:test]`: a file's chaos tests with other seeds than their own.

The tests are plain functions that call `streamcore.testing.chaos.run`, as pytest would run them; the seeds given here
take the place of theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from streamcore.cli.load import load_functions
from streamcore.cli.options import by_remedy
from streamcore.errors import EXIT_DONE, EXIT_STOP, SettingsError
from streamcore.observe import logs

AT_MOST = 10_000_000
Target = Annotated[str, typer.Argument(help="A file's tests, or one of them.", metavar="FILE.py[:test]")]


@by_remedy
def chaos(
    target: Target,
    seeds: Annotated[
        int, typer.Option(help="How many seeds each test runs with, from 0 on.", min=1, max=AT_MOST)
    ] = 100,
    seed: Annotated[int | None, typer.Option(help="One seed, to see its failure again.")] = None,
) -> None:
    """Run chaos tests (functions test_* that call streamcore.testing.chaos.run) with many seeds."""
    console = Console(soft_wrap=True)
    try:
        from streamcore.testing import chaos as testing
    except ModuleNotFoundError as error:
        raise SettingsError(str(error), "install it, then run this again") from error
    tests = load_functions(target, "test_")
    chosen = range(seeds) if seed is None else [seed]
    handler = logs.configure("critical", sys.stderr)  # the workers' warnings are what these runs are for
    try:
        failed = [name for name, test in tests.items() if not _passes(console, testing, name, test, chosen)]
    finally:
        logs.remove(handler)
    if failed:
        console.print(f"{len(failed)} of {len(tests)} failed: {', '.join(failed)}")
    raise typer.Exit(EXIT_STOP if failed else EXIT_DONE)


def _passes(console: Console, testing: Any, name: str, test: Callable[[], object], seeds: Any) -> bool:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        line = progress.add_task(name, total=len(seeds))

        def tell(seed: int, faults: int) -> None:
            progress.update(line, advance=1, description=f"{name}, seed {seed}")

        override = testing.Override(seeds, tell)
        token = testing.override.set(override)
        problem = ""
        try:
            test()
        except AssertionError as error:
            problem = str(error) or "an assertion of the test does not hold"
        finally:
            testing.override.reset(token)
    reports = override.reports
    if not reports:
        problem = problem or "it never called streamcore.testing.chaos.run"
    explained = [report.explain() for report in reports]
    for text in explained:
        console.print(f"{name}: {text}", highlight=False, markup=False)
    if problem and not any(problem == text or text in problem for text in explained):
        console.print(f"{name}: {problem}", highlight=False, markup=False)
    return not problem and all(report.ok for report in reports)
