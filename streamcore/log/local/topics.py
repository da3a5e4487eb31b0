"""The topics there are, and their partitions.

Invariants:
- A topic's number is never used twice and names it in every key: a recreated topic has a new number, a new id and
  no records, and nothing that held the old number (an open transaction) reaches it.
- Settings other than those the model obeys (message.timestamp.type and .after.max.ms, max.message.bytes) are kept and
  shown, and have no effect: nothing is deleted by retention and nothing is compacted.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Final

from streamcore.errors import TopicError
from streamcore.log.local import storage as keys
from streamcore.log.local.partition import Partition
from streamcore.log.local.records import Facts, TopicRecord, decode_topic, encode
from streamcore.log.local.storage import Batch, Storage
from streamcore.types import Partition as PartitionNumber
from streamcore.types import TopicPartition

DEFAULTS: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "compression.gzip.level": "-1",
    "compression.lz4.level": "9",
    "compression.type": "producer",
    "compression.zstd.level": "3",
    "delete.retention.ms": "86400000",
    "file.delete.delay.ms": "60000",
    "flush.messages": "9223372036854775807",
    "flush.ms": "9223372036854775807",
    "follower.replication.throttled.replicas": "",
    "index.interval.bytes": "4096",
    "leader.replication.throttled.replicas": "",
    "local.retention.bytes": "-2",
    "local.retention.ms": "-2",
    "max.compaction.lag.ms": "9223372036854775807",
    "max.message.bytes": "1048588",
    "message.timestamp.after.max.ms": "3600000",
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.type": "CreateTime",
    "min.cleanable.dirty.ratio": "0.5",
    "min.compaction.lag.ms": "0",
    "min.insync.replicas": "1",
    "preallocate": "false",
    "remote.log.copy.disable": "false",
    "remote.log.delete.on.disable": "false",
    "remote.storage.enable": "false",
    "retention.bytes": "-1",
    "retention.ms": "604800000",
    "segment.bytes": "1073741824",
    "segment.index.bytes": "10485760",
    "segment.jitter.ms": "0",
    "segment.ms": "604800000",
    "unclean.leader.election.enable": "false",
}
"""Every setting a topic can have, as Apache Kafka 4.3 has them by default."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_WHOLE: Final = re.compile(r"-?\d+")


class Topic:
    def __init__(self, storage: Storage, record: TopicRecord) -> None:
        self.record = record
        self.partitions = [
            Partition(storage, TopicPartition(record.name, PartitionNumber(p)), record.number)
            for p in range(record.partitions)
        ]
        config = {**DEFAULTS, **record.config}
        self.append_time = config["message.timestamp.type"] == "LogAppendTime"
        self.max_message_bytes = int(config["max.message.bytes"])
        self.max_ahead_ms = int(config["message.timestamp.after.max.ms"])
        """How far a record's time may be ahead of the broker's clock."""


class Topics:
    def __init__(self, storage: Storage, facts: Facts) -> None:
        self._storage = storage
        self._facts = facts
        self._by_name: dict[str, Topic] = {}
        for _, value in storage.scan(keys.TOPIC, keys.after(keys.TOPIC)):
            record = decode_topic(value)
            self._by_name[record.name] = Topic(storage, record)
        self._by_number = {topic.record.number: topic for topic in self._by_name.values()}

    def all(self) -> list[Topic]:
        return list(self._by_name.values())

    def find(self, name: str) -> Topic | None:
        return self._by_name.get(name)

    def get(self, name: str) -> Topic:
        topic = self._by_name.get(name)
        if topic is None:
            raise missing(name)
        return topic

    def partition(self, tp: TopicPartition) -> Partition:
        topic = self.get(tp.topic)
        if not 0 <= tp.partition < len(topic.partitions):
            raise TopicError(
                f"topic {tp.topic} has {len(topic.partitions)} partitions, and no partition {tp.partition}",
                "check the number; a topic that lost partitions was deleted and created again",
            )
        return topic.partitions[tp.partition]

    def by_number(self, number: int, partition: int) -> Partition | None:
        """None when the topic is gone, also when another one has its name."""
        topic = self._by_number.get(number)
        return None if topic is None else topic.partitions[partition]

    def create(self, batch: Batch, name: str, partitions: int, config: Mapping[str, str]) -> Topic:
        """One that exists is returned as it is. Raises TopicError."""
        existing = self._by_name.get(name)
        if existing is not None:
            return existing
        _check(name, partitions, config)
        number = self._facts.next_topic
        self._facts.next_topic = number + 1
        batch.entries[keys.FACTS] = encode(self._facts)
        record = TopicRecord(name, _topic_id(self._facts.log_id, number), number, partitions, dict(config))
        batch.entries[keys.TOPIC + name.encode()] = encode(record)
        topic = Topic(self._storage, record)
        self._by_name[name] = self._by_number[number] = topic
        return topic

    def delete(self, batch: Batch, name: str) -> bool:
        topic = self._by_name.pop(name, None)
        if topic is None:
            return False
        del self._by_number[topic.record.number]
        batch.entries[keys.TOPIC + name.encode()] = None
        for partition in topic.partitions:
            partition.destroy(batch)
        return True


def missing(name: str) -> TopicError:
    return TopicError(
        f"topic {name} does not exist",
        f"create it: `streamcore topics create {name}`, with --partitions where the default does not fit",
    )


def _check(name: str, partitions: int, config: Mapping[str, str]) -> None:
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise TopicError(
            f"{name!r} cannot name a topic", "use 1 to 249 letters, digits, '.', '_' and '-', and neither '.' nor '..'"
        )
    if partitions < 1:
        raise TopicError(f"topic {name} cannot have {partitions} partitions", "give it one at least")
    for setting, value in config.items():
        default = DEFAULTS.get(setting)
        if default is None:
            raise TopicError(f"{setting} of topic {name} is no setting of a topic", "check the spelling")
        if _WHOLE.fullmatch(default) and not _WHOLE.fullmatch(value):
            raise TopicError(f"setting {setting} of topic {name} is {value!r}", "give it a whole number")
    if config.get("message.timestamp.type", "CreateTime") not in ("CreateTime", "LogAppendTime"):
        raise TopicError(
            f"setting message.timestamp.type of topic {name} is {config['message.timestamp.type']!r}",
            "allowed are CreateTime and LogAppendTime",
        )


def _topic_id(log_id: str, number: int) -> str:
    """22 characters as Kafka's, unlike any other of this log or of another."""
    digest = hashlib.sha256(f"{log_id} {number}".encode()).digest()[:16]
    return urlsafe_b64encode(digest).decode().rstrip("=")
