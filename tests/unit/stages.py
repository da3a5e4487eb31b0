"""A stage driven as the runtime drives it, on a store in memory and a producer that keeps what it is given."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from streamcore.codecs.wire import codec_for
from streamcore.log.port import Run
from streamcore.operators.batch import Batch
from streamcore.operators.compile import StageEnv, StageProgram, compile_stage
from streamcore.operators.errors import StepFailed
from streamcore.sink.outbox import Outbox
from streamcore.state.memory import MemoryStore
from streamcore.state.store import Delta, EpochMark
from streamcore.topology import nodes, plan
from streamcore.topology.nodes import UNKNOWN, Stop, TopicSpec
from streamcore.types import Epoch, Offset, Partition, TaskId, TopicPartition

LINES = TopicSpec("lines", codec_for(str), None)
EVENTS = TopicSpec("events", codec_for(int), codec_for(str))
COUNTS = TopicSpec("counts", codec_for(int), codec_for(str))
OTHER = TopicSpec("other", codec_for(int), codec_for(str))


class Taken:
    """A producer that keeps what it is given."""

    def __init__(self) -> None:
        self.columns: list[tuple[str, Any, list[Any], Any, Any, Any]] = []

    def produce(
        self, topic: str, partition: Any, values: Any, keys: Any = None, times: Any = None, headers: Any = None
    ) -> None:
        self.columns.append((topic, partition, list(values), keys, times, headers))

    def items(self, topic: str) -> list[tuple[Any, Any]]:
        return [
            (k, v)
            for name, _, values, keys, _, _ in self.columns
            if name == topic
            for k, v in zip(keys or [None] * len(values), values, strict=True)
        ]

    def runs(self, topic: str, partition: int) -> Run | None:
        frames = [v for name, p, values, *_ in self.columns if name == topic and p == partition for v in values]
        if not frames:
            return None
        n = len(frames)
        return Run(TopicPartition(topic, Partition(partition)), list(range(n)), [None] * n, frames, [0] * n)


class Tally:
    """Counters of dedupe steps."""

    def __init__(self) -> None:
        self.verdicts = [0, 0, 0]

    def deduped(self, step: str, accepted: int, duplicates: int, too_old: int) -> None:
        self.verdicts = [n + m for n, m in zip(self.verdicts, (accepted, duplicates, too_old), strict=True)]


class Task:
    """A program with its store and outbox, driven as the runtime does."""

    def __init__(self, built: plan.Plan, stage: str, store: MemoryStore | None = None, partitions: int = 4) -> None:
        self.stage = built.stage(stage)
        self.plan = built
        self.store = store or MemoryStore([n.name for n in self.stage.stateful])
        self.id = TaskId(stage, Partition(0))
        self.outbox = Outbox(self.id)
        self.producer = Taken()
        self.now_ms = 1_000
        self.tally = Tally()
        counts = {k.name: partitions for k in self.stage.shuffles}
        env = StageEnv(self.id, lambda: self.now_ms, random.Random(0), self.tally, counts)
        self.program: StageProgram = compile_stage(self.stage, built, self.store, self.outbox, env)
        self.epoch = 0

    def feed(self, batch: Batch) -> None:
        self.slice(batch, self.program.run)

    def slice(self, batch: Batch, run: Callable[[Batch], None]) -> None:
        self.program.mark()
        try:
            run(batch)
        except StepFailed:
            self.program.undo()
            self.outbox.discard()
            raise
        self.outbox.keep()

    def close(self) -> dict[str, Delta]:
        for emission in self.program.emissions():
            self.slice(emission.batch, emission.run)
        self.outbox.release(self.producer, final=True)  # pyright: ignore[reportArgumentType]
        return self.program.drain()

    def commit(self) -> dict[str, Delta]:
        deltas = self.close()
        self.epoch += 1
        self.store.apply(deltas, EpochMark("l", Epoch(self.epoch), "n", Offset(0), Offset(1)))
        self.program.committed()
        return deltas


def events(*pairs: tuple[str, Any], time: int = 0, origins: bool = False) -> Batch:
    n = len(pairs)
    ids = [f"id-{i}" for i in range(n)] if origins else None
    tp = TopicPartition("events", Partition(0))
    return Batch([v for _, v in pairs], [k for k, _ in pairs], [time + i for i in range(n)], tp, ids)


def source(spec: TopicSpec, **more: Any) -> nodes.Source:
    return nodes.Source(name=spec.name, inputs=(), topic=spec, key_type=str if spec.key else None, **more)


def keyed(kind: Any, above: nodes.Node, name: str, **more: Any) -> Any:
    return kind(name=name, inputs=(above,), key_type=above.key_type, value_type=UNKNOWN, **more)


def sink(above: nodes.Node, spec: TopicSpec, name: str = "to") -> nodes.Sink:
    return nodes.Sink(name=name, inputs=(above,), key_type=above.key_type, value_type=int, topic=spec)


def count(above: nodes.Node, name: str = "count", result: Any = lambda n: n, of: Any = int) -> nodes.Aggregate:
    return keyed(nodes.Aggregate, above, name, zero=int, add=lambda n, _: n + 1, result=result, accumulator=of)


def chain(*made: nodes.Node) -> plan.Plan:
    return plan.build("job", list(made), Stop())
