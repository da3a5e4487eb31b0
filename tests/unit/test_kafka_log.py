"""log.kafka without a broker: settings, errors by remedy, membership bytes, runs, the full queue."""

from __future__ import annotations

import logging
from random import Random

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from streamcore import limits
from streamcore.errors import (
    AccessDenied,
    InvariantBroken,
    LogUnavailable,
    MembershipChanged,
    OutcomeUnknown,
    ProducerFenced,
    SettingsError,
    SlotTaken,
    StreamcoreError,
    TopicError,
    TransactionAborted,
)
from streamcore.log.kafka import KafkaLog, runs
from streamcore.log.kafka.errors import REMEDY, Events, refused_setting
from streamcore.log.kafka.membership import parse
from streamcore.log.kafka.queueing import Queue
from streamcore.log.kafka.settings import FIXED, ClientSettings
from streamcore.types import Partition, TopicPartition

SECRETS = {
    "security.protocol": "sasl_ssl",
    "sasl.mechanism": "PLAIN",
    "sasl.username": "ada",
    "sasl.password": "hunter2",
    "ssl.key.password": "hunter3",
}


def events(settings: ClientSettings | None = None) -> Events:
    return Events(settings or ClientSettings("h:1"), logging.getLogger("test"), "client")


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FIXED))
def test_a_setting_that_the_protocol_rests_on_is_refused_with_its_value_and_why(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        KafkaLog("h:1", {name: "mine"})
    assert caught.value.what == f"kafka setting {name} = 'mine' cannot be changed: {FIXED[name]}"
    assert caught.value.remedy == f"take {name} out of the settings"


def test_a_value_of_another_kind_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"linger\.ms has a value of type list"):
        KafkaLog("h:1", {"linger.ms": [1]})  # type: ignore[dict-item]


def test_an_unknown_setting_is_refused_by_name_when_a_client_is_made() -> None:
    with pytest.raises(SettingsError, match=r"No such configuration property: \"fetch\.mesage\""):
        KafkaLog("h:1", {"fetch.mesage": 1}).producer("p")


def test_what_a_user_sets_reaches_the_clients_it_is_for() -> None:
    settings = ClientSettings("h:1", {**SECRETS, "linger.ms": 50, "fetch.wait.max.ms": 7})
    writing, reading, admin = settings.transactional("p"), settings.consumer("g", "g.0"), settings.admin()
    assert (writing["linger.ms"], reading["fetch.wait.max.ms"]) == (50, 7)
    assert "linger.ms" not in reading
    assert "fetch.wait.max.ms" not in writing
    assert "linger.ms" not in admin
    for conf in (writing, reading, admin, settings.reader(True), settings.idempotent(True)):
        assert conf["bootstrap.servers"] == "h:1"
        assert conf["sasl.password"] == "hunter2"


def test_the_protocols_settings_are_those_of_the_design() -> None:
    settings = ClientSettings("h:1", session_timeout_ms=9_000)
    assert (
        settings.transactional("job.0").items()
        >= {
            "transactional.id": "job.0",
            "transaction.timeout.ms": limits.TRANSACTION_TIMEOUT_MS,
            "partitioner": "murmur2_random",
        }.items()
    )
    assert (
        settings.consumer("job", "job.0").items()
        >= {
            "group.id": "job",
            "group.instance.id": "job.0",
            "group.protocol": "classic",
            "partition.assignment.strategy": "range",
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "session.timeout.ms": 9_000,
            "fetch.message.max.bytes": 16 << 20,
        }.items()
    )
    assert settings.idempotent(True)["enable.idempotence"] is True
    for conf in (settings.transactional("p"), settings.consumer("g", "i"), settings.reader(True)):
        assert "retry.backoff.ms" not in conf


def test_secrets_are_never_shown() -> None:
    settings = ClientSettings("h:1", SECRETS)
    refused = refused_setting(KafkaException(KafkaError(KafkaError._INVALID_ARG, "no hunter2 for ada")), settings)
    told = events(settings).error(KafkaError(KafkaError._SSL, "key hunter3 of ada is bad"), "connecting")
    for shown in (repr(settings), repr(KafkaLog("h:1", SECRETS)), str(refused), str(told)):
        assert "hunter" not in shown
        assert "ada" in shown
    with pytest.raises(SettingsError) as caught:
        KafkaLog("h:1", {"sasl.password": ["hunter2"]})  # type: ignore[dict-item]
    assert "hunter" not in str(caught.value)


