"""`make chaos`: chaos runs with seeds of their own choosing, until one fails.

python -m chaos [--minutes M] [--times N] [--seed N] [--kafka HOST:PORT] [--report PAGE.md]

Three brokers are started, killed and stopped here; with --kafka, that cluster is used and its brokers are left alone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from random import SystemRandom

from chaos import report as page
from chaos.run import Report, Shape, run
from chaos.timeline import text
from tests.kafka.broker import Cluster, Given, Local

BROKERS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=Shape().minutes, help="of faults, each run")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--kafka", help="a cluster that runs, on this machine")
    parser.add_argument("--report", type=Path, help="keep the report here, with its picture beside it")
    given = parser.parse_args()
    with closing(Given(given.kafka) if given.kafka else Local(BROKERS)) as cluster:
        for _ in range(given.times):
            seed = SystemRandom().randrange(1 << 20) if given.seed is None else given.seed
            report = judged(cluster, seed, Shape(minutes=given.minutes))
            if given.report:
                page.keep(report, given.report, f"python -m chaos --minutes {given.minutes:g}")
            if not report.ok:
                sys.exit(1)


def judged(cluster: Cluster, seed: int, shape: Shape) -> Report:
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    report = run(cluster, seed, directory, shape, keep=True)
    print(text(report))
    if report.ok:
        shutil.rmtree(directory)
        print(f"{report.summary()}: nothing lost, nothing repeated", flush=True)
    else:
        print(f"{report.explain()}\nlogs and state: {directory}", flush=True)
    return report


if __name__ == "__main__":
    main()
