"""Calls to the cluster as a whole: one AdminClient, every call bounded.

The client answers through futures; `_answers` waits for them and maps their errors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import LogUnavailable, StopError, StreamcoreError, TopicError
from streamcore.log.kafka.committed import GroupOffsets
from streamcore.log.kafka.errors import Events, refused_setting, unwrapped
from streamcore.log.kafka.settings import ClientSettings, with_events
from streamcore.log.port import Committed, GroupMember, OffsetCommit, TopicInfo
from streamcore.types import Offset, Partition, TopicPartition

logger = logging.getLogger(__name__)
T = TypeVar("T")

_ASK_AGAIN_S: Final = 0.01
_TIMEOUT_S: Final = limits.CALL_TIMEOUT_S
_NO_TOPIC: Final = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_NO_LEADER: Final = (
    KafkaError._NOENT,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
)
_ASTRAY: Final = (KafkaError._TIMED_OUT, KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE)
_NO_GROUP: Final = (KafkaError.GROUP_ID_NOT_FOUND, KafkaError._UNKNOWN_GROUP)
_HAS_MEMBERS: Final = (KafkaError.NON_EMPTY_GROUP, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS)


class KafkaAdmin:
    def __init__(self, settings: ClientSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._events = Events(settings, logger, "admin")
        self._group_offsets = GroupOffsets(settings)
        self._client = self._connected()

    def _connected(self) -> Any:
        """A client. Any: the library's stubs leave the results of its futures unknown."""
        try:
            client = AdminClient(with_events(self._settings.admin(), logger, self._events.on_error))
        except KafkaException as error:
            raise refused_setting(error, self._settings) from error
        self._events.serve = client.poll
        return client

    # --- topics -------------------------------------------------------------------------------------------------

    def topics(self, names: Sequence[str] | None = None) -> dict[str, TopicInfo]:
        if names is None:
            with self._mapped("listing topics"):
                names = [n for n in self._client.list_topics(timeout=_TIMEOUT_S).topics if not n.startswith("__")]
        if not names:
            return {}
        found: dict[str, TopicInfo] = {}
        with self._mapped("describing topics"):
            asked = self._client.describe_topics(ck.TopicCollection(list(names)), request_timeout=_TIMEOUT_S)
        for name, future in asked.items():
            try:
                told = future.result(_TIMEOUT_S + 1)
            except (KafkaException, TimeoutError) as error:
                if unwrapped(error).code() in _NO_TOPIC:
                    continue
                raise self._failed(error, f"describing topic {name}") from error
            found[name] = TopicInfo(name, str(told.topic_id), len(told.partitions))
        return found

    def config(self, topic: str) -> dict[str, str]:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        with self._mapped(f"reading the settings of topic {topic}"):
            asked = self._client.describe_configs([resource], request_timeout=_TIMEOUT_S)
            entries = asked[resource].result(_TIMEOUT_S + 1)
        return {name: entry.value for name, entry in entries.items() if entry.value is not None}

    def create(
        self, name: str, partitions: int, config: Mapping[str, str], replication: int | None = None
    ) -> TopicInfo:
        new = NewTopic(name, partitions, -1 if replication is None else replication, config=dict(config))
        try:
            with self._mapped(f"creating topic {name} with {partitions} partitions, {dict(config)}"):
                self._client.create_topics([new], request_timeout=_TIMEOUT_S)[name].result(_TIMEOUT_S + 1)
        except TopicError as error:
            if not _is(error, KafkaError.TOPIC_ALREADY_EXISTS):
                raise
        return self._until(f"topic {name} to be there", lambda: self._usable(name))

    def _usable(self, name: str) -> TopicInfo | None:
        """Described, and every partition with a leader that answers."""
        info = self.topics([name]).get(name)
        if info is None:
            return None
        try:
            self._offsets([TopicPartition(name, Partition(p)) for p in range(info.partitions)], OffsetSpec.latest())
        except (TopicError, LogUnavailable) as error:
            logger.debug("topic %s cannot be used yet: %s", name, error)
            return None
        return info

    def delete(self, names: Sequence[str]) -> None:
        if not names:
            return
        with self._mapped("deleting topics"):
            asked = self._client.delete_topics(list(names), request_timeout=_TIMEOUT_S)
        for name, future in asked.items():
            try:
                future.result(_TIMEOUT_S + 1)
            except (KafkaException, TimeoutError) as error:
                if unwrapped(error).code() not in _NO_TOPIC:
                    raise self._failed(error, f"deleting topic {name}") from error
        self._until(f"{', '.join(names)} to be gone", lambda: None if self.topics(names) else True)

    def delete_records(self, before: Mapping[TopicPartition, Offset]) -> None:
        if not before:
            return
        left = dict(before)
        self._until("leaders to delete records", lambda: self._delete_records(left))

    def _delete_records(self, left: dict[TopicPartition, Offset]) -> bool | None:
        """Takes those that are done out of `left`; None while one has no leader."""
        wanted = [ck.TopicPartition(tp.topic, tp.partition, offset) for tp, offset in left.items()]
        with self._mapped("deleting records"):
            asked = self._client.delete_records(wanted, request_timeout=_TIMEOUT_S)
        for tp, future in asked.items():
            doing = f"deleting the records of {tp.topic}[{tp.partition}] below {tp.offset}"
            if self._answer_of_leader(future, tp.topic, doing) is not None:
                del left[_tp(tp)]
        return None if left else True

    # --- offsets ------------------------------------------------------------------------------------------------

    def first_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, Offset]:
        return self._offsets(tps, OffsetSpec.earliest())

    def stable_ends(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, Offset]:
        return self._offsets(tps, OffsetSpec.latest())

    def ends(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, Offset]:
        return self._offsets(tps, OffsetSpec.latest(), ck.IsolationLevel.READ_UNCOMMITTED)

    def offsets_at(self, tps: Sequence[TopicPartition], time_ms: int) -> dict[TopicPartition, Offset]:
        found = self._offsets(tps, OffsetSpec.for_timestamp(time_ms))
        missing = [tp for tp, offset in found.items() if offset < 0]
        return {**found, **self.stable_ends(missing)}

    def _offsets(
        self,
        tps: Iterable[TopicPartition],
        spec: OffsetSpec | None,
        isolation: ck.IsolationLevel = ck.IsolationLevel.READ_COMMITTED,
    ) -> dict[TopicPartition, Offset]:
        asked_for = {ck.TopicPartition(tp.topic, tp.partition): spec for tp in tps}
        if not asked_for:
            return {}
        return self._until("leaders to tell offsets", lambda: self._offsets_now(asked_for, isolation))

    def _offsets_now(
        self, asked_for: Mapping[ck.TopicPartition, Any], isolation: ck.IsolationLevel
    ) -> dict[TopicPartition, Offset] | None:
        """None while one has no leader."""
        with self._mapped("listing offsets"):
            asked = self._client.list_offsets(asked_for, isolation_level=isolation, request_timeout=_TIMEOUT_S)
        found: dict[TopicPartition, Offset] = {}
        for tp, future in asked.items():
            answer = self._answer_of_leader(future, tp.topic, f"listing offsets of {tp.topic}[{tp.partition}]")
            if answer is not None:
                found[_tp(tp)] = Offset(answer.offset)
        return found if len(found) == len(asked) else None

    def _answer_of_leader(self, future: Any, topic: str, doing: str) -> Any:
        """None while the partition has no leader, or has just got one. Raises TopicError for a missing topic."""
        try:
            return future.result(_TIMEOUT_S + 1)
        except (KafkaException, TimeoutError) as error:
            if unwrapped(error).code() not in _NO_LEADER:
                raise self._failed(error, doing) from error
            if not self.topics([topic]):
                raise TopicError(f"{doing}: the topic does not exist", "create it first") from error
            return None

    # --- groups -------------------------------------------------------------------------------------------------

    def committed(
        self, group: str, tps: Sequence[TopicPartition], timeout_s: float, stable: bool = True
    ) -> dict[TopicPartition, Committed]:
        if not tps:
            return {}
        return self._until(
            f"the transactions that hold offsets of group {group} to be decided",
            lambda: self._group_offsets.now(group, tps, stable, timeout_s),
            timeout_s,
        )

    def set_committed(self, group: str, offsets: Sequence[OffsetCommit]) -> None:
        wanted = [ck.TopicPartition(c.tp.topic, c.tp.partition, c.offset, c.metadata) for c in offsets]
        request = ck.ConsumerGroupTopicPartitions(group, wanted)
        doing = f"setting the offsets of group {group}"
        try:
            asked = self._client.alter_consumer_group_offsets([request], request_timeout=_TIMEOUT_S)
            answer = asked[group].result(_TIMEOUT_S + 1)
        except (KafkaException, TimeoutError) as error:
            raise self._group_error(error, group, doing) from error
        for told in answer.topic_partitions:
            if told.error is not None:
                raise self._group_error(told.error, group, f"{doing} for {told.topic}[{told.partition}]")

    def members(self, group: str) -> list[GroupMember]:
        try:
            asked = self._client.describe_consumer_groups([group], request_timeout=_TIMEOUT_S)
            told = asked[group].result(_TIMEOUT_S + 1)
        except (KafkaException, TimeoutError) as error:
            if unwrapped(error).code() in _NO_GROUP:
                return []
            raise self._failed(error, f"describing group {group}") from error
        return [
            GroupMember(
                member.member_id,
                member.group_instance_id or None,
                member.host,
                frozenset(map(_tp, member.assignment.topic_partitions if member.assignment else [])),
            )
            for member in told.members
        ]

    def groups(self) -> list[str]:
        with self._mapped("listing groups"):
            told = self._client.list_consumer_groups(request_timeout=_TIMEOUT_S).result(_TIMEOUT_S + 1)
        return sorted(group.group_id for group in told.valid)

    def delete_group(self, group: str) -> None:
        try:
            asked = self._client.delete_consumer_groups([group], request_timeout=_TIMEOUT_S)
            asked[group].result(_TIMEOUT_S + 1)
        except (KafkaException, TimeoutError) as error:
            if unwrapped(error).code() not in _NO_GROUP:
                raise self._group_error(error, group, f"deleting group {group}") from error

    def close(self) -> None:
        """The client's threads end when the object goes."""
        self._events.close()
        self._group_offsets.close()
        self._client.poll(0)

    # --- errors and waiting ---------------------------------------------------------------------------------------

    def _failed(self, error: KafkaError | BaseException, doing: str) -> StreamcoreError:
        """The error to raise. A client that may have lost a group's coordinator is not asked again: librdkafka keeps
        the one it knows (DescribeGroups to a broker that was away times out for good, or is refused by it for good)."""
        failure = self._events.error(error, doing)
        if unwrapped(error).code() in _ASTRAY:
            self._client = self._connected()
        return failure

    def _group_error(self, error: KafkaError | BaseException, group: str, doing: str) -> Exception:
        if unwrapped(error).code() in _HAS_MEMBERS:
            return StopError(f"{doing}: the group has members", f"stop every worker of {group} first")
        return self._failed(error, doing)

    @contextmanager
    def _mapped(self, doing: str) -> Generator[None]:
        try:
            yield
        except (KafkaException, TimeoutError) as error:
            raise self._failed(error, doing) from error

    def _until(self, what: str, ask: Callable[[], T | None], timeout_s: float = _TIMEOUT_S) -> T:
        """Ask until the answer is not None. Raises LogUnavailable when that takes too long."""
        deadline = self._clock.monotonic_s() + timeout_s
        while True:
            answer = ask()
            if answer is not None:
                return answer
            if self._clock.monotonic_s() >= deadline:
                raise LogUnavailable(
                    f"waited {timeout_s:g} s for {what}", "look at the brokers' health and for transactions left open"
                )
            self._clock.sleep_s(_ASK_AGAIN_S)


def _is(error: BaseException, code: int) -> bool:
    return error.__cause__ is not None and unwrapped(error.__cause__).code() == code


def _tp(tp: Any) -> TopicPartition:
    return TopicPartition(cast(str, tp.topic), Partition(cast(int, tp.partition)))
