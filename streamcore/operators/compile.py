"""A stage as one program: closures over batches, and the state of its steps, for one task.

How the runtime uses a StageProgram (processing thread only):

    mark()                    a slice begins; the one before it stands
    run(batch)                all steps; outputs into the outbox's open slice. Raises StepFailed
    undo()                    the slice failed: its state writes are gone (the runtime discards the outbox's slice)

    for emission in emissions():          the epoch closes: each table's changed keys once, in topological order
        mark(); emission.run(emission.batch.part(i, j))        in slices like any other; undo() when one fails
    drain()                   the epoch's changes, encoded once, by step
    committed() | drop()      the epoch is decided and applied | undone

`mark` may be left out between `run`s that stand or fall together. `emissions` is a generator: a table's batch is made
only when the tables upstream of it have emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Protocol

from streamcore.errors import broken
from streamcore.operators import stateless
from streamcore.operators.batch import Batch
from streamcore.operators.dedupe import Counters, DedupeStep
from streamcore.operators.endpoints import regroup_step, sink_step
from streamcore.operators.keyed import AggregateStep
from streamcore.operators.process import Context, ProcessStep
from streamcore.operators.records import records_step
from streamcore.operators.stateless import Run
from streamcore.sink.outbox import Outbox
from streamcore.state.store import Delta, Store
from streamcore.topology.nodes import (
    Aggregate,
    Dedupe,
    Filter,
    FlatMap,
    KeyBy,
    Map,
    MapBatch,
    MapItems,
    Merge,
    Node,
    Only,
    Process,
    Records,
    Sink,
    Source,
)
from streamcore.topology.plan import Plan, Stage, shuffle_topic
from streamcore.types import TaskId, TopicPartition


@dataclass(frozen=True, slots=True)
class StageEnv:
    """What a program takes from outside."""

    task: TaskId
    now_ms: Callable[[], int]
    """The wall clock; asked once a slice."""
    random: Random
    counters: Counters
    shuffle_partitions: Mapping[str, int]
    """By the name of the KeyBy step."""


class StatefulStep(Protocol):
    name: str

    def run(self, batch: Batch) -> None: ...
    def keep(self) -> None: ...
    def undo(self) -> None: ...
    def drain(self) -> Delta: ...
    def committed(self) -> None: ...
    def drop(self) -> None: ...
    @property
    def size_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Emission:
    step: str
    batch: Batch
    run: Run
    """Takes the batch, or parts of it one after the other."""


class StageProgram:
    def __init__(self, run: Run, stateful: list[StatefulStep]) -> None:
        self.run: Run = run
        """One batch through every step. Raises StepFailed, and errors of the store."""
        self._stateful = stateful
        self._tables = [step for step in stateful if isinstance(step, AggregateStep)]

    def mark(self) -> None:
        for step in self._stateful:
            step.keep()

    def undo(self) -> None:
        for step in self._stateful:
            step.undo()

    def emissions(self) -> Iterator[Emission]:
        for table in self._tables:
            self.mark()
            batch = table.changed()
            if batch is not None:
                yield Emission(table.name, batch, table.emit)

    def drain(self) -> dict[str, Delta]:
        """Steps without a change are left out. Raises RecordFailed, RecordTooLarge."""
        self.mark()
        deltas = {step.name: step.drain() for step in self._stateful}
        return {name: delta for name, delta in deltas.items() if delta}

    def committed(self) -> None:
        for step in self._stateful:
            step.committed()

    def drop(self) -> None:
        for step in self._stateful:
            step.drop()

    def peek(self, step: str, key: object) -> object:
        """The state object of a process step for a key, as it stands; nothing becomes dirty. For tests."""
        for each in self._stateful:
            if each.name == step and isinstance(each, ProcessStep):
                return each.peek(key)
        raise KeyError(f"no process step {step!r} in this stage")

    @property
    def dirty_bytes(self) -> int:
        """The epoch's changes, as an estimate."""
        return sum(step.size_bytes for step in self._stateful)


def compile_stage(stage: Stage, plan: Plan, store: Store, outbox: Outbox, env: StageEnv) -> StageProgram:
    """From the last step to the first, each made with what follows it."""
    compiler = _Compiler(stage, plan, store, outbox, env)
    for node in reversed(stage.nodes):
        compiler.add(node)
    return StageProgram(compiler.after(stage.input), compiler.stateful[::-1])


def as_decoded(node: Node) -> bool:
    """Whether a node's values are those that a topic's codec made, untouched."""
    while isinstance(node, Filter | Only | Dedupe | KeyBy):
        node = node.inputs[0]
    return isinstance(node, Source)


class _Compiler:
    def __init__(self, stage: Stage, plan: Plan, store: Store, outbox: Outbox, env: StageEnv) -> None:
        self._stage, self._plan, self._store, self._outbox, self._env = stage, plan, store, outbox, env
        self._tp = TopicPartition(stage.topic, env.task.partition)
        self._runs: dict[Node, Run] = {}
        self.stateful: list[StatefulStep] = []
        """Downstream first."""

    def after(self, node: Node) -> Run:
        """What a node hands its output to."""
        return stateless.fan_out([self._runs[child] for child in self._stage.children[node]])

    def add(self, node: Node) -> None:
        self._runs[node] = self._endpoint(node) or self._stateless(node) or self._state(node)

    def _endpoint(self, node: Node) -> Run | None:
        if isinstance(node, Sink):
            return sink_step(node, self._outbox, self._plan.correlation_ids)
        if isinstance(node, KeyBy):
            topic = shuffle_topic(self._plan.job, node.name)
            codec = self._plan.registry.codec(node.value_type, trusted=as_decoded(node.inputs[0]))
            return regroup_step(node, topic, self._env.shuffle_partitions[node.name], self._outbox, codec)
        return None

    def _stateless(self, node: Node) -> Run | None:
        then = self.after(node)
        match node:
            case Map():
                return stateless.map_step(node, then)
            case MapItems():
                return stateless.map_items_step(node, then)
            case Filter():
                return stateless.filter_step(node, then)
            case Only():
                return stateless.only_step(node, then)
            case FlatMap():
                return stateless.flat_map_step(node, then)
            case MapBatch():
                return stateless.map_batch_step(node, then)
            case Records():
                return records_step(then)
            case Merge():
                return then
            case _:
                return None

    def _state(self, node: Node) -> Run:
        step = self._stateful(node)
        self.stateful.append(step)
        return step.run

    def _stateful(self, node: Node) -> StatefulStep:
        then, column = self.after(node), self._store.column(node.name)
        if isinstance(node, Aggregate):
            return AggregateStep(node, then, column, self._plan.registry.codec(node.accumulator), self._tp)
        if isinstance(node, Process):
            context = Context(self._env.random)
            return ProcessStep(node, then, column, self._plan.registry, context, self._env.now_ms)
        if isinstance(node, Dedupe):
            return DedupeStep(node, then, column, self._env.counters)
        return broken(f"no operator for a {node.kind} step")
