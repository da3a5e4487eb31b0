"""What groups have committed: decided offsets. Pending ones stand in their transactions (transactions.py).

Invariants:
- Every change is in the storage with the batch that made it; memory holds the same.
- Offsets of a topic go when the topic goes.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamcore.log.local import storage as keys
from streamcore.log.local.records import OffsetRecord, decode_offset, encode
from streamcore.log.local.storage import Batch, Storage
from streamcore.log.port import Committed
from streamcore.types import Offset, Partition, TopicPartition


class Offsets:
    def __init__(self, storage: Storage) -> None:
        self._groups: dict[str, dict[TopicPartition, Committed]] = {}
        for key, value in storage.scan(keys.OFFSET, keys.after(keys.OFFSET)):
            record = decode_offset(value)
            group = key[1:].split(b"\0", 1)[0].decode()
            tp = TopicPartition(record.topic, Partition(record.partition))
            self._groups.setdefault(group, {})[tp] = Committed(Offset(record.offset), record.metadata)

    def groups(self) -> Iterable[str]:
        return self._groups.keys()

    def of(self, group: str) -> dict[TopicPartition, Committed]:
        return self._groups.get(group, {})

    def put(self, batch: Batch, group: str, offsets: Iterable[OffsetRecord]) -> None:
        kept = self._groups.setdefault(group, {})
        for record in offsets:
            tp = TopicPartition(record.topic, Partition(record.partition))
            kept[tp] = Committed(Offset(record.offset), record.metadata)
            batch.entries[_key(group, tp)] = encode(record)

    def drop_group(self, batch: Batch, group: str) -> None:
        for tp in self._groups.pop(group, {}):
            batch.entries[_key(group, tp)] = None

    def drop_topic(self, batch: Batch, topic: str) -> None:
        for group, kept in self._groups.items():
            for tp in [tp for tp in kept if tp.topic == topic]:
                del kept[tp]
                batch.entries[_key(group, tp)] = None


def _key(group: str, tp: TopicPartition) -> bytes:
    return keys.OFFSET + group.encode() + b"\0" + tp.topic.encode() + b"\0" + keys.number(tp.partition)
