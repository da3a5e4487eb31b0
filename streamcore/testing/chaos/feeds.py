"""What goes into a chaos run: values for the job's topics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from streamcore.api import Key, Topic
from streamcore.errors import TopologyError
from streamcore.testing.simulated.feeds import Event
from streamcore.topology.plan import Plan

K = TypeVar("K", bound=Key)
V = TypeVar("V")


@dataclass(frozen=True)
class Feed:
    topic: str
    events: tuple[Event, ...]


@overload
def feed(topic: Topic[None, V], values: Iterable[V]) -> Feed: ...
@overload
def feed(topic: Topic[K, V], values: Iterable[V], *, key: Callable[[V], K]) -> Feed: ...
def feed(topic: Any, values: Iterable[Any], *, key: Callable[[Any], Any] | None = None) -> Feed:
    """These values into the topic, at even distances over the first half of the run."""
    spec, items = topic.spec, list(values)
    if (spec.key is None) != (key is None):
        raise TopologyError(
            f"topic {spec.name!r} is {'not keyed' if spec.key is None else 'keyed'}, and the feed has "
            f"{'a' if key else 'no'} key",
            "give feed(..., key=...) for a keyed topic, and only there",
        )
    keys = [None] * len(items) if key is None else spec.key.encode([key(item) for item in items])
    return Feed(spec.name, tuple(map(Event, keys, spec.value.encode(items))))


def refuse(plan: Plan, feeds: Sequence[Feed]) -> None:
    """A feed that nobody reads shows nothing. Raises TopologyError."""
    read = ", ".join(plan.source_topics)
    for each in feeds:
        if each.topic not in plan.source_topics:
            raise TopologyError(f"job {plan.job} does not read the topic {each.topic!r} of a feed", f"it reads {read}")
    if not any(each.events for each in feeds):
        raise TopologyError(
            f"nothing is fed to job {plan.job}", f"give feeds=[chaos.feed(TOPIC, values)]: it reads {read}"
        )
