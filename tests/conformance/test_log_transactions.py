"""The log port: what a transaction decides, and who may decide it."""

from __future__ import annotations

import pytest

from streamcore.errors import LogUnavailable, MembershipChanged, ProducerFenced, TransactionAborted
from streamcore.log.port import Committed, Log, OffsetCommit, Producer
from streamcore.types import Offset, Partition, TopicPartition
from tests.conformance.logs import TIMEOUT_S, Backend, Member, eventually, read, settle, tp, unique

P0 = Partition(0)


@pytest.fixture
def topic(backend: Backend) -> str:
    name = unique("tx")
    backend.log.admin().create(name, 2, {})
    return name


@pytest.fixture
def group() -> str:
    return unique("group")


def started(log: Log, transactional_id: str) -> Producer:
    producer = log.producer(transactional_id)
    producer.init(TIMEOUT_S)
    return producer


def decided(log: Log, place: TopicPartition, at_least: int) -> Offset:
    """The stable end, once the markers of a commit are in the log: they follow its answer."""

    def end() -> Offset | None:
        found = log.admin().stable_ends([place])[place]
        return found if found >= at_least else None

    return eventually(end)


def test_records_and_offsets_with_metadata_are_there_together_at_the_commit(
    backend: Backend, topic: str, group: str
) -> None:
    admin, place = backend.log.admin(), tp(topic, 0)
    producer = started(backend.log, group)
    member = Member(backend.log, group, 0, [topic])
    settle(member, shares=[2])
    producer.begin()
    producer.produce(topic, P0, [b"a", b"b"])
    producer.flush(TIMEOUT_S)
    producer.send_offsets([OffsetCommit(place, Offset(7), "facts")], member.consumer.membership(), TIMEOUT_S)
    assert read(backend.log, place) == []
    assert admin.stable_ends([place]) == {place: 0}
    assert admin.committed(group, [place], TIMEOUT_S, stable=False) == {}
    producer.commit(TIMEOUT_S)
    assert admin.committed(group, [place, tp(topic, 1)], TIMEOUT_S) == {place: Committed(Offset(7), "facts")}
    assert decided(backend.log, place, 3) == 3
    assert read(backend.log, place) == [b"a", b"b"]
    member.consumer.close()


def test_an_aborted_transaction_leaves_nothing_but_a_gap(backend: Backend, topic: str, group: str) -> None:
    place = tp(topic, 0)
    producer = started(backend.log, group)
    producer.begin()
    producer.produce(topic, P0, [b"gone"])
    producer.flush(TIMEOUT_S)
    producer.send_offsets(
        [OffsetCommit(place, Offset(1), "gone")], backend.log.consumer(group, "x").membership(), TIMEOUT_S
    )
    producer.abort(TIMEOUT_S)
    producer.begin()
    producer.produce(topic, P0, [b"kept"])
    producer.commit(TIMEOUT_S)
    decided(backend.log, place, 4)
    assert read(backend.log, place) == [b"kept"]
    assert read(backend.log, place, committed=False) == [b"gone", b"kept"]
    assert backend.log.admin().committed(group, [place], TIMEOUT_S) == {}


def test_an_open_transaction_holds_back_everything_behind_it(backend: Backend, topic: str, group: str) -> None:
    place = tp(topic, 0)
    first, second = started(backend.log, f"{group}.0"), started(backend.log, f"{group}.1")
    first.begin()
    first.produce(topic, P0, [b"slow"])
    first.flush(TIMEOUT_S)
    second.begin()
    second.produce(topic, P0, [b"quick"])
    second.commit(TIMEOUT_S)
    assert backend.log.admin().stable_ends([place]) == {place: 0}
    assert read(backend.log, place) == []
    assert read(backend.log, place, committed=False) == [b"slow", b"quick"]
    first.commit(TIMEOUT_S)
    decided(backend.log, place, 4)
    assert read(backend.log, place) == [b"slow", b"quick"]


