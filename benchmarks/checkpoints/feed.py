"""A process that writes input: `load` each key once, as fast as the broker takes it; `change` random ones, at a rate,
until it is killed.

    python -m benchmarks.checkpoints.feed load|change|words --kafka HOST:PORT --topic T --keys N [--rate R]
"""

from __future__ import annotations

import argparse
import os
import random
import time

from confluent_kafka import Producer

from benchmarks.checkpoints.jobs import PAYLOAD, key_of
from benchmarks.records import produce

TICK_S = 0.005
POOL = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "change", "words"))
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--rate", type=int, default=0)
    given = parser.parse_args()
    settings = {"enable.idempotence": True, "partitioner": "murmur2_random", "queue.buffering.max.messages": 500_000}
    producer = Producer({"bootstrap.servers": given.kafka, "linger.ms": 2 if given.rate else 20, **settings})
    if given.what == "load":
        load(producer, given.topic, given.keys)
    else:
        change(producer, given.topic, given.keys, given.rate, words=given.what == "words")


def load(producer: Producer, topic: str, keys: int) -> None:
    rng = random.Random(5)
    pool = rng.randbytes(POOL)
    now_ms = int(time.time() * 1000)
    for number in range(keys):
        at = number * 7919 % (POOL - PAYLOAD)
        produce(producer, topic, pool[at : at + PAYLOAD], key_of(number), now_ms)
        if number % 10_000 == 0:
            producer.poll(0)
    if producer.flush(120):
        raise SystemExit("the broker did not take the input")


def change(producer: Producer, topic: str, keys: int, rate: int, *, words: bool) -> None:
    """Ends with its parent."""
    rng, parent = random.Random(6), os.getppid()
    sent, began_s = 0, time.monotonic()
    while os.getppid() == parent:
        due = int((time.monotonic() - began_s) * rate)
        now_ms = int(time.time() * 1000)
        for _ in range(due - sent):
            key = key_of(rng.randrange(keys))
            produce(producer, topic, key if words else rng.randbytes(PAYLOAD), key, now_ms)
        sent = max(due, sent)
        producer.poll(0)
        time.sleep(TICK_S)


if __name__ == "__main__":
    main()
