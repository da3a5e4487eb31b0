"""The port's Producer: queues, sends on flush (or when the queue is full), and speaks the old transaction protocol.

    new ──init──▶ READY ──begin──▶ OPEN ──commit, abort──▶ READY
                                   OPEN ──a send or an offset refused──▶ SPOILT ──abort──▶ READY
    any ──fenced──▶ DEAD (every later call raises ProducerFenced)

Invariants:
- What a transaction added (partitions, groups) is known here and is added once a transaction, as librdkafka does; so
  when a delayed EndTxn ends the transaction behind its back, the broker refuses what comes after.
- Records reach a partition in the order in which they were produced.
- After a failed commit whose cause is not known here (the wire raised), the producer is not used again: law 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import TypeVar

from streamcore.clock import Clock
from streamcore.errors import (
    MembershipChanged,
    ProducerFenced,
    RecordTooLarge,
    StreamcoreError,
    TopicError,
    TransactionAborted,
    invariant,
)
from streamcore.log.local.broker import Broker
from streamcore.log.local.murmur2 import partition_of
from streamcore.log.local.records import CHUNK_BYTES, Columns, cut
from streamcore.log.local.wire import Request, Wire
from streamcore.log.port import Headers, Membership, OffsetCommit
from streamcore.types import Offset, Partition, TopicPartition

T = TypeVar("T")
SEND_BYTES = 4 * CHUNK_BYTES
_REFUSALS = (ProducerFenced, TransactionAborted, RecordTooLarge, TopicError)


class _State(Enum):
    NEW = "not initialised"
    READY = "outside of a transaction"
    OPEN = "in a transaction"
    SPOILT = "in a transaction that can only be aborted"
    DEAD = "fenced"


class LocalReceipt:
    __slots__ = ("_offset",)

    def __init__(self) -> None:
        self._offset: Offset | None = None

    @property
    def offset(self) -> Offset | None:
        return self._offset

    def landed(self, offset: Offset) -> None:
        self._offset = offset


class LocalProducer:
    def __init__(
        self, broker: Broker, wire: Wire, clock: Clock, transactional_id: str | None, first_partition: int
    ) -> None:
        """`first_partition`: where records without a key begin their turns (seeded)."""
        self._broker = broker
        self._wire = wire
        self._clock = clock
        self._name = transactional_id
        self._state = _State.NEW
        self._producer = -1
        self._epoch = -1
        self._turn = first_partition
        self._queue: list[tuple[TopicPartition, Columns, LocalReceipt | None]] = []
        self._queued_bytes = 0
        self._partitions: set[TopicPartition] = set()
        self._seen: set[str] = set()
        """Topics that were asked for once, and so made to appear."""
        self._group_added: set[str] = set()
        self._failure: StreamcoreError | None = None

    # --- transactions ---------------------------------------------------------------------------------------

    def init(self, timeout_s: float) -> None:
        self._producer, self._epoch = self._wire.call("InitProducerId", lambda: self._broker.init_producer(self._name))
        self._state = _State.READY

    def begin(self) -> None:
        self._expect(_State.READY)
        invariant(self._name is not None, "a producer without a transactional id begins a transaction")
        self._forget()
        self._state = _State.OPEN

    def send_offsets(self, offsets: Sequence[OffsetCommit], membership: Membership, timeout_s: float) -> None:
        self._in_transaction()
        group = str(membership.raw)
        if group not in self._group_added:
            self._ask("AddOffsetsToTxn", lambda: self._broker.add_offsets(self._producer, self._epoch, group))
            self._group_added.add(group)
        self._ask(
            "TxnOffsetCommit",
            lambda: self._broker.deliver_txn_offsets(self._producer, self._epoch, group, offsets, membership),
        )

    def commit(self, timeout_s: float) -> None:
        self._in_transaction()
        self.flush(timeout_s)
        self._end(commit=True)

    def abort(self, timeout_s: float) -> None:
        self._expect(_State.OPEN, _State.SPOILT)
        self._queue.clear()
        self._queued_bytes = 0
        self._end(commit=False)

    def close(self) -> None:
        self._queue.clear()
        self._state = _State.NEW

    def _end(self, commit: bool) -> None:
        if self._partitions or self._group_added:
            self._ask("EndTxn", lambda: self._broker.deliver_end_txn(self._producer, self._epoch, commit))
        self._forget()
        self._state = _State.READY

    def _forget(self) -> None:
        self._partitions.clear()
        self._group_added.clear()
        self._failure = None

    def _ask(self, request: Request, deliver: Callable[[], T]) -> T:
        """One request of a transaction; what its refusal makes of the transaction."""
        try:
            return self._wire.call(request, deliver)
        except ProducerFenced:
            self._state = _State.DEAD
            raise
        except (TransactionAborted, MembershipChanged) as refusal:
            self._state = _State.SPOILT
            self._failure = refusal
            raise

    def _in_transaction(self) -> None:
        self._expect(_State.OPEN, _State.SPOILT)
        if self._state is _State.SPOILT:
            raise self._aborted()

    def _aborted(self) -> TransactionAborted:
        cause = self._failure
        return TransactionAborted(
            f"the transaction of {self._name} cannot commit: {cause.what if cause else 'a request was refused'}",
            cause.remedy if cause else "",
        )

    def _expect(self, *states: _State) -> None:
        if self._state is _State.DEAD and _State.DEAD not in states:
            raise ProducerFenced(f"the producer of {self._name} is fenced", "make a new producer")
        invariant(self._state in states, f"the producer of {self._name} is {self._state.value}")

    # --- records --------------------------------------------------------------------------------------------

    def produce(
        self,
        topic: str,
        partition: Partition | None,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        times: Sequence[int] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> None:
        if not values:
            return
        self._may_produce()
        columns = Columns(
            list(values),
            None if keys is None else list(keys),
            [self._clock.wall_ms()] * len(values) if times is None else list(times),
            None if headers is None else list(headers),
        )
        if partition is not None:
            self._appear(topic)
            self._enqueue(TopicPartition(topic, partition), columns)
            return
        for number, rows in enumerate(self._spread(columns, self._count(topic))):
            if rows:
                self._enqueue(TopicPartition(topic, Partition(number)), columns.pick(rows))

    def send(self, tp: TopicPartition, value: bytes, key: bytes | None = None) -> LocalReceipt:
        self._may_produce()
        receipt = LocalReceipt()
        self._appear(tp.topic)
        columns = Columns([value], None if key is None else [key], [self._clock.wall_ms()], None)
        self._enqueue(tp, columns, receipt)
        return receipt

    def flush(self, timeout_s: float) -> None:
        self._send_queue()
        if self._state is _State.DEAD:
            self._expect()
        if self._failure is None:
            return
        error = self._aborted()
        if self._name is None:
            self._failure = None
        raise error

    def _may_produce(self) -> None:
        if self._name is not None:
            self._expect(_State.OPEN, _State.SPOILT)
        else:
            self._expect(_State.READY)

    def _enqueue(self, tp: TopicPartition, columns: Columns, receipt: LocalReceipt | None = None) -> None:
        self._queue.extend((tp, piece, receipt) for piece in cut(columns))
        self._queued_bytes += columns.size_bytes
        if self._queued_bytes >= SEND_BYTES:
            self._send_queue()

    def _send_queue(self) -> None:
        """Failures are kept for flush and commit, as delivery reports are."""
        queue, self._queue = self._queue, []
        self._queued_bytes = 0
        self._add_partitions(dict.fromkeys(tp for tp, _, _ in queue))
        for tp, columns, receipt in queue:
            if self._state is _State.DEAD:
                return
            try:
                offset = self._append(tp, columns)
            except _REFUSALS as refusal:
                self._refused(refusal)
            else:
                if receipt is not None:
                    receipt.landed(offset)

    def _add_partitions(self, tps: Iterable[TopicPartition]) -> None:
        """All that are new to the transaction by one request, as clients do."""
        new = [tp for tp in tps if tp not in self._partitions]
        if self._name is None or not new or self._state is _State.DEAD:
            return
        try:
            self._wire.call("AddPartitionsToTxn", lambda: self._broker.add_partitions(self._producer, self._epoch, new))
        except _REFUSALS as refusal:
            self._refused(refusal)
        else:
            self._partitions.update(new)

    def _append(self, tp: TopicPartition, columns: Columns) -> Offset:
        epoch = None if self._name is None else self._epoch
        return self._wire.call("Produce", lambda: self._broker.append(self._producer, epoch, tp, columns))

    def _refused(self, refusal: StreamcoreError) -> None:
        if isinstance(refusal, ProducerFenced):
            self._state = _State.DEAD
            return
        self._failure = self._failure or refusal
        if self._name is not None:
            self._state = _State.SPOILT

    def _appear(self, topic: str) -> None:
        """Where it may. A topic that stays missing is seen when its records are sent."""
        if topic not in self._seen:
            self._wire.call("Metadata", lambda: self._broker.ensure([topic]))
            self._seen.add(topic)

    def _count(self, topic: str) -> int:
        """The topic's partitions; it appears now where it may. Raises TopicError."""
        return self._wire.call("Metadata", lambda: self._broker.use(topic))

    def _spread(self, columns: Columns, count: int) -> list[list[int]]:
        """Rows by partition: by the key, those without one in turns."""
        rows: list[list[int]] = [[] for _ in range(count)]
        if columns.keys is None:
            total = len(columns)
            for i in range(count):
                rows[(self._turn + i) % count] = list(range(i, total, count))
            self._turn = (self._turn + total) % count
            return rows
        for row, key in enumerate(columns.keys):
            if key is None:
                rows[self._turn % count].append(row)
                self._turn += 1
            else:
                rows[partition_of(key, count)].append(row)
        return rows
