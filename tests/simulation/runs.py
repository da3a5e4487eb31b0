"""One seed of one topology: the same wherever it is run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from streamcore.testing.history import History
from streamcore.testing.judge import ALWAYS, Verdict, failed, judge
from streamcore.testing.simulated.faults import Rates, Schedule
from streamcore.testing.simulated.simulation import Simulation
from tests.simulation.topologies import TOPOLOGIES

HORIZON_S: Final = 8.0


@dataclass(frozen=True)
class Outcome:
    topology: str
    seed: int
    schedule: Schedule
    history: History
    wrong: list[Verdict]
    """What does not hold, or is not known."""

    def told(self) -> str:
        lines = [f"topology {self.topology}, seed {self.seed}", *(f"  {fault}" for fault in self.schedule.happened)]
        return "\n".join([*lines, *map(str, self.wrong)])


def run(topology: str, seed: int, rates: Rates | None = None, rocks: Path | None = None) -> Outcome:
    """`rates`: in place of the seed's own."""
    with quiet():
        return _run(topology, seed, rates, rocks)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the workers' warnings, which are what these runs are for."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _run(topology: str, seed: int, rates: Rates | None, rocks: Path | None) -> Outcome:
    one = TOPOLOGIES[topology]
    drawn = rates or Rates.drawn(Random(f"{seed}/rates"))
    schedule = Schedule(drawn, Random(f"{seed}/faults"), horizon_s=HORIZON_S)
    feedings = one.feed(Random(f"{seed}/feed"))
    simulation = Simulation(one.plan, feedings, schedule, seed=str(seed), horizon_s=HORIZON_S, rocks=rocks)
    history = simulation.run()
    # A source that was made anew has not what was read: outputs cannot be told by it, all else can.
    checkers = one.checkers if history.inputs else ALWAYS
    return Outcome(topology, seed, schedule, history, failed(judge(history, checkers)))
