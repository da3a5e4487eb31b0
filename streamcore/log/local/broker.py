"""The model of the broker: every request a client can make, one at a time, over one storage.

Invariants:
- A request is one atomic batch of the storage: what it changed in memory is in the storage when it returns.
- Time passes only here: each request first lets sessions and transactions expire by the injected clock.
- One re-entrant lock around every request: a log may be shared by threads, a client object may not.

Read-only (beside a process that writes): each request first takes in what was written since, nothing expires, and
requests that write are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import RLock

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import RecordTooLarge, StateDirError, StopError, TopicError, TransactionAborted, shown
from streamcore.log.local import storage as keys
from streamcore.log.local.groups import Beat, Groups
from streamcore.log.local.offsets import Offsets
from streamcore.log.local.partition import Fetched
from streamcore.log.local.records import (
    NO_TRANSACTION,
    RECORD_OVERHEAD,
    Columns,
    Facts,
    MemberRecord,
    OffsetRecord,
    decode_facts,
    encode,
)
from streamcore.log.local.storage import Batch, Storage
from streamcore.log.local.topics import DEFAULTS, Topic, Topics
from streamcore.log.local.transactions import Decided, Transactions
from streamcore.log.local.waiting import STEPS_S, Steps
from streamcore.log.port import Committed, Membership, OffsetCommit, TopicInfo
from streamcore.types import Offset, TopicPartition

FORMAT = 1
METADATA_CHARACTERS = 4_096
"""offset.metadata.max.bytes of a broker."""
EXPIRE_EVERY_S = 0.05
"""Sessions and transactions expire in seconds; looking at all of them costs as much as a request."""


class _Request:
    """One request: holds the lock, gives the batch, and has it written at the end. (A generator would cost as much as
    the request.)"""

    __slots__ = ("_batch", "_broker", "_writes")

    def __init__(self, broker: Broker, writes: bool) -> None:
        self._broker = broker
        self._writes = writes

    def __enter__(self) -> Batch:
        self._batch = Batch()
        self._broker.lock.acquire()
        try:
            self._broker.begin(self._batch, self._writes)
        except BaseException:
            self._broker.lock.release()
            raise
        return self._batch

    def __exit__(self, *failure: object) -> None:
        try:
            if self._batch.entries or self._batch.ranges:
                self._broker.end(self._batch)
        finally:
            self._broker.lock.release()


class Broker:
    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        *,
        log_id: str,
        auto_create_partitions: int | None,
        session_timeout_ms: int = limits.SESSION_TIMEOUT_MS,
        read_only: bool = False,
        steps_s: Steps = STEPS_S,
        heartbeat_s: float = 0.0,
        decided: Decided | None = None,
    ) -> None:
        """`log_id` names a log that is new; `steps_s`: how clients wait at it; `heartbeat_s`: the least time between
        two heartbeats of a member that has its assignment (0: at each poll); `decided` is told of every transaction.
        Raises StateDirError for a log of a newer format."""
        self.steps_s = steps_s
        self.heartbeat_s = heartbeat_s
        self._decided = decided
        self.auto_create_partitions = auto_create_partitions
        """Partitions of a topic that appears by being used; None: none appears."""
        self._storage = storage
        self._clock = clock
        self._log_id = log_id
        self._session_timeout_ms = session_timeout_ms
        self._read_only = read_only
        self.lock = RLock()
        self._expired_s = -1.0
        self._load()

    def _load(self) -> None:
        stored = self._storage.get(keys.FACTS)
        facts = decode_facts(stored) if stored is not None else Facts(FORMAT, self._log_id, 1, 1, 1)
        if facts.format > FORMAT:
            raise StateDirError(
                f"the embedded log was written in format {facts.format}, and this streamcore knows {FORMAT}",
                "run the version of streamcore that wrote it, or a newer one",
            )
        self._topics = Topics(self._storage, facts)
        self._offsets = Offsets(self._storage)
        self._groups = Groups(self._storage, facts, self._count, self._session_timeout_ms)
        self._transactions = Transactions(self._storage, facts, self._topics, self._offsets, self._clock.monotonic_s())
        self._transactions.decided = self._decided
        if stored is None and not self._read_only:
            batch = Batch()
            batch.entries[keys.FACTS] = encode(facts)
            self._storage.write(batch)

    def _request(self, writes: bool = False) -> _Request:
        return _Request(self, writes)

    def begin(self, batch: Batch, writes: bool) -> None:
        if not self._read_only:
            self._expire(batch)
            return
        if writes:
            raise StateDirError(
                "the embedded log is open for reading only: another process may be running a job on it",
                "stop the job first, or do this from within it",
            )
        if self._storage.catch_up():
            self._load()

    def end(self, batch: Batch) -> None:
        """Also when the request was refused: what expired, and what it had changed, is so in memory."""
        if not self._read_only:
            self._storage.write(batch)

    def _expire(self, batch: Batch) -> None:
        now_s = self._clock.monotonic_s()
        if 0 <= now_s - self._expired_s < EXPIRE_EVERY_S:
            return
        self._expired_s = now_s
        self._transactions.expire(batch, now_s, self._clock.wall_ms())
        self._groups.expire(batch, now_s)

    def _count(self, topic: str) -> int | None:
        found = self._topics.find(topic)
        return None if found is None else len(found.partitions)

    def tick(self) -> None:
        """Let time pass without asking for anything."""
        with self._request():
            pass

    # --- topics ---------------------------------------------------------------------------------------------

    def ensure(self, names: Iterable[str]) -> list[str]:
        """Topics that are used appear, where they may; those that are still missing."""
        with self._request() as batch:
            absent = [name for name in names if self._topics.find(name) is None]
            if self.auto_create_partitions is None or self._read_only:
                return absent
            for name in absent:
                self._topics.create(batch, name, self.auto_create_partitions, {})
            return []

    def absent(self, names: Iterable[str]) -> list[str]:
        with self.lock:
            return [name for name in names if self._topics.find(name) is None]

    def use(self, topic: str) -> int:
        """The topic's partitions; it appears where it may. Raises TopicError."""
        with self.lock:
            if self._topics.find(topic) is None:
                self.ensure([topic])
            return len(self._topics.get(topic).partitions)

    def topics(self, names: Sequence[str] | None) -> dict[str, TopicInfo]:
        with self._request():
            if names is None:
                found = self._topics.all()
            else:
                found = [t for t in map(self._topics.find, names) if t is not None]
            return {t.record.name: _info(t) for t in found}

    def config(self, topic: str) -> dict[str, str]:
        with self._request():
            return {**DEFAULTS, **self._topics.get(topic).record.config}

    def create(self, name: str, partitions: int, config: Mapping[str, str]) -> TopicInfo:
        with self._request(writes=True) as batch:
            return _info(self._topics.create(batch, name, partitions, config))

    def delete(self, names: Sequence[str]) -> None:
        with self._request(writes=True) as batch:
            for name in names:
                if self._topics.delete(batch, name):
                    self._offsets.drop_topic(batch, name)

    def delete_records(self, before: Mapping[TopicPartition, Offset]) -> None:
        with self._request(writes=True) as batch:
            for tp, offset in before.items():
                self._topics.partition(tp).delete_before(batch, offset)

    # --- records --------------------------------------------------------------------------------------------

    def append(self, producer: int, epoch: int | None, tp: TopicPartition, columns: Columns) -> Offset:
        """The offset of the first record. `epoch` is None outside of transactions. Raises ProducerFenced,
        TransactionAborted, RecordTooLarge, TopicError."""
        with self._request(writes=True) as batch:
            partition = self._topics.partition(tp)
            topic = self._topics.get(tp.topic)
            if epoch is not None:
                self._transactions.check_append(producer, epoch, topic.record.number, tp.partition)
            _check_size(topic, tp, columns)
            now_ms = self._clock.wall_ms()
            if topic.append_time:
                columns = Columns(columns.values, columns.keys, [now_ms] * len(columns), columns.headers)
            else:
                _check_times(topic, tp, columns, now_ms)
            return Offset(partition.append(batch, columns, NO_TRANSACTION if epoch is None else producer))

    def fetch(self, positions: Mapping[TopicPartition, int], max_records: int, committed: bool) -> list[Fetched]:
        """Of each partition, up to `max_records` each. Raises TopicError, OffsetsLost."""
        with self._request():
            return [self._topics.partition(tp).fetch(at, max_records, committed) for tp, at in positions.items()]

    def first_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Offset]:
        with self._request():
            return {tp: Offset(self._topics.partition(tp).first) for tp in tps}

    def stable_ends(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Offset]:
        with self._request():
            return {tp: Offset(self._topics.partition(tp).stable_end) for tp in tps}

    def ends(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Offset]:
        with self._request():
            return {tp: Offset(self._topics.partition(tp).end) for tp in tps}

    def offsets_at(self, tps: Iterable[TopicPartition], time_ms: int) -> dict[TopicPartition, Offset]:
        with self._request():
            return {tp: Offset(self._topics.partition(tp).offset_at(time_ms)) for tp in tps}

    # --- transactions ---------------------------------------------------------------------------------------

    def init_producer(self, transactional_id: str | None) -> tuple[int, int]:
        """(producer id, epoch)."""
        with self._request(writes=True) as batch:
            return self._transactions.init(batch, transactional_id, self._clock.wall_ms())

    def add_partitions(self, producer: int, epoch: int, tps: Sequence[TopicPartition]) -> None:
        with self._request(writes=True) as batch:
            self._transactions.add_partitions(batch, producer, epoch, tps, self._clock.monotonic_s())

    def add_offsets(self, producer: int, epoch: int, group: str) -> None:
        with self._request(writes=True) as batch:
            self._transactions.add_offsets(batch, producer, epoch, group, self._clock.monotonic_s())

    def deliver_txn_offsets(
        self, producer: int, epoch: int, group: str, offsets: Sequence[OffsetCommit], membership: Membership
    ) -> None:
        """TxnOffsetCommit, in time or late: whichever transaction of this producer id and epoch is open takes it.
        Raises ProducerFenced, MembershipChanged, TransactionAborted."""
        with self._request(writes=True) as batch:
            self._groups.check_commit(
                group, membership.generation, membership.member_id, membership.instance_id, transactional=True
            )
            try:
                self._check_offsets(offsets)
            except (TopicError, RecordTooLarge) as refusal:
                raise TransactionAborted(refusal.what, refusal.remedy) from refusal
            self._transactions.hold_offsets(batch, producer, epoch, group, _records(offsets))
            self._groups.ensure(batch, group)

    def deliver_end_txn(self, producer: int, epoch: int, commit: bool) -> None:
        """EndTxn, in time or late: it decides whichever transaction of this producer id and epoch is open. Raises
        ProducerFenced."""
        with self._request(writes=True) as batch:
            self._transactions.end(batch, producer, epoch, commit, self._clock.wall_ms())

    def open_transactions(self) -> list[str]:
        """Transactional ids with an undecided transaction."""
        with self._request():
            return self._transactions.open_names()

    # --- groups ---------------------------------------------------------------------------------------------

    def join(
        self, group: str, member_id: str, instance_id: str | None, topics: Iterable[str], alive: Callable[[], bool]
    ) -> str:
        with self._request(writes=True) as batch:
            return self._groups.join(batch, group, member_id, instance_id, topics, alive, self._clock.monotonic_s())

    def heartbeat(self, group: str, member_id: str, instance_id: str | None) -> Beat:
        with self._request(writes=True) as batch:
            return self._groups.heartbeat(batch, group, member_id, instance_id, self._clock.monotonic_s())

    def leave(self, group: str, member_id: str) -> None:
        with self._request(writes=True) as batch:
            self._groups.leave(batch, group, member_id)

    def commit_offsets(self, group: str, offsets: Sequence[OffsetCommit], membership: Membership) -> None:
        """Outside of a transaction. Raises MembershipChanged."""
        with self._request(writes=True) as batch:
            self._groups.check_commit(
                group, membership.generation, membership.member_id, membership.instance_id, transactional=False
            )
            self._check_offsets(offsets)
            self._groups.ensure(batch, group)
            self._offsets.put(batch, group, _records(offsets))

    def committed(
        self, group: str, tps: Sequence[TopicPartition], stable: bool
    ) -> dict[TopicPartition, Committed] | None:
        """None: an undecided transaction holds offsets of these, and the question was for stable ones."""
        with self._request():
            if stable and self._transactions.holds(group, tps):
                return None
            kept = self._offsets.of(group)
            return {tp: kept[tp] for tp in tps if tp in kept}

    def set_committed(self, group: str, offsets: Sequence[OffsetCommit]) -> None:
        with self._request(writes=True) as batch:
            self._no_members(group, "its offsets cannot be set")
            self._check_offsets(offsets)
            self._groups.ensure(batch, group)
            self._offsets.put(batch, group, _records(offsets))

    def members(self, group: str) -> list[MemberRecord]:
        with self._request():
            if not self._read_only:
                return self._groups.members(group)
            return self._groups.stored_members(group) if self._storage.written_by_another() else []

    def groups(self) -> list[str]:
        with self._request():
            return sorted({*self._groups.names(), *self._offsets.groups()})

    def delete_group(self, group: str) -> None:
        with self._request(writes=True) as batch:
            self._no_members(group, "it cannot be deleted")
            self._groups.delete(batch, group)
            self._offsets.drop_group(batch, group)
            self._transactions.drop_group(batch, group)

    def _check_offsets(self, offsets: Iterable[OffsetCommit]) -> None:
        for offset in offsets:
            self._topics.partition(offset.tp)
            if len(offset.metadata) > METADATA_CHARACTERS:
                raise RecordTooLarge(
                    f"the metadata of the offset of {offset.tp} has {len(offset.metadata)} characters, and the broker "
                    f"takes {METADATA_CHARACTERS}",
                    "commit shorter metadata",
                )

    def _no_members(self, group: str, therefore: str) -> None:
        members = self._groups.members(group)
        if members:
            names = ", ".join(sorted(m.instance_id or m.member_id for m in members))
            raise StopError(
                f"group {group} has members ({names}): {therefore}",
                "stop the job on every machine, and wait for its session timeout (10 s)",
            )

    def close(self) -> None:
        with self.lock:
            self._storage.close()


