"""The log port: all that the engine asks of Kafka.

Two implementations pass one conformance suite: `log.kafka` (confluent-kafka) and `log.local` (a model of the broker's
semantics, in RocksDB or in memory). Calls raise the errors of `streamcore.errors` and nothing of a client library.
Nothing here costs anything per record but the parallel lists themselves.

Threads: every object belongs to the thread that made it. Listener methods run inside `Consumer.poll` or `close`.
Offsets are those of the log: transaction markers take one each, so neighbours need not differ by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from streamcore.types import Offset, Partition, TopicPartition

Headers = list[tuple[str, bytes]]


class Run:
    """Consecutive records of one partition, in offset order, as parallel lists of one length (at least one)."""

    __slots__ = ("headers", "keys", "offsets", "times", "tp", "values")

    def __init__(
        self,
        tp: TopicPartition,
        offsets: list[int],
        keys: list[bytes | None],
        values: list[bytes | None],
        times: list[int],
        headers: list[Headers | None] | None = None,
    ) -> None:
        self.tp = tp
        self.offsets = offsets
        self.keys = keys
        self.values = values
        self.times = times
        """Milliseconds since the Unix epoch."""
        self.headers = headers
        """None where the consumer was made without headers."""

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(frozen=True, slots=True)
class Committed:
    offset: Offset
    metadata: str


@dataclass(frozen=True, slots=True)
class OffsetCommit:
    tp: TopicPartition
    offset: Offset
    metadata: str


@dataclass(frozen=True, slots=True)
class Membership:
    """Group metadata, fetched just now. `raw` is what send_offsets hands to the client, opaque to the engine."""

    generation: int
    """-1 while the consumer is no member."""
    member_id: str
    instance_id: str | None
    raw: object = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class GroupMember:
    member_id: str
    instance_id: str | None
    host: str
    assignment: frozenset[TopicPartition]


@dataclass(frozen=True, slots=True)
class TopicInfo:
    name: str
    topic_id: str
    partitions: int


class Listener(Protocol):
    """Told of the group's decisions, from inside poll() or close(). Must not call poll()."""

    def assigned(self, tps: list[TopicPartition]) -> None:
        """These are ours now, fetching nothing until `Consumer.start`. Return soon: takeover happens outside."""
        ...

    def revoked(self, tps: list[TopicPartition]) -> None:
        """These are still ours until this returns: the epoch is committed here. The group waits."""
        ...

    def lost(self, tps: list[TopicPartition]) -> None:
        """These ceased to be ours some time ago: nothing may be committed."""
        ...


class Consumer(Protocol):
    """A member of a consumer group (classic protocol, range, static membership, read_committed)."""

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None: ...

    def poll(self, max_records: int, timeout_s: float) -> list[Run]:
        """Records of started, unpaused partitions; at most `max_records`. Runs the listener. Never blocks past the
        timeout. Raises SlotTaken (a newer member has our instance id), LogUnavailable, TopicError (a subscribed
        topic is gone), OffsetsLost (a position is outside the partition)."""
        ...

    def start(self, tp: TopicPartition, offset: Offset) -> None:
        """Fetch from `offset` on: after takeover, and (seek) after an abort. Records fetched before this call are
        never returned after it. Resumes a paused partition."""
        ...

    def pause(self, tps: Sequence[TopicPartition]) -> None:
        """Return none of these until `resume`; what was fetched already is kept, bounded, and nothing is lost."""
        ...

    def resume(self, tps: Sequence[TopicPartition]) -> None: ...

    def membership(self) -> Membership: ...

    def end(self, tp: TopicPartition) -> Offset | None:
        """The stable end as last seen by fetching, for lag; no call to the broker. None before it is known."""
        ...

    def commit(self, offsets: Sequence[OffsetCommit], timeout_s: float) -> None:
        """At-least-once mode only. Synchronous. Raises MembershipChanged, LogUnavailable."""
        ...

    def close(self, leave: bool = False) -> None:
        """Runs `revoked` for what is assigned. A static member stays in the group until its session times out, so
        that its slot finds its tasks again; `leave` has it leave at once (where the client can)."""
        ...


class Receipt(Protocol):
    """Where one produced message landed; known after a `flush` that raised nothing."""

    @property
    def offset(self) -> Offset | None: ...


