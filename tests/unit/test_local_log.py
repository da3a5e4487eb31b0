"""Records, transactions and offsets of the local log: the same promises from memory and from a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcore import limits
from streamcore.errors import (
    LogUnavailable,
    MembershipChanged,
    OffsetsLost,
    ProducerFenced,
    StopError,
    TopicError,
    TransactionAborted,
)
from streamcore.log.local import LocalLog
from streamcore.log.port import Committed, Membership, OffsetCommit, Run
from streamcore.types import Offset, Partition, TopicPartition

UNJOINED = Membership(-1, "", None, raw="g")
T0 = TopicPartition("t", Partition(0))
T1 = TopicPartition("t", Partition(1))


class ManualClock:
    """Sleeping passes time at once."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def sleep_s(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "rocks"])
def log(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> Iterator[LocalLog]:
    log = LocalLog.memory(clock) if request.param == "memory" else LocalLog.open(tmp_path / "log", clock)
    yield log
    log.close()


def read(
    log: LocalLog, tp: TopicPartition = T0, start: int = 0, committed: bool = True
) -> list[tuple[int, bytes | None]]:
    reader = log.reader({tp: Offset(start)}, committed=committed)
    found: list[tuple[int, bytes | None]] = []
    while runs := reader.poll(1_000, 0.0):
        for run in runs:
            found += zip(run.offsets, run.values, strict=True)
    assert reader.ended() == {tp}
    return found


def commit_values(log: LocalLog, name: str, *values: bytes, tp: TopicPartition = T0) -> None:
    producer = log.producer(name)
    producer.init(1)
    producer.begin()
    producer.produce(tp.topic, tp.partition, values)
    producer.commit(1)


def test_a_marker_takes_an_offset_in_every_partition_touched(log: LocalLog) -> None:
    producer = log.producer("p")
    producer.init(1)
    producer.begin()
    producer.produce("t", T0.partition, [b"a", b"b"])
    producer.produce("t", T1.partition, [b"c"])
    producer.commit(1)
    producer.begin()
    producer.produce("t", T0.partition, [b"d"])
    producer.commit(1)
    assert read(log, T0) == [(0, b"a"), (1, b"b"), (3, b"d")]
    assert read(log, T1) == [(0, b"c")]
    assert log.admin().stable_ends([T0, T1]) == {T0: 5, T1: 2}


def test_an_open_transaction_holds_the_stable_end_back_for_everybody(log: LocalLog) -> None:
    commit_values(log, "first", b"a")
    slow, quick = log.producer("slow"), log.producer("quick")
    slow.init(1)
    slow.begin()
    slow.produce("t", T0.partition, [b"slow"])
    slow.flush(1)
    quick.init(1)
    quick.begin()
    quick.produce("t", T0.partition, [b"quick"])
    quick.commit(1)
    assert read(log) == [(0, b"a")]
    assert log.admin().stable_ends([T0]) == {T0: 2}
    assert read(log, committed=False) == [(0, b"a"), (2, b"slow"), (3, b"quick")]
    slow.commit(1)
    assert read(log) == [(0, b"a"), (2, b"slow"), (3, b"quick")]


def test_aborted_records_are_hidden_from_committed_readers_only(log: LocalLog) -> None:
    producer = log.producer("p")
    producer.init(1)
    for number in range(6):
        producer.begin()
        producer.produce("t", T0.partition, [b"%d" % number])
        producer.flush(1)
        producer.commit(1) if number % 2 else producer.abort(1)
    assert [v for _, v in read(log)] == [b"1", b"3", b"5"]
    assert [v for _, v in read(log, committed=False)] == [b"%d" % n for n in range(6)]


def test_a_reader_passes_the_markers_when_it_reaches_the_end(log: LocalLog) -> None:
    commit_values(log, "p", b"a")
    reader = log.reader({T0: Offset(0)})
    assert reader.ended() == frozenset()
    assert [r.offsets for r in reader.poll(10, 0.0)] == [[0]]
    assert reader.position(T0) == 2
    assert reader.ended() == {T0}


def test_what_was_queued_before_an_abort_is_never_seen(log: LocalLog) -> None:
    producer = log.producer("p")
    producer.init(1)
    producer.begin()
    producer.produce("t", T0.partition, [b"no"])
    producer.abort(1)
    producer.begin()
    receipt = producer.send(T0, b"yes")
    assert receipt.offset is None
    producer.flush(1)
    producer.commit(1)
    assert read(log) == [(receipt.offset, b"yes")]


def test_init_fences_the_older_producer_and_ends_its_transaction(log: LocalLog) -> None:
    older, newer = log.producer("p"), log.producer("p")
    older.init(1)
    older.begin()
    older.produce("t", T0.partition, [b"zombie"])
    older.flush(1)
    newer.init(1)
    assert read(log) == []
    assert log.admin().stable_ends([T0]) == {T0: 2}
    with pytest.raises(ProducerFenced):
        older.commit(1)
    with pytest.raises(ProducerFenced):
        older.abort(1)


def test_a_transaction_over_its_timeout_is_aborted_and_its_producer_fenced(log: LocalLog, clock: ManualClock) -> None:
    producer = log.producer("p")
    producer.init(1)
    producer.begin()
    producer.produce("t", T0.partition, [b"late"])
    producer.flush(1)
    clock.now_s += limits.TRANSACTION_TIMEOUT_MS / 1000 - 0.1
    assert log.broker.open_transactions() == ["p"]
    clock.now_s += 0.1
    assert log.admin().stable_ends([T0]) == {T0: 2}
    with pytest.raises(ProducerFenced):
        producer.commit(1)
    assert read(log) == []


def test_a_record_over_the_topic_s_bound_spoils_its_transaction(log: LocalLog) -> None:
    log.admin().create("t", 2, {"max.message.bytes": "1000"})
    producer = log.producer("p")
    producer.init(1)
    producer.begin()
    producer.produce("t", T0.partition, [b"x" * 2000])
    producer.produce("t", T1.partition, [b"fine"])
    with pytest.raises(TransactionAborted, match=r"max\.message\.bytes of 1000"):
        producer.flush(1)
    with pytest.raises(TransactionAborted):
        producer.commit(1)
    producer.abort(1)
    producer.begin()
    producer.produce("t", T0.partition, [b"fine"])
    producer.commit(1)
    assert [v for _, v in read(log)] == [b"fine"]
    assert read(log, T1) == []


def test_offsets_become_visible_with_their_transaction(log: LocalLog) -> None:
    commit_values(log, "in", b"a")
    producer = log.producer("p")
    producer.init(1)
    producer.begin()
    producer.send_offsets([OffsetCommit(T0, Offset(1), "meta")], UNJOINED, 1)
    assert log.admin().committed("g", [T0], 1, stable=False) == {}
    producer.commit(1)
    assert log.admin().committed("g", [T0, T1], 1) == {T0: Committed(Offset(1), "meta")}
    producer.begin()
    producer.send_offsets([OffsetCommit(T0, Offset(2), "never")], UNJOINED, 1)
    producer.abort(1)
    assert log.admin().committed("g", [T0], 1) == {T0: Committed(Offset(1), "meta")}


def test_committed_waits_for_undecided_offsets_of_the_partitions_asked_for(log: LocalLog, clock: ManualClock) -> None:
    log.admin().create("t", 2, {})
    producer = log.producer("p")
    producer.init(1)
    producer.begin()
    producer.send_offsets([OffsetCommit(T0, Offset(1), "")], UNJOINED, 1)
    began_s = clock.now_s
    with pytest.raises(LogUnavailable, match="undecided"):
        log.admin().committed("g", [T0], 2.0)
    assert clock.now_s - began_s == pytest.approx(2.0)
    assert log.admin().committed("g", [T1], 2.0) == {}
    assert log.admin().committed("g", [T0], 60.0) == {}, "the transaction timeout has decided it"


def test_a_delayed_end_decides_the_next_transaction(log: LocalLog) -> None:
    producer = log.producer("p")
    producer.init(1)
    producer.begin()
    producer.produce("t", T0.partition, [b"first"])
    producer.commit(1)
    producer.begin()
    producer.produce("t", T0.partition, [b"half"])
    producer.flush(1)
    log.broker.deliver_end_txn(1, 0, True)
    assert [v for _, v in read(log)] == [b"first", b"half"]
    producer.produce("t", T0.partition, [b"other half"])
    with pytest.raises(TransactionAborted):
        producer.flush(1)
    with pytest.raises(ProducerFenced):
        producer.abort(1)


def test_delayed_offsets_land_in_the_next_transaction(log: LocalLog) -> None:
    log.admin().create("t", 1, {})
    producer = log.producer("p")
    producer.init(1)
    for offset in (1, 2):
        producer.begin()
        producer.send_offsets([OffsetCommit(T0, Offset(offset), str(offset))], UNJOINED, 1)
        if offset == 2:
            log.broker.deliver_txn_offsets(1, 0, "g", [OffsetCommit(T0, Offset(1), "1")], UNJOINED)
        producer.commit(1)
    assert log.admin().committed("g", [T0], 1) == {T0: Committed(Offset(1), "1")}


def test_a_repeated_end_is_answered_alike_and_its_opposite_refused(log: LocalLog) -> None:
    commit_values(log, "p", b"a")
    log.broker.deliver_end_txn(1, 0, True)
    with pytest.raises(ProducerFenced, match="committed and cannot be aborted"):
        log.broker.deliver_end_txn(1, 0, False)


def test_deleted_records_are_gone_and_positions_below_are_lost(log: LocalLog) -> None:
    producer = log.producer(None)
    producer.init(1)
    producer.produce("t", T0.partition, [b"%d" % n for n in range(10)])
    producer.produce("t", T0.partition, [b"10"])
    producer.flush(1)
    admin = log.admin()
    admin.delete_records({T0: Offset(4)})
    admin.delete_records({T0: Offset(2)})
    assert admin.first_offsets([T0]) == {T0: 4}
    assert [o for o, _ in read(log, start=4)] == list(range(4, 11))
    for position in (3, 12):
        with pytest.raises(OffsetsLost, match=r"t\[0\]"):
            log.reader({T0: Offset(position)}).poll(10, 0.0)
    with pytest.raises(OffsetsLost):
        admin.delete_records({T0: Offset(12)})
    admin.delete_records({T0: Offset(11)})
    assert read(log, start=11) == []


def test_a_recreated_topic_is_another_one(log: LocalLog) -> None:
    commit_values(log, "p", b"old")
    admin = log.admin()
    admin.set_committed("g", [OffsetCommit(T0, Offset(1), "")])
    before = admin.topics(["t"])["t"]
    admin.delete(["t", "never was"])
    assert admin.topics() == {}
    with pytest.raises(TopicError):
        log.reader({T0: Offset(0)}).poll(10, 0.0)
    after = admin.create("t", 2, {})
    assert after.topic_id != before.topic_id
    assert admin.create("t", 9, {}) == after
    assert read(log) == []
    assert admin.committed("g", [T0], 1) == {}


def test_times_are_the_producer_s_or_the_log_s_as_the_topic_says(log: LocalLog, clock: ManualClock) -> None:
    log.admin().create("log", 1, {"message.timestamp.type": "LogAppendTime"})
    producer = log.producer(None)
    producer.init(1)
    for topic in ("t", "log"):
        producer.produce(topic, Partition(0), [b"a", b"b"], times=[5, 7])
    producer.flush(1)

    def times(topic: str) -> list[int]:
        tp = TopicPartition(topic, Partition(0))
        return [t for run in log.reader({tp: Offset(0)}).poll(10, 0.0) for t in run.times]

    assert times("t") == [5, 7]
    assert times("log") == [clock.wall_ms()] * 2
    at = log.admin().offsets_at
    assert [at([T0], time)[T0] for time in (0, 6, 8)] == [0, 1, 2]


def test_a_time_too_far_ahead_of_the_log_s_clock_is_refused(log: LocalLog, clock: ManualClock) -> None:
    log.admin().create("t", 1, {})
    log.admin().create("lenient", 1, {"message.timestamp.after.max.ms": "7200000"})
    producer = log.producer(None)
    producer.init(1)
    ahead = [clock.wall_ms() + 3_600_001]
    producer.produce("lenient", Partition(0), [b"x"], times=ahead)
    producer.flush(1)
    producer.produce("t", T0.partition, [b"x"], times=ahead)
    with pytest.raises(TransactionAborted, match="3600001 ms ahead"):
        producer.flush(1)


@pytest.mark.parametrize(
    ("name", "partitions", "config"),
    [
        ("a b", 1, {}),
        ("..", 1, {}),
        ("t", 0, {}),
        ("t", 1, {"nonsense": "1"}),
        ("t", 1, {"max.message.bytes": "many"}),
        ("t", 1, {"message.timestamp.type": "Whenever"}),
    ],
)
def test_a_topic_that_a_broker_would_refuse_is_refused(
    log: LocalLog, name: str, partitions: int, config: dict[str, str]
) -> None:
    with pytest.raises(TopicError):
        log.admin().create(name, partitions, config)
    assert log.admin().topics() == {}


def test_a_search_by_time_finds_markers_too(log: LocalLog, clock: ManualClock) -> None:
    producer = log.producer("p")
    producer.init(1)
    for time, decide in ((1_000, producer.commit), (2_000, producer.abort), (3_000, None)):
        producer.begin()
        producer.produce("t", T0.partition, [b"x"], times=[time])
        producer.flush(1)
        if decide is not None:
            decide(1)
    at = log.admin().offsets_at
    assert [at([T0], time)[T0] for time in (500, 1_500, 3_500, clock.wall_ms() + 1)] == [0, 1, 1, 4]


def test_offsets_of_a_missing_topic_or_with_long_metadata_are_refused(log: LocalLog) -> None:
    log.admin().create("t", 1, {})
    producer = log.producer("p")
    producer.init(1)
    for commit in (OffsetCommit(T1, Offset(1), ""), OffsetCommit(T0, Offset(1), "m" * 5_000)):
        producer.begin()
        with pytest.raises(TransactionAborted):
            producer.send_offsets([commit], UNJOINED, 1)
        producer.abort(1)
    with pytest.raises(TopicError):
        log.admin().set_committed("g", [OffsetCommit(T1, Offset(1), "")])


def test_keys_choose_the_partition_as_java_s_client_does_and_records_without_one_spread(log: LocalLog) -> None:
    producer = log.producer(None)
    producer.init(1)
    producer.produce("t", None, [b"1", b"2", b"3"], keys=[b"21", b"foobar", b"21"])
    producer.produce("u", None, [b"%d" % n for n in range(10)])
    producer.flush(1)
    assert log.admin().stable_ends([TopicPartition("t", Partition(p)) for p in range(4)]) == {
        ("t", 0): 2,
        ("t", 1): 0,
        ("t", 2): 1,
        ("t", 3): 0,
    }
    ends = log.admin().stable_ends([TopicPartition("u", Partition(p)) for p in range(4)])
    assert sorted(ends.values()) == [2, 2, 3, 3]


def test_runs_carry_keys_and_headers_as_they_were_sent(log: LocalLog) -> None:
    producer = log.producer(None)
    producer.init(1)
    producer.produce("t", T0.partition, [b"a", None], keys=[None, b"k"], headers=[[("h", b"1")], None])
    producer.produce("t", T0.partition, [b"c"])
    producer.flush(1)
    (run,) = log.reader({T0: Offset(0)}, headers=True).poll(10, 0.0)
    assert (run.keys, run.values, run.headers) == (
        [None, b"k", None],
        [b"a", None, b"c"],
        [[("h", b"1")], None, None],
    )
    (run,) = log.reader({T0: Offset(0)}).poll(10, 0.0)
    assert run.headers is None


def test_large_batches_are_read_in_any_step_from_any_offset(log: LocalLog) -> None:
    producer = log.producer(None)
    producer.init(1)
    for start in range(0, 20_000, 5_000):
        producer.produce("t", T0.partition, [b"%d" % n for n in range(start, start + 5_000)])
    producer.flush(1)
    for start, step in ((0, 777), (0, 4_096), (4_095, 1), (12_345, 100_000)):
        reader = log.reader({T0: Offset(start)})
        got: list[int] = []
        while len(got) < 7_000 and (runs := reader.poll(step, 0.0)):
            assert all(len(run) <= step for run in runs)
            got += [o for run in runs for o in run.offsets]
        assert got == list(range(start, start + len(got)))


def test_max_records_bounds_a_poll_over_all_partitions_and_each_has_its_turn(log: LocalLog) -> None:
    producer = log.producer(None)
    producer.init(1)
    producer.produce("t", T0.partition, [b"x"] * 10)
    producer.produce("t", T1.partition, [b"y"] * 10)
    producer.flush(1)
    reader = log.reader({T0: Offset(0), T1: Offset(0)})
    seen: list[list[tuple[TopicPartition, int]]] = []
    while runs := reader.poll(4, 0.0):
        seen.append([(run.tp, len(run)) for run in runs])
    assert seen[:4] == [[(T0, 4)], [(T1, 4)], [(T0, 4)], [(T1, 4)]]
    assert reader.ended() == {T0, T1}


def test_no_topic_appears_where_that_is_off(clock: ManualClock) -> None:
    log = LocalLog.memory(clock, auto_create_partitions=None)
    producer = log.producer("p")
    producer.init(1)
    producer.begin()
    with pytest.raises(TopicError, match="does not exist"):
        producer.produce("t", None, [b"x"])
    producer.produce("t", T0.partition, [b"x"])
    with pytest.raises(TransactionAborted, match="does not exist"):
        producer.commit(1)
    assert log.admin().topics() == {}


def test_offsets_can_be_set_and_groups_deleted_only_while_nobody_is_in_them(log: LocalLog) -> None:
    class Quiet:
        def assigned(self, tps: list[TopicPartition]) -> None: ...
        def revoked(self, tps: list[TopicPartition]) -> None: ...
        def lost(self, tps: list[TopicPartition]) -> None: ...

    admin = log.admin()
    admin.create("t", 4, {})
    admin.set_committed("g", [OffsetCommit(T0, Offset(3), "m")])
    assert admin.groups() == ["g"]
    consumer = log.consumer("g", "g.0")
    consumer.subscribe(["t"], Quiet())
    consumer.poll(1, 0.0)
    with pytest.raises(StopError, match=r"has members \(g\.0\)"):
        admin.set_committed("g", [])
    with pytest.raises(StopError, match=r"has members \(g\.0\)"):
        admin.delete_group("g")
    consumer.close(leave=True)
    admin.delete_group("g")
    admin.delete_group("g")
    assert admin.groups() == []
    assert admin.committed("g", [T0], 1) == {}


def test_stale_membership_is_refused_and_spoils_the_transaction(log: LocalLog) -> None:
    producer = log.producer("p")
    producer.init(1)
    producer.begin()
    with pytest.raises(MembershipChanged):
        producer.send_offsets([OffsetCommit(T0, Offset(1), "")], Membership(3, "who", None, raw="g"), 1)
    with pytest.raises(TransactionAborted):
        producer.commit(1)
    producer.abort(1)


def test_a_producer_without_an_id_writes_outside_of_transactions(log: LocalLog) -> None:
    producer = log.producer(None)
    producer.init(1)
    receipt = producer.send(T0, b"v", b"k")
    producer.flush(1)
    assert receipt.offset == 0
    assert read(log) == [(0, b"v")]


def test_a_position_at_the_end_waits_and_sees_what_comes(log: LocalLog, clock: ManualClock) -> None:
    commit_values(log, "p", b"a")
    reader = log.reader({T0: Offset(2)})
    began_s = clock.now_s
    assert reader.poll(10, 0.5) == []
    assert clock.now_s - began_s == pytest.approx(0.5)
    commit_values(log, "p", b"b")
    runs: list[Run] = reader.poll(10, 0.5)
    assert [run.offsets for run in runs] == [[2]]
