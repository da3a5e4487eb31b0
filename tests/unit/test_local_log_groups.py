"""Groups of the local log: eager rebalances, static members, sessions, and what the broker checks of a commit."""

from __future__ import annotations

import pytest

from streamcore import limits
from streamcore.errors import MembershipChanged, SlotTaken, TopicError
from streamcore.log.local import LocalLog
from streamcore.log.local.assignor import range_assign
from streamcore.log.local.consumer import LocalConsumer
from streamcore.log.port import Committed, Membership, OffsetCommit
from streamcore.types import Offset, Partition, TopicPartition

SESSION_S = limits.SESSION_TIMEOUT_MS / 1000


def tp(partition: int, topic: str = "t") -> TopicPartition:
    return TopicPartition(topic, Partition(partition))


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def sleep_s(self, seconds: float) -> None:
        self.now_s += seconds


class Worker:
    """A process with one consumer that starts everything it is assigned at 0, and remembers what it was told."""

    def __init__(self, log: LocalLog, slot: int, topics: tuple[str, ...] = ("t",)) -> None:
        self.log = log.connect()
        self.told: list[tuple[str, list[TopicPartition]]] = []
        self.consumer: LocalConsumer = self.log.consumer("g", f"g.{slot}")
        self.consumer.subscribe(topics, self)
        self.generations: list[int] = []

    def assigned(self, tps: list[TopicPartition]) -> None:
        self.told.append(("assigned", tps))
        self.generations.append(self.consumer.membership().generation)

    def revoked(self, tps: list[TopicPartition]) -> None:
        self.told.append(("revoked", tps))
        self.generations.append(self.consumer.membership().generation)

    def lost(self, tps: list[TopicPartition]) -> None:
        self.told.append(("lost", tps))

    def poll(self) -> list[tuple[str, list[TopicPartition]]]:
        """What this poll told the listener."""
        before = len(self.told)
        self.consumer.poll(100, 0.0)
        return self.told[before:]

    def commit(self, offset: int) -> None:
        self.consumer.commit([OffsetCommit(tp(0), Offset(offset), "")], 1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log(clock: ManualClock) -> LocalLog:
    return LocalLog.memory(clock)


ALL = [tp(p) for p in range(4)]


def pair(log: LocalLog) -> tuple[Worker, Worker]:
    """Two workers, settled: two partitions each."""
    first = Worker(log, 0)
    first.poll()
    second = Worker(log, 1)
    second.poll()
    first.poll()
    second.poll()
    return first, second


def test_the_first_member_gets_everything(log: LocalLog) -> None:
    assert Worker(log, 0).poll() == [("assigned", ALL)]


def test_a_second_member_has_all_revoked_and_assigned_anew_in_a_higher_generation(log: LocalLog) -> None:
    first = Worker(log, 0)
    first.poll()
    second = Worker(log, 1)
    assert second.poll() == [], "it waits for the first to join again"
    assert first.poll() == [("revoked", ALL), ("assigned", ALL[:2])]
    assert first.generations == [1, 1, 2], "the epoch is committed under the old generation"
    assert second.poll() == [("assigned", ALL[2:])]
    assert {m.instance_id: m.assignment for m in log.admin().members("g")} == {
        "g.0": frozenset(ALL[:2]),
        "g.1": frozenset(ALL[2:]),
    }


def test_commits_pass_while_revoking_and_not_after_the_generation_rose(log: LocalLog) -> None:
    first, second = Worker(log, 0), Worker(log, 1)
    first.poll()
    second.poll()
    first.commit(1)
    old = first.consumer.membership()
    first.poll()
    with pytest.raises(MembershipChanged, match="generation 2, and the commit is of 1"):
        log.broker.commit_offsets("g", [], old)
    first.commit(2)
    assert log.admin().committed("g", [tp(0)], 1) == {tp(0): Committed(Offset(2), "")}


def test_a_static_member_that_comes_back_keeps_its_partitions_without_a_rebalance(log: LocalLog) -> None:
    first, second = pair(log)
    first.log.suspend()
    reborn = Worker(log, 0)
    assert reborn.poll() == [("assigned", ALL[:2])]
    assert second.poll() == []
    assert reborn.consumer.membership().generation == second.consumer.membership().generation


def test_the_zombie_of_a_slot_is_fenced_at_its_next_poll_and_stays_so(log: LocalLog) -> None:
    zombie = Worker(log, 0)
    zombie.poll()
    Worker(log, 0).poll()
    for _ in range(2):
        with pytest.raises(SlotTaken, match=r"g\.0"):
            zombie.poll()
    with pytest.raises(MembershipChanged):
        zombie.commit(1)
    zombie.consumer.close()
    assert zombie.told == [("assigned", ALL)]


def test_a_paused_member_loses_its_partitions_after_the_session_timeout(log: LocalLog, clock: ManualClock) -> None:
    first, second = pair(log)
    first.log.suspend()
    clock.now_s += SESSION_S - 0.1
    assert second.poll() == []
    clock.now_s += 0.1
    assert second.poll() == [("revoked", ALL[2:]), ("assigned", ALL)]
    first.log.wake()
    assert first.poll() == [("lost", ALL[:2])]
    assert second.poll() == [("revoked", ALL), ("assigned", ALL[2:])]
    assert first.poll() == [("assigned", ALL[:2])]


def test_a_live_process_keeps_its_session_however_long_it_does_not_poll(log: LocalLog, clock: ManualClock) -> None:
    first, second = pair(log)
    clock.now_s += 10 * SESSION_S
    assert second.poll() == []
    assert first.poll() == []


def test_waking_late_is_noticed_even_if_nobody_asked_meanwhile(log: LocalLog, clock: ManualClock) -> None:
    only = Worker(log, 0)
    only.poll()
    only.log.suspend()
    clock.now_s += SESSION_S
    only.log.wake()
    assert only.poll() == [("lost", ALL), ("assigned", ALL)]


def test_a_closed_static_member_stays_until_its_session_ends(log: LocalLog, clock: ManualClock) -> None:
    first, second = pair(log)
    first.consumer.close()
    assert first.told[-1] == ("revoked", ALL[:2])
    assert second.poll() == []
    clock.now_s += SESSION_S
    assert second.poll() == [("revoked", ALL[2:]), ("assigned", ALL)]


def test_leaving_hands_over_at_once(log: LocalLog) -> None:
    first, second = pair(log)
    first.consumer.close(leave=True)
    assert second.poll() == [("revoked", ALL[2:]), ("assigned", ALL)]


def test_a_dead_member_holds_a_rebalance_up_for_its_session_and_no_longer(log: LocalLog, clock: ManualClock) -> None:
    first, second = pair(log)
    first.log.suspend()
    third = Worker(log, 2)
    third.poll()
    assert second.poll() == [("revoked", ALL[2:])]
    assert third.poll() == []
    clock.now_s += SESSION_S
    assert third.poll() == [("assigned", ALL[2:])]
    assert second.poll() == [("assigned", ALL[:2])]


def test_a_member_more_than_partitions_is_assigned_nothing(log: LocalLog) -> None:
    log.admin().create("one", 1, {})
    first = Worker(log, 0, ("one",))
    first.poll()
    second = Worker(log, 1, ("one",))
    second.poll()
    first.poll()
    assert second.poll() == [("assigned", [])]


def test_a_subscribed_topic_that_is_gone_is_an_error_of_the_poll(log: LocalLog) -> None:
    worker = Worker(log, 0)
    worker.poll()
    log.admin().delete(["t"])
    with pytest.raises(TopicError, match="topic t does not exist"):
        worker.poll()


def test_a_topic_with_another_number_of_partitions_is_assigned_anew(log: LocalLog) -> None:
    worker = Worker(log, 0)
    worker.poll()
    log.admin().delete(["t"])
    log.admin().create("t", 2, {})
    assert worker.poll() == [("revoked", ALL), ("assigned", ALL[:2])]


def test_an_unjoined_member_may_commit_in_a_transaction_and_ownership_is_not_checked(log: LocalLog) -> None:
    _, second = pair(log)
    producer = log.producer("p")
    producer.init(1)
    not_the_owner = second.consumer.membership()
    for offset, membership in ((5, Membership(-1, "", None, raw="g")), (6, not_the_owner)):
        producer.begin()
        producer.send_offsets([OffsetCommit(tp(0), Offset(offset), "")], membership, 1)
        producer.commit(1)
        assert log.admin().committed("g", [tp(0)], 1) == {tp(0): Committed(Offset(offset), "")}


def test_an_instance_id_that_is_no_member_is_refused_while_there_are_members(log: LocalLog) -> None:
    outsider = log.connect().consumer("g", "g.9").membership()
    assert (outsider.generation, outsider.instance_id) == (-1, "g.9")
    producer = log.producer("p")
    producer.init(1)
    log.admin().create("t", 4, {})
    producer.begin()
    producer.send_offsets([OffsetCommit(tp(0), Offset(1), "")], outsider, 1)
    pair(log)
    with pytest.raises(MembershipChanged, match="does not know"):
        producer.send_offsets([OffsetCommit(tp(0), Offset(1), "")], outsider, 1)


def test_consumers_fetch_only_what_was_started_and_nothing_from_before_a_seek(log: LocalLog) -> None:
    producer = log.producer(None)
    producer.init(1)
    producer.produce("t", Partition(0), [b"%d" % n for n in range(100)])
    producer.flush(1)
    worker = Worker(log, 0)
    worker.poll()
    consumer = worker.consumer
    assert consumer.poll(10, 0.0) == []
    assert consumer.end(tp(0)) is None
    consumer.start(tp(0), Offset(0))
    assert [r.offsets for r in consumer.poll(3, 0.0)] == [[0, 1, 2]]
    assert consumer.end(tp(0)) == 100
    consumer.start(tp(0), Offset(50))
    assert [r.offsets for r in consumer.poll(2, 0.0)] == [[50, 51]]
    consumer.pause([tp(0)])
    assert consumer.poll(10, 0.0) == []
    consumer.resume([tp(0)])
    assert [r.offsets for r in consumer.poll(1, 0.0)] == [[52]]
    consumer.pause([tp(0)])
    consumer.start(tp(0), Offset(7))
    assert [r.offsets for r in consumer.poll(1, 0.0)] == [[7]]


def test_range_gives_consecutive_partitions_in_the_order_of_the_instance_ids() -> None:
    assigned = range_assign(
        {"m1": ["a", "b"], "m2": ["a", "b"], "m3": ["b"]},
        {"m1": "job.2", "m2": "job.1", "m3": "job.10"},
        {"a": 3, "b": 4},
    )
    assert assigned == {
        "m2": [tp(0, "a"), tp(1, "a"), tp(0, "b"), tp(1, "b")],
        "m1": [tp(2, "a"), tp(3, "b")],
        "m3": [tp(2, "b")],
    }
