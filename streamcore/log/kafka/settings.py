"""What every client is made with, and which of it a user may change.

A user's settings are librdkafka's own, by name: TLS, SASL and tuning pass through. What exactly-once rests on cannot be
changed; the reason stands beside each name in `FIXED`. Values that are secrets leave this module only towards the
client: `repr` and messages show `***`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from streamcore import limits
from streamcore.errors import SettingsError, shown

Setting = str | int | float | bool
Conf = dict[str, Any]
"""For confluent_kafka; never shown."""

MASK: Final = "***"
_SECRET_WORDS: Final = ("password", "secret", "ssl.key.pem", "oauthbearer.config", "assertion.private.key", "token")

_OFFSETS = "offsets are committed with the transaction, and nothing else may move them"
_MEMBER = "tasks, slots and fencing are bound to the job's group"
_RETRY = "a call slower than 80 ms counts as retried; that rule rests on librdkafka's own 100 ms"
_WRITER = "a committed epoch must be whole, in order and once"
_OWN = "streamcore reads the client's events and log itself"

FIXED: Final[Mapping[str, str]] = {
    "bootstrap.servers": "it has a setting of its own, kafka.bootstrap",
    "metadata.broker.list": "it has a setting of its own, kafka.bootstrap",
    "retry.backoff.ms": _RETRY,
    "retry.backoff.max.ms": _RETRY,
    "enable.auto.commit": _OFFSETS,
    "enable.auto.offset.store": _OFFSETS,
    "auto.commit.interval.ms": _OFFSETS,
    "auto.offset.reset": "where a task begins is the stream's `start`; a lost one stops the job",
    "isolation.level": "a record of an aborted transaction must never be read",
    "enable.partition.eof": "replay must know where a journal ends",
    "group.id": _MEMBER,
    "group.instance.id": _MEMBER,
    "group.protocol": _MEMBER,
    "group.protocol.type": _MEMBER,
    "group.remote.assignor": _MEMBER,
    "partition.assignment.strategy": "the inputs of one task must meet in one worker",
    "session.timeout.ms": "it has a setting of its own, session_timeout",
    "transactional.id": _MEMBER,
    "transaction.timeout.ms": "a worker that hangs past it must be known to have lost its transaction",
    "enable.idempotence": _WRITER,
    "enable.gapless.guarantee": _WRITER,
    "acks": _WRITER,
    "request.required.acks": _WRITER,
    "retries": _WRITER,
    "message.send.max.retries": _WRITER,
    "max.in.flight": _WRITER,
    "max.in.flight.requests.per.connection": _WRITER,
    "message.timeout.ms": _WRITER,
    "delivery.timeout.ms": _WRITER,
    "queuing.strategy": _WRITER,
    "partitioner": "keys lie where Java's clients put them (murmur2), so that topics co-partition",
    "delivery.report.only.error": _OWN,
    "offset_commit_cb": _OWN,
    "on_commit": _OWN,
    "on_delivery": _OWN,
    "dr_cb": _OWN,
    "dr_msg_cb": _OWN,
    "error_cb": _OWN,
    "throttle_cb": _OWN,
    "stats_cb": _OWN,
    "log_cb": _OWN,
    "logger": _OWN,
    "log.queue": _OWN,
}
"""Each with the reason why it cannot be overridden."""

_PRODUCER_ONLY: Final = frozenset(
    {
        "batch.num.messages",
        "batch.size",
        "compression.codec",
        "compression.level",
        "compression.type",
        "linger.ms",
        "queue.buffering.backpressure.threshold",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "queue.buffering.max.ms",
        "request.timeout.ms",
        "sticky.partitioning.linger.ms",
    }
)
_CONSUMER_ONLY: Final = frozenset(
    {
        "check.crcs",
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "heartbeat.interval.ms",
        "max.partition.fetch.bytes",
        "max.poll.interval.ms",
        "queued.max.messages.kbytes",
        "queued.min.messages",
    }
)


def is_secret(name: str) -> bool:
    return any(word in name for word in _SECRET_WORDS)


class ClientSettings:
    """The cluster's address and the user's settings, checked; makes the settings of each kind of client."""

    def __init__(
        self,
        bootstrap: str,
        extra: Mapping[str, Setting] | None = None,
        *,
        session_timeout_ms: int = limits.SESSION_TIMEOUT_MS,
    ) -> None:
        """`extra`: librdkafka's names. Raises SettingsError for one that is fixed, or of the wrong kind."""
        self.bootstrap = bootstrap
        self._extra = dict(extra or {})
        self._session_timeout_ms = session_timeout_ms
        self._secrets = [str(value) for name, value in self._extra.items() if is_secret(name) and value]
        for name, value in self._extra.items():
            _check(name, value)

    def __repr__(self) -> str:
        extra = {name: MASK if is_secret(name) else value for name, value in self._extra.items()}
        return f"ClientSettings({self.bootstrap!r}, {extra!r})"

    def scrub(self, text: str) -> str:
        """`text` without any of the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def consumer(self, group: str, instance_id: str) -> Conf:
        return {
            **self._reading(read_committed=True),
            "group.id": group,
            "group.instance.id": instance_id,
            "group.protocol": "classic",
            "partition.assignment.strategy": "range",
            "session.timeout.ms": self._session_timeout_ms,
            "heartbeat.interval.ms": max(1, min(3_000, self._session_timeout_ms // 4)),
            # A topic that is missing, deleted or made larger is noticed within seconds, not minutes.
            "topic.metadata.refresh.interval.ms": 5_000,
            "topic.metadata.propagation.max.ms": 1_000,
            **self._given(_PRODUCER_ONLY),
        }

    def reader(self, read_committed: bool) -> Conf:
        """The client insists on a group; this one is never joined and nothing is committed to it."""
        return {
            **self._reading(read_committed),
            "group.id": "streamcore.reader",
            # The end of a partition is known with the first fetch that brings nothing: a takeover waits for it.
            "fetch.wait.max.ms": 10,
            **self._given(_PRODUCER_ONLY),
        }

    def transactional(self, transactional_id: str) -> Conf:
        return {
            **self._writing(),
            "transactional.id": transactional_id,
            "transaction.timeout.ms": limits.TRANSACTION_TIMEOUT_MS,
            **self._given(_CONSUMER_ONLY),
        }

    def idempotent(self, only_errors: bool) -> Conf:
        """`only_errors`: callbacks run for failed deliveries only, which makes them cheap."""
        return {
            **self._writing(),
            "enable.idempotence": True,
            "delivery.report.only.error": only_errors,
            **self._given(_CONSUMER_ONLY),
        }

    def admin(self) -> Conf:
        return {**self._common(), **self._given(_PRODUCER_ONLY | _CONSUMER_ONLY)}

    def _given(self, without: frozenset[str]) -> Conf:
        return {name: value for name, value in self._extra.items() if name not in without}

    def _common(self) -> Conf:
        return {
            "bootstrap.servers": self.bootstrap,
            "client.id": "streamcore",
            "reconnect.backoff.max.ms": 1_000,
            "log.connection.close": False,
        }

    def _reading(self, read_committed: bool) -> Conf:
        return {
            **self._common(),
            "isolation.level": "read_committed" if read_committed else "read_uncommitted",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "fetch.message.max.bytes": limits.FETCH_BYTES,
            "fetch.max.bytes": limits.FETCH_QUEUE_BYTES,
            "receive.message.max.bytes": limits.FETCH_QUEUE_BYTES + limits.MESSAGE_BYTES,
            "queued.max.messages.kbytes": limits.FETCH_QUEUE_BYTES >> 10,
            "queued.min.messages": limits.FETCH_QUEUE_RECORDS,
            # A broker that hangs is waited for a minute by default, also by who has a new leader to ask.
            "socket.timeout.ms": 10_000,
            # The default second would leave the worker idle whenever the queue had been full.
            "fetch.queue.backoff.ms": 10,
            # A partition that is started waits for the fetch under way: this long at most.
            "fetch.wait.max.ms": 100,
        }

    def _writing(self) -> Conf:
        return {
            **self._common(),
            "partitioner": "murmur2_random",
            "message.max.bytes": limits.MESSAGE_BYTES,
            "linger.ms": 5,
            # Topics refuse a batch over their max.message.bytes, 1 MB by default: batches stay below it.
            "batch.size": 1_000_000,
            "batch.num.messages": 100_000,
            "queue.buffering.max.kbytes": limits.PRODUCE_QUEUE_BYTES >> 10,
            "queue.buffering.max.messages": limits.PRODUCE_QUEUE_RECORDS,
        }


def _check(name: str, value: object) -> None:
    reason = FIXED.get(name)
    if reason is not None:
        value_shown = MASK if is_secret(name) else shown(value)
        raise SettingsError(
            f"kafka setting {name} = {value_shown} cannot be changed: {reason}", f"take {name} out of the settings"
        )
    if not isinstance(value, str | int | float | bool) and name != "oauth_cb":
        raise SettingsError(
            f"kafka setting {name} has a value of type {type(value).__name__}", "give it text, a number, true or false"
        )


def with_events(conf: Conf, logger: logging.Logger, on_error: Callable[[Any], None]) -> Conf:
    """The client's own log and errors go to Python's logging, never to stderr."""
    return {**conf, "logger": logger, "error_cb": on_error}
