"""Lost disk: a worker dies and its state directory with it.

Hypothesis: the journal has it all. The worker starts on an empty disk, replays its tasks' journals, and its state is
the same as if nothing had happened; nothing is repeated, the inbox included.
"""

from __future__ import annotations

import shutil

from chaos.events import Event
from chaos.gamedays.day import day

FED = 150_000


def main() -> None:
    with day() as today:
        today.feed(FED)
        took = today.all_out()
        today.say(f"{FED} records fed, all outputs there after {took:.1f} s")
        worker = today.workers[0]
        size = sum(path.stat().st_size for path in worker.machines[0].rglob("*") if path.is_file())
        worker.kill()
        shutil.rmtree(worker.machines[0])
        today.say(f"slot 0 is killed, its state of {size / 1e6:.1f} MB deleted")
        today.feed(5_000)
        repeated: list[Event] = today.scene.sent[:5_000]
        today.send(repeated)
        worker.start()
        joined = today.until(worker.has_joined, "joined")
        took = joined + today.all_out()
        today.say(
            f"joined after {joined:.1f} s, all outputs there after {took:.1f} s; 5,000 early records were sent again"
        )
        today.judge()


if __name__ == "__main__":
    main()
