"""Events on their way into a topic: spread over time, some twice, some late.

A feed is drawn before the run, so that the same seed brings the same records in the same order, whatever the faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from streamcore.testing.simulated.scheduler import START_MS
from streamcore.testing.simulated.simulation import Feeding

AGAIN_S = 2.0
"""A duplicate comes within this of the first, usually."""


@dataclass(frozen=True, slots=True)
class Event:
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What becomes of events between their source and the topic."""

    duplicates: float = 0.0
    """The share that comes twice."""
    late_s: float = 0.0
    """An event may come up to this late, behind ones that happened after it."""

    def __str__(self) -> str:
        told = [f"{self.duplicates:.0%} of the events come twice"] if self.duplicates else []
        told += [f"events come up to {self.late_s:g} s late"] if self.late_s else []
        return ", ".join(told)


def feedings(
    topic: str, events: Sequence[Event], over_s: float, disturbance: Disturbance, draw: Random
) -> list[Feeding]:
    """All events at even distances within `over_s`, disturbed; a timestamp is when it happened, not when it came."""
    step_s = over_s / max(1, len(events))
    coming: list[tuple[float, int, Event, int]] = []
    for i, event in enumerate(events):
        happened_s = i * step_s
        time_ms = START_MS + int(happened_s * 1000)
        late_s = draw.uniform(0, disturbance.late_s) if disturbance.late_s else 0.0
        coming.append((happened_s + late_s, i, event, time_ms))
        if draw.random() < disturbance.duplicates:
            again_s = draw.expovariate(2 / AGAIN_S)
            coming.append((happened_s + late_s + again_s, i, event, time_ms))
    coming.sort(key=lambda item: item[:2])
    return [_batch(topic, batch) for batch in _batches(coming, step_s * 4)]


def _batches(
    coming: Iterable[tuple[float, int, Event, int]], within_s: float
) -> Iterable[list[tuple[float, int, Event, int]]]:
    """Neighbours in time arrive together, as producers send them."""
    batch: list[tuple[float, int, Event, int]] = []
    for item in coming:
        if batch and item[0] - batch[0][0] > within_s:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _batch(topic: str, batch: list[tuple[float, int, Event, int]]) -> Feeding:
    return Feeding(
        batch[-1][0],
        topic,
        tuple(event.key for _, _, event, _ in batch),
        tuple(event.value for _, _, event, _ in batch),
        tuple(time_ms for _, _, _, time_ms in batch),
    )
