"""One Kafka cluster."""

from __future__ import annotations

from collections.abc import Mapping

from streamcore import limits
from streamcore.clock import Clock, SystemClock
from streamcore.log.kafka.admin import KafkaAdmin
from streamcore.log.kafka.consumer import KafkaConsumer
from streamcore.log.kafka.plain import IdempotentProducer
from streamcore.log.kafka.producer import TransactionalProducer
from streamcore.log.kafka.reader import KafkaReader
from streamcore.log.kafka.settings import ClientSettings, Setting
from streamcore.types import Offset, TopicPartition


class KafkaLog:
    """`settings` are librdkafka's, by name (TLS, SASL, tuning); `bootstrap` is HOST:PORT, or several with commas.

    Raises SettingsError for a setting that exactly-once rests on; an unknown or wrong one when the first client is
    made. Connects to nothing by itself.
    """

    def __init__(
        self,
        bootstrap: str,
        settings: Mapping[str, Setting] | None = None,
        *,
        session_timeout_ms: int = limits.SESSION_TIMEOUT_MS,
        clock: Clock | None = None,
    ) -> None:
        self._settings = ClientSettings(bootstrap, settings, session_timeout_ms=session_timeout_ms)
        self._clock: Clock = clock or SystemClock()

    def __repr__(self) -> str:
        return f"KafkaLog({self._settings!r})"

    def consumer(self, group: str, instance_id: str, *, headers: bool = False) -> KafkaConsumer:
        return KafkaConsumer(self._settings, group, instance_id, headers, self._clock)

    def producer(self, transactional_id: str | None) -> TransactionalProducer | IdempotentProducer:
        if transactional_id is None:
            return IdempotentProducer(self._settings, self._clock)
        return TransactionalProducer(self._settings, transactional_id, self._clock)

    def reader(
        self, starts: Mapping[TopicPartition, Offset], *, headers: bool = False, committed: bool = True
    ) -> KafkaReader:
        return KafkaReader(self._settings, starts, headers, committed)

    def admin(self) -> KafkaAdmin:
        return KafkaAdmin(self._settings, self._clock)

    def close(self) -> None:
        """Every object is closed by the thread that made it; the cluster itself holds nothing."""
