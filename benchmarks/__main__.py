"""`make bench`: each job beside its hand-written loop, in alternating pairs on one broker, as a table.

    python -m benchmarks [--kafka HOST:PORT] [--records N] [--rounds R] [--only CASE]

Without --kafka a broker is started for the run and ended with it. The medians go to the terminal and, as Markdown, to
benchmarks/results.md. The first round also compares what both sides wrote. A benchmark reports; it judges nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date
from statistics import median
from uuid import uuid4

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.records import Counted, Topics, load
from benchmarks.runs import ROOT, SIDES, Cluster, Measured, measure

CASES = {
    "map_filter": "map + filter",
    "running_count": "running count, an output a record",
    "latest": "aggregate, latest a key an epoch",
    "regroup": "regroup through a shuffle, running count",
}
Pair = dict[str, Measured]
console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", default=os.environ.get("STREAMCORE_BENCH_KAFKA"))
    parser.add_argument("--records", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=CASES, action="append")
    parser.add_argument("--side", choices=SIDES, action="append", help="leave the other side out (to profile)")
    given = parser.parse_args()
    with ExitStack() as stack:
        cluster = Cluster(given.kafka or stack.enter_context(broker()))
        pairs = bench(cluster, given.records, given.rounds, given.only or list(CASES), given.side or list(SIDES))
    report(pairs, given.records, given.rounds)


def bench(cluster: Cluster, records: int, rounds: int, cases: list[str], sides: list[str]) -> dict[str, list[Pair]]:
    base = f"bench-{uuid4().hex[:6]}"
    orders = f"{base}.orders"
    cluster.create([orders])
    pairs: dict[str, list[Pair]] = {case: [] for case in cases}
    try:
        size = load(cluster.kafka, orders, records)
        console.print(f"{records:,} orders of {size} bytes stand in {orders}")
        for number in range(rounds):
            for case in cases:
                order = sides if number % 2 == 0 else sides[::-1]
                pairs[case].append(pair(cluster, f"{base}-{case}-{number}", orders, records, case, order, number == 0))
    finally:
        cluster.delete(base)
    return pairs


def pair(cluster: Cluster, run: str, orders: str, records: int, case: str, sides: list[str], compare: bool) -> Pair:
    measured: Pair = {}
    wrote: dict[str, object] = {}
    for side in sides:
        topics = Topics(f"{run}-{side}", orders)
        try:
            measured[side] = measure(cluster, side, case, topics, records)
            if compare:
                wrote[side] = digest(cluster, case, topics.output)
        finally:
            cluster.delete(topics.run)
        one = measured[side]
        console.print(
            f"  {CASES[case]:42} {side:12} {one.records_a_second / 1e3:7.0f} k/s"
            f" {one.cpu_s_a_million:6.2f} CPU s/million {one.peak_bytes >> 20:5} MB"
        )
    if len(set(map(repr, wrote.values()))) > 1:
        raise SystemExit(f"{case}: the two sides wrote different results: {wrote}")
    return measured


def digest(cluster: Cluster, case: str, topic: str) -> object:
    """What a run wrote, whatever the order of its keys: (records, sum of hashes). Of an aggregate, each key's last."""
    rows = cluster.read(topic)
    if case == "latest":
        return summed(hash(pair) for pair in dict(rows).items())
    if case == "map_filter":
        return summed(hash(row) for row in rows)
    decode: Callable[[bytes], Counted] = msgspec.json.Decoder(Counted).decode
    return summed(hash((key, decode(value).count)) for key, value in rows)


def summed(hashes: object) -> tuple[int, int]:
    count = total = 0
    for one in hashes:  # type: ignore[attr-defined]
        count, total = count + 1, (total + one) % (1 << 64)
    return count, total


def broker() -> object:
    from tests.kafka.broker import start_broker

    return start_broker(heap="1g")


def report(pairs: dict[str, list[Pair]], records: int, rounds: int) -> None:
    """Medians over the rounds; a ratio is the median of the pairs' own ratios, streamcore's over the loop's."""
    header = ["", "thousand records/s", "ratio", "CPU s a million", "ratio", "peak memory MB"]
    rows = [[CASES[case], *columns(done)] for case, done in pairs.items() if set(done[0]) == set(SIDES)]
    if not rows:
        return
    table = Table(*header, title="streamcore beside a hand-written loop")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    lines = [
        f"`make bench N={records} ROUNDS={rounds}`, {date.today().isoformat()}: {machine()}.",
        "Exactly once, a commit each 100 ms, 4 partitions, one process; streamcore / hand-written.",
        "",
        *("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)),
    ]
    (ROOT / "benchmarks" / "results.md").write_text("\n".join(lines) + "\n")


def columns(pairs: list[Pair]) -> list[str]:
    def both(of: Callable[[Measured], float], form: str) -> str:
        return " / ".join(form.format(median(of(pair[side]) for pair in pairs)) for side in reversed(SIDES))

    def ratio(of: Callable[[Measured], float]) -> str:
        return f"{median(of(pair['streamcore']) / of(pair['handwritten']) for pair in pairs):.2f}"

    return [
        both(lambda one: one.records_a_second / 1e3, "{:.0f}"),
        ratio(lambda one: one.records_a_second),
        both(lambda one: one.cpu_s_a_million, "{:.2f}"),
        ratio(lambda one: one.cpu_s_a_million),
        both(lambda one: one.peak_bytes / (1 << 20), "{:.0f}"),
    ]


def machine() -> str:
    memory = psutil.virtual_memory().total >> 30
    return f"{psutil.cpu_count()} cores, {memory} GB, broker on the same machine, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
