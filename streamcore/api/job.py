"""A job: a name, and the topology that its program writes down."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias, TypeVar, overload

from streamcore.api.graph import Graph, refuse, where
from streamcore.api.record import Key
from streamcore.api.stream import KeyedStream, Stream
from streamcore.api.topic import Topic
from streamcore.topology import explain, plan
from streamcore.topology.nodes import OnError, Source, StartMs, Stop
from streamcore.types import TimestampMs

K = TypeVar("K", bound=Key)
V = TypeVar("V")

Start: TypeAlias = Literal["earliest", "latest"] | datetime
"""Where a stream begins when the job runs for the first time; later it goes on where it was."""


class Job:
    """`name` is the consumer group, and the start of all that the job owns: topics, ids, directories. `on_error` says
    what happens to a record that fails. With `correlation_ids` every output carries, in the header `correlation-id`,
    that of the input it comes from."""

    def __init__(self, name: str, *, on_error: OnError | None = None, correlation_ids: bool = False) -> None:
        plan.check_name("a job", name, where())
        self._graph = Graph(name, on_error or Stop())
        self._correlation_ids = correlation_ids

    @property
    def name(self) -> str:
        return self._graph.job

    @overload
    def stream(
        self, topic: Topic[None, V], *, start: Start = "earliest", on_error: OnError | None = None
    ) -> Stream[V]: ...
    @overload
    def stream(
        self, topic: Topic[K, V], *, start: Start = "earliest", on_error: OnError | None = None
    ) -> KeyedStream[K, V]: ...
    def stream(self, topic: Topic[Any, Any], *, start: Start = "earliest", on_error: OnError | None = None) -> Any:
        """The records of a topic. `start` counts at the job's first run only; `on_error` (default: the job's) is for
        this topic's records until they are regrouped. A topic can be asked for twice, with the same settings."""
        spec = topic.spec
        node = Source(
            name=spec.name,
            inputs=(),
            key_type=None if spec.key is None else spec.key.type,
            value_type=spec.value.type,
            where=where(),
            topic=spec,
            start=_start(spec.name, start),
            on_error=on_error or self._graph.on_error,
        )
        node = self._known(node) or self._graph.add(node)
        made: Any = Stream if spec.key is None else KeyedStream
        return made(self._graph, node)

    def _known(self, asked: Source) -> Source | None:
        for node in self._graph.nodes:
            if isinstance(node, Source) and node.name == asked.name:
                if _settings(node) != _settings(asked):
                    raise refuse(
                        f"topic {asked.name!r} is read twice, with different types or settings; first at {node.where}",
                        "a job reads a topic once: call stream(...) once and use its result twice",
                    )
                return node
        return None

    def plan(self, *, correlation_ids: bool | None = None) -> plan.Plan:
        """The topology, checked and cut into stages; `correlation_ids` in place of the job's own setting. Raises
        TopologyError."""
        carried = self._correlation_ids if correlation_ids is None else correlation_ids
        return plan.build(self.name, self._graph.nodes, self._graph.on_error, correlation_ids=carried)

    def explain(self, *, mermaid: bool = False) -> str:
        """The topology as text, or as a Mermaid flowchart. Raises TopologyError."""
        return explain.explain(self.plan(), mermaid=mermaid)

    def __repr__(self) -> str:
        return f"Job({self.name!r})"


def _settings(node: Source) -> tuple[Any, ...]:
    key = node.topic.key
    return node.topic.value.type, None if key is None else key.type, node.start, node.on_error


def _start(topic: str, start: Start) -> StartMs:
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise refuse(
                f"topic {topic!r} starts at {start.isoformat()}, a time without a zone",
                "add one: datetime(2024, 1, 1, tzinfo=UTC)",
            )
        return TimestampMs(int(start.timestamp() * 1000))
    if start not in ("earliest", "latest"):
        raise refuse(f"topic {topic!r} cannot start at {start!r}", 'start at "earliest", "latest", or a datetime')
    return start
