"""The transactional producer.

Deliveries in a transaction need no callback each: a failed one makes send_offsets or commit fail with the flag that
asks for an abort. Only `send`, whose offset is wanted, has one. A failure that shows up while queueing is kept, and
raised by flush, send_offsets or commit: until then nothing can be lost, since the transaction cannot commit.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException

from streamcore.clock import Clock
from streamcore.errors import LogUnavailable, StreamcoreError, TransactionAborted
from streamcore.log.kafka.errors import Events, calling_back, refused_setting, unwrapped
from streamcore.log.kafka.queueing import Queue
from streamcore.log.kafka.settings import ClientSettings, with_events
from streamcore.log.port import Headers, Membership, OffsetCommit
from streamcore.types import Offset, Partition, TopicPartition

logger = logging.getLogger(__name__)

_PURGED: Final = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)


class KafkaReceipt:
    """Filled by the delivery callback, on the thread that flushes."""

    __slots__ = ("error", "value")

    def __init__(self) -> None:
        self.value: Offset | None = None
        self.error: KafkaError | None = None

    @property
    def offset(self) -> Offset | None:
        return self.value

    def delivered(self, error: KafkaError | None, message: ck.Message) -> None:
        offset = message.offset()
        if error is None and offset is not None and offset >= 0:
            self.value = Offset(offset)
        else:
            self.error = error or KafkaError(KafkaError._FAIL, "no offset in the delivery report")


class TransactionalProducer:
    def __init__(self, settings: ClientSettings, transactional_id: str, clock: Clock) -> None:
        self._id = transactional_id
        self._events = Events(settings, logger, f"producer {transactional_id}")
        conf = with_events(settings.transactional(transactional_id), logger, self._events.on_error)
        self._client = made(conf, settings)
        self._events.serve = self._client.poll
        self._queue = Queue(self._client, self._events, clock)
        self._receipts: list[KafkaReceipt] = []
        self._failure: StreamcoreError | None = None

    def init(self, timeout_s: float) -> None:
        try:
            calling_back(self._client.init_transactions, timeout_s)
        except KafkaException as error:
            raise self._events.error(error, f"producer {self._id}: init") from error

    def begin(self) -> None:
        self._receipts.clear()
        self._failure = None
        self._events.written.clear()
        try:
            self._client.begin_transaction()
        except KafkaException as error:
            raise self._events.in_transaction(error, f"producer {self._id}: begin") from error

    def produce(
        self,
        topic: str,
        partition: Partition | None,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        times: Sequence[int] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> None:
        self._events.written.add(topic)
        try:
            self._queue.put(topic, partition, values, keys, times, headers, None)
        except KafkaException as error:
            self._refused(error, topic)

    def send(self, tp: TopicPartition, value: bytes, key: bytes | None = None) -> KafkaReceipt:
        receipt = KafkaReceipt()
        self._receipts.append(receipt)
        self._events.written.add(tp.topic)
        try:
            self._queue.put(tp.topic, tp.partition, [value], [key], None, None, receipt.delivered)
        except KafkaException as error:
            self._refused(error, str(tp))
        return receipt

    def flush(self, timeout_s: float) -> None:
        self._raise_failure()
        try:
            waiting = calling_back(self._client.flush, timeout_s)
        except KafkaException as error:
            raise self._events.in_transaction(error, f"producer {self._id}: flush") from error
        for receipt in self._receipts:
            if receipt.error is not None:
                cause = self._why_failed() if receipt.error.code() in _PURGED else None
                doing = f"producer {self._id}: a message was not taken"
                raise self._events.in_transaction(cause or receipt.error, doing)
        if waiting:
            raise LogUnavailable(
                f"producer {self._id}: {waiting} messages are not acknowledged after {timeout_s:g} s",
                "look whether the brokers run, and whether the partitions have a leader and enough replicas",
            )

    def send_offsets(self, offsets: Sequence[OffsetCommit], membership: Membership, timeout_s: float) -> None:
        self._raise_failure()
        wanted = [ck.TopicPartition(c.tp.topic, c.tp.partition, c.offset, c.metadata) for c in offsets]
        raw: Any = membership.raw
        try:
            calling_back(self._client.send_offsets_to_transaction, wanted, raw, timeout_s)
        except KafkaException as error:
            raise self._events.in_transaction(error, f"producer {self._id}: send_offsets") from error

    def commit(self, timeout_s: float) -> None:
        self._raise_failure()
        try:
            calling_back(self._client.commit_transaction, timeout_s)
        except KafkaException as error:
            raise self._events.at_commit(error, f"producer {self._id}: commit") from error

    def abort(self, timeout_s: float) -> None:
        try:
            calling_back(self._client.abort_transaction, timeout_s)
        except KafkaException as error:
            raise self._events.in_transaction(error, f"producer {self._id}: abort") from error

    def close(self) -> None:
        self._events.close()
        drop(self._client)

    def _refused(self, error: KafkaException, where: str) -> None:
        """The client takes no message: the transaction has failed already, or this message can never be sent."""
        kafka_error = error.args[0]
        doing = f"producer {self._id}: producing to {where}"
        cause = self._why_failed() if kafka_error.code() == KafkaError._STATE else None
        if cause is not None:
            failure = self._events.in_transaction(cause, doing)
        elif kafka_error.code() == KafkaError._STATE:
            failure = TransactionAborted(f"{doing}: the transaction has failed: {kafka_error.str()}")
        elif kafka_error.fatal() or kafka_error.code() == KafkaError._FATAL:
            failure = self._events.in_transaction(error, doing)
        else:
            raise self._events.error(error, doing) from error
        self._failure = self._failure or failure

    def _why_failed(self) -> KafkaError | None:
        """Of a transaction that a message was purged with. A begin inside a transaction is always refused, and where
        that has failed the refusal is its first error."""
        try:
            calling_back(self._client.begin_transaction)
        except KafkaException as error:
            cause = unwrapped(error)
            return cause if cause.txn_requires_abort() or cause.fatal() else None
        return None

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def made(conf: dict[str, Any], settings: ClientSettings) -> ck.Producer:
    try:
        return ck.Producer(conf)
    except KafkaException as error:
        raise refused_setting(error, settings) from error


def drop(client: ck.Producer) -> None:
    """Nothing queued is sent; the client's threads end when the object goes."""
    client.purge(in_queue=True, in_flight=True, blocking=False)
    try:
        calling_back(client.poll, 0)
    except KafkaException as error:
        logger.info("a client that is let go had failed: %s", unwrapped(error).str())
