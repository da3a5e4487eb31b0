"""Jobs with barriers and checkpoints survive what others survive, and a checkpoint store that fails; and the checkers
see each bug that is planted there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.simulation.barriers import BUGS, found_by, run
from tests.simulation.planting import hunt, planted
from tests.simulation.topologies import TOPOLOGIES

FOUND = json.loads(Path(__file__).with_name("barriers_found.json").read_text())
SEEDS = 30


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_nothing_is_wrong_with_barriers(topology: str) -> None:
    complete = 0
    for seed in range(SEEDS):
        outcome = run(topology, seed)
        assert not outcome.wrong, outcome.told()
        complete += sum(state == "complete" for _, state in outcome.history.barriers or ())
    assert complete > 2 * SEEDS, "hardly any barrier was completed, so nothing was shown"


@pytest.mark.parametrize("name", BUGS)
@pytest.mark.timeout(600)
def test_the_simulator_finds(name: str) -> None:
    """By the seed that found it; by another where the engine's histories are others by now."""
    at = FOUND[name]
    with planted(BUGS, name):
        outcome = found_by(name)(at["topology"], at["seed"])
    assert any(verdict.holds is False for verdict in outcome.wrong) or hunt(BUGS, name, found_by(name), 400) is not None


@pytest.mark.parametrize("name", BUGS)
def test_without_the_bug_nothing_is_wrong(name: str) -> None:
    outcome = found_by(name)(FOUND[name]["topology"], FOUND[name]["seed"])
    assert not outcome.wrong, outcome.told()
