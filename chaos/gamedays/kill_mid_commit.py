"""Kill mid-commit: SIGKILL at each named point of a commit.

Hypothesis: before the broker has decided, the epoch is undone and done again; after it has decided, the epoch stands
and is not done again, though the dead worker's local state never heard of it. The slot is back in the time that a start
takes, because it finds its tasks still its own.
"""

from __future__ import annotations

from chaos.gamedays.day import Day, day
from streamcore.runtime.points import COMMIT_POINTS


def main() -> None:
    with day() as today:
        for point in COMMIT_POINTS:
            strike(today, point)
        today.all_out()
        today.judge()


def strike(today: Day, point: str) -> None:
    worker = today.workers[0]
    today.flow(2.0)
    process = worker.process
    assert process is not None
    worker.set_trap(point, "kill")
    while process.code is None:
        today.flow(0.2)
    worker.process = None
    worker.start()
    joined = today.until(worker.has_joined, "joined")
    took = joined + today.all_out()
    today.say(f"{point}: killed there; joined {joined:.1f} s after its start, all outputs there after {took:.1f} s")


if __name__ == "__main__":
    main()
