"""The log port: reading and writing records, positions, and topics that are trimmed or gone."""

from __future__ import annotations

import pytest

from streamcore.errors import InvariantBroken, LogUnavailable, OffsetsLost, TopicError, TransactionAborted
from streamcore.log.local.murmur2 import partition_of
from streamcore.log.port import Log, Run
from streamcore.types import Offset, Partition, TopicPartition
from tests.conformance.logs import TIMEOUT_S, Backend, Member, eventually, read, read_from, settle, tp, unique

P0 = Partition(0)


@pytest.fixture
def topic(backend: Backend) -> str:
    name = unique("read")
    backend.log.admin().create(name, 2, {})
    return name


def filled(log: Log, place: TopicPartition, count: int) -> list[bytes]:
    """Written by a producer without transactions, so that there are no markers between."""
    values = [b"%d" % n for n in range(count)]
    producer = log.producer(None)
    producer.init(TIMEOUT_S)
    producer.produce(place.topic, place.partition, values)
    producer.flush(TIMEOUT_S)
    producer.close()
    return values


def test_a_record_comes_back_as_it_was_written(backend: Backend, topic: str) -> None:
    producer = backend.log.producer(None)
    producer.init(TIMEOUT_S)
    now = backend.clock.wall_ms()
    headers = [[("a", b"1"), ("a", b"2")], None, [("empty", b"")]]
    producer.produce(topic, P0, [b"one", None, b""], [b"k", b"", None], [now, now + 1, now + 2], headers)
    producer.flush(TIMEOUT_S)
    reader = backend.log.reader({tp(topic, 0): Offset(0)}, headers=True)
    (run,) = eventually(lambda: reader.poll(10, 0.05))
    assert (run.tp, run.offsets) == (tp(topic, 0), [0, 1, 2])
    assert run.values == [b"one", None, b""]
    assert run.keys == [b"k", b"", None]
    assert run.times == [now, now + 1, now + 2]
    assert run.headers is not None
    assert [found or None for found in run.headers] == headers
    reader.close()


def test_headers_are_left_out_where_nobody_asked(backend: Backend, topic: str) -> None:
    filled(backend.log, tp(topic, 0), 1)
    reader = backend.log.reader({tp(topic, 0): Offset(0)})
    (run,) = eventually(lambda: reader.poll(10, 0.05))
    assert run.headers is None
    reader.close()


def test_a_key_goes_where_java_puts_it_and_each_partition_keeps_the_order(backend: Backend) -> None:
    wide = unique("keys")
    backend.log.admin().create(wide, 5, {})
    keys = [b"key-%d" % (n % 17) for n in range(200)]
    producer = backend.log.producer(None)
    producer.init(TIMEOUT_S)
    producer.produce(wide, None, [b"%d" % n for n in range(200)], keys)
    producer.flush(TIMEOUT_S)
    for number in range(5):
        expected = [b"%d" % n for n, key in enumerate(keys) if partition_of(key, 5) == number]
        assert read(backend.log, tp(wide, number)) == expected


def test_records_without_a_key_are_spread_and_none_is_lost(backend: Backend, topic: str) -> None:
    producer = backend.log.producer(None)
    producer.init(TIMEOUT_S)
    values: list[bytes | None] = [b"%d" % n for n in range(500)]
    producer.produce(topic, None, values)
    producer.flush(TIMEOUT_S)
    assert sorted(read(backend.log, tp(topic, 0), tp(topic, 1)), key=str) == sorted(values, key=str)


def test_without_transactions_a_refused_record_fails_the_flush_once(backend: Backend) -> None:
    narrow = unique("narrow")
    backend.log.admin().create(narrow, 1, {"max.message.bytes": "10000"})
    producer = backend.log.producer(None)
    producer.init(TIMEOUT_S)
    producer.produce(narrow, P0, [b"x" * 20_000])
    with pytest.raises(TransactionAborted):
        producer.flush(TIMEOUT_S)
    producer.produce(narrow, P0, [b"fits"])
    receipt = producer.send(tp(narrow, 0), b"frame")
    producer.flush(TIMEOUT_S)
    assert receipt.offset in (0, 1)
    assert sorted(read(backend.log, tp(narrow, 0)), key=str) == [b"fits", b"frame"]


def test_a_producer_without_transactions_has_none(backend: Backend) -> None:
    producer = backend.log.producer(None)
    producer.init(TIMEOUT_S)
    with pytest.raises(InvariantBroken):
        producer.begin()


# --- a reader ----------------------------------------------------------------------------------------------------