# --- errors -----------------------------------------------------------------------------------------------------------


def codes() -> dict[str, int]:
    names = (name for name in dir(KafkaError) if name.lstrip("_")[:1].isupper())
    return {name: value for name in names if isinstance(value := getattr(KafkaError, name), int)}


def test_every_error_of_the_client_library_has_a_remedy() -> None:
    undecided = sorted(name for name, code in codes().items() if code not in REMEDY)
    assert len(codes()) > 150
    assert undecided == [], "decide in streamcore/log/kafka/errors.py what these ask for"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (KafkaError._TRANSPORT, LogUnavailable),
        (KafkaError.FENCED_INSTANCE_ID, SlotTaken),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, TopicError),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, AccessDenied),
        (999, StreamcoreError),
    ],
)
def test_a_call_raises_by_remedy_and_names_what_it_was_doing(code: int, remedy: type[StreamcoreError]) -> None:
    raised = events().error(KafkaException(KafkaError(code)), "describing topic t")
    assert isinstance(raised, remedy)
    assert raised.what.startswith("describing topic t: ")


def test_a_timeout_says_what_the_client_complained_of_and_a_refused_login_is_no_timeout() -> None:
    timeout = KafkaError(KafkaError._TIMED_OUT)
    heard = events()
    heard.on_error(KafkaError(KafkaError._TRANSPORT, "Connection refused"))
    assert "Connection refused" in heard.error(timeout, "init").what
    heard.on_error(KafkaError(KafkaError._AUTHENTICATION, "wrong password"))
    assert isinstance(heard.error(timeout, "init"), AccessDenied)


@pytest.mark.parametrize(
    ("error", "in_transaction", "at_commit"),
    [
        (KafkaError(KafkaError._TIMED_OUT, retriable=True), OutcomeUnknown, OutcomeUnknown),
        (KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, txn_requires_abort=True), TransactionAborted, TransactionAborted),
        (KafkaError(KafkaError._FENCED, fatal=True), ProducerFenced, ProducerFenced),
        (KafkaError(KafkaError.INVALID_TXN_STATE, fatal=True), ProducerFenced, ProducerFenced),
        (KafkaError(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True), MembershipChanged, TransactionAborted),
        (KafkaError(KafkaError.FENCED_INSTANCE_ID, txn_requires_abort=True), MembershipChanged, TransactionAborted),
        (KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, fatal=True), AccessDenied, AccessDenied),
        (KafkaError(KafkaError.UNKNOWN_PRODUCER_ID, txn_requires_abort=True), ProducerFenced, OutcomeUnknown),
        (KafkaError(KafkaError.UNKNOWN, txn_requires_abort=True), TransactionAborted, OutcomeUnknown),
    ],
)
def test_a_commit_is_only_called_aborted_when_that_is_certain(
    error: KafkaError, in_transaction: type[StreamcoreError], at_commit: type[StreamcoreError]
) -> None:
    assert type(events().in_transaction(error, "send_offsets")) is in_transaction
    assert type(events().at_commit(error, "commit")) is at_commit


# --- membership -------------------------------------------------------------------------------------------------------


def test_group_metadata_is_read_byte_by_byte() -> None:
    raw = b"CGMDv2:" + (258).to_bytes(4, "little") + b"job\0job.0-f00\0\0job.0\0"
    assert parse(raw) == parse(raw)
    membership = parse(raw)
    assert (membership.generation, membership.member_id, membership.instance_id) == (258, "job.0-f00", "job.0")
    assert membership.raw is raw
    unjoined = parse(b"CGMDv2:\xff\xff\xff\xffjob\0\0\0job.0\0")
    assert (unjoined.generation, unjoined.member_id) == (-1, "")


@pytest.mark.parametrize("raw", [b"", b"CGMDv3:\0\0\0\0g\0m\0\0i\0", b"CGMDv2:\0\0\0\0g", None])
def test_group_metadata_of_another_format_is_not_guessed_at(raw: object) -> None:
    with pytest.raises(InvariantBroken, match="group metadata"):
        parse(raw)


