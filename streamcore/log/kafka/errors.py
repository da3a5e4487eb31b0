"""Every error of confluent_kafka, by remedy: the one place that decides.

`REMEDY` names the error class of each code; a test enumerates the library's codes against it. What a call adds: a
transaction's own flags (fatal, must abort) and the commit, whose unknown answers are never taken for an abort.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final, ParamSpec, TypeVar

from confluent_kafka import KafkaError, KafkaException

from streamcore.errors import (
    AccessDenied,
    InvariantBroken,
    LogUnavailable,
    MembershipChanged,
    OffsetsLost,
    OutcomeUnknown,
    ProducerFenced,
    RecordTooLarge,
    SettingsError,
    SlotTaken,
    StopError,
    StreamcoreError,
    TopicError,
    TransactionAborted,
)
from streamcore.log.kafka.settings import ClientSettings

E = KafkaError

_BY_REMEDY: Final[Mapping[type[StreamcoreError], tuple[int, ...]]] = {
    LogUnavailable: (
        E._ALL_BROKERS_DOWN,
        E._CRIT_SYS_RESOURCE,
        E._DESTROY,
        E._DESTROY_BROKER,
        E._FAIL,
        E._FS,
        E._INTR,
        E._IN_PROGRESS,
        E._ISR_INSUFF,
        E._MSG_TIMED_OUT,
        E._NOENT,  # no leader is known
        E._NODE_UPDATE,
        E._OUTDATED,
        E._PARTIAL,
        E._PREV_IN_PROGRESS,
        E._PURGE_INFLIGHT,
        E._PURGE_QUEUE,
        E._QUEUE_FULL,
        E._RESOLVE,
        E._RETRY,
        E._TIMED_OUT,
        E._TIMED_OUT_QUEUE,
        E._TRANSPORT,
        E._UNKNOWN_BROKER,
        E._WAIT_CACHE,
        E._WAIT_COORD,
        E.BROKER_NOT_AVAILABLE,
        E.CONCURRENT_TRANSACTIONS,
        E.COORDINATOR_LOAD_IN_PROGRESS,
        E.COORDINATOR_NOT_AVAILABLE,
        E.ELECTION_NOT_NEEDED,
        E.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        E.FENCED_LEADER_EPOCH,
        E.FETCH_SESSION_ID_NOT_FOUND,
        E.INVALID_FETCH_SESSION_EPOCH,
        E.KAFKA_STORAGE_ERROR,
        E.LEADER_NOT_AVAILABLE,
        E.LISTENER_NOT_FOUND,
        E.LOG_DIR_NOT_FOUND,
        E.NETWORK_EXCEPTION,
        E.NOT_CONTROLLER,
        E.NOT_COORDINATOR,
        E.NOT_ENOUGH_REPLICAS,
        E.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        E.NOT_LEADER_FOR_PARTITION,
        E.NO_REASSIGNMENT_IN_PROGRESS,
        E.OFFSET_NOT_AVAILABLE,
        E.OPERATION_NOT_ATTEMPTED,
        E.PREFERRED_LEADER_NOT_AVAILABLE,
        E.REASSIGNMENT_IN_PROGRESS,
        E.REBOOTSTRAP_REQUIRED,
        E.REPLICA_NOT_AVAILABLE,
        E.REQUEST_TIMED_OUT,
        E.STALE_BROKER_EPOCH,
        E.STALE_CTRL_EPOCH,
        E.THROTTLING_QUOTA_EXCEEDED,
        E.TRANSACTION_COORDINATOR_FENCED,
        E.UNKNOWN,
        E.UNKNOWN_CONTROLLER_ID,
        E.UNKNOWN_LEADER_EPOCH,
        E.UNSTABLE_OFFSET_COMMIT,
    ),
    MembershipChanged: (
        E._ASSIGNMENT_LOST,
        E._ASSIGN_PARTITIONS,
        E._MAX_POLL_EXCEEDED,
        E._NO_OFFSET,
        E._REVOKE_PARTITIONS,
        E._UNKNOWN_GROUP,
        E.FENCED_MEMBER_EPOCH,
        E.GROUP_ID_NOT_FOUND,
        E.ILLEGAL_GENERATION,
        E.MEMBER_ID_REQUIRED,
        E.REBALANCE_IN_PROGRESS,
        E.STALE_MEMBER_EPOCH,
        E.UNKNOWN_MEMBER_ID,
    ),
    SlotTaken: (E.FENCED_INSTANCE_ID, E.UNRELEASED_INSTANCE_ID),
    ProducerFenced: (
        E._FATAL,
        E._FENCED,
        E._GAPLESS_GUARANTEE,
        E._INCONSISTENT,
        E.DUPLICATE_SEQUENCE_NUMBER,
        E.INVALID_PRODUCER_EPOCH,
        E.INVALID_PRODUCER_ID_MAPPING,
        E.INVALID_TXN_STATE,
        E.OUT_OF_ORDER_SEQUENCE_NUMBER,
        E.PRODUCER_FENCED,
        E.UNKNOWN_PRODUCER_ID,
    ),
    TransactionAborted: (E._INVALID_DIFFERENT_RECORD, E.TRANSACTION_ABORTABLE),
    TopicError: (
        E._UNKNOWN_PARTITION,
        E._UNKNOWN_TOPIC,
        E.INCONSISTENT_TOPIC_ID,
        E.INVALID_CONFIG,
        E.INVALID_PARTITIONS,
        E.INVALID_RECORD,
        E.INVALID_REPLICATION_FACTOR,
        E.INVALID_REPLICA_ASSIGNMENT,
        E.INVALID_TIMESTAMP,
        E.POLICY_VIOLATION,
        E.TOPIC_ALREADY_EXISTS,
        E.TOPIC_DELETION_DISABLED,
        E.TOPIC_EXCEPTION,
        E.UNKNOWN_TOPIC_ID,
        E.UNKNOWN_TOPIC_OR_PART,
        E.UNSUPPORTED_COMPRESSION_TYPE,
        E.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    ),
    AccessDenied: (
        E._AUTHENTICATION,
        E._SSL,
        E.CLUSTER_AUTHORIZATION_FAILED,
        E.DELEGATION_TOKEN_AUTHORIZATION_FAILED,
        E.DELEGATION_TOKEN_AUTH_DISABLED,
        E.DELEGATION_TOKEN_EXPIRED,
        E.DELEGATION_TOKEN_NOT_FOUND,
        E.DELEGATION_TOKEN_OWNER_MISMATCH,
        E.DELEGATION_TOKEN_REQUEST_NOT_ALLOWED,
        E.GROUP_AUTHORIZATION_FAILED,
        E.ILLEGAL_SASL_STATE,
        E.INVALID_PRINCIPAL_TYPE,
        E.PRINCIPAL_DESERIALIZATION_FAILURE,
        E.SASL_AUTHENTICATION_FAILED,
        E.SECURITY_DISABLED,
        E.TOPIC_AUTHORIZATION_FAILED,
        E.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        E.UNACCEPTABLE_CREDENTIAL,
        E.UNSUPPORTED_SASL_MECHANISM,
    ),
    OffsetsLost: (E._AUTO_OFFSET_RESET, E._LOG_TRUNCATION, E.OFFSET_OUT_OF_RANGE),
    RecordTooLarge: (
        E.INVALID_COMMIT_OFFSET_SIZE,
        E.MSG_SIZE_TOO_LARGE,
        E.OFFSET_METADATA_TOO_LARGE,
        E.RECORD_LIST_TOO_LARGE,
    ),
    SettingsError: (
        E._INVALID_ARG,
        E._NOT_CONFIGURED,
        E._UNKNOWN_PROTOCOL,
        E._UNSUPPORTED_FEATURE,
        E.GROUP_MAX_SIZE_REACHED,
        E.INCONSISTENT_GROUP_PROTOCOL,
        E.INVALID_GROUP_ID,
        E.INVALID_REGULAR_EXPRESSION,
        E.INVALID_REQUIRED_ACKS,
        E.INVALID_SESSION_TIMEOUT,
        E.INVALID_TRANSACTION_TIMEOUT,
        E.MISMATCHED_ENDPOINT_TYPE,
        E.UNSUPPORTED_ASSIGNOR,
        E.UNSUPPORTED_ENDPOINT_TYPE,
        E.UNSUPPORTED_VERSION,
    ),
    StopError: (
        E._BAD_COMPRESSION,
        E._BAD_MSG,
        E.GROUP_SUBSCRIBED_TO_TOPIC,
        E.INVALID_MSG,
        E.INVALID_MSG_SIZE,
        E.NON_EMPTY_GROUP,
        E.RESOURCE_NOT_FOUND,
    ),
    # What these calls never ask for (share groups, Streams groups, voters, deserializers), or asked wrongly.
    InvariantBroken: (
        E._APPLICATION,
        E._CONFLICT,
        E._EXISTING_SUBSCRIPTION,
        E._INVALID_TYPE,
        E._KEY_DESERIALIZATION,
        E._KEY_SERIALIZATION,
        E._NOOP,
        E._NOT_IMPLEMENTED,
        E._PARTITION_EOF,
        E._READ_ONLY,
        E._STATE,
        E._UNDERFLOW,
        E._VALUE_DESERIALIZATION,
        E._VALUE_SERIALIZATION,
        E.DUPLICATE_RESOURCE,
        E.DUPLICATE_VOTER,
        E.FEATURE_UPDATE_FAILED,
        E.FENCED_STATE_EPOCH,
        E.INCONSISTENT_VOTER_SET,
        E.INVALID_RECORD_STATE,
        E.INVALID_REGISTRATION,
        E.INVALID_REQUEST,
        E.INVALID_SHARE_SESSION_EPOCH,
        E.INVALID_UPDATE_VERSION,
        E.INVALID_VOTER_KEY,
        E.NO_ERROR,
        E.SHARE_SESSION_LIMIT_REACHED,
        E.SHARE_SESSION_NOT_FOUND,
        E.STREAMS_INVALID_TOPOLOGY,
        E.STREAMS_INVALID_TOPOLOGY_EPOCH,
        E.STREAMS_TOPOLOGY_FENCED,
        E.TELEMETRY_TOO_LARGE,
        E.UNKNOWN_SUBSCRIPTION_ID,
        E.VOTER_NOT_FOUND,
    ),
}

REMEDY: Final[Mapping[int, type[StreamcoreError]]] = {
    code: remedy for remedy, codes in _BY_REMEDY.items() for code in codes
}

_WHAT_TO_DO: Final[Mapping[type[StreamcoreError], str]] = {
    LogUnavailable: "look whether the brokers run and can be reached from here (kafka.bootstrap, network, their logs)",
    SlotTaken: "nothing, if it was meant; else give each machine its own --slot",
    TopicError: "look at the topic with `streamcore topics list`; create it, or change its settings",
    AccessDenied: "check user, password, certificates (kafka.* settings) and the ACLs; docs/operations.md lists them",
    OffsetsLost: "records were deleted (retention, DeleteRecords) or the topic was made anew: `streamcore reset JOB` "
    "starts over",
    RecordTooLarge: "raise the topic's max.message.bytes, or produce smaller records (kafka.extra batch.size must not "
    "be above it)",
    SettingsError: "correct the setting; names and values are those of librdkafka",
    InvariantBroken: "this is a bug in streamcore: stop the job, keep its topics and logs, report it",
}

_COMMIT_UNCLEAR: Final = frozenset({E.UNKNOWN, E._FAIL, E.UNKNOWN_PRODUCER_ID, E.INVALID_PRODUCER_ID_MAPPING})
"""Answers to an EndTxn that ask for an abort and yet do not say that the transaction did not commit."""

_LISTED: Final = "docs/operations.md lists all that a job needs"
_ON_TOPICS: Final = (
    "allow the user on topics that the job reads Read and Describe; on those it writes Write, Describe and "
    "DescribeConfigs; on those with the prefix `JOB.` (its own) all of these, Create and Delete"
)
_TO_ALLOW: Final[Mapping[int, str]] = {
    E.TOPIC_AUTHORIZATION_FAILED: f"{_ON_TOPICS}; {_LISTED}",
    E.CLUSTER_AUTHORIZATION_FAILED: f"{_ON_TOPICS}; {_LISTED}",
    E.GROUP_AUTHORIZATION_FAILED: "allow the user Read and Describe on the group, which is the job's name, "
    f"and Delete for `streamcore reset`; {_LISTED}",
    E.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "allow the user Write and Describe on transactional ids with the prefix "
    f"`JOB.`; {_LISTED}",
    E._AUTHENTICATION: "check kafka.sasl_username, kafka.sasl_password and kafka.sasl_mechanism",
    E.SASL_AUTHENTICATION_FAILED: "check kafka.sasl_username, kafka.sasl_password and kafka.sasl_mechanism",
    E.UNSUPPORTED_SASL_MECHANISM: "set kafka.sasl_mechanism to one that the brokers' listener takes",
    E._SSL: "check kafka.ssl_ca (PEM, with the authority that signed the brokers' certificates), the host names in "
    "kafka.bootstrap and the certificates, and kafka.ssl_certificate where the brokers ask for one",
}
"""What to do about AccessDenied, where the code tells."""

_REFUSED: Final = frozenset({E._AUTHENTICATION, E.SASL_AUTHENTICATION_FAILED, E.UNSUPPORTED_SASL_MECHANISM})
"""Reported by the client only here; the call itself merely times out."""

_CERTIFICATE: Final = "certificate"
"""In the text of a TLS error that stays; others come of connections that broke."""


P = ParamSpec("P")
T = TypeVar("T")


def calling_back(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A client's call that runs callbacks. A fatal error is not handed to `error_cb`: the client raises it from
    whatever call is under way, and when another callback ran after it, the interpreter makes a SystemError of it."""
    try:
        return call(*args, **kwargs)
    except SystemError as error:
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from error
        raise


