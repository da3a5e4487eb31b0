"""Duplicate storm: an upstream that has lost its place sends everything again, many times over, while a worker dies.

Hypothesis: the inbox lets none of it through, not even across the death; duplicates cost time and no output.
"""

from __future__ import annotations

import random
import time

from chaos.gamedays.day import day

FED = 20_000
TIMES = 15


def main() -> None:
    with day() as today:
        today.feed(FED)
        today.all_out()
        today.say(f"{today.scene.fed} records fed, {today.scene.read} outputs")
        storm = today.scene.sent[: today.scene.fed] * TIMES
        random.Random(1).shuffle(storm)
        begun = time.monotonic()
        today.send(storm)
        today.scene.producer.flush(60)
        today.say(f"all of them sent {TIMES} times more, shuffled: {len(storm)} records")
        worker = today.workers[0]
        worker.kill()
        worker.start()
        today.until(worker.has_joined, "joined")
        today.until(lambda: today.scene.unprocessed() == 0, "processed")
        took = time.monotonic() - begun
        today.say(f"slot 0 killed and started meanwhile; processed in {took:.1f} s, {len(storm) / took:,.0f} a second")
        today.say(f"{today.scene.read} outputs")
        today.judge()


if __name__ == "__main__":
    main()
