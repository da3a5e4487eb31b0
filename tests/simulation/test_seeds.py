"""Whatever happens, every checker of every topology holds: none False, none unknown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.runs import run
from tests.simulation.topologies import TOPOLOGIES

SEEDS = 300
PIECE = 25
ROCKS_EVERY = 10
"""Each so many runs has its local state on the real RocksDB."""


def pieces() -> Iterator[object]:
    for topology in TOPOLOGIES:
        for first in range(0, SEEDS, PIECE):
            yield pytest.param(topology, first, id=f"{topology}-{first}")


@pytest.mark.parametrize(("topology", "first"), list(pieces()))
def test_seeds(topology: str, first: int, tmp_path: Path) -> None:
    for seed in range(first, first + PIECE):
        rocks = tmp_path / str(seed) if seed % ROCKS_EVERY == 0 else None
        outcome = run(topology, seed, rocks=rocks)
        assert not outcome.wrong, outcome.told()
