"""What is fed: seeded words with copies of earlier records, out of order within bounds."""

from __future__ import annotations

import random
from dataclasses import dataclass

USERS = 1_000
WORDS = 2_000
REORDERED_BY = 500
"""A record moves by at most this many places."""
COPIED_WITHIN = 5_000
"""A copy comes at most this many places after its original's."""


@dataclass(frozen=True)
class Event:
    id: str
    user: str
    word: str
    time_ms: int


def events(seed: int, count: int, copies: float, first_ms: int) -> list[Event]:
    """`count` records in the order in which they are sent; `copies` of them repeat the id and content of another."""
    rng = random.Random(seed)
    copied = int(count * copies)
    placed: list[tuple[float, Event]] = []
    for number in range(count - copied):
        event = Event(
            id=f"e-{number:07d}",
            user=f"user-{rng.randrange(USERS)}",
            word=f"word-{int(WORDS * rng.random() ** 3)}",
            time_ms=first_ms + number // 2,
        )
        placed.append((number + rng.uniform(0, REORDERED_BY), event))
    for place, event in rng.sample(placed, copied):
        placed.append((place + rng.uniform(0, COPIED_WITHIN), event))
    return [event for _, event in sorted(placed, key=lambda one: one[0])]
