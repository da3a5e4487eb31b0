"""The benchmark's jobs in streamcore. BENCH_RUN names the run, BENCH_ORDERS its input."""

from __future__ import annotations

import os
from collections.abc import Iterator
from operator import itemgetter

from benchmarks.records import FILTER_FROM, Counted, Order, Priced, Topics
from streamcore import Context, Job, State, Topic, Value, agg

topics = Topics(os.environ["BENCH_RUN"], os.environ["BENCH_ORDERS"])
orders = Topic(topics.orders, Order, key=str)


class Tally(State):
    count = Value(int, default=0)


def tally(order: Order, state: Tally, ctx: Context[str]) -> Iterator[Counted]:
    state.count += 1
    yield Counted(ctx.key, state.count, order.amount)


map_filter = Job(topics.run)
(
    map_filter.stream(orders)
    .filter(lambda order: order.amount >= FILTER_FROM)
    .map(lambda order: Priced(order.id, order.user, order.amount * 100))
    .to(Topic(topics.output, Priced, key=str))
)

Spent = tuple[str, int]
"""City and amount: all of an order that is worth its way through a shuffle."""


def spent(order: Order) -> Spent:
    return order.city, order.amount


def tally_city(city_and_amount: Spent, state: Tally, ctx: Context[str]) -> Iterator[Counted]:
    state.count += 1
    yield Counted(ctx.key, state.count, city_and_amount[1])


running_count = Job(topics.run)
running_count.stream(orders).process("tally", Tally, tally).to(Topic(topics.output, Counted, key=str))

latest = Job(topics.run)
latest.stream(orders).aggregate("total", agg.sum(lambda order: order.amount)).to(Topic(topics.output, int, key=str))

regroup = Job(topics.run)
(
    regroup.stream(orders)
    .map(spent)
    .key_by("by-city", itemgetter(0))
    .process("tally", Tally, tally_city)
    .to(Topic(topics.output, Counted, key=str))
)
