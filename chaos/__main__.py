"""`make chaos`: the chaos run with seeds of its own choosing, until one fails.

python -m chaos [--kafka HOST:PORT] [--seed N] [--times N]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom

from chaos.wordcount import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", default=os.environ.get("STREAMCORE_TEST_KAFKA"))
    parser.add_argument("--seed", type=int)
    parser.add_argument("--times", type=int, default=1)
    given = parser.parse_args()
    with ExitStack() as stack:
        kafka = given.kafka or stack.enter_context(broker())
        for _ in range(given.times):
            seed = SystemRandom().randrange(1 << 20) if given.seed is None else given.seed
            directory = Path(tempfile.mkdtemp(prefix="chaos-"))
            report = run(kafka, seed, directory)
            if not report.ok:
                sys.exit(f"{report.explain()}\nlogs and state: {directory}")
            print(
                f"seed {seed}: {report.outputs} outputs, nothing lost, nothing repeated, after {report.kills} kills"
                f" and {report.pauses} pauses in {report.took_s:.0f} s"
            )


if __name__ == "__main__":
    main()
