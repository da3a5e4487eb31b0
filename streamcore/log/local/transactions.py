"""The transaction coordinator: transactional ids, their producers and epochs, and what an open transaction holds.

The old protocol, as librdkafka speaks it: a producer keeps its id and epoch over all its transactions, so the
coordinator cannot tell a delayed request from one of the present transaction. Whatever carries the present id and
epoch is obeyed (KAFKA-17754); only init, and the timeout, raise the epoch.

    EMPTY ──add──▶ ONGOING ──end(commit)──▶ COMMITTED ──add──▶ ONGOING …
                          └─end(abort), init, timeout──▶ ABORTED ──add──▶ ONGOING …

Invariants:
- One producer (id, epoch) of a transactional id is valid; every older one is fenced.
- A decision is one batch: markers on every partition added, offsets of every group, and the state.
- A decision that repeats the last one is answered alike (EndTxn is retried by clients); its opposite is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from streamcore import limits
from streamcore.errors import ProducerFenced, TransactionAborted
from streamcore.log.local import storage as keys
from streamcore.log.local.offsets import Offsets
from streamcore.log.local.records import Facts, OffsetRecord, TransactionRecord, decode_transaction, encode
from streamcore.log.local.storage import Batch, Storage
from streamcore.log.local.topics import Topics
from streamcore.types import TopicPartition

EMPTY: Final = "empty"
ONGOING: Final = "ongoing"
COMMITTED: Final = "committed"
ABORTED: Final = "aborted"
LAST_EPOCH: Final = 32_766
"""The epoch is an int16; behind it the transactional id gets a new producer id."""


Decided = Callable[[TransactionRecord, bool], None]
"""Told of a decision just before it is written: what the transaction holds, and whether it commits."""


class Transactions:
    decided: Decided | None = None

    def __init__(self, storage: Storage, facts: Facts, topics: Topics, offsets: Offsets, now_s: float) -> None:
        self._facts = facts
        self._topics = topics
        self._offsets = offsets
        self._by_name: dict[str, TransactionRecord] = {}
        for _, value in storage.scan(keys.TRANSACTION, keys.after(keys.TRANSACTION)):
            record = decode_transaction(value)
            self._by_name[record.name] = record
        self._by_producer = {record.producer: record for record in self._by_name.values()}
        # A monotonic clock means nothing in another process: what was open counts its time from now.
        self._started_s = {r.producer: now_s for r in self._by_name.values() if r.state == ONGOING}

    # --- requests -------------------------------------------------------------------------------------------

    def init(self, batch: Batch, name: str | None, wall_ms: int) -> tuple[int, int]:
        """(producer id, epoch). Ends what an earlier producer of the name left open, and fences it."""
        if name is None:
            return self._new_producer(batch), 0
        record = self._by_name.get(name)
        if record is None:
            record = TransactionRecord(name, self._new_producer(batch), 0, EMPTY, [], {})
            self._by_name[name] = self._by_producer[record.producer] = record
        else:
            if record.state == ONGOING:
                self._decide(batch, record, False, wall_ms)
            self._raise_epoch(batch, record)
        record.state = EMPTY
        self._save(batch, record)
        return record.producer, record.epoch

    def add_partitions(
        self, batch: Batch, producer: int, epoch: int, tps: Iterable[TopicPartition], now_s: float
    ) -> None:
        record = self._valid(producer, epoch)
        added = [self._place(tp) for tp in tps]
        self._open(record, now_s)
        record.partitions.extend(p for p in added if p not in record.partitions)
        self._save(batch, record)

    def add_offsets(self, batch: Batch, producer: int, epoch: int, group: str, now_s: float) -> None:
        record = self._valid(producer, epoch)
        self._open(record, now_s)
        record.pending.setdefault(group, [])
        self._save(batch, record)

    def check_append(self, producer: int, epoch: int, topic_number: int, partition: int) -> None:
        """A record may be appended: the partition belongs to the open transaction of a valid producer."""
        record = self._valid(producer, epoch)
        if record.state != ONGOING or (topic_number, partition) not in record.partitions:
            raise TransactionAborted(
                f"a record of {record.name} reached a partition that its transaction does not hold: "
                "an earlier request has ended the transaction",
                "abort, make a new producer, and do the epoch again",
            )

    def hold_offsets(
        self, batch: Batch, producer: int, epoch: int, group: str, offsets: Iterable[OffsetRecord]
    ) -> None:
        """Pending until the transaction is decided. Membership was checked by the caller."""
        record = self._valid(producer, epoch)
        if record.state != ONGOING or group not in record.pending:
            raise TransactionAborted(
                f"offsets of group {group} reached no open transaction of {record.name} that holds the group",
                "abort, make a new producer, and do the epoch again",
            )
        held = {(o.topic, o.partition): o for o in record.pending[group]}
        held.update({(o.topic, o.partition): o for o in offsets})
        record.pending[group] = list(held.values())
        self._save(batch, record)

    def end(self, batch: Batch, producer: int, epoch: int, commit: bool, wall_ms: int) -> None:
        record = self._valid(producer, epoch)
        if record.state == ONGOING:
            self._decide(batch, record, commit, wall_ms)
        elif record.state != (COMMITTED if commit else ABORTED):
            raise ProducerFenced(
                f"the transaction of {record.name} is {record.state} and cannot be "
                f"{'committed' if commit else 'aborted'}: an earlier request has ended it",
                "make a new producer and look at the committed offsets' metadata",
            )

    # --- time and questions ---------------------------------------------------------------------------------

    def expire(self, batch: Batch, now_s: float, wall_ms: int) -> None:
        """Abort what is open for longer than the transaction timeout, and fence its producer."""
        for producer, started_s in list(self._started_s.items()):
            if now_s - started_s >= limits.TRANSACTION_TIMEOUT_MS / 1000:
                record = self._by_producer[producer]
                self._decide(batch, record, False, wall_ms)
                self._raise_epoch(batch, record)
                self._save(batch, record)

    def holds(self, group: str, tps: Iterable[TopicPartition]) -> bool:
        """Whether an undecided transaction holds offsets of any of these."""
        asked = {(tp.topic, int(tp.partition)) for tp in tps}
        return any(
            (o.topic, o.partition) in asked
            for producer in self._started_s
            for o in self._by_producer[producer].pending.get(group, [])
        )

    def open_names(self) -> list[str]:
        return sorted(self._by_producer[p].name for p in self._started_s)

    def drop_group(self, batch: Batch, group: str) -> None:
        for producer in self._started_s:
            record = self._by_producer[producer]
            if record.pending.pop(group, None) is not None:
                self._save(batch, record)

    # --- inside ---------------------------------------------------------------------------------------------

    def _valid(self, producer: int, epoch: int) -> TransactionRecord:
        record = self._by_producer.get(producer)
        if record is None or record.epoch != epoch:
            name = "a transactional id" if record is None else record.name
            raise ProducerFenced(
                f"the producer of {name} with id {producer} and epoch {epoch} is fenced: "
                "a newer one has initialised, or its transaction timed out",
                "make a new producer; if the group has lost us too, step aside",
            )
        return record

    def _place(self, tp: TopicPartition) -> tuple[int, int]:
        self._topics.partition(tp)
        return self._topics.get(tp.topic).record.number, int(tp.partition)

    def _open(self, record: TransactionRecord, now_s: float) -> None:
        if record.state != ONGOING:
            record.state = ONGOING
            self._started_s[record.producer] = now_s

    def _decide(self, batch: Batch, record: TransactionRecord, commit: bool, wall_ms: int) -> None:
        if self.decided is not None:
            self.decided(record, commit)
        for number, partition_number in record.partitions:
            partition = self._topics.by_number(number, partition_number)
            if partition is not None:
                partition.mark(batch, record.producer, commit, wall_ms)
        if commit:
            for group, offsets in record.pending.items():
                self._offsets.put(batch, group, (o for o in offsets if self._topics.find(o.topic) is not None))
        record.partitions = []
        record.pending = {}
        record.state = COMMITTED if commit else ABORTED
        del self._started_s[record.producer]
        self._save(batch, record)

    def _raise_epoch(self, batch: Batch, record: TransactionRecord) -> None:
        if record.epoch < LAST_EPOCH:
            record.epoch += 1
            return
        del self._by_producer[record.producer]
        record.producer, record.epoch = self._new_producer(batch), 0
        self._by_producer[record.producer] = record

    def _new_producer(self, batch: Batch) -> int:
        producer = self._facts.next_producer
        self._facts.next_producer = producer + 1
        batch.entries[keys.FACTS] = encode(self._facts)
        return producer

    def _save(self, batch: Batch, record: TransactionRecord) -> None:
        batch.entries[keys.TRANSACTION + record.name.encode()] = encode(record)
