"""Each planted bug is found again, by the seed that found it first; without the bug, that seed finds nothing.

Another engine makes other histories of the same seeds: where the seed finds nothing any more the hunt begins anew, and
must succeed within its bound. `make planted` writes the new seeds down.
"""

from __future__ import annotations

import json

import pytest

from tests.simulation.hunt import FOUND, MOST, hunt
from tests.simulation.planted import BUGS, planted
from tests.simulation.runs import run

AT = json.loads(FOUND.read_text())


def test_every_planted_bug_was_found() -> None:
    assert list(AT) == list(BUGS)
    assert all(at["seeds"] <= MOST for at in AT.values())


@pytest.mark.parametrize("name", BUGS)
def test_the_simulator_finds(name: str) -> None:
    at = AT[name]
    with planted(BUGS[name]):
        outcome = run(at["topology"], at["seed"])
    found = [verdict.checker for verdict in outcome.wrong if verdict.holds is False]
    assert at["checker"] in found or hunt(BUGS[name]) is not None, "`make planted` tells more"


@pytest.mark.parametrize("name", BUGS)
def test_without_the_bug_nothing_is_wrong(name: str) -> None:
    outcome = run(AT[name]["topology"], AT[name]["seed"])
    assert not outcome.wrong, outcome.told()
