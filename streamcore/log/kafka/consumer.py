"""A member of the job's group.

Invariants:
- `_next` holds exactly the started partitions, each with the lowest offset that may still be returned. A partition is
  assigned paused, at its beginning (where no fetch that slips out can fail), until `start` seeks it; whatever the
  client hands over for one that is not started, or below `_next`, is dropped. The beginning is a number, looked up
  first: of a symbolic offset the client may ask again after the seek, and then follows or fails by that answer.
- A listener's exception never reaches the client library: it is kept and raised when the call is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import (
    LogUnavailable,
    MembershipChanged,
    OffsetsLost,
    SlotTaken,
    StreamcoreError,
    TopicError,
    invariant,
)
from streamcore.log.kafka import runs
from streamcore.log.kafka.admin import KafkaAdmin
from streamcore.log.kafka.errors import REMEDY, Events, calling_back, refused_setting
from streamcore.log.kafka.membership import parse
from streamcore.log.kafka.settings import ClientSettings, with_events
from streamcore.log.port import Listener, Membership, OffsetCommit, Run
from streamcore.types import Offset, Partition, TopicPartition

logger = logging.getLogger(__name__)

_EARLIEST: Final = -2
"""The protocol's "time" of a partition's first offset."""
_WAKE_S: Final = 0.5
_SEEK_S: Final = 3.0
"""A partition that cannot be sought for so long is not ours any more: a client that learns from a heartbeat that its
slot was taken stops reading at once, and tells of it in the next poll."""
_SEEK_AGAIN_S: Final = 0.001
"""Between attempts to seek a partition whose assignment is still on its way through the client."""


class KafkaConsumer:
    def __init__(self, settings: ClientSettings, group: str, instance_id: str, headers: bool, clock: Clock) -> None:
        self._settings = settings
        self._group = group
        self._instance_id = instance_id
        self._headers = headers
        self._clock = clock
        self._events = Events(settings, logger, f"consumer {instance_id}")
        self._client = self._made()
        self._topics: list[str] = []
        self._listener: Listener | None = None
        self._assigned: list[ck.TopicPartition] = []
        self._member_id = ""
        """At the last assignment."""
        self._fenced: SlotTaken | None = None
        self._next: dict[TopicPartition, Offset] = {}
        self._ends: dict[TopicPartition, Offset] = {}
        self._missing: dict[str, float] = {}
        """Subscribed topics that the broker does not know, and since when."""
        self._failure: BaseException | None = None
        self._closed = False

    def _made(self) -> ck.Consumer:
        conf = with_events(self._settings.consumer(self._group, self._instance_id), logger, self._events.on_error)
        try:
            return ck.Consumer(conf)
        except KafkaException as error:
            raise refused_setting(error, self._settings) from error

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        self._topics = list(topics)
        self._listener = listener
        self._join()

    def _join(self) -> None:
        listener = self._listener
        if listener is None:
            return

        def assigned(client: ck.Consumer, parts: list[ck.TopicPartition]) -> None:
            self._let_go()
            held = self._beginnings(parts)
            client.assign(held)
            if held:
                client.pause(held)
            self._assigned = parts
            self._member_id = self.membership().member_id
            self._tell(listener.assigned, parts)

        def revoked(client: ck.Consumer, parts: list[ck.TopicPartition]) -> None:
            if client is self._client:
                self._tell(listener.revoked, parts)
                self._let_go()

        def lost(client: ck.Consumer, parts: list[ck.TopicPartition]) -> None:
            if client is self._client:
                self._let_go()
                self._tell(listener.lost, parts)

        self._client.subscribe(self._topics, on_assign=assigned, on_revoke=revoked, on_lost=lost)

    def _beginnings(self, parts: list[ck.TopicPartition]) -> list[ck.TopicPartition]:
        asked = [ck.TopicPartition(part.topic, part.partition, _EARLIEST) for part in parts]
        try:
            found = self._client.offsets_for_times(asked, timeout=limits.CALL_TIMEOUT_S) if asked else []
        except KafkaException as error:
            logger.warning("group %s: where partitions begin is not known: %s", self._group, error)
            found = asked
        return [ck.TopicPartition(part.topic, part.partition, max(0, part.offset)) for part in found]

    def poll(self, max_records: int, timeout_s: float) -> list[Run]:
        if self._fenced is None:
            try:
                return self._poll(max_records, timeout_s)
            except SlotTaken as fenced:
                self._fenced = fenced
        self._look_who_has_the_slot(self._fenced)
        return []

    def _look_who_has_the_slot(self, fenced: SlotTaken) -> None:
        """A client that could not reach the group for a session fences itself: it forgets its member id and then sends
        a heartbeat without one, under its instance id (confluent-kafka-go issue 494). Such a client is replaced.
        Raises `fenced` when another member has the slot, LogUnavailable when that is not known yet."""
        admin = KafkaAdmin(self._settings, self._clock)
        try:
            holders = {m.member_id for m in admin.members(self._group) if m.instance_id == self._instance_id}
        finally:
            admin.close()
        if holders - {self._member_id}:
            raise fenced
        logger.warning("group %s: the client of %s fenced itself; a fresh one joins", self._group, self._instance_id)
        old, self._client = self._client, self._made()
        self._close(old)
        lost = self._assigned
        self._let_go()
        if lost and self._listener is not None:
            self._tell(self._listener.lost, lost)
        self._fenced = None
        self._join()

    def _poll(self, max_records: int, timeout_s: float) -> list[Run]:
        self._raise_failure()
        if self._missing:
            self._look_for_missing()
        messages = self._consume(max_records, timeout_s)
        self._raise_failure()
        records, events = runs.sift(messages)
        for event in events:
            self._take(event)
        found = self._wanted(runs.cut(records, self._headers, len(self._topics) == 1)) if records else []
        if not found:
            self._raise_failure()
        return found

    def _consume(self, max_records: int, timeout_s: float) -> runs.Messages:
        """What is there at once; else what comes with the first record within the timeout (the client's own consume
        would wait for all of them)."""
        try:
            messages = calling_back(self._client.consume, max_records, 0)
            if not messages and timeout_s > 0:
                messages = calling_back(self._client.consume, 1, timeout_s)
                if messages and max_records > 1:
                    messages += calling_back(self._client.consume, max_records - 1, 0)
        except KafkaException as error:
            raise self._events.error(error, f"group {self._group}: reading") from error
        return messages

    def _wanted(self, found: list[Run]) -> list[Run]:
        wanted: list[Run] = []
        for run in found:
            floor = self._next.get(run.tp)
            if floor is None:
                continue
            kept = runs.from_offset(run, floor)
            if kept is not None:
                self._next[run.tp] = Offset(kept.offsets[-1] + 1)
                wanted.append(kept)
        return wanted

    def _take(self, event: ck.Message) -> None:
        """The end of a partition, or an error: those the client gets over by itself are logged, others raised once
        the records before them were returned."""
        error = event.error()
        tp = runs.place(event)
        invariant(error is not None, "an event without an error")
        error = cast("KafkaError", error)
        if runs.is_end(event):
            if tp is not None and tp in self._next:
                self._ends[tp] = runs.offset_of(event)
            return
        remedy = REMEDY.get(error.code())
        position = None if tp is None else self._next.get(tp)
        where = f"group {self._group}" if tp is None else f"group {self._group}: reading {tp} at {position}"
        if remedy is OffsetsLost and (position is None or 0 <= runs.offset_of(event) < position):
            logger.debug("%s is not read from there (any more): %s", tp, error.str())
        elif remedy is TopicError and tp is not None:
            self._missing.setdefault(tp.topic, self._clock.monotonic_s())
        elif not error.fatal() and remedy in (LogUnavailable, MembershipChanged):
            logger.warning("%s: %s", where, error.str())
        else:
            self._keep(self._events.error(error, where))

    def _look_for_missing(self) -> None:
        """A topic is missing only when it stays so: a broker that starts does not know its topics at once."""
        now = self._clock.monotonic_s()
        for topic, since in list(self._missing.items()):
            if now - since < limits.TOPIC_MISSING_S:
                continue
            try:
                told = self._client.list_topics(topic, timeout=limits.CALL_TIMEOUT_S).topics[topic].error
            except KafkaException as error:
                logger.warning("group %s: asking for topic %s: %s", self._group, topic, error)
                told = None
            del self._missing[topic]
            if told is not None and REMEDY.get(told.code()) is TopicError:
                raise self._events.error(told, f"group {self._group}: the subscribed topic {topic}")

    def start(self, tp: TopicPartition, offset: Offset) -> None:
        self._seek(tp, offset)
        self._client.resume([ck.TopicPartition(tp.topic, tp.partition)])
        self._wake(tp, offset)
        self._next[tp] = offset
        self._ends.pop(tp, None)

    def _wake(self, tp: TopicPartition, offset: Offset) -> None:
        """The client's network thread may have gone to sleep over a paused partition, for up to a second, and resuming
        does not wake it. A seek does; one to offset 0 does not, but a request to the partition's leader."""
        if offset > 0:
            self._seek(tp, offset)
            return
        try:
            self._client.get_watermark_offsets(ck.TopicPartition(tp.topic, tp.partition), timeout=_WAKE_S)
        except KafkaException as error:
            logger.debug("no answer about %s: %s", tp, error)

    def _seek(self, tp: TopicPartition, offset: Offset) -> None:
        at = ck.TopicPartition(tp.topic, tp.partition, offset)
        deadline = self._clock.monotonic_s() + _SEEK_S
        while True:
            try:
                self._client.seek(at)
                return
            except KafkaException as error:
                if error.args[0].code() not in (KafkaError._STATE, KafkaError._PREV_IN_PROGRESS):
                    raise self._events.error(error, f"group {self._group}: seeking {tp} to {offset}") from error
                if self._clock.monotonic_s() > deadline:
                    raise MembershipChanged(
                        f"group {self._group}: {tp} cannot be read from {offset}: the client has let go of it"
                    ) from error
                self._clock.sleep_s(_SEEK_AGAIN_S)

    def pause(self, tps: Sequence[TopicPartition]) -> None:
        """The client drops what it had fetched of these, and fetches it again after `resume`."""
        self._client.pause(self._started(tps))

    def resume(self, tps: Sequence[TopicPartition]) -> None:
        self._client.resume(self._started(tps))
        for tp in tps:
            if tp in self._next:
                self._wake(tp, self._next[tp])

    def membership(self) -> Membership:
        return parse(self._client.consumer_group_metadata())

    def end(self, tp: TopicPartition) -> Offset | None:
        """Where reading last came to the stable end; further on, the high watermark of the last fetch."""
        position = self._next.get(tp)
        if position is None:
            return None
        end = self._ends.get(tp)
        if end is not None and end >= position:
            return end
        try:
            _, high = self._client.get_watermark_offsets(ck.TopicPartition(tp.topic, tp.partition), cached=True)
        except KafkaException as error:
            logger.debug("no watermark of %s yet: %s", tp, error)
            return None
        return Offset(high) if high >= 0 else None

    def commit(self, offsets: Sequence[OffsetCommit], timeout_s: float) -> None:
        """The client bounds the call by the session timeout, not by `timeout_s`."""
        wanted = [ck.TopicPartition(c.tp.topic, c.tp.partition, c.offset, c.metadata) for c in offsets]
        doing = f"group {self._group}: committing offsets"
        try:
            answers = self._client.commit(offsets=wanted, asynchronous=False)
        except KafkaException as error:
            raise self._events.error(error, doing) from error
        for answer in answers:
            if answer.error is not None:
                raise self._events.error(answer.error, f"{doing} of {answer.topic}[{answer.partition}]")

    def close(self, leave: bool = False) -> None:
        """`leave` cannot be honoured: the client never sends a static member's LeaveGroup."""
        if self._closed:
            return
        self._closed = True
        self._close(self._client)
        self._let_go()
        self._raise_failure()

    def _close(self, client: ck.Consumer) -> None:
        try:
            calling_back(client.close)
        except KafkaException as error:
            logger.warning("closing the consumer of group %s: %s", self._group, error)

    # --- inside the client's callbacks --------------------------------------------------------------------------

    def _tell(self, listener: Callable[[list[TopicPartition]], None], parts: list[ck.TopicPartition]) -> None:
        try:
            listener([TopicPartition(part.topic, Partition(part.partition)) for part in parts])
        except BaseException as error:  # raised by poll() or close() once the client is done
            self._keep(error)

    def _let_go(self) -> None:
        self._assigned = []
        self._next.clear()
        self._ends.clear()

    def _keep(self, failure: BaseException) -> None:
        if self._failure is None:
            self._failure = failure
        elif isinstance(failure, StreamcoreError):
            logger.warning("group %s: also %s", self._group, failure)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _started(self, tps: Sequence[TopicPartition]) -> list[Any]:
        return [ck.TopicPartition(tp.topic, tp.partition) for tp in tps if tp in self._next]
