"""The port's Admin: each call is one request, but for `committed`, which waits until what it asks for is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamcore.clock import Clock
from streamcore.errors import LogUnavailable
from streamcore.log.local.broker import Broker
from streamcore.log.local.waiting import attempts
from streamcore.log.local.wire import Wire
from streamcore.log.port import Committed, GroupMember, OffsetCommit, TopicInfo
from streamcore.types import Offset, Partition, TopicPartition


class LocalAdmin:
    def __init__(self, broker: Broker, wire: Wire, clock: Clock) -> None:
        self._broker = broker
        self._wire = wire
        self._clock = clock

    def topics(self, names: Sequence[str] | None = None) -> dict[str, TopicInfo]:
        return self._wire.call("Metadata", lambda: self._broker.topics(names))

    def config(self, topic: str) -> dict[str, str]:
        return self._wire.call("DescribeConfigs", lambda: self._broker.config(topic))

    def create(
        self, name: str, partitions: int, config: Mapping[str, str], replication: int | None = None
    ) -> TopicInfo:
        """There is one copy of everything, whatever `replication` says."""
        return self._wire.call("CreateTopics", lambda: self._broker.create(name, partitions, config))

    def delete(self, names: Sequence[str]) -> None:
        self._wire.call("DeleteTopics", lambda: self._broker.delete(names))

    def delete_records(self, before: Mapping[TopicPartition, Offset]) -> None:
        self._wire.call("DeleteRecords", lambda: self._broker.delete_records(before))

    def first_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, Offset]:
        return self._wire.call("ListOffsets", lambda: self._broker.first_offsets(tps))

    def stable_ends(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, Offset]:
        return self._wire.call("ListOffsets", lambda: self._broker.stable_ends(tps))

    def ends(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, Offset]:
        return self._wire.call("ListOffsets", lambda: self._broker.ends(tps))

    def offsets_at(self, tps: Sequence[TopicPartition], time_ms: int) -> dict[TopicPartition, Offset]:
        return self._wire.call("ListOffsets", lambda: self._broker.offsets_at(tps, time_ms))

    def committed(
        self, group: str, tps: Sequence[TopicPartition], timeout_s: float, stable: bool = True
    ) -> dict[TopicPartition, Committed]:
        for _ in attempts(self._clock, timeout_s, self._broker.steps_s):
            found = self._wire.call("OffsetFetch", lambda: self._broker.committed(group, tps, stable))
            if found is not None:
                return found
        raise LogUnavailable(
            f"offsets of group {group} stayed undecided for {timeout_s:g} s: an open transaction holds them",
            "it ends when its producer's id is initialised again, or by its timeout (10 s)",
        )

    def set_committed(self, group: str, offsets: Sequence[OffsetCommit]) -> None:
        self._wire.call("OffsetCommit", lambda: self._broker.set_committed(group, offsets))

    def members(self, group: str) -> list[GroupMember]:
        records = self._wire.call("DescribeGroups", lambda: self._broker.members(group))
        return [
            GroupMember(
                m.member_id,
                m.instance_id,
                m.host,
                frozenset(TopicPartition(topic, Partition(partition)) for topic, partition in m.assignment),
            )
            for m in records
        ]

    def groups(self) -> list[str]:
        return self._wire.call("DescribeGroups", self._broker.groups)

    def delete_group(self, group: str) -> None:
        self._wire.call("DeleteGroups", lambda: self._broker.delete_group(group))

    def close(self) -> None:
        """Nothing is held."""
