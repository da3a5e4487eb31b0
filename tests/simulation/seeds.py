"""Many seeds on all cores: `make seeds N=10000`, or `python -m tests.simulation.seeds N`.

Seed i runs on topology i modulo their number, each tenth of a topology's on the real RocksDB. What is done is written
down as it goes, so that a run that is stopped goes on where it was; failures are listed at the end and make the exit
code 1. `--from` begins at another seed than 0, `--state` names the file, `--processes` says how many at once.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests.simulation.runs import run
from tests.simulation.topologies import TOPOLOGIES

NAMES: Final = list(TOPOLOGIES)
PIECE: Final = 50
TOLD_EVERY_S: Final = 10.0


def one(number: int) -> str:
    """What went wrong, or nothing."""
    topology = NAMES[number % len(NAMES)]
    rocks = Path(tempfile.mkdtemp(prefix="seed-")) if number // len(NAMES) % 10 == 0 else None
    try:
        outcome = run(topology, number, rocks=rocks)
    except Exception as error:  # the simulator's own failure is one too
        return f"topology {topology}, seed {number}: {type(error).__name__}: {error}"
    finally:
        if rocks is not None:
            shutil.rmtree(rocks, ignore_errors=True)
    return outcome.told() if outcome.wrong else ""


def piece(first_and_last: tuple[int, int]) -> tuple[int, list[str]]:
    first, last = first_and_last
    return first, [told for told in map(one, range(first, last)) if told]


def settled() -> None:
    """What was imported stays: the collector need not look at it again and again (a tenth of the time)."""
    gc.collect()
    gc.freeze()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--state", type=Path, default=Path(".seeds.json"))
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    asked = parser.parse_args()
    done: dict[str, Any] = json.loads(asked.state.read_text()) if asked.state.exists() else {}
    pieces = [(i, min(i + PIECE, asked.first + asked.n)) for i in range(asked.first, asked.first + asked.n, PIECE)]
    left = [p for p in pieces if f"{p[0]}-{p[1]}" not in done]
    begun_s = told_s = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(asked.processes, settled) as pool:
        ends = dict(left)
        for i, (first, failures) in enumerate(pool.imap_unordered(piece, left), 1):
            done[f"{first}-{ends[first]}"] = failures
            asked.state.write_text(json.dumps(done, indent=1))
            for told in failures:
                print(told, flush=True)
            if time.monotonic() - told_s >= TOLD_EVERY_S or i == len(left):
                told_s = time.monotonic()
                rate = i * PIECE / (told_s - begun_s)
                bad = sum(map(len, done.values()))
                print(f"{i} of {len(left)} pieces, {rate:.1f} seeds/s, {bad} failures so far", flush=True)
    failures = [told for p in pieces for told in done.get(f"{p[0]}-{p[1]}", [])]
    print(f"{asked.n} seeds, {len(failures)} failures")
    for told in failures:
        print("  " + told.splitlines()[0])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