# --- runs -------------------------------------------------------------------------------------------------------------


def message(topic: str, partition: int, offset: int) -> Message:
    value = b"%d" % offset
    return Message(
        topic=topic, partition=partition, offset=offset, key=b"k" + value, value=value, timestamp=(1, offset * 10)
    )


@pytest.mark.parametrize("topics", ["a", "ab"])
def test_runs_agree_with_the_obvious_way_of_cutting(topics: str) -> None:
    random = Random(7)
    for _ in range(50):
        batch: list[Message] = []
        offset = 0
        for _ in range(random.randrange(1, 6)):
            topic, partition = random.choice(topics), random.randrange(2)
            for _ in range(random.randrange(1, 5)):
                offset += random.randrange(1, 3)
                batch.append(message(topic, partition, offset))
        slow: list[tuple[TopicPartition, list[int]]] = []
        for each in batch:
            place = TopicPartition(str(each.topic()), Partition(each.partition() or 0))
            if not slow or slow[-1][0] != place:
                slow.append((place, []))
            slow[-1][1].append(each.offset() or 0)
        fast = runs.cut(batch, with_headers=False, one_topic=topics == "a")
        assert [(run.tp, run.offsets) for run in fast] == slow
        assert [value for run in fast for value in run.values] == [each.value() for each in batch]
        assert [key for run in fast for key in run.keys] == [each.key() for each in batch]
        assert [time for run in fast for time in run.times] == [each.timestamp()[1] for each in batch]
        assert all(run.headers is None for run in fast)


def test_events_are_sifted_from_records() -> None:
    end = Message(topic="a", partition=0, offset=9, error=KafkaError(KafkaError._PARTITION_EOF))
    records, told = runs.sift([message("a", 0, 1), end, message("a", 0, 2)])
    assert [record.offset() for record in records] == [1, 2]
    assert told == [end]
    assert (runs.is_end(end), runs.offset_of(end), runs.place(end)) == (True, 9, TopicPartition("a", Partition(0)))


def test_a_run_is_cut_at_an_offset() -> None:
    (run,) = runs.cut([message("a", 0, n) for n in (3, 5, 6)], with_headers=True)
    assert runs.from_offset(run, 3) is run
    cut = runs.from_offset(run, 4)
    assert cut is not None
    assert (cut.offsets, cut.values, cut.headers) == ([5, 6], [b"5", b"6"], [None, None])
    assert runs.from_offset(run, 7) is None


# --- the queue --------------------------------------------------------------------------------------------------------


class Steps:
    """A clock that goes on by a second a look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        self.now_s += 1
        return self.now_s

    def wall_ms(self) -> int:
        return 0

    def sleep_s(self, seconds: float) -> None:
        raise AssertionError("the client's poll waits")


class SmallClient:
    """Takes `room` records, and as many again after a poll."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.queued = 0
        self.taken: list[tuple[object, ...]] = []

    def produce(self, *record: object) -> None:
        if self.queued >= self.room:
            raise BufferError
        self.queued += 1
        self.taken.append(record)

    def poll(self, timeout: float) -> int:
        self.queued = 0
        return 0

    def __len__(self) -> int:
        return self.queued


@pytest.mark.parametrize("room", [1, 3, 10, 100])
def test_a_full_queue_is_waited_for_and_every_record_goes_in_once_and_in_order(room: int) -> None:
    client = SmallClient(room)
    queue = Queue(client, events(), Steps())  # type: ignore[arg-type]
    values, keys, times = [b"%d" % n for n in range(10)], [b"k%d" % n for n in range(10)], list(range(10))
    headers = [[("n", b"%d" % n)] for n in range(10)]
    queue.put("t", 3, values, keys, times, headers, None)
    assert client.taken == [("t", values[n], keys[n], 3, None, None, n, headers[n]) for n in range(10)]


def test_a_queue_that_stays_full_is_an_unavailable_log() -> None:
    client = SmallClient(0)
    with pytest.raises(LogUnavailable, match="stays full"):
        Queue(client, events(), Steps()).put("t", None, [b"a"], None, None, None, None)  # type: ignore[arg-type]
