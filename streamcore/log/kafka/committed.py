"""A group's committed offsets, asked for by a consumer that never joins.

The admin client's own call is not used: where the coordinator has moved or is loading, librdkafka looks there for a
consumer that an admin client does not have, and the process dies (librdkafka issue 5040).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException

from streamcore import limits
from streamcore.log.kafka.errors import Events, calling_back, refused_setting, unwrapped
from streamcore.log.kafka.settings import ClientSettings, with_events
from streamcore.log.port import Committed
from streamcore.types import Offset, Partition, TopicPartition

logger = logging.getLogger(__name__)

_MOVED: Final = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError._WAIT_COORD,
)

_UNDECIDED: Final = (KafkaError.UNSTABLE_OFFSET_COMMIT, KafkaError._TIMED_OUT)


class GroupOffsets:
    """One client a group and kind of reading, kept for the next question. Belongs to the thread that asks."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._events = Events(settings, logger, "committed offsets")
        self._clients: dict[tuple[str, bool], ck.Consumer] = {}

    def now(
        self, group: str, tps: Sequence[TopicPartition], stable: bool, timeout_s: float
    ) -> dict[TopicPartition, Committed] | None:
        """None: no answer yet, ask again: a transaction with offsets of these is undecided (`stable`; the client asks
        again by itself, so this shows as a timeout), or the group's coordinator is on its way. Raises LogUnavailable,
        AccessDenied."""
        doing = f"reading the committed offsets of group {group}"
        wanted = [ck.TopicPartition(tp.topic, tp.partition) for tp in tps]
        try:
            answer = calling_back(self._client(group, stable).committed, wanted, min(timeout_s, limits.CALL_TIMEOUT_S))
        except KafkaException as error:
            code = unwrapped(error).code()
            if code in _MOVED or (stable and code in _UNDECIDED):
                return None
            raise self._events.error(error, doing) from error
        found: dict[TopicPartition, Committed] = {}
        for told in answer:
            if told.error is not None and told.error.code() in _UNDECIDED:
                return None
            if told.error is not None:
                raise self._events.error(told.error, f"{doing} for {told.topic}[{told.partition}]")
            if told.offset >= 0:
                tp = TopicPartition(told.topic, Partition(told.partition))
                found[tp] = Committed(Offset(told.offset), told.metadata or "")
        return found

    def _client(self, group: str, stable: bool) -> ck.Consumer:
        client = self._clients.get((group, stable))
        if client is None:
            conf = {**self._settings.reader(read_committed=stable), "group.id": group}
            try:
                client = ck.Consumer(with_events(conf, logger, self._events.on_error))
            except KafkaException as error:
                raise refused_setting(error, self._settings) from error
            self._clients[group, stable] = client
        return client

    def close(self) -> None:
        self._events.close()
        while self._clients:
            _, client = self._clients.popitem()
            client.close()