def test_a_reader_knows_the_end_behind_markers(backend: Backend, topic: str) -> None:
    place = tp(topic, 0)
    producer = backend.log.producer(topic)
    producer.init(TIMEOUT_S)
    for value in (b"kept", b"gone"):
        producer.begin()
        producer.produce(topic, P0, [value])
        producer.flush(TIMEOUT_S)
        producer.commit(TIMEOUT_S) if value == b"kept" else producer.abort(TIMEOUT_S)
    eventually(lambda: backend.log.admin().stable_ends([place])[place] == 4)
    reader = backend.log.reader({place: Offset(0), tp(topic, 1): Offset(0)})
    found: list[Run] = []

    def ended() -> bool:
        found.extend(reader.poll(10, 0.05))
        return reader.ended() == {place, tp(topic, 1)}

    eventually(ended)
    assert [run.values for run in found] == [[b"kept"]]
    assert reader.position(place) == 4
    assert reader.position(tp(topic, 1)) == 0
    reader.close()


def test_a_reader_goes_on_when_more_is_written_behind_its_end(backend: Backend, topic: str) -> None:
    place = tp(topic, 0)
    reader = backend.log.reader({place: Offset(0)})
    eventually(lambda: reader.poll(10, 0.05) == [] and place in reader.ended())
    filled(backend.log, place, 3)
    (run,) = eventually(lambda: reader.poll(10, 0.05))
    assert run.offsets[0] == 0
    reader.close()


@pytest.mark.parametrize("offset", [0, 1_000])
def test_a_reader_outside_of_the_log_says_so(backend: Backend, topic: str, offset: int) -> None:
    place = tp(topic, 0)
    filled(backend.log, place, 10)
    backend.log.admin().delete_records({place: Offset(5)})
    reader = backend.log.reader({place: Offset(offset)})
    with pytest.raises(OffsetsLost, match=topic):
        eventually(lambda: reader.poll(10, 0.05) and None)
    reader.close()


# --- a consumer --------------------------------------------------------------------------------------------------


def test_nothing_is_fetched_before_start_and_nothing_below_it(backend: Backend, topic: str) -> None:
    values = filled(backend.log, tp(topic, 0), 50)
    filled(backend.log, tp(topic, 1), 50)
    member = Member(backend.log, topic, 0, [topic])
    settle(member, shares=[2])
    assert member.poll() == member.poll() == []
    member.consumer.start(tp(topic, 0), Offset(20))
    assert read_from(member.consumer, 30) == values[20:]
    assert member.poll() == [], "the other partition is not started"
    member.consumer.close()


def test_start_goes_back_and_what_was_fetched_ahead_is_forgotten(backend: Backend, topic: str) -> None:
    values = filled(backend.log, tp(topic, 0), 100)
    member = Member(backend.log, topic, 0, [topic])
    settle(member, shares=[2])
    for begin in (0, 40, 7, 0, 99):
        member.consumer.start(tp(topic, 0), Offset(begin))
        count = min(10, 100 - begin)
        assert read_from(member.consumer, count) == values[begin : begin + count]
    member.consumer.close()


def test_a_start_where_the_log_begins_later_than_at_zero(backend: Backend, topic: str) -> None:
    for number in range(2):
        filled(backend.log, tp(topic, number), 10)
    backend.log.admin().delete_records({tp(topic, number): Offset(8) for number in range(2)})
    for slot in range(3):
        member = Member(backend.log, f"{topic}.{slot}", 0, [topic])
        settle(member, shares=[2])
        for place in member.owned:
            member.consumer.start(place, Offset(8))
        assert sorted(read_from(member.consumer, 4), key=str) == [b"8", b"8", b"9", b"9"]
        member.consumer.close()


def test_pausing_loses_nothing_and_returns_nothing(backend: Backend, topic: str) -> None:
    places = [tp(topic, 0), tp(topic, 1)]
    values = filled(backend.log, places[0], 100)
    filled(backend.log, places[1], 100)
    member = Member(backend.log, topic, 0, [topic])
    settle(member, shares=[2])
    for place in places:
        member.consumer.start(place, Offset(0))
    found: dict[TopicPartition, list[bytes | None]] = {place: [] for place in places}
    paused: list[TopicPartition] = []

    def turn() -> bool:
        nonlocal paused
        for run in member.consumer.poll(7, 0.05):
            assert run.tp not in paused
            found[run.tp] += run.values
        member.consumer.resume(paused)
        paused = [max(places, key=lambda place: len(found[place]))]
        member.consumer.pause(paused)
        return all(len(values) >= 100 for values in found.values())

    eventually(turn)
    assert found == {places[0]: values, places[1]: values}
    member.consumer.close()


