"""How many seeds it takes to find each planted bug: `make planted`, or `python -m tests.simulation.hunt [NAME ...]`.

Seeds from 0 on, the topologies that can show the bug in turn, each seed with its own faults, until a checker says that
something does not hold. What was found goes to found.json and, as a table, to docs/proof.md; test_planted.py finds it
again.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.simulation.planted import BUGS, Bug, planted
from tests.simulation.runs import run

MOST: Final = 2_000
FOUND: Final = Path(__file__).with_name("found.json")
PAGE: Final = Path(__file__).parents[2] / "docs" / "proof.md"
BEGIN: Final = "<!-- planted: written by `make planted` -->"
END: Final = "<!-- end of planted -->"


def hunt(bug: Bug) -> dict[str, Any] | None:
    for number in range(MOST):
        topology, seed = bug.topologies[number % len(bug.topologies)], number
        with planted(bug):
            outcome = run(topology, seed)
        wrong = [verdict for verdict in outcome.wrong if verdict.holds is False]
        if wrong:
            return {"topology": topology, "seed": seed, "seeds": number + 1, "checker": wrong[0].checker}
    return None


def table(found: dict[str, dict[str, Any]]) -> str:
    rows = ["| bug | seeds until found | topology | found by |", "|---|---:|---|---|"]
    for name, bug in BUGS.items():
        at = found.get(name)
        what = f"**{name.replace('_', ' ')}**: {bug.story}"
        rows.append(
            f"| {what} | not within {MOST} | | |"
            if at is None
            else f"| {what} | {at['seeds']} | {at['topology']} | {at['checker']} |"
        )
    return "\n".join(rows)


def write_page(found: dict[str, dict[str, Any]]) -> None:
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        PAGE.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{after}")


def main(names: list[str]) -> int:
    found: dict[str, dict[str, Any]] = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    for name in names or BUGS:
        begun_s = time.monotonic()
        at = hunt(BUGS[name])
        seconds = time.monotonic() - begun_s
        if at is None:
            found.pop(name, None)
            print(f"{name}: NOT FOUND within {MOST} seeds ({seconds:.0f} s)", flush=True)
        else:
            found[name] = at
            print(f"{name}: {at['seeds']} seeds, {at['topology']}, {at['checker']} ({seconds:.0f} s)", flush=True)
        FOUND.write_text(json.dumps({n: found[n] for n in BUGS if n in found}, indent=1) + "\n")
    if PAGE.exists():
        write_page(found)
    return 0 if found.keys() >= BUGS.keys() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
