"""The benchmark job with a shuffle, with barriers each ten seconds and without any, in alternating pairs."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from statistics import median

from benchmarks.checkpoints.table import Line
from benchmarks.records import Topics, load
from benchmarks.runs import Cluster, Measured, measure

CASE = "regroup"
WITHOUT = {"STREAMCORE_CHECKPOINTS__STORE": "none"}
WITH = {"STREAMCORE_CHECKPOINTS__INTERVAL": "10s"}


def lines(cluster: Cluster, base: str, records: int, rounds: int) -> list[Line]:
    orders = f"{base}.orders"
    cluster.create([orders])
    load(cluster.kafka, orders, records)
    pairs: list[tuple[Measured, Measured]] = []
    for number in range(rounds):
        sides = (WITH, WITHOUT) if number % 2 == 0 else (WITHOUT, WITH)
        done = {id(side): _run(cluster, f"{base}-{number}-{i}", orders, records, side) for i, side in enumerate(sides)}
        pairs.append((done[id(WITH)], done[id(WITHOUT)]))
    ratios = [there.records_a_second / none.records_a_second for there, none in pairs]
    cpu = median(there.cpu_s_a_million / none.cpu_s_a_million for there, none in pairs)
    rates = ", ".join(f"{a.records_a_second / 1e3:.0f} / {b.records_a_second / 1e3:.0f}" for a, b in pairs)
    told = f"thousand records/s: {rates}; CPU {cpu:.2f}"
    return [Line("throughput with barriers each 10 s / without", median(ratios), 0.95, told, least=True)]


def _run(cluster: Cluster, run: str, orders: str, records: int, settings: dict[str, str]) -> Measured:
    topics = Topics(run, orders)
    with environment(settings):
        try:
            return measure(cluster, "streamcore", CASE, topics, records)
        finally:
            cluster.delete(run)


@contextmanager
def environment(settings: dict[str, str]) -> Generator[None]:
    os.environ |= settings
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]
