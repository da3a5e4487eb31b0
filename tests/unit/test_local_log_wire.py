"""The seam for faults: every request of a client passes its wire, and one log may be shared by threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from streamcore.clock import SystemClock
from streamcore.errors import OutcomeUnknown, TransactionAborted
from streamcore.log.local import LocalLog
from streamcore.log.local.wire import Request
from streamcore.log.port import Committed, Membership, OffsetCommit
from streamcore.types import Offset, Partition, TopicPartition

T = TypeVar("T")
T0 = TopicPartition("t", Partition(0))
UNJOINED = Membership(-1, "", None, raw="g")


class FaultyWire:
    """Keeps the answers of `lose` from the client; `late` holds requests back, to be delivered by hand."""

    def __init__(self) -> None:
        self.lose: Request | None = None
        self.hold: Request | None = None
        self.held: list[Callable[[], object]] = []
        self.asked: list[Request] = []

    def call(self, request: Request, deliver: Callable[[], T]) -> T:
        self.asked.append(request)
        if request == self.hold:
            self.held.append(deliver)
            raise OutcomeUnknown(f"{request} was not answered")
        answer = deliver()
        if request == self.lose:
            raise OutcomeUnknown(f"the answer to {request} was lost")
        return answer

    def alive(self) -> bool:
        return True


@pytest.fixture
def log() -> LocalLog:
    log = LocalLog.memory(SystemClock())
    log.admin().create("t", 1, {})
    return log


def values(log: LocalLog) -> list[bytes | None]:
    return [v for run in log.reader({T0: Offset(0)}).poll(1_000, 0.0) for v in run.values]


def test_a_transaction_is_these_requests_in_this_order(log: LocalLog) -> None:
    wire = FaultyWire()
    producer = log.connect(wire).producer("p")
    producer.init(1)
    producer.begin()
    producer.produce("t", Partition(0), [b"a"])
    producer.flush(1)
    producer.send_offsets([OffsetCommit(T0, Offset(1), "")], UNJOINED, 1)
    producer.commit(1)
    assert wire.asked == [
        "InitProducerId",
        "Metadata",
        "AddPartitionsToTxn",
        "Produce",
        "AddOffsetsToTxn",
        "TxnOffsetCommit",
        "EndTxn",
    ]


def test_a_commit_whose_answer_is_lost_has_happened(log: LocalLog) -> None:
    wire = FaultyWire()
    producer = log.connect(wire).producer("p")
    producer.init(1)
    producer.begin()
    producer.produce("t", Partition(0), [b"a"])
    wire.lose = "EndTxn"
    with pytest.raises(OutcomeUnknown):
        producer.commit(1)
    assert values(log) == [b"a"]


def test_a_held_commit_reaches_the_next_transaction_and_splits_it(log: LocalLog) -> None:
    wire = FaultyWire()
    producer = log.connect(wire).producer("p")
    producer.init(1)
    producer.begin()
    producer.produce("t", Partition(0), [b"1"])
    producer.flush(1)
    wire.hold = "EndTxn"
    with pytest.raises(OutcomeUnknown):
        producer.commit(1)
    wire.hold = None
    producer.abort(1)  # what law 3 forbids
    producer.begin()
    producer.produce("t", Partition(0), [b"2"])
    producer.flush(1)
    wire.held.pop()()
    assert values(log) == [b"2"], "committed before its epoch was complete"
    producer.produce("t", Partition(0), [b"3"])
    with pytest.raises(TransactionAborted):
        producer.flush(1)


def test_held_offsets_overwrite_those_of_the_next_transaction(log: LocalLog) -> None:
    wire = FaultyWire()
    producer = log.connect(wire).producer("p")
    producer.init(1)
    producer.begin()
    wire.hold = "TxnOffsetCommit"
    with pytest.raises(OutcomeUnknown):
        producer.send_offsets([OffsetCommit(T0, Offset(1), "old")], UNJOINED, 1)
    wire.hold = None
    producer.abort(1)
    producer.begin()
    producer.send_offsets([OffsetCommit(T0, Offset(2), "new")], UNJOINED, 1)
    wire.held.pop()()
    producer.commit(1)
    assert log.admin().committed("g", [T0], 1) == {T0: Committed(Offset(1), "old")}


def test_threads_may_share_a_log_each_with_objects_of_its_own(log: LocalLog) -> None:
    per_thread = 2_000

    def produce(number: int) -> None:
        producer = log.producer(f"p{number}")
        producer.init(1)
        for start in range(0, per_thread, 100):
            producer.begin()
            producer.produce("t", Partition(0), [b"%d %d" % (number, n) for n in range(start, start + 100)])
            producer.commit(1)

    threads = [threading.Thread(target=produce, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    reader = log.reader({T0: Offset(0)})
    found: list[bytes | None] = []
    while len(found) < 3 * per_thread:
        runs = reader.poll(500, 10.0)
        assert runs, "nothing came for ten seconds"
        found += [v for run in runs for v in run.values]
    for thread in threads:
        thread.join()
    for number in range(3):
        mine = [v for v in found if v is not None and v.startswith(b"%d " % number)]
        assert mine == [b"%d %d" % (number, n) for n in range(per_thread)]
