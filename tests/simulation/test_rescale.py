"""A savepoint that is asked for under load and faults, resumed at another partition count, gives the oracle's outputs;
a resume that is killed anywhere and given again ends right; and the checkers see each bug that is planted there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamcore.testing.simulated.faults import Rates
from tests.simulation.planting import hunt, planted
from tests.simulation.rescale import RESCALED, run
from tests.simulation.rescale_planted import BUGS

FOUND = json.loads(Path(__file__).with_name("rescale_found.json").read_text())
SEEDS = 20
NOTHING = Rates(0, 0, 0)
EACH = 7
"""Of a resume's calls one in so many is its last, in `make test`."""


@pytest.mark.parametrize("topology", RESCALED)
@pytest.mark.timeout(300)
def test_a_savepoint_resumed_at_another_partition_count_gives_the_oracles_outputs(topology: str) -> None:
    begun_again, moved = 0, 0
    for seed in range(SEEDS):
        judged = run(topology, seed)
        assert not judged.wrong, str(judged)
        begun_again += judged.lived.second is not None
        moved += judged.told[0].startswith("rescaled")
    assert begun_again > SEEDS * 3 / 4 and moved > SEEDS / 3, "hardly any job went on, so nothing was shown"


@pytest.mark.timeout(300)
def test_a_resume_that_is_killed_at_any_call_and_given_again_ends_right() -> None:
    calls = run("words", 0, NOTHING, kill_at=1 << 30).lived.operator.calls
    assert calls > 50
    for call in range(1, calls + 1, EACH):
        judged = run("words", 0, NOTHING, kill_at=call)
        assert judged.lived.operator.resumes == 2
        assert not judged.wrong, f"killed at call {call}: {judged}"


@pytest.mark.parametrize("topology", RESCALED)
def test_on_the_real_rocksdb(topology: str) -> None:
    judged = run(topology, 0, rocks=True)
    assert not judged.wrong, str(judged)


def test_the_same_seed_gives_the_same_lives() -> None:
    one, other = (run("payments", 2).lived.second for _ in range(2))
    assert one is not None and other is not None
    assert one.digest() == other.digest()


@pytest.mark.parametrize("name", BUGS)
@pytest.mark.timeout(300)
def test_the_simulator_finds(name: str) -> None:
    """By the seed that found it; by another where the engine's histories are others by now."""
    at = FOUND[name]
    with planted(BUGS, name):
        judged = run(at["topology"], at["seed"])
    assert any(verdict.holds is False for verdict in judged.wrong) or hunt(BUGS, name, run, 200) is not None