@pytest.mark.parametrize("kept", [True, False])
def test_behind_an_open_transaction_a_reader_does_not_come_to_the_end_until_it_is_decided(
    backend: Backend, topic: str, group: str, kept: bool
) -> None:
    place = tp(topic, 0)
    first, second = started(backend.log, f"{group}.0"), started(backend.log, f"{group}.1")
    first.begin()
    first.produce(topic, P0, [b"slow"])
    first.flush(TIMEOUT_S)
    second.begin()
    second.produce(topic, P0, [b"quick"])
    second.commit(TIMEOUT_S)
    admin = backend.log.admin()
    end = eventually(lambda: found if (found := admin.ends([place])[place]) >= 3 else None)
    assert (end, admin.stable_ends([place])[place]) == (3, 0)
    reader = backend.log.reader({place: Offset(0)})
    eventually(lambda: (not reader.poll(10, 0.1) and place in reader.ended()) or None)
    assert reader.position(place) == 0
    if kept:
        first.commit(TIMEOUT_S)
    else:
        first.abort(TIMEOUT_S)
    found: list[bytes | None] = []

    def passed() -> bool | None:
        for run in reader.poll(10, 0.1):
            found.extend(run.values)
        return reader.position(place) >= end or None

    eventually(passed)
    assert found == ([b"slow", b"quick"] if kept else [b"quick"])
    reader.close()


def test_nothing_but_an_aborted_transaction_is_passed_too(backend: Backend, topic: str, group: str) -> None:
    place = tp(topic, 0)
    reader = backend.log.reader({place: Offset(0)})
    eventually(lambda: (not reader.poll(10, 0.1) and place in reader.ended()) or None)
    producer = started(backend.log, group)
    producer.begin()
    producer.produce(topic, P0, [b"gone"])
    producer.flush(TIMEOUT_S)
    end = backend.log.admin().ends([place])[place]
    producer.abort(TIMEOUT_S)
    assert end == 1
    eventually(lambda: (not reader.poll(10, 0.1) and reader.position(place) >= end) or None)
    reader.close()


def test_committed_waits_while_a_transaction_with_offsets_is_undecided(
    backend: Backend, topic: str, group: str
) -> None:
    admin, place = backend.log.admin(), tp(topic, 0)
    unjoined = backend.log.consumer(group, f"{group}.0").membership()
    producer = started(backend.log, group)
    producer.begin()
    producer.send_offsets([OffsetCommit(place, Offset(1), "one")], unjoined, TIMEOUT_S)
    producer.commit(TIMEOUT_S)
    assert admin.committed(group, [place], TIMEOUT_S) == {place: Committed(Offset(1), "one")}
    producer.begin()
    producer.send_offsets([OffsetCommit(place, Offset(2), "two")], unjoined, TIMEOUT_S)
    with pytest.raises(LogUnavailable, match=r"undecided|to be decided"):
        admin.committed(group, [place], 0.2)
    assert admin.committed(group, [place], TIMEOUT_S, stable=False) == {place: Committed(Offset(1), "one")}
    assert admin.committed(group, [tp(topic, 1)], TIMEOUT_S) == {}, "others are not held up"
    producer.abort(TIMEOUT_S)
    assert admin.committed(group, [place], TIMEOUT_S) == {place: Committed(Offset(1), "one")}


def test_a_new_producer_of_the_same_id_fences_the_old_and_ends_its_transaction(
    backend: Backend, topic: str, group: str
) -> None:
    place = tp(topic, 0)
    old = started(backend.log, group)
    old.begin()
    old.produce(topic, P0, [b"zombie"])
    old.flush(TIMEOUT_S)
    new = started(backend.log, group)
    new.begin()
    new.produce(topic, P0, [b"heir"])
    new.commit(TIMEOUT_S)
    with pytest.raises(ProducerFenced):
        old.commit(TIMEOUT_S)
    decided(backend.log, place, 4)
    assert read(backend.log, place) == [b"heir"]


def test_a_fenced_producer_writes_nothing_more(backend: Backend, topic: str, group: str) -> None:
    old = started(backend.log, group)
    started(backend.log, group)
    old.begin()
    with pytest.raises((ProducerFenced, TransactionAborted)):
        old.produce(topic, P0, [b"zombie"])
        old.flush(TIMEOUT_S)
        old.commit(TIMEOUT_S)
    assert read(backend.log, tp(topic, 0)) == []


def test_a_producer_fenced_while_messages_are_under_way_is_told_that_it_is_fenced(
    backend: Backend, topic: str, group: str
) -> None:
    """The client raises a fatal error from whichever callback happens to run."""
    old = started(backend.log, group)
    old.begin()
    old.produce(topic, P0, [b"before"])
    old.flush(TIMEOUT_S)
    started(backend.log, group)
    with pytest.raises(ProducerFenced):
        old.produce(topic, Partition(1), [b"zombie"] * 1_000)
        for _ in range(50):
            old.send(tp(topic, 1), b"frame")
        old.flush(TIMEOUT_S)
        old.commit(TIMEOUT_S)
    old.close()
    assert read(backend.log, tp(topic, 1)) == []


