"""The port's Consumer: a member of a group, whose decisions reach the listener inside poll.

    poll: 1. the wire's heartbeat brings the group's answer   2. revoked, lost or assigned, by the listener
          3. records, waiting for some up to the timeout

Invariants:
- `assigned` is what the listener was told last; nothing else is fetched.
- Once fenced (SlotTaken) a consumer stays so: every later poll raises it again, and the listener is told nothing more
  (librdkafka tells it nothing either).
"""

from __future__ import annotations

from collections.abc import Sequence

from streamcore.clock import Clock
from streamcore.errors import SlotTaken, broken, invariant
from streamcore.log.local.broker import Broker
from streamcore.log.local.fetching import Fetcher
from streamcore.log.local.groups import Beat, UnknownMember, slot_taken
from streamcore.log.local.topics import missing
from streamcore.log.local.waiting import attempts
from streamcore.log.local.wire import Wire
from streamcore.log.port import Listener, Membership, OffsetCommit, Run
from streamcore.types import Offset, TopicPartition


class LocalConsumer:
    def __init__(
        self, broker: Broker, wire: Wire, clock: Clock, group: str, instance_id: str | None, *, headers: bool
    ) -> None:
        self._broker = broker
        self._wire = wire
        self._clock = clock
        self._group = group
        self._instance_id = instance_id
        self._fetcher = Fetcher(broker, wire, headers=headers, committed=True)
        self._topics: tuple[str, ...] = ()
        self._listener: Listener | None = None
        self._member_id = ""
        self._generation = -1
        self._beat_s = 0.0
        self._assigned: list[TopicPartition] | None = None
        """None between assignments."""
        self._fenced = False
        self._closed = False

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        self._topics = tuple(topics)
        self._listener = listener
        self._wire.call("Metadata", lambda: self._broker.ensure(self._topics))

    def poll(self, max_records: int, timeout_s: float) -> list[Run]:
        """With a clock that stands still: returns at once."""
        invariant(not self._closed, f"a consumer of {self._group} is polled after its close")
        for _ in attempts(self._clock, timeout_s, self._broker.steps_s):
            self._tend()
            runs = self._fetcher.poll(max_records)
            if runs:
                return runs
        return []

    def start(self, tp: TopicPartition, offset: Offset) -> None:
        invariant(tp in (self._assigned or ()), f"{tp} is started, and is not assigned")
        self._fetcher.start(tp, offset)

    def pause(self, tps: Sequence[TopicPartition]) -> None:
        self._fetcher.pause(tps, True)

    def resume(self, tps: Sequence[TopicPartition]) -> None:
        self._fetcher.pause(tps, False)

    def membership(self) -> Membership:
        return Membership(self._generation, self._member_id, self._instance_id, raw=self._group)

    def end(self, tp: TopicPartition) -> Offset | None:
        return self._fetcher.end(tp)

    def commit(self, offsets: Sequence[OffsetCommit], timeout_s: float) -> None:
        membership = self.membership()
        self._wire.call("OffsetCommit", lambda: self._broker.commit_offsets(self._group, offsets, membership))

    def close(self, leave: bool = False) -> None:
        if self._closed:
            return
        if self._assigned is not None and self._listener is not None:
            self._lose() if self._is_unknown() else self._revoke()
        self._closed = True
        if self._member_id and (leave or self._instance_id is None) and not self._fenced:
            self._wire.call("LeaveGroup", lambda: self._broker.leave(self._group, self._member_id))

    # --- the group ------------------------------------------------------------------------------------------

    def _alive(self) -> bool:
        return not self._closed and self._wire.alive()

    def _tend(self) -> None:
        if self._listener is None:
            return
        if self._fenced:
            raise slot_taken(self._group, str(self._instance_id))
        absent = self._broker.absent(self._topics)  # a client refreshes its metadata beside everything else
        if absent:
            raise missing(absent[0])
        try:
            if not self._followed():
                self._followed()  # dropped again already: the next poll joins anew
        except SlotTaken:
            self._fenced = True
            self._drop()
            raise

    def _followed(self) -> bool:
        """False when the group does not know us any more: what was assigned is lost."""
        try:
            self._follow()
        except UnknownMember:
            self._lose()
            self._member_id, self._generation = "", -1
            return False
        return True

    def _follow(self) -> None:
        """Do what the group says. Raises SlotTaken, UnknownMember."""
        if not self._member_id:
            self._join()
        elif self._assigned is not None and self._clock.monotonic_s() - self._beat_s < self._broker.heartbeat_s:
            return
        beat = self._heartbeat()
        if beat.rejoin:
            self._revoke()
            self._join()
            beat = self._heartbeat()
        if beat.assignment is None:
            return
        if self._assigned is not None and beat.generation != self._generation:
            self._revoke()
        if self._assigned is None:
            self._generation = beat.generation
            self._assigned = list(beat.assignment)
            self._told().assigned(list(beat.assignment))

    def _heartbeat(self) -> Beat:
        self._beat_s = self._clock.monotonic_s()
        return self._wire.call(
            "Heartbeat", lambda: self._broker.heartbeat(self._group, self._member_id, self._instance_id)
        )

    def _join(self) -> None:
        def deliver() -> str:
            return self._broker.join(self._group, self._member_id, self._instance_id, self._topics, self._alive)

        self._member_id = self._wire.call("JoinGroup", deliver)

    def _revoke(self) -> None:
        if self._assigned is not None:
            self._told().revoked(list(self._assigned))
            self._drop()

    def _lose(self) -> None:
        if self._assigned is not None:
            assigned = self._assigned
            self._drop()
            self._told().lost(list(assigned))

    def _drop(self) -> None:
        self._assigned = None
        self._fetcher.clear()

    def _is_unknown(self) -> bool:
        try:
            self._heartbeat()
        except (UnknownMember, SlotTaken):
            return True
        return False

    def _told(self) -> Listener:
        return self._listener if self._listener is not None else broken("a consumer without a subscription is told")
