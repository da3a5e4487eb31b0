"""Slow broker: one of three answers late, then not at all.

Hypothesis: epochs get longer and outputs later, none are lost; calls of over 80 ms cost a fresh producer each (law 4).
While one broker is silent, work stands still until the cluster has taken its partitions away from it, and then goes on
with two.
"""

from __future__ import annotations

from chaos.gamedays.day import Day, day


def main() -> None:
    with day(brokers=3) as today:
        today.say(f"undisturbed: {today.flow(10):.0f} outputs a second of 1,000 sent")
        for seconds in (0.05, 0.2, 0.5):
            slow(today, seconds)
        silent(today)
        today.judge()


def slow(today: Day, seconds: float) -> None:
    network = today.scene.network
    for worker in today.workers:
        network.link(worker.slot, 0).slow(seconds)
    rate = today.flow(15)
    for worker in today.workers:
        network.link(worker.slot, 0).slow(0.0)
    took = today.all_out()
    today.say(
        f"broker 1, {seconds * 1000:.0f} ms more each way for 15 s: {rate:.0f} outputs a second; "
        f"caught up {took:.1f} s later"
    )


def silent(today: Day) -> None:
    node = today.brokers.nodes[0]
    node.pause()
    today.say("broker 1 stops (SIGSTOP)")
    for _ in range(12):
        today.say(f"{today.flow(5):.0f} outputs a second")
    node.resume()
    took = today.all_out()
    today.say(f"broker 1 goes on; caught up after {took:.1f} s")


if __name__ == "__main__":
    main()
