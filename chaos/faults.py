"""What the nemesis does, how often, and when: planned from the seed before anything runs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PER_MINUTE: Final[Mapping[str, float]] = {
    "kill": 6.6,
    "kill at point": 6.6,
    "machine lost": 0.5,
    "zombie": 0.5,
    "zombie at point": 0.5,
    "zombie replaced": 0.5,
    "broker kill": 0.35,
    "broker stop": 0.3,
    "broker pause": 0.35,
    "cut": 0.8,
    "stall": 0.6,
    "slow": 0.8,
    "disk full": 0.4,
}
"""A fault of each kind strikes at least once, however short the run.

    kill             SIGKILL to a worker; it comes back at once, soon, or only after its session is over
    kill at point    it kills itself at one of the named points of commit or takeover (streamcore.runtime.points)
    machine lost     SIGKILL, and all that is on its disk is gone: what comes back is restored from a checkpoint
    zombie           SIGSTOP for longer than the session, then SIGCONT
    zombie at point  it stops itself at a named point, and is continued after its session is over
    zombie replaced  while it sleeps, its slot is started on another machine; woken, it must step aside
    broker kill      SIGKILL to a broker, started again on its data
    broker stop      SIGTERM, started again
    broker pause     SIGSTOP, then SIGCONT
    cut              the connections between one worker and one broker end, and new ones are refused
    stall            nothing passes between one worker and one broker, and nobody is told
    slow             each request and answer between one worker and one broker takes longer
    disk full        no file of a worker's can grow; it must stop by name, and is started with room

And with each start: a worker's clock may be wrong, by up to half an hour.
"""

LAST: Final = 0.93
"""Faults strike in this part of the time, so that records follow on each."""


@dataclass
class Fault:
    kind: str
    target: str
    begun_s: float
    ended_s: float | None = None
    """When it was healed."""


def planned(rng: random.Random, minutes: float, kinds: Mapping[str, float]) -> list[tuple[float, str]]:
    """(seconds from the beginning, kind), in order of time."""
    faults: list[tuple[float, str]] = []
    for kind, rate in kinds.items():
        for _ in range(max(1, round(rate * minutes))):
            faults.append((rng.uniform(2.0, minutes * 60 * LAST), kind))
    return sorted(faults)


def kinds_without_brokers() -> dict[str, float]:
    """For a cluster that is somebody else's."""
    return {kind: rate for kind, rate in PER_MINUTE.items() if not kind.startswith("broker")}
