"""Consumer groups of the classic protocol: membership, eager rebalance, static members.

    EMPTY ──join──▶ PREPARING ──all members have joined──▶ STABLE ──join, leave, expiry, partitions──▶ PREPARING …

A member learns of PREPARING from its heartbeat, lets go of everything, and joins again; once all have, the generation
rises and the next heartbeat brings the assignment. A heartbeat is taken for every live process whenever the broker is
asked anything (a client's background thread sends them), and from nobody who is suspended, killed or closed: after the
session timeout such a member is out.

Invariants:
- A static member (one instance id) has one member id at a time; whoever shows an older one is fenced (SlotTaken).
- One that comes back with its instance id while STABLE, same subscription, takes its predecessor's assignment over
  without a rebalance and in the same generation.
- Assignments of one generation never overlap, and together are all partitions subscribed to.

Not modelled: max.poll.interval.ms (a member whose process lives but which never polls holds a rebalance up).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from streamcore.errors import MembershipChanged, SlotTaken
from streamcore.log.local import storage as keys
from streamcore.log.local.assignor import range_assign
from streamcore.log.local.records import Facts, GroupRecord, MemberRecord, decode_group, encode
from streamcore.log.local.storage import Batch, Storage
from streamcore.types import TopicPartition

HOST: Final = "local"


class UnknownMember(Exception):
    """Within this package: the group does not know the member id (its session is over). The consumer's `lost`."""


class GroupState(Enum):
    EMPTY = "empty"
    PREPARING = "preparing"
    STABLE = "stable"


@dataclass(slots=True)
class Member:
    member_id: str
    instance_id: str | None
    topics: frozenset[str]
    alive: Callable[[], bool]
    """Whether its process sends heartbeats; a closed consumer never does."""
    heard_s: float
    joined: bool = True
    assignment: list[TopicPartition] = field(default_factory=list[TopicPartition])


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat's answer. `assignment` is None while a rebalance waits for others, `rejoin` when it waits for us."""

    generation: int
    assignment: list[TopicPartition] | None
    rejoin: bool


class Group:
    def __init__(self, name: str, generation: int) -> None:
        self.name = name
        self.generation = generation
        self.state = GroupState.EMPTY
        self.members: dict[str, Member] = {}
        self.static: dict[str, str] = {}
        """Instance id to the member id that holds it."""
        self.counts: dict[str, int] = {}
        """Partitions by topic, as they were assigned."""