def test_a_consumer_outside_of_the_log_says_so(backend: Backend, topic: str) -> None:
    filled(backend.log, tp(topic, 0), 10)
    backend.log.admin().delete_records({tp(topic, 0): Offset(5)})
    member = Member(backend.log, topic, 0, [topic])
    settle(member, shares=[2])
    member.consumer.start(tp(topic, 0), Offset(2))
    with pytest.raises(OffsetsLost, match=topic):
        eventually(lambda: member.poll() and None)
    member.consumer.close()


def test_a_subscribed_topic_that_is_missing_is_an_error(backend: Backend) -> None:
    missing = unique("missing")
    member = Member(backend.log, missing, 0, [missing])
    with pytest.raises(TopicError, match=missing):
        eventually(lambda: member.poll() or None)
    member.consumer.close()


def test_a_subscribed_topic_that_is_deleted_is_an_error(backend: Backend, topic: str) -> None:
    member = Member(backend.log, topic, 0, [topic])
    settle(member, shares=[2])
    for place in member.owned:
        member.consumer.start(place, Offset(0))
    backend.log.admin().delete([topic])
    with pytest.raises(TopicError, match=topic):
        eventually(lambda: member.poll() or None)
    member.consumer.close()


def test_the_end_is_known_from_fetching(backend: Backend, topic: str) -> None:
    filled(backend.log, tp(topic, 0), 30)
    member = Member(backend.log, topic, 0, [topic])
    settle(member, shares=[2])
    assert member.consumer.end(tp(topic, 0)) is None
    member.consumer.start(tp(topic, 0), Offset(0))
    read_from(member.consumer, 10)
    assert member.consumer.end(tp(topic, 0)) == 30
    read_from(member.consumer, 20)
    eventually(lambda: member.poll() == [] and member.consumer.end(tp(topic, 0)) == 30)
    member.consumer.close()


# --- topics ------------------------------------------------------------------------------------------------------


def test_a_topic_is_made_once_and_described(backend: Backend) -> None:
    admin, name = backend.log.admin(), unique("topic")
    made = admin.create(name, 3, {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"})
    assert made.partitions == 3
    assert admin.create(name, 3, {}) == made
    assert admin.topics([name, unique("missing")]) == {name: made}
    assert name in admin.topics()
    assert not [found for found in admin.topics() if found.startswith("__")]
    config = admin.config(name)
    assert (config["retention.ms"], config["message.timestamp.type"]) == ("-1", "LogAppendTime")
    assert (config["cleanup.policy"], config["max.message.bytes"]) == ("delete", "1048588")


def test_a_topic_made_again_has_another_id(backend: Backend) -> None:
    admin, name = backend.log.admin(), unique("topic")
    first = admin.create(name, 1, {})
    admin.delete([name, unique("missing")])
    assert admin.topics([name]) == {}
    assert admin.create(name, 1, {}).topic_id != first.topic_id


def test_questions_about_a_missing_topic_are_topic_errors(backend: Backend) -> None:
    admin, missing = backend.log.admin(), unique("missing")
    with pytest.raises(TopicError, match=missing):
        admin.config(missing)
    with pytest.raises(TopicError, match=missing):
        admin.stable_ends([tp(missing, 0)])
    with pytest.raises(TopicError, match=missing):
        admin.delete_records({tp(missing, 0): Offset(0)})


def test_deleted_records_move_the_first_offset_and_never_back(backend: Backend, topic: str) -> None:
    admin, place = backend.log.admin(), tp(topic, 0)
    values = filled(backend.log, place, 10)
    admin.delete_records({place: Offset(6)})
    admin.delete_records({place: Offset(3)})
    assert admin.first_offsets([place]) == {place: 6}
    assert read(backend.log, place, start=6) == values[6:]
    with pytest.raises(OffsetsLost):
        admin.delete_records({place: Offset(100)})


def test_offsets_are_found_by_time(backend: Backend, topic: str) -> None:
    admin, place = backend.log.admin(), tp(topic, 0)
    now = backend.clock.wall_ms()
    producer = backend.log.producer(None)
    producer.init(TIMEOUT_S)
    producer.produce(topic, P0, [b"a", b"b", b"c"], times=[now, now + 10, now + 20])
    producer.flush(TIMEOUT_S)
    for time, offset in ((now - 5, 0), (now, 0), (now + 1, 1), (now + 20, 2), (now + 21, 3)):
        assert admin.offsets_at([place], time) == {place: offset}


def test_a_cluster_that_cannot_be_reached_is_unavailable(backend: Backend) -> None:
    process = backend.process()
    process.cut()
    with pytest.raises(LogUnavailable):
        process.log.producer(unique("tx")).init(0.5)