_FENCED_MEMBER: Final = "Static consumer fenced"


class Events:
    """What one client reports of itself (`error_cb`): logged, and remembered for the message of the call that fails.

    Called on the thread that polls the client, or on the client's own.
    """

    def __init__(self, settings: ClientSettings, logger: logging.Logger, client: str) -> None:
        self._settings = settings
        self._logger = logger
        self._client = client
        self._lock = threading.Lock()
        self._trouble = ""
        self._denied: KafkaError | None = None
        self.written: set[str] = set()
        """The topics of the transaction, where there is one: a refusal does not say which was meant."""
        self.serve: Callable[[float], object] = _nothing
        """Has the client run its callbacks, so that what it has to say of a failed call is heard first."""

    def close(self) -> None:
        """Lets the client go: it holds this, and would end only at some later garbage collection."""
        self.serve = _nothing

    def on_error(self, error: KafkaError) -> None:
        text = self._settings.scrub(f"{error.name()}: {error.str()}")
        with self._lock:
            if error.code() != E._ALL_BROKERS_DOWN or not self._trouble:  # which follows the reason, and tells less
                self._trouble = text
                self._denied = error if _is_refusal(error) else None
        self._logger.warning("%s: %s", self._client, text)

    def error(self, error: KafkaError | BaseException, doing: str) -> StreamcoreError:
        """The error to raise for a call outside a transaction."""
        error = unwrapped(error)
        remedy = REMEDY.get(error.code())
        if error.code() == KafkaError._FATAL and _FENCED_MEMBER in error.str():
            remedy = SlotTaken  # all that the client tells of the first cause is its text
        if remedy is None:
            remedy = LogUnavailable if error.retriable() else StopError
        return self._made(remedy, error, doing)

    def in_transaction(self, error: KafkaError | BaseException, doing: str) -> StreamcoreError:
        """For init, begin, send_offsets, abort and a failed delivery: fenced, to be aborted, or unanswered."""
        error = unwrapped(error)
        remedy = REMEDY.get(error.code(), OutcomeUnknown)
        if remedy in (AccessDenied, SettingsError, MembershipChanged) and not error.txn_requires_abort():
            return self._made(remedy, error, doing)
        if remedy is SlotTaken or remedy is MembershipChanged:
            return self._made(MembershipChanged, error, doing)
        if error.fatal() or remedy is ProducerFenced:
            return self._made(AccessDenied if remedy is AccessDenied else ProducerFenced, error, doing)
        if error.txn_requires_abort() or remedy is TransactionAborted:
            return self._made(AccessDenied if remedy is AccessDenied else TransactionAborted, error, doing)
        if remedy is LogUnavailable:
            remedy = OutcomeUnknown
        return self._made(remedy, error, doing)

    def at_commit(self, error: KafkaError | BaseException, doing: str) -> StreamcoreError:
        """An abort only where it is certain that nothing was committed."""
        error = unwrapped(error)
        if error.fatal():
            denied = REMEDY.get(error.code()) is AccessDenied
            return self._made(AccessDenied if denied else ProducerFenced, error, doing)
        if error.txn_requires_abort() and error.code() not in _COMMIT_UNCLEAR:
            denied = REMEDY.get(error.code()) is AccessDenied
            return self._made(AccessDenied if denied else TransactionAborted, error, doing)
        return self._made(OutcomeUnknown, error, doing)

    def _made(self, remedy: type[StreamcoreError], error: KafkaError, doing: str) -> StreamcoreError:
        try:
            calling_back(self.serve, 0)
        except KafkaException as fatal:
            self.on_error(unwrapped(fatal))
        what = self._settings.scrub(f"{doing}: {error.str()} ({error.name()})")
        if error.code() == E.TOPIC_AUTHORIZATION_FAILED and self.written:
            what += f"; it writes to {', '.join(sorted(self.written))}"
        with self._lock:
            trouble, denied = self._trouble, self._denied
        if remedy in (LogUnavailable, OutcomeUnknown) and trouble:
            what += f"; the client's last word was {trouble}"
        if remedy is LogUnavailable and denied is not None:
            remedy, error = AccessDenied, denied
        what_to_do = _WHAT_TO_DO.get(remedy, "")
        if remedy is AccessDenied:
            what_to_do = _TO_ALLOW.get(error.code(), what_to_do)
        if remedy is TransactionAborted and REMEDY.get(error.code()) is RecordTooLarge:
            what_to_do = _WHAT_TO_DO[RecordTooLarge]
        return remedy(what, what_to_do)


def _nothing(_: float) -> None: ...


def _is_refusal(error: KafkaError) -> bool:
    return error.code() in _REFUSED or (error.code() == E._SSL and _CERTIFICATE in error.str())


def unwrapped(error: KafkaError | BaseException) -> KafkaError:
    """The KafkaError of what a client raised."""
    if isinstance(error, KafkaError):
        return error
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return error.args[0]
    if isinstance(error, TimeoutError):
        return KafkaError(KafkaError._TIMED_OUT)
    return KafkaError(KafkaError._APPLICATION, str(error))


def refused_setting(error: KafkaException, settings: ClientSettings) -> SettingsError:
    """Making a client failed: the message of the client names the setting."""
    text = settings.scrub(unwrapped(error).str())
    return SettingsError(f"the Kafka client refuses its settings: {text}", _WHAT_TO_DO[SettingsError])
