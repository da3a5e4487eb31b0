"""The broker that writes down what it decides: the judge's witness, on the side that knows.

Whose request is being delivered is told by the wire (`delivering`); a copy that arrives late counts as its sender's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from streamcore.errors import LogUnavailable
from streamcore.log import metadata
from streamcore.log.local.broker import Broker
from streamcore.log.local.partition import Fetched
from streamcore.log.local.records import NO_TRANSACTION, Chunk, Columns, MemberRecord, TransactionRecord
from streamcore.log.local.storage import MemoryStorage
from streamcore.log.port import Membership, OffsetCommit
from streamcore.testing.history import DoubtfulCall, Event, OffsetsSent, OffsetTold, Opened, Transaction
from streamcore.testing.simulated.scheduler import Scheduler, SimulatedClock
from streamcore.types import Offset, Partition, TopicPartition

POLL_STEPS_S = (0.5, 0.5)
"""Clients wait in long steps: simulated time is free, requests are not."""
HEARTBEAT_S = 0.5
"""A member does not know at once that the group has changed."""


class RecordingBroker(Broker):
    def __init__(self, scheduler: Scheduler, seed: str, partitions: int) -> None:
        super().__init__(
            MemoryStorage(),
            SimulatedClock(scheduler, lambda: None),
            log_id=f"simulated-{seed}",
            auto_create_partitions=partitions,
            steps_s=POLL_STEPS_S,
            heartbeat_s=HEARTBEAT_S,
            decided=self._record,
        )
        self._scheduler = scheduler
        self.delivering = ""
        """Whose request this is."""
        self.transactions: list[Transaction] = []
        self.offsets_sent: list[OffsetsSent] = []
        self.opened: list[Opened] = []
        self.written: dict[tuple[TopicPartition, int], tuple[tuple[int, int], int]] = {}
        self.doubtful: list[DoubtfulCall] = []
        self.events: list[Event] = []
        self.deleted: list[tuple[int, TopicPartition, int, str | None]] = []
        """Step, partition, offset below which records were deleted, and for a journal the checkpoint named then."""
        self._trimmed: dict[TopicPartition, list[tuple[Chunk, int, int]]] = {}
        self._begun: dict[int, tuple[int, str]] = {}
        self._stalled: dict[TopicPartition, float] = {}
        self._behind: dict[TopicPartition, float] = {}
        self._moving: list[tuple[frozenset[str], float]] = []

    def tell(self, actor: str, what: str, tps: Sequence[TopicPartition] = (), told: str = "") -> None:
        at = self._scheduler
        self.events.append(Event(at.steps, at.now_s, actor, what, frozenset(tps), told))

    # --- transactions -------------------------------------------------------------------------------------------

    def add_partitions(self, producer: int, epoch: int, tps: Sequence[TopicPartition]) -> None:
        super().add_partitions(producer, epoch, tps)
        self._opens(producer, epoch)

    def add_offsets(self, producer: int, epoch: int, group: str) -> None:
        super().add_offsets(producer, epoch, group)
        self._opens(producer, epoch)

    def _opens(self, producer: int, epoch: int) -> None:
        if producer not in self._begun:
            self._begun[producer] = self._scheduler.steps, self.delivering
            self.opened.append(Opened(self._scheduler.steps, self.delivering, (producer, epoch)))

    def append(self, producer: int, epoch: int | None, tp: TopicPartition, columns: Columns) -> Offset:
        first = super().append(producer, epoch, tp, columns)
        if epoch is not None and producer in self._begun:
            at = (producer, epoch), self._begun[producer][0]
            self.written.update(((tp, int(first) + i), at) for i in range(len(columns)))
        return first

    def deliver_txn_offsets(
        self, producer: int, epoch: int, group: str, offsets: Sequence[OffsetCommit], membership: Membership
    ) -> None:
        super().deliver_txn_offsets(producer, epoch, group, offsets, membership)
        held = next((m for m in self.members(group) if m.member_id == membership.member_id), None)
        assigned = None if held is not None and not held.assignment else frozenset(_tps(held))
        tps = frozenset(commit.tp for commit in offsets)
        self.offsets_sent.append(OffsetsSent(self._scheduler.steps, self.delivering, (producer, epoch), tps, assigned))

    def _record(self, record: TransactionRecord, commit: bool) -> None:
        step, actor = self._begun.pop(record.producer, (self._scheduler.steps, self.delivering))
        told = [
            OffsetTold(TopicPartition(o.topic, Partition(o.partition)), o.offset, metadata.decode(o.metadata, o.topic))
            for offsets in record.pending.values()
            for o in offsets
        ]
        ended = self._scheduler.steps
        producer = record.producer, record.epoch
        self.transactions.append(
            Transaction(record.name, producer, commit, step, ended, actor, tuple(sorted(told, key=_tp)))
        )

    # --- faults of the cluster ------------------------------------------------------------------------------------

    def stall(self, tp: TopicPartition, until_s: float) -> None:
        """The partition has no leader: fetches of it bring nothing."""
        self._stalled[tp] = until_s

    def fall_behind(self, tp: TopicPartition, until_s: float) -> None:
        """The partition's new leader does not know yet how far its records are committed: its end is an old one."""
        self._behind[tp] = until_s

    def move(self, requests: frozenset[str], until_s: float) -> None:
        """Their coordinator moves: until it has read its topic nobody answers them."""
        self._moving.append((requests, until_s))

    def moving_s(self, request: str) -> float:
        """For how long nobody will answer the request."""
        if not self._moving:
            return 0.0
        now_s = self._scheduler.now_s
        return max([until_s - now_s for requests, until_s in self._moving if request in requests], default=0.0)

    def evict(self, group: str, instance_id: str) -> None:
        """The group drops a member, as an operator may, or a coordinator that lost it."""
        for member in self.members(group):
            if member.instance_id == instance_id:
                self.leave(group, member.member_id)

    def heal(self) -> None:
        self._moving.clear()
        self._stalled.clear()
        self._behind.clear()

    def stable_ends(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Offset]:
        return super().stable_ends(self._known(tps))

    def ends(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Offset]:
        return super().ends(self._known(tps))

    def _known(self, tps: Iterable[TopicPartition]) -> list[TopicPartition]:
        asked = list(tps)
        unknown = [str(tp) for tp in asked if self._behind.get(tp, 0) > self._scheduler.now_s]
        if unknown:  # who asks for an end is not told an old one: KIP-207
            raise LogUnavailable(f"the leaders of {', '.join(unknown)} do not know their ends yet", "try again")
        return asked

    def fetch(self, positions: Any, max_records: int, committed: bool) -> list[Fetched]:
        found = super().fetch(positions, max_records, committed)
        if not self._stalled and not self._behind:
            return found
        now_s = self._scheduler.now_s
        return [
            Fetched([], at, at + 1)
            if self._stalled.get(tp, 0) > now_s
            else Fetched([], at, at)
            if self._behind.get(tp, 0) > now_s
            else fetched
            for (tp, at), fetched in zip(positions.items(), found, strict=True)
        ]

    # --- what is trimmed stays for the judge ------------------------------------------------------------------------

    def delete_records(self, before: Mapping[TopicPartition, Offset]) -> None:
        for tp, offset in before.items():
            self.deleted.append((self._scheduler.steps, tp, int(offset), self._named(tp)))
            first = self.first_offsets([tp])[tp]
            kept = self._trimmed.setdefault(tp, [])
            for chunk in super().fetch({tp: first}, 1 << 30, False)[0].chunks:
                if chunk.base < offset and chunk.values:
                    kept.append((chunk, int(first), int(offset)))
        super().delete_records(before)

    def delete(self, names: Sequence[str]) -> None:
        super().delete(names)
        for tp in [tp for tp in self._trimmed if tp.topic in names]:
            del self._trimmed[tp]

    def _named(self, tp: TopicPartition) -> str | None:
        """The checkpoint that the metadata of the journal's task names now."""
        job, _, stage = tp.topic.partition(".journal.")
        inputs = [TopicPartition(name, tp.partition) for name in (stage, f"{job}.shuffle.{stage}")]
        inputs = [at for at in inputs if at.topic in self.topics([at.topic])]
        told = self.committed(job, inputs, stable=False) or {}
        return next((metadata.decode(at.metadata, str(tp)).checkpoint for at in told.values()), None)

    def trimmed(self, tp: TopicPartition) -> list[tuple[Chunk, int, int]]:
        """Chunks of deleted records, each with the offsets from which and below which they were deleted: of
        transactions that were committed, then or later."""
        committed = {(t.producer, t.begun_step) for t in self.transactions if t.committed}
        return [
            kept
            for kept in self._trimmed.get(tp, [])
            if kept[0].producer == NO_TRANSACTION or self.written.get((tp, kept[0].base)) in committed
        ]

    def expire_offsets(self, group: str) -> None:
        with self._request(writes=True) as batch:
            self._offsets.drop_group(batch, group)


def _tps(member: MemberRecord | None) -> list[TopicPartition]:
    """Who is no member has nothing."""
    return [] if member is None else [TopicPartition(topic, Partition(p)) for topic, p in member.assignment]


def _tp(told: OffsetTold) -> TopicPartition:
    return told.tp


def late(deliver: Callable[[], object]) -> None:
    """A copy of a request arrives; what the broker says to it, nobody hears."""
    try:
        deliver()
    except Exception:
        return
