"""Streams: what a user's program is written with. Every method writes one node down and returns at once.

A step that owns something durable (a topic, state) takes its name first: it is found again by it. Other steps need
none; `name=` gives one for messages and metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

from streamcore.api.aggregate import SAME_AS_VALUE, Aggregate
from streamcore.api.graph import Graph, items_returned, refuse, returned, where
from streamcore.api.record import Context, Key, Record
from streamcore.api.state import State
from streamcore.api.topic import Topic, is_key_type
from streamcore.codecs import kinds
from streamcore.topology import nodes
from streamcore.topology.nodes import UNKNOWN, Node, OnError, Stop

A = TypeVar("A")
K = TypeVar("K", bound=Key)
K_co = TypeVar("K_co", bound=Key, covariant=True)
R = TypeVar("R")
S = TypeVar("S", bound=State)
T = TypeVar("T")
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class Stream(Generic[V_co]):
    """Records without a key. Made by Job.stream and by other streams."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self._graph = graph
        self._node = node

    def map(self, f: Callable[[V_co], R], *, name: str = "") -> Stream[R]:
        """Each value replaced by `f(value)`."""
        return Stream(self._graph, self._map(f, name))

    def flat_map(self, f: Callable[[V_co], Iterable[R]], *, name: str = "") -> Stream[R]:
        """Each value replaced by those in `f(value)`: none, one or many."""
        return Stream(self._graph, self._flat_map(f, name))

    def filter(self, f: Callable[[V_co], bool], *, name: str = "") -> Stream[V_co]:
        """The values for which `f(value)` is true."""
        return Stream(self._graph, self._filter(f, name))

    def map_batch(self, f: Callable[[Sequence[V_co]], Sequence[R]], *, most: int = 512, name: str = "") -> Stream[R]:
        """As map, but `f` is given up to `most` values at once, and returns one result a value, in order."""
        return Stream(self._graph, self._map_batch(f, most, name))

    def only(self, kind: type[T]) -> Stream[T]:
        """The values that are instances of `kind`."""
        return Stream(self._graph, self._only(kind))

    def key_by(self, name: str, f: Callable[[V_co], K]) -> KeyedStream[K, V_co]:
        """Regrouped: records of one key meet in one place and in order. A shuffle, through a topic of the job's own."""
        key_type = returned(f)
        if not is_key_type(key_type):
            raise refuse(
                f"the key_by step {name!r} gives keys of type {kinds.name_of(key_type)}",
                "leave records without a key out before it, with .filter(...)"
                if kinds.allows_none(key_type)
                else "a key is a str, int, bytes, UUID, datetime, or a tuple of these",
            )
        here = self._node
        node = nodes.KeyBy(
            name=name,
            inputs=(here,),
            key_type=key_type,
            value_type=here.value_type,
            where=where(),
            f=f,
        )
        return KeyedStream(self._graph, self._graph.add(node))

    def merge(self, *others: Stream[T]) -> Stream[V_co | T]:
        """The records of all, without keys."""
        inputs = (self._node, *(other._node for other in others))
        if any(other._graph is not self._graph for other in others):
            raise refuse("streams of two jobs cannot be merged", "write one to a topic and read it in the other job")
        if len(set(inputs)) != len(inputs):
            raise refuse(
                "a stream cannot be merged with itself", "to have each record twice, use .flat_map(lambda v: [v, v])"
            )
        known = list(dict.fromkeys(m for node in inputs for m in kinds.members(node.value_type)))
        node = nodes.Merge(
            name=self._graph.name("merge"),
            inputs=inputs,
            value_type=UNKNOWN if UNKNOWN in known else kinds.union(known),
            where=where(),
        )
        return Stream(self._graph, self._graph.add(node))

    def pipe(self, f: Callable[[Self], R]) -> R:
        """`f(stream)`: a function of one's own as a step of the chain."""
        return f(self)

    def to(self: Stream[V], topic: Topic[None, V]) -> None:
        """Writes every value to the topic."""
        self._sink(topic)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            if name in _KEYED_ONLY:
                raise AttributeError(
                    f"{name}() is for keyed streams, and this one ({self._node.name}) has no key\n"
                    "  what to do: put .key_by(NAME, f) before it, or give the topic key=...: state is kept by key"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # --- nodes ------------------------------------------------------------------------------------------------

    def _map(self, f: Callable[..., Any], name: str) -> Node:
        return self._add(nodes.Map, "map", name, value_type=returned(f), f=f)

    def _flat_map(self, f: Callable[..., Any], name: str) -> Node:
        return self._add(nodes.FlatMap, "flat_map", name, value_type=items_returned(f), f=f)

    def _filter(self, f: Callable[..., Any], name: str) -> Node:
        here = self._node
        return self._add(nodes.Filter, "filter", name, value_type=here.value_type, f=f)

    def _map_batch(self, f: Callable[..., Any], most: int, name: str) -> Node:
        if most < 1:
            raise refuse(f"map_batch with most={most}", "give it at least one value at once")
        return self._add(nodes.MapBatch, "map_batch", name, value_type=items_returned(f), f=f, most=most)

    def _only(self, kind: type[Any]) -> Node:
        return self._add(nodes.Only, "only", "", value_type=kind, of=kind)

    def _add(self, make: Callable[..., Node], kind: str, name: str, **facts: Any) -> Node:
        """A node that keeps this stream's key."""
        made = make(
            name=self._graph.name(kind, name),
            inputs=(self._node,),
            key_type=self._node.key_type,
            where=where(),
            **facts,
        )
        return self._graph.add(made)

    def _sink(self, topic: Topic[Any, Any]) -> None:
        _check_fits(self._node, topic)
        self._add(nodes.Sink, "to", "", value_type=topic.spec.value.type, topic=topic.spec)


class KeyedStream(Stream[V_co], Generic[K_co, V_co]):
    """Records with a key: what state can be kept by."""

    def map(self, f: Callable[[V_co], R], *, name: str = "") -> KeyedStream[K_co, R]:
        return KeyedStream(self._graph, self._map(f, name))

    def map_items(self, f: Callable[[K_co, V_co], R], *, name: str = "") -> KeyedStream[K_co, R]:
        """Each value replaced by `f(key, value)`; the key stays."""
        return KeyedStream(self._graph, self._add(nodes.MapItems, "map_items", name, value_type=returned(f), f=f))

    def flat_map(self, f: Callable[[V_co], Iterable[R]], *, name: str = "") -> KeyedStream[K_co, R]:
        return KeyedStream(self._graph, self._flat_map(f, name))

    def filter(self, f: Callable[[V_co], bool], *, name: str = "") -> KeyedStream[K_co, V_co]:
        return KeyedStream(self._graph, self._filter(f, name))

    def map_batch(
        self, f: Callable[[Sequence[V_co]], Sequence[R]], *, most: int = 512, name: str = ""
    ) -> KeyedStream[K_co, R]:
        return KeyedStream(self._graph, self._map_batch(f, most, name))

    def only(self, kind: type[T]) -> KeyedStream[K_co, T]:
        return KeyedStream(self._graph, self._only(kind))

    def records(self) -> KeyedStream[K_co, Record[K_co, V_co]]:
        """Values with all that Kafka tells of them: headers, topic, partition, offset. Before any key_by."""
        if _crosses_shuffle(self._node):
            raise refuse(
                "records() stands behind a key_by, where a message's topic, offset and headers are not known any more",
                "call it before key_by, and take along what is needed",
            )
        return KeyedStream(self._graph, self._add(nodes.Records, "records", "", value_type=Record))

    def process(
        self: KeyedStream[K, V],
        name: str,
        state: type[S],
        on_event: Callable[[V, S, Context[K]], Iterable[R] | None],
    ) -> KeyedStream[K, R]:
        """`on_event(value, state, context)` with the state of the value's key; what it yields goes on."""
        if not hasattr(state, "__schema__"):
            raise refuse(
                f"the process step {name!r} was given {state!r} for its state",
                "give it a class: class Seen(State): times = Value(int, default=0)",
            )
        node = nodes.Process(
            name=name,
            inputs=(self._node,),
            key_type=self._node.key_type,
            value_type=items_returned(on_event),
            where=where(),
            state=state,
            on_event=on_event,
        )
        return KeyedStream(self._graph, self._graph.add(node))

    def aggregate(self: KeyedStream[K, V], name: str, how: Aggregate[V, Any, R]) -> Table[K, R]:
        """One value a key, kept up to date."""
        node = nodes.Aggregate(
            name=name,
            inputs=(self._node,),
            key_type=self._node.key_type,
            value_type=self._type(how.shown, how.result),
            where=where(),
            zero=how.zero,
            add=how.add,
            result=how.result,
            accumulator=self._type(how.accumulator, how.add),
        )
        return Table(self._graph, self._graph.add(node))

    def _type(self, given: Any, maker: Callable[..., Any]) -> Any:
        if given is SAME_AS_VALUE:
            return self._node.value_type
        return returned(maker) if given is UNKNOWN else given

    def dedupe(
        self: KeyedStream[K, V], name: str, by: Callable[[V], Key], *, keep: timedelta, too_old: OnError | None = None
    ) -> KeyedStream[K, V]:
        """Drops a value whose id `by(value)` was seen for this key within `keep` of event time. A value older than
        that cannot be known: `too_old` says what then (default: Stop)."""
        if keep < timedelta(seconds=1):
            raise refuse(f"the dedupe step {name!r} keeps ids for {keep}", "keep them for a second or more")
        node = nodes.Dedupe(
            name=name,
            inputs=(self._node,),
            key_type=self._node.key_type,
            value_type=self._node.value_type,
            where=where(),
            by=by,
            keep_ms=keep // timedelta(milliseconds=1),
            too_old=too_old or Stop(),
        )
        return KeyedStream(self._graph, self._graph.add(node))

    def to(self: KeyedStream[K, V], topic: Topic[K, V]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Writes every value to the topic, under its key."""
        self._sink(topic)


class Table(Generic[K, V]):
    """The latest value of each key. Emits each key that changed once an epoch."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self._graph = graph
        self._node = node

    def to(self, topic: Topic[K, V]) -> None:
        """Writes each change to the topic, under its key."""
        self.updates().to(topic)

    def updates(self) -> KeyedStream[K, V]:
        """The changes as a stream."""
        return KeyedStream(self._graph, self._node)


_KEYED_ONLY = frozenset(("aggregate", "dedupe", "map_items", "process", "records"))


def _crosses_shuffle(node: Node) -> bool:
    return isinstance(node, nodes.KeyBy) or any(map(_crosses_shuffle, node.inputs))


def _check_fits(node: Node, topic: Topic[Any, Any]) -> None:
    spec = topic.spec
    if (spec.key is None) != (node.key_type is None):
        keyed, remedy = (
            ("the stream has a key and the topic none", "give the topic key=...")
            if spec.key is None
            else ("the topic has a key and the stream none", "put .key_by(NAME, f) before .to(...)")
        )
        raise refuse(f"step {node.name!r} cannot be written to topic {spec.name!r}: {keyed}", remedy)
    pairs: list[tuple[str, Any, Any]] = [("values", node.value_type, spec.value.type)]
    if spec.key is not None:
        pairs.append(("keys", node.key_type, spec.key.type))
    for what, given, wanted in pairs:
        if kinds.apart(given, wanted):
            raise refuse(
                f"step {node.name!r} gives {what} of {kinds.name_of(given)}, and topic {spec.name!r} takes "
                f"{kinds.name_of(wanted)}",
                "mend the topic's type, or .map(...) before .to(...)",
            )
