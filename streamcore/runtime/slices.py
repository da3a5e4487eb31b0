"""Feeding a task: a run in slices, each all or nothing, and what becomes of a record that fails.

A slice decodes, runs through every step, and only then reaches the producer (what is produced cannot be taken back).
When anything in it raises, the slice's state writes and outputs are undone and it is run again record by record: the
records before the culprit stand, the culprit's own writes are undone, and its policy decides: stop, skip, dead letter.

Slices adapt to SLICE_MS, so that the epoch's timer and the group are served in time whatever the user's functions cost.
A message of a shuffle holds many records: they are sliced too, but the position moves message by message, since no
offset names a record within one.

Belongs to the processing thread, as does all it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from streamcore import limits
from streamcore.clock import Clock, Entropy
from streamcore.codecs.wire import for_state
from streamcore.errors import RecordTooLarge
from streamcore.log.port import Producer, Run
from streamcore.observe.metrics import Metrics
from streamcore.operators.batch import Batch
from streamcore.operators.compile import StageEnv, StageProgram, compile_stage
from streamcore.operators.errors import StepFailed
from streamcore.runtime.failures import Failures
from streamcore.sink.outbox import Outbox
from streamcore.sink.shuffle import marker_in
from streamcore.source.decode import DecodeFailed, decode, decode_shuffle, slice_of
from streamcore.state.keys import encode_key, state_keys
from streamcore.state.store import Delta, Store, prefix_end
from streamcore.topology.nodes import Records, Source, TopicSpec
from streamcore.topology.plan import Plan, Stage
from streamcore.types import Epoch, TaskId

Through = Callable[[Batch], None]


class SliceRunner:
    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        task: TaskId,
        store: Store,
        partitions: Mapping[str, int],
        message_bytes: Mapping[str, int],
        clock: Clock,
        entropy: Entropy,
        metrics: Metrics,
    ) -> None:
        """`partitions`: of each shuffle, by step. `message_bytes`: max.message.bytes of each topic written to."""
        self._stage = stage
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._outbox = Outbox(task, message_bytes)
        env = StageEnv(task, clock.wall_ms, entropy.random(), metrics, partitions)
        self._program: StageProgram = compile_stage(stage, plan, store, self._outbox, env)
        self._failures = Failures(plan, stage, task, self._outbox, metrics)
        self._topic = _topic(stage)
        self._codec = plan.registry.codec(stage.input.value_type) if stage.is_shuffle else None
        self._positions = any(isinstance(node, Records) for node in stage.nodes)
        self._size = limits.SLICE_MIN_RECORDS * 8

    # --- slices -----------------------------------------------------------------------------------------------

    def slice(self, run: Run, begin: int) -> int:
        """Runs one slice of the run from `begin` on; returns where it ended. What it gave stands in the outbox.
        Raises StopError for a record under the policy Stop."""
        if self._codec is not None:
            return self._shuffle_message(run, begin)
        after = min(len(run), begin + self._size)
        part = run if after - begin == len(run) else slice_of(run, begin, after)
        begun = self._clock.monotonic_s()
        if self._attempt(lambda: self._decode(part), self._program.run):
            self._adapt(len(part), self._clock.monotonic_s() - begun)
        else:
            for i in range(len(part)):
                self._alone(slice_of(part, i, i + 1), self._program.run)
        self._metrics.read(run.tp.topic, len(part))
        return after

    def _decode(self, run: Run) -> Batch | None:
        assert self._topic is not None
        return decode(run, self._topic, origins=self._stage.needs_origins, positions=self._positions)

    def marker(self, run: Run, begin: int) -> int | None:
        """The barrier whose marker the message at `begin` is; None for records."""
        if self._codec is None:
            return None
        return marker_in(run.values[begin], f"{run.tp} at offset {run.offsets[begin]}")

    def _shuffle_message(self, run: Run, begin: int) -> int:
        assert self._codec is not None
        message = slice_of(run, begin, begin + 1)
        batch = decode_shuffle(message, self._codec, origins=self._stage.needs_origins, positions=self._positions)
        if batch is not None:
            self._pieces(batch, self._program.run)
            self._metrics.read(run.tp.topic, len(batch))
        return begin + 1

    def _pieces(self, batch: Batch, through: Through) -> None:
        """A decoded batch in slices."""
        i = 0
        while i < len(batch):
            after = min(len(batch), i + self._size)
            piece = batch if after - i == len(batch) else batch.part(i, after)
            begun = self._clock.monotonic_s()
            if self._attempt(lambda piece=piece: piece, through):
                self._adapt(len(piece), self._clock.monotonic_s() - begun)
            else:
                for k in range(len(piece)):
                    self._alone(piece.part(k, k + 1), through)
            i = after

    def _attempt(self, batch: Callable[[], Batch | None], through: Through) -> bool:
        """All or nothing; False when a record of it fails."""
        self._program.mark()
        try:
            records = batch()
            if records is not None:
                through(records)
        except (DecodeFailed, StepFailed, RecordTooLarge):
            self._program.undo()
            self._outbox.discard()
            self._metrics.rerun()
            return False
        self._outbox.keep()
        return True

    def _alone(self, record: Run | Batch, through: Through) -> None:
        """One record by itself; when it fails, its policy decides."""
        self._program.mark()
        try:
            batch = self._decode(record) if isinstance(record, Run) else record
            if batch is not None:
                through(batch)
        except (DecodeFailed, StepFailed, RecordTooLarge) as error:
            self._program.undo()
            self._outbox.discard()
            self._failures.settle(record, error)
        self._outbox.keep()

    def _adapt(self, records: int, seconds: float) -> None:
        """Towards SLICE_MS: halve at once when over, double slowly when well under."""
        target_s = limits.SLICE_MS / 1000
        if seconds > target_s:
            self._size = max(limits.SLICE_MIN_RECORDS, self._size // 2)
        elif seconds < target_s / 2 and records >= self._size:
            self._size = min(limits.SLICE_MAX_RECORDS, self._size * 2)

    # --- the epoch --------------------------------------------------------------------------------------------

    def open_epoch(self, lineage: str, epoch: Epoch) -> None:
        """Before the first slice of an epoch, and of one done again."""
        self._outbox.open_epoch(lineage, epoch)

    def release(self, producer: Callable[[], Producer]) -> int:
        """What stands goes to the producer, which is only asked for when there is something. Returns the records."""
        return self._count(self._outbox.release(producer(), final=False)) if self._outbox.waiting else 0

    def close_epoch(self, producer: Producer) -> int:
        """Tables emit, then everything that waits is produced. Raises StopError as `slice` does."""
        for emission in self._program.emissions():
            self._pieces(emission.batch, emission.run)
        return self._count(self._outbox.release(producer, final=True))

    def _count(self, released: Mapping[str, int]) -> int:
        for topic, records in released.items():
            self._metrics.wrote(topic, records)
        return sum(released.values())

    def drain(self) -> dict[str, Delta]:
        """What the epoch changed, encoded."""
        return self._program.drain()

    def committed(self) -> None:
        self._program.committed()

    def drop(self) -> None:
        """Law 5: overlay and outputs are as if the epoch had never begun."""
        self._program.drop()
        self._outbox.drop()

    @property
    def epoch_bytes(self) -> int:
        return self._outbox.epoch_bytes + self._program.dirty_bytes

    def peek(self, step: str, key: Any) -> Any:
        """The state object of a `process` step for a key, for tests; nothing becomes dirty."""
        return self._program.peek(step, key)

    def holds(self, step: str, key: Any) -> bool:
        """Whether this task has committed something for the key."""
        (at,) = state_keys([encode_key(key)])
        return next(iter(self._store.column(step).scan(at, prefix_end(at))), None) is not None


def _topic(stage: Stage) -> TopicSpec | None:
    """What the stage reads, as its task decodes it; None for a shuffle."""
    if not isinstance(stage.input, Source):
        return None
    spec = stage.input.topic
    return replace(spec, key=for_state(spec.key)) if stage.stateful and spec.key is not None else spec
