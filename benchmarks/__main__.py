"""`make bench`: each job beside its hand-written loop, in alternating pairs on one broker, as a table.

    python -m benchmarks [--kafka HOST:PORT] [--records N] [--rounds R] [--only CASE] [--profile DIR]

Without --kafka a broker is started for the run and ended with it. The medians go to the terminal and, as Markdown, to
benchmarks/results.md. The first round also compares what both sides wrote. A benchmark reports; it judges nothing.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from statistics import median
from uuid import uuid4

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.records import Counted, Topics, load
from benchmarks.runs import ROOT, SIDES, Cluster, Measured, measure
from tests.kafka.broker import Given, Local

CASES = {
    "map_filter": "map + filter",
    "running_count": "running count",
    "latest": "aggregate",
    "regroup": "regroup, running count",
}
Pair = dict[str, Measured]
console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka")
    parser.add_argument("--records", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=CASES, action="append")
    parser.add_argument("--side", choices=SIDES, action="append", help="leave the other side out (to profile)")
    parser.add_argument("--profile", metavar="DIR", help="where pyinstrument writes CASE-SIDE.txt")
    given = parser.parse_args()
    with closing(Given(given.kafka) if given.kafka else Local(heap="1g", fast_start=False)) as broker:
        cluster = Cluster(broker.bootstrap)
        plan = Plan(given.records, given.rounds, given.only or list(CASES), given.side or list(SIDES), given.profile)
        pairs = bench(cluster, plan)
    if not given.profile:
        report(pairs, plan)


@dataclass(frozen=True)
class Plan:
    records: int
    rounds: int
    cases: list[str]
    sides: list[str]
    profile: str | None


def bench(cluster: Cluster, plan: Plan) -> dict[str, list[Pair]]:
    base = f"bench-{uuid4().hex[:6]}"
    orders = f"{base}.orders"
    cluster.create([orders])
    pairs: dict[str, list[Pair]] = {case: [] for case in plan.cases}
    try:
        size = load(cluster.kafka, orders, plan.records)
        console.print(f"{plan.records:,} orders of {size} bytes stand in {orders}")
        for number in range(plan.rounds):
            for case in plan.cases:
                pairs[case].append(pair(cluster, plan, case, number, base, orders))
    finally:
        cluster.delete(base)
    return pairs


def pair(cluster: Cluster, plan: Plan, case: str, number: int, base: str, orders: str) -> Pair:
    """Both sides once; who goes first changes by round. The first round compares what they wrote."""
    measured: Pair = {}
    wrote: dict[str, object] = {}
    for side in plan.sides[:: 1 if number % 2 == 0 else -1]:
        topics = Topics(f"{base}-{case}-{number}-{side}", orders)
        profile = f"{plan.profile}/{case}-{side}.txt" if plan.profile else None
        try:
            one = measured[side] = measure(cluster, side, case, topics, plan.records, profile)
            if number == 0:
                wrote[side] = digest(cluster, case, topics.output)
        finally:
            cluster.delete(topics.run)
        console.print(
            f"  {CASES[case]:24} {side:12} {one.records_a_second / 1e3:7.0f} k/s"
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


def report(pairs: dict[str, list[Pair]], plan: Plan) -> None:
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
        f"`make bench N={plan.records} ROUNDS={plan.rounds}`, {date.today().isoformat()}: {machine()}.",
        "Exactly once, a commit each 100 ms, 4 partitions, one process; streamcore / hand-written. Running counts give",
        "an output a record; the aggregate gives each changed key once an epoch; regroup goes through a shuffle.",
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