def _info(topic: Topic) -> TopicInfo:
    return TopicInfo(topic.record.name, topic.record.topic_id, topic.record.partitions)


def _records(offsets: Iterable[OffsetCommit]) -> list[OffsetRecord]:
    return [OffsetRecord(o.tp.topic, o.tp.partition, o.offset, o.metadata) for o in offsets]


def _check_times(topic: Topic, tp: TopicPartition, columns: Columns, now_ms: int) -> None:
    latest_ms = max(columns.times)
    if latest_ms - now_ms > topic.max_ahead_ms:
        raise TopicError(
            f"a record for {tp} has the time {latest_ms}, {latest_ms - now_ms} ms ahead of the log's clock: the topic "
            f"takes {topic.max_ahead_ms} (message.timestamp.after.max.ms)",
            "correct the event's time, or raise the topic's setting",
        )


def _check_size(topic: Topic, tp: TopicPartition, columns: Columns) -> None:
    limit = topic.max_message_bytes
    if columns.size_bytes + RECORD_OVERHEAD <= limit:
        return
    row, size = columns.largest()
    if size > limit:
        raise RecordTooLarge(
            f"a record of {size} bytes for {tp} is over the topic's max.message.bytes of {limit}: "
            f"key {shown(columns.keys[row] if columns.keys else None)}, value {shown(columns.values[row])}",
            "raise the topic's max.message.bytes, or make the record smaller",
        )
