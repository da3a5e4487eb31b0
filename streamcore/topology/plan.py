"""The plan: a job's nodes cut into stages, checked before anything runs.

A stage is one input (a Source, or a KeyBy, whose internal topic it reads) and every node reached from it without
crossing a KeyBy; the KeyBy nodes reached close the stage and open the next. A node behind a Merge belongs to every
stage that reaches it: it is stateless, for a merged stream has no key. A stateful node belongs to exactly one stage.

`build` is called once, before any log is opened; a Plan is immutable and may be shared by threads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from streamcore.codecs.dynamic import Registry
from streamcore.codecs.usercode import mentions
from streamcore.errors import TopologyError, invariant
from streamcore.topology.nodes import (
    STATEFUL,
    Aggregate,
    DeadLetter,
    Dedupe,
    KeyBy,
    Node,
    OnError,
    Process,
    Records,
    Sink,
    Source,
    TopicSpec,
)

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
TOPIC_NAME_LENGTH: Final = 249
"""Kafka's own limit."""
RESERVED: Final = frozenset({"default"})
"""RocksDB's own column family."""


@dataclass(frozen=True, eq=False)
class Stage:
    name: str
    """The topic's name for a Source, the step's for a KeyBy."""
    input: Source | KeyBy
    topic: str
    """The topic to read: the user's, or JOB.shuffle.NAME."""
    nodes: tuple[Node, ...]
    """Inputs before outputs; without `input`, with the KeyBy nodes that close the stage."""
    children: Mapping[Node, tuple[Node, ...]]
    """Of `input` and of every node, within this stage."""
    on_error: OnError
    needs_origins: bool
    """Correlation ids are carried through this stage."""

    @property
    def is_shuffle(self) -> bool:
        return isinstance(self.input, KeyBy)

    @cached_property
    def stateful(self) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if isinstance(n, STATEFUL))

    @cached_property
    def shuffles(self) -> tuple[KeyBy, ...]:
        """Where this stage's output is regrouped for a later one."""
        return tuple(n for n in self.nodes if isinstance(n, KeyBy))

    @cached_property
    def sinks(self) -> tuple[Sink, ...]:
        return tuple(n for n in self.nodes if isinstance(n, Sink))


@dataclass(frozen=True, eq=False)
class Shuffle:
    name: str
    topic: str
    node: KeyBy
    upstream: tuple[str, ...]
    """Names of the stages that write it."""


@dataclass(frozen=True, eq=False)
class Plan:
    job: str
    stages: tuple[Stage, ...]
    """Upstream first."""
    on_error: OnError
    version: str
    """16 hexadecimal digits over what is durable: stages, shuffles, stateful steps, their kinds and state versions."""
    nodes: tuple[Node, ...]
    correlation_ids: bool = False
    """Every output carries its correlation id in a header."""

    def stage(self, name: str) -> Stage:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Stage]:
        return {stage.name: stage for stage in self.stages}

    @cached_property
    def source_topics(self) -> tuple[str, ...]:
        return tuple(stage.topic for stage in self.stages if not stage.is_shuffle)

    @cached_property
    def sink_topics(self) -> tuple[str, ...]:
        return _distinct(n.topic.name for n in self.nodes if isinstance(n, Sink))

    @cached_property
    def dead_letter_topics(self) -> tuple[str, ...]:
        policies = [self.on_error, *(stage.on_error for stage in self.stages)]
        policies += [n.too_old for n in self.nodes if isinstance(n, Dedupe)]
        return _distinct(p.topic for p in policies if isinstance(p, DeadLetter))

    @cached_property
    def shuffles(self) -> tuple[Shuffle, ...]:
        return tuple(
            Shuffle(s.name, s.topic, s.input, tuple(up.name for up in self.stages if s.input in up.shuffles))
            for s in self.stages
            if isinstance(s.input, KeyBy)
        )

    @cached_property
    def needs_headers(self) -> bool:
        """Some step reads headers, or a dead letter must keep them."""
        return (
            bool(self.dead_letter_topics)
            or any(stage.needs_origins for stage in self.stages)
            or any(isinstance(n, Records) for n in self.nodes)
        )

    @cached_property
    def registry(self) -> Registry:
        """The types that the job's own code names: what a value of unknown static type may be."""
        return Registry(types=_types(self.nodes), functions=_functions(self.nodes))

    def journal_topic(self, stage: str) -> str:
        return journal_topic(self.job, stage)


