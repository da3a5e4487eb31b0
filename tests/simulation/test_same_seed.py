"""The same seed gives the same history byte for byte: in another process, with other hashes, and in any order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from tests.simulation.runs import run
for run_of in sys.argv[1:]:
    topology, seed = run_of.split("-")
    print(run_of, run(topology, int(seed)).history.digest())
"""
RUNS = [f"{topology}-{seed}" for topology in ("words", "accounts", "carts", "regions", "sensors") for seed in range(4)]


def digests(hash_seed: str, runs: list[str]) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *runs],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split() for line in done.stdout.splitlines())


def test_hashes_and_order_change_nothing() -> None:
    one, other = digests("1", RUNS), digests("2", RUNS[::-1])
    assert len(one) == len(RUNS)
    assert one == other
