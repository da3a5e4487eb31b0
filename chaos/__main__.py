"""`make chaos`: the chaos run with seeds of its own choosing, until one fails.

python -m chaos [--kafka HOST:PORT] [--seed N] [--times N]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from random import SystemRandom

from chaos.wordcount import run
from tests.kafka.broker import Given, one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", help="a broker that runs; else STREAMCORE_TEST_KAFKA, or one is started")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--times", type=int, default=1)
    given = parser.parse_args()
    with closing(Given(given.kafka) if given.kafka else one()) as broker:
        for _ in range(given.times):
            seed = SystemRandom().randrange(1 << 20) if given.seed is None else given.seed
            judged(broker.bootstrap, seed)


def judged(kafka: str, seed: int) -> None:
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    report = run(kafka, seed, directory, keep=True)
    if not report.ok:
        sys.exit(f"{report.explain()}\nthe topics stay; logs and state: {directory}")
    shutil.rmtree(directory)
    print(
        f"seed {seed}: {report.outputs} outputs, nothing lost, nothing repeated, after {report.kills} kills"
        f" and {report.pauses} pauses in {report.took_s:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