def shuffle_topic(job: str, step: str) -> str:
    return f"{job}.shuffle.{step}"


def control_topic(job: str) -> str:
    return f"{job}.control"


def journal_topic(job: str, stage: str) -> str:
    return f"{job}.journal.{stage}"


def build(job: str, nodes: Sequence[Node], on_error: OnError, *, correlation_ids: bool = False) -> Plan:
    """`nodes`: all that the job has made, inputs before outputs. Raises TopologyError."""
    check_name("a job", job, "")
    _check(job, nodes)
    inputs = _inputs_upstream_first(nodes)
    members = {i: _reached(i, nodes) for i in inputs}
    origins = _needing_origins(inputs, members, correlation_ids)
    stages = tuple(_stage(job, i, members[i], on_error, i in origins) for i in inputs)
    for node in nodes:
        if isinstance(node, STATEFUL):
            invariant(sum(node in s.nodes for s in stages) == 1, f"step {node.name!r} with state lies in one stage")
    return Plan(job, stages, on_error, _version(stages), tuple(nodes), correlation_ids)


# --- stages ---------------------------------------------------------------------------------------------------


def _stage(job: str, entry: Source | KeyBy, nodes: tuple[Node, ...], on_error: OnError, origins: bool) -> Stage:
    within = {entry, *nodes}
    children: dict[Node, tuple[Node, ...]] = {
        n: () if isinstance(n, KeyBy) and n is not entry else tuple(c for c in nodes if n in c.inputs) for n in within
    }
    if isinstance(entry, Source):
        return Stage(entry.topic.name, entry, entry.topic.name, nodes, children, entry.on_error, origins)
    return Stage(entry.name, entry, shuffle_topic(job, entry.name), nodes, children, on_error, origins)


def _reached(entry: Node, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """What is fed by `entry` without crossing a KeyBy, in the order of `nodes`."""
    open_ends: set[Node] = {entry}
    found: list[Node] = []
    for node in nodes:
        if not open_ends.isdisjoint(node.inputs):
            found.append(node)
            if not isinstance(node, KeyBy):
                open_ends.add(node)
    return tuple(found)


def _inputs_upstream_first(nodes: Sequence[Node]) -> tuple[Source | KeyBy, ...]:
    """Sources, then shuffles: nodes are made after their inputs, so their order is already topological."""
    sources = [n for n in nodes if isinstance(n, Source)]
    return (*sources, *(n for n in nodes if isinstance(n, KeyBy)))


def _needing_origins(
    inputs: Sequence[Source | KeyBy], members: Mapping[Source | KeyBy, tuple[Node, ...]], everywhere: bool
) -> set[Node]:
    """A stage that shows correlation ids to a step, and every stage upstream of one."""
    found: set[Node] = set()
    for entry in reversed(inputs):
        if everywhere or any(n in found or _shows_origin(n) for n in members[entry]):
            found.add(entry)
    return found


def _shows_origin(node: Node) -> bool:
    return isinstance(node, Records) or (isinstance(node, Process) and mentions(node.on_event, "correlation_id"))


def _version(stages: Sequence[Stage]) -> str:
    shape = [
        [s.name, s.is_shuffle, [[n.name, n.kind, _state_version(n)] for n in s.stateful], [k.name for k in s.shuffles]]
        for s in sorted(stages, key=lambda s: s.name)
    ]
    return hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]


def _state_version(node: Node) -> int:
    return node.state.__schema__.version if isinstance(node, Process) else 1


# --- checks ---------------------------------------------------------------------------------------------------


def check_name(what: str, name: str, where: str) -> None:
    """Raises TopologyError unless `name` may stand in topic names, in ids and on disk."""
    if not NAME.fullmatch(name):
        raise TopologyError(
            f"{at(where)}{what} cannot be named {name!r}",
            "use 1 to 100 letters, digits, '-' and '_': the name becomes part of topic names and of saved state",
        )
    if name in RESERVED:
        raise TopologyError(f"{at(where)}{what} cannot be named {name!r}", "take another name: RocksDB keeps this one")


