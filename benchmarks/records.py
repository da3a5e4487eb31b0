"""The input of every benchmark: JSON orders of about 110 bytes, keyed by user, and what the jobs make of them.

Users are skewed: the busiest of 10,000 places one order in twenty. So are the 2,000 cities, the other key.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

import msgspec
from confluent_kafka import Producer

PARTITIONS = 4
USERS = 10_000
CITIES = 2_000
FIRST_MS = 1_700_000_000_000
FILTER_FROM = 500
"""Half of all orders are of this amount or more."""


class Topics:
    """The topics of one run: the orders, which all runs share, and the run's own."""

    def __init__(self, run: str, orders: str) -> None:
        self.run = run
        self.orders = orders
        self.output = f"{run}.output"
        self.journal = f"{run}.journal"
        self.shuffle = f"{run}.shuffle"


class Order(msgspec.Struct, frozen=True):
    id: str
    user: str
    city: str
    amount: int
    currency: str
    channel: str


class Priced(msgspec.Struct, frozen=True):
    """What map+filter makes of an order."""

    id: str
    user: str
    cents: int


class Counted(msgspec.Struct, frozen=True):
    """A running count's output, one for every order."""

    key: str
    count: int
    amount: int


def skewed(rng: random.Random, most: int) -> int:
    """0 .. most - 1, small ones more often, by a power law."""
    return int(most * rng.random() ** 3.1)


def orders(seed: int = 7) -> Iterator[Order]:
    rng = random.Random(seed)
    number = 0
    while True:
        user, city = skewed(rng, USERS), skewed(rng, CITIES)
        yield Order(
            id=f"o-{number:010d}",
            user=f"u-{user:06d}",
            city=f"city-{city:05d}",
            amount=rng.randrange(1_000),
            currency="EUR",
            channel="web-shop" if number % 3 else "telephone",
        )
        number += 1


def load(kafka: str, topic: str, count: int) -> int:
    """Produce the first `count` orders; returns their mean size in bytes. The topic exists and is empty."""
    producer = Producer(
        {
            "bootstrap.servers": kafka,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "batch.size": 1 << 20,
            "queue.buffering.max.messages": 1_000_000,
            "delivery.report.only.error": True,
        }
    )
    encode = msgspec.json.Encoder().encode
    size = 0
    source = enumerate(islice(orders(), count))
    while chunk := list(islice(source, 10_000)):
        for number, order in chunk:
            value = encode(order)
            size += len(value)
            produce(producer, topic, value, order.user.encode(), FIRST_MS + number)
        producer.poll(0)
    if producer.flush(60):
        raise SystemExit("the broker did not take the input within a minute")
    return size // count


def produce(producer: Producer, topic: str, value: bytes, key: bytes, time_ms: int) -> None:
    while True:
        try:
            return producer.produce(topic, value, key, -1, None, None, time_ms)
        except BufferError:
            producer.poll(0.05)