class Groups:
    def __init__(
        self, storage: Storage, facts: Facts, count_of: Callable[[str], int | None], session_timeout_ms: int
    ) -> None:
        """`count_of` gives a topic's partitions, None when it does not exist."""
        self._session_s = session_timeout_ms / 1000
        self._facts = facts
        self._count_of = count_of
        self._groups: dict[str, Group] = {}
        self._stored: dict[str, GroupRecord] = {}
        for key, value in storage.scan(keys.GROUP, keys.after(keys.GROUP)):
            name, record = key[1:].decode(), decode_group(value)
            self._stored[name] = record
            self._groups[name] = Group(name, record.generation)

    # --- requests -------------------------------------------------------------------------------------------

    def join(
        self,
        batch: Batch,
        name: str,
        member_id: str,
        instance_id: str | None,
        topics: Iterable[str],
        alive: Callable[[], bool],
        now_s: float,
    ) -> str:
        """The member id to go on with. With an empty `member_id` a new member joins, or a static one returns. Raises
        SlotTaken, UnknownMember."""
        group = self._groups.setdefault(name, Group(name, 0))
        wanted = frozenset(topics)
        if member_id:
            member = self._known(group, member_id, instance_id)
            member.heard_s, member.joined = now_s, True
            if member.topics != wanted:
                member.topics = wanted
                self._prepare(group, joined=member)
            self._complete(batch, group)
            return member_id
        member = Member(self._new_id(batch, instance_id or name), instance_id, wanted, alive, now_s)
        older = group.members.pop(group.static[instance_id]) if instance_id and instance_id in group.static else None
        self._add(group, member)
        if older is not None and older.topics == wanted and group.state is GroupState.STABLE:
            member.assignment = older.assignment
            self._save(batch, group)
        else:
            self._prepare(group, joined=member)
            self._complete(batch, group)
        return member.member_id

    def heartbeat(self, batch: Batch, name: str, member_id: str, instance_id: str | None, now_s: float) -> Beat:
        """Raises SlotTaken, UnknownMember."""
        group = self._groups.get(name)
        if group is None:
            raise UnknownMember(member_id)
        member = self._known(group, member_id, instance_id)
        member.heard_s = now_s
        if group.state is GroupState.STABLE and group.counts != self._counts(group):
            self._prepare(group)
        if group.state is GroupState.PREPARING:
            return Beat(group.generation, None, rejoin=not member.joined)
        return Beat(group.generation, member.assignment, rejoin=False)

    def leave(self, batch: Batch, name: str, member_id: str) -> None:
        group = self._groups.get(name)
        if group is not None and member_id in group.members:
            self._remove(batch, group, member_id)

    def check_commit(
        self, name: str, generation: int, member_id: str, instance_id: str | None, *, transactional: bool
    ) -> None:
        """Whether the broker takes offsets under this metadata: a known member's of the present generation, and, in
        a transaction, also those of one that never joined (generation -1, no member id). Ownership of partitions is
        not looked at. Raises MembershipChanged."""
        group = self._groups.get(name)
        empty = group is None or not group.members
        if generation < 0 and empty:
            return
        if generation < 0 and not member_id and instance_id is None:
            if transactional:
                return
            raise self._refused(name, f"is not empty, and the commit of {member_id!r} names no member")
        try:
            if group is None:
                raise UnknownMember(member_id)
            self._known(group, member_id, instance_id)
        except UnknownMember:
            raise self._refused(name, f"does not know the member id {member_id!r}") from None
        except SlotTaken as error:
            raise self._refused(name, f"has a newer member of instance id {instance_id!r}") from error
        if generation != group.generation:
            raise self._refused(name, f"is in generation {group.generation}, and the commit is of {generation}")

    # --- time and questions ---------------------------------------------------------------------------------

    def expire(self, batch: Batch, now_s: float) -> None:
        for group in self._groups.values():
            for member in list(group.members.values()):
                if member.alive():
                    member.heard_s = now_s
                elif now_s - member.heard_s >= self._session_s:
                    self._remove(batch, group, member.member_id)

    def names(self) -> Iterable[str]:
        return self._groups.keys()

    def members(self, name: str) -> list[MemberRecord]:
        group = self._groups.get(name)
        return [] if group is None else [_record(m, group) for m in group.members.values()]

    def stored_members(self, name: str) -> list[MemberRecord]:
        """As the writer left them, for a process that reads beside it."""
        record = self._stored.get(name)
        return [] if record is None else record.members

    def ensure(self, batch: Batch, name: str) -> None:
        """A group that has offsets is one, also without ever having had a member."""
        if name not in self._groups:
            self._groups[name] = Group(name, 0)
            self._save(batch, self._groups[name])

    def delete(self, batch: Batch, name: str) -> None:
        """The caller has seen that it has no members."""
        if self._groups.pop(name, None) is not None:
            batch.entries[keys.GROUP + name.encode()] = None

    # --- inside ---------------------------------------------------------------------------------------------

    def _known(self, group: Group, member_id: str, instance_id: str | None) -> Member:
        if instance_id is not None:
            holder = group.static.get(instance_id)
            if holder is None:
                raise UnknownMember(member_id)
            if holder != member_id:
                raise slot_taken(group.name, instance_id)
        member = group.members.get(member_id)
        if member is None:
            raise UnknownMember(member_id)
        return member

    def _refused(self, name: str, why: str) -> MembershipChanged:
        return MembershipChanged(
            f"offsets for group {name} were refused: the group {why}", "take the present assignment and take over anew"
        )

    def _add(self, group: Group, member: Member) -> None:
        group.members[member.member_id] = member
        if member.instance_id is not None:
            group.static[member.instance_id] = member.member_id

    def _remove(self, batch: Batch, group: Group, member_id: str) -> None:
        member = group.members.pop(member_id)
        if member.instance_id is not None:
            del group.static[member.instance_id]
        self._prepare(group)
        self._complete(batch, group)

    def _prepare(self, group: Group, joined: Member | None = None) -> None:
        """A rebalance begins, unless one is under way; `joined` need not join once more."""
        if group.state is not GroupState.PREPARING:
            group.state = GroupState.PREPARING
            for member in group.members.values():
                member.joined = False
        if joined is not None:
            joined.joined = True

    def _complete(self, batch: Batch, group: Group) -> None:
        if group.state is not GroupState.PREPARING or not all(m.joined for m in group.members.values()):
            return
        group.generation += 1
        group.counts = self._counts(group)
        assigned = range_assign(
            {m.member_id: m.topics for m in group.members.values()},
            {m.member_id: m.instance_id or m.member_id for m in group.members.values()},
            group.counts,
        )
        for member in group.members.values():
            member.assignment = assigned[member.member_id]
        group.state = GroupState.STABLE if group.members else GroupState.EMPTY
        self._save(batch, group)

    def _counts(self, group: Group) -> dict[str, int]:
        topics = {topic for member in group.members.values() for topic in member.topics}
        return {topic: count for topic in topics if (count := self._count_of(topic)) is not None}

    def _new_id(self, batch: Batch, prefix: str) -> str:
        number = self._facts.next_member
        self._facts.next_member = number + 1
        batch.entries[keys.FACTS] = encode(self._facts)
        return f"{prefix}-{number:08d}"

    def _save(self, batch: Batch, group: Group) -> None:
        record = GroupRecord(group.generation, [_record(m, group) for m in group.members.values()])
        batch.entries[keys.GROUP + group.name.encode()] = encode(record)


def _record(member: Member, group: Group) -> MemberRecord:
    held: Iterable[TopicPartition] = member.assignment if group.state is GroupState.STABLE else ()
    return MemberRecord(member.member_id, member.instance_id, HOST, [(tp.topic, int(tp.partition)) for tp in held])


def slot_taken(group: str, instance_id: str) -> SlotTaken:
    return SlotTaken(
        f"another member of group {group} has joined with the instance id {instance_id}",
        "one worker a slot: give every machine slots of its own (--slot), or let the newer one do the work",
    )