def _check(job: str, nodes: Sequence[Node]) -> None:
    if not nodes:
        raise TopologyError(f"job {job!r} reads nothing", "start with job.stream(topic), end with .to(topic)")
    made: set[Node] = set()
    for node in nodes:
        _check_inputs(job, node, made)
        made.add(node)
    _check_names(nodes)
    _check_topics(job, nodes)
    _check_ends(job, nodes)


def _check_inputs(job: str, node: Node, made: set[Node]) -> None:
    if not made.issuperset(node.inputs):
        raise TopologyError(
            f"{at(node.where)}step {node.name!r} uses a stream of another job than {job!r}",
            "make every stream of a job from that job's own stream(...); jobs meet in topics",
        )


def _check_names(nodes: Sequence[Node]) -> None:
    seen: dict[str, Node] = {}
    for node in nodes:
        if isinstance(node, Sink | Source):
            continue
        if isinstance(node, KeyBy | Aggregate | Process | Dedupe):
            check_name(f"{_article(node)} step", node.name, node.where)
        other = seen.setdefault(node.name, node)
        if other is not node:
            raise TopologyError(
                f"{at(node.where)}two steps are named {node.name!r}; the other is at {other.where}",
                "give one of them another name: topics and saved state are found by it",
            )
    for node in nodes:
        if isinstance(node, Source) and isinstance(seen.get(node.topic.name), KeyBy):
            other = seen[node.topic.name]
            raise TopologyError(
                f"{at(other.where)}the key_by step {other.name!r} has the name of a topic that the job reads",
                "give the step another name: each stage has a journal topic, named after the topic or the step",
            )


def _check_topics(job: str, nodes: Sequence[Node]) -> None:
    for node in nodes:
        name = node.topic.name if isinstance(node, Source | Sink) else ""
        if name == f"{job}.control" or name.startswith((f"{job}.shuffle.", f"{job}.journal.", f"{job}.sink.")):
            raise TopologyError(
                f"{at(node.where)}topic {name!r} has a name that job {job!r} keeps for itself",
                f"name it otherwise than {job}.shuffle.*, {job}.journal.*, {job}.sink.* and {job}.control",
            )
        if isinstance(node, Source | KeyBy):
            stage = node.topic.name if isinstance(node, Source) else node.name
            if len(journal_topic(job, stage)) > TOPIC_NAME_LENGTH:
                raise TopologyError(
                    f"{at(node.where)}the journal topic {journal_topic(job, stage)!r} is longer than Kafka's "
                    f"{TOPIC_NAME_LENGTH} characters",
                    "shorten the name of the job, of the topic or of the step",
                )


def _check_ends(job: str, nodes: Sequence[Node]) -> None:
    used = {i for node in nodes for i in node.inputs}
    for node in nodes:
        if node not in used and not isinstance(node, Sink):
            is_source = isinstance(node, Source)
            what = f"the stream of topic {node.topic.name!r}" if is_source else f"what step {node.name!r} gives"
            raise TopologyError(
                f"{at(node.where)}{what} goes nowhere in job {job!r}",
                "end it with .to(topic), or take it out",
            )


def at(where: str) -> str:
    """The start of a message about the user's line."""
    return f"{where}: " if where else ""


def _article(node: Node) -> str:
    names: dict[type[Node], str] = {
        KeyBy: "a key_by",
        Aggregate: "an aggregate",
        Process: "a process",
        Dedupe: "a dedupe",
    }
    return names[type(node)]


# --- what the registry is made of ---------------------------------------------------------------------------------


def _types(nodes: Iterable[Node]) -> Iterator[Any]:
    for node in nodes:
        yield from (node.key_type, node.value_type)
        spec: TopicSpec | None = node.topic if isinstance(node, Source | Sink) else None
        if spec is not None:
            yield from (spec.value.type, spec.key.type if spec.key else None)
        if isinstance(node, Aggregate):
            yield node.accumulator
        if isinstance(node, Process):
            for field in node.state.__schema__.fields:
                yield from (field.type, field.map_key)


def _functions(nodes: Iterable[Node]) -> Iterator[Callable[..., Any]]:
    for node in nodes:
        for name in ("f", "on_event", "by", "zero", "add", "result"):
            f = getattr(node, name, None)
            if f is not None:
                yield f


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