class Producer(Protocol):
    """A transactional producer, or, made without an id, an idempotent one (at-least-once: no begin, no commit)."""

    def init(self, timeout_s: float) -> None:
        """Fences every earlier producer of the same transactional id, ends its open transaction. Raises
        LogUnavailable, AccessDenied."""
        ...

    def begin(self) -> None: ...

    def produce(
        self,
        topic: str,
        partition: Partition | None,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        times: Sequence[int] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> None:
        """Queue records for sending. Partition None: by murmur2 of the key, as Java's; without a key, spread.
        Blocks (bounded) while the queue is full. A record the topic refuses shows up at flush or commit as
        TransactionAborted. Raises LogUnavailable when the queue stays full."""
        ...

    def send(self, tp: TopicPartition, value: bytes, key: bytes | None = None) -> Receipt:
        """Queue one message whose offset is wanted (a journal frame)."""
        ...

    def flush(self, timeout_s: float) -> None:
        """Every message queued is acknowledged. Raises TransactionAborted (a delivery failed), ProducerFenced,
        LogUnavailable (not in time)."""
        ...

    def send_offsets(self, offsets: Sequence[OffsetCommit], membership: Membership, timeout_s: float) -> None:
        """Raises TransactionAborted, ProducerFenced, MembershipChanged (generation or member id refused),
        OutcomeUnknown."""
        ...

    def commit(self, timeout_s: float) -> None:
        """Raises TransactionAborted, ProducerFenced (may have committed: law 3), OutcomeUnknown."""
        ...

    def abort(self, timeout_s: float) -> None:
        """Raises ProducerFenced, OutcomeUnknown (then a fresh producer's init ends it)."""
        ...

    def close(self) -> None:
        """Drop it: nothing queued is sent, an open transaction stays for the next init or the timeout."""
        ...


class Reader(Protocol):
    """Reads partitions without a group: replay, show, idle checks. read_committed unless made otherwise."""

    def poll(self, max_records: int, timeout_s: float) -> list[Run]: ...

    def ended(self) -> frozenset[TopicPartition]:
        """Those whose stable end (as of a fetch at or after the last record returned) has been reached."""
        ...

    def position(self, tp: TopicPartition) -> Offset:
        """The next offset to be read, markers skipped when the end was reached."""
        ...

    def close(self) -> None: ...


class Admin(Protocol):
    """Calls to the cluster as a whole. All raise LogUnavailable, AccessDenied; a missing topic is TopicError."""

    def topics(self, names: Sequence[str] | None = None) -> dict[str, TopicInfo]:
        """Those that exist (all, internal ones of the broker left out, when `names` is None)."""
        ...

    def config(self, topic: str) -> dict[str, str]:
        """The topic's effective settings."""
        ...

    def create(
        self, name: str, partitions: int, config: Mapping[str, str], replication: int | None = None
    ) -> TopicInfo:
        """Creates and waits until it can be used. One that exists already is returned as it is."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Missing ones are no error."""
        ...

    def delete_records(self, before: Mapping[TopicPartition, Offset]) -> None:
        """Everything below these offsets goes."""
        ...

    def first_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, Offset]: ...

    def stable_ends(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, Offset]:
        """The last stable offset plus nothing: where a read_committed reader stops now."""
        ...

    def ends(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, Offset]:
        """Behind everything that is written now, decided or not: a read_committed reader that has come so far has seen
        all that was decided before."""
        ...

    def offsets_at(self, tps: Sequence[TopicPartition], time_ms: int) -> dict[TopicPartition, Offset]:
        """The first offset whose timestamp is at or after the time; the end where there is none."""
        ...

    def committed(
        self, group: str, tps: Sequence[TopicPartition], timeout_s: float, stable: bool = True
    ) -> dict[TopicPartition, Committed]:
        """Offsets with metadata; partitions without one are absent. `stable` waits (up to the timeout, then
        LogUnavailable) until no transaction that holds offsets of these is undecided: the only reading a takeover
        may rest on. Unstable: the last decided, at once."""
        ...

    def set_committed(self, group: str, offsets: Sequence[OffsetCommit]) -> None:
        """For `recover`: only while the group has no members."""
        ...

    def members(self, group: str) -> list[GroupMember]: ...

    def groups(self) -> list[str]: ...

    def delete_group(self, group: str) -> None:
        """A missing one is no error; one with members is a StopError."""
        ...

    def close(self) -> None: ...


class Log(Protocol):
    """One cluster: makes everything else."""

    def consumer(self, group: str, instance_id: str, *, headers: bool = False) -> Consumer: ...

    def producer(self, transactional_id: str | None) -> Producer: ...

    def reader(
        self, starts: Mapping[TopicPartition, Offset], *, headers: bool = False, committed: bool = True
    ) -> Reader: ...

    def admin(self) -> Admin: ...

    def close(self) -> None: ...