def test_init_ends_the_transaction_of_a_producer_that_was_dropped(backend: Backend, topic: str, group: str) -> None:
    place = tp(topic, 0)
    dropped = started(backend.log, group)
    dropped.begin()
    dropped.produce(topic, P0, [b"half"])
    dropped.flush(TIMEOUT_S)
    dropped.close()
    assert backend.log.admin().stable_ends([place]) == {place: 0}
    started(backend.log, group)
    decided(backend.log, place, 2)
    assert read(backend.log, place) == []


def test_an_unjoined_consumers_membership_is_accepted(backend: Backend, topic: str, group: str) -> None:
    """Which is why the engine looks at the generation itself."""
    place = tp(topic, 0)
    membership = backend.log.consumer(group, f"{group}.0").membership()
    assert membership.generation == -1
    assert membership.member_id == ""
    producer = started(backend.log, group)
    producer.begin()
    producer.send_offsets([OffsetCommit(place, Offset(3), "")], membership, TIMEOUT_S)
    producer.commit(TIMEOUT_S)
    assert backend.log.admin().committed(group, [place], TIMEOUT_S) == {place: Committed(Offset(3), "")}


def test_a_stale_generation_is_refused_and_the_transaction_can_be_aborted(
    backend: Backend, topic: str, group: str
) -> None:
    place = tp(topic, 0)
    first = Member(backend.log, group, 0, [topic])
    settle(first, shares=[2])
    stale = first.consumer.membership()
    second = Member(backend.log, group, 1, [topic])
    settle(first, second, shares=[1, 1])
    assert first.consumer.membership().generation > stale.generation
    producer = started(backend.log, f"{group}.0")
    producer.begin()
    with pytest.raises(MembershipChanged):
        producer.send_offsets([OffsetCommit(place, Offset(1), "")], stale, TIMEOUT_S)
    producer.abort(TIMEOUT_S)
    assert backend.log.admin().committed(group, [place], TIMEOUT_S) == {}
    for member in (first, second):
        member.consumer.close()


def test_ownership_is_not_checked(backend: Backend, topic: str, group: str) -> None:
    """Any member commits any partition's offset: the engine checks its assignment itself."""
    first, second = Member(backend.log, group, 0, [topic]), Member(backend.log, group, 1, [topic])
    settle(first, second, shares=[1, 1])
    others = second.owned[0]
    producer = started(backend.log, f"{group}.0")
    producer.begin()
    producer.send_offsets([OffsetCommit(others, Offset(9), "not mine")], first.consumer.membership(), TIMEOUT_S)
    producer.commit(TIMEOUT_S)
    assert backend.log.admin().committed(group, [others], TIMEOUT_S) == {others: Committed(Offset(9), "not mine")}
    for member in (first, second):
        member.consumer.close()


def test_a_record_that_the_topic_refuses_fails_its_transaction(backend: Backend, group: str) -> None:
    narrow = unique("narrow")
    backend.log.admin().create(narrow, 1, {"max.message.bytes": "10000"})
    producer = started(backend.log, group)
    producer.begin()
    producer.produce(narrow, P0, [b"small"])
    producer.flush(TIMEOUT_S)
    producer.produce(narrow, P0, [b"x" * 20_000])
    with pytest.raises(TransactionAborted, match=r"max\.message\.bytes"):
        producer.flush(TIMEOUT_S)
        producer.commit(TIMEOUT_S)
    producer.abort(TIMEOUT_S)
    producer.close()
    decided(backend.log, tp(narrow, 0), 2)
    assert read(backend.log, tp(narrow, 0)) == []


def test_a_receipt_names_the_offset_after_the_flush(backend: Backend, topic: str, group: str) -> None:
    producer = started(backend.log, group)
    producer.begin()
    producer.produce(topic, Partition(1), [b"a", b"b", b"c"])
    receipt = producer.send(tp(topic, 1), b"frame", b"key")
    producer.flush(TIMEOUT_S)
    assert receipt.offset == 3
    producer.commit(TIMEOUT_S)


def test_a_transaction_without_anything_in_it_commits_and_aborts(backend: Backend, topic: str, group: str) -> None:
    producer = started(backend.log, group)
    producer.begin()
    producer.commit(TIMEOUT_S)
    producer.begin()
    producer.abort(TIMEOUT_S)
    producer.begin()
    producer.produce(topic, P0, [b"a"])
    producer.commit(TIMEOUT_S)
    decided(backend.log, tp(topic, 0), 2)
    assert read(backend.log, tp(topic, 0)) == [b"a"]
