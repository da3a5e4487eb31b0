"""Law 4: a request that got lost and was sent again may still arrive, and the old transaction protocol has no defence
within one producer's epoch (KAFKA-17754): it reaches the next transaction. A fresh producer is out of its reach.
"""

from __future__ import annotations

import pytest

from streamcore import limits
from streamcore.log.port import Committed, Membership, OffsetCommit
from streamcore.types import Offset, Partition
from tests.conformance.logs import TIMEOUT_S, Backend, Process, eventually, read, tp, unique

P0 = Partition(0)


@pytest.fixture
def topic(backend: Backend) -> str:
    name = unique("late")
    backend.log.admin().create(name, 1, {})
    return name


@pytest.fixture
def process(backend: Backend) -> Process:
    return backend.process()


def unjoined(process: Process, group: str) -> Membership:
    return process.log.consumer(group, f"{group}.0").membership()


def test_a_late_end_commits_the_next_transaction_before_its_time(
    backend: Backend, process: Process, topic: str
) -> None:
    place = tp(topic, 0)
    producer = process.log.producer(topic)
    producer.init(TIMEOUT_S)
    producer.begin()
    producer.produce(topic, P0, [b"first"])
    producer.flush(TIMEOUT_S)
    late = process.hold("EndTxn")
    begun = backend.clock.monotonic_s()
    producer.commit(TIMEOUT_S)
    assert (backend.clock.monotonic_s() - begun) * 1000 >= limits.SLOW_CALL_MS, "the engine can tell that it was slow"
    late.wait()
    producer.begin()
    producer.produce(topic, P0, [b"half"])
    producer.flush(TIMEOUT_S)
    late.deliver()
    eventually(lambda: read(backend.log, place) == [b"first", b"half"])
    producer.close()


def test_a_late_end_does_not_reach_a_fresh_producers_transaction(
    backend: Backend, process: Process, topic: str
) -> None:
    place = tp(topic, 0)
    producer = process.log.producer(topic)
    producer.init(TIMEOUT_S)
    producer.begin()
    producer.produce(topic, P0, [b"first"])
    producer.flush(TIMEOUT_S)
    late = process.hold("EndTxn")
    producer.commit(TIMEOUT_S)
    late.wait()
    fresh = process.log.producer(topic)
    fresh.init(TIMEOUT_S)
    fresh.begin()
    fresh.produce(topic, P0, [b"half"])
    fresh.flush(TIMEOUT_S)
    late.deliver()
    fresh.produce(topic, P0, [b"whole"])
    fresh.abort(TIMEOUT_S)
    eventually(lambda: backend.log.admin().stable_ends([place])[place] >= 4)
    assert read(backend.log, place) == [b"first"]


def test_late_offsets_overwrite_those_of_the_next_transaction(backend: Backend, process: Process, topic: str) -> None:
    place, group = tp(topic, 0), topic
    membership = unjoined(process, group)
    producer = process.log.producer(topic)
    producer.init(TIMEOUT_S)
    producer.begin()
    late = process.hold("TxnOffsetCommit")
    begun = backend.clock.monotonic_s()
    producer.send_offsets([OffsetCommit(place, Offset(1), "old")], membership, TIMEOUT_S)
    assert (backend.clock.monotonic_s() - begun) * 1000 >= limits.SLOW_CALL_MS, "the engine can tell that it was slow"
    late.wait()
    producer.commit(TIMEOUT_S)
    producer.begin()
    producer.send_offsets([OffsetCommit(place, Offset(2), "new")], membership, TIMEOUT_S)
    late.deliver()
    producer.commit(TIMEOUT_S)
    assert backend.log.admin().committed(group, [place], TIMEOUT_S) == {place: Committed(Offset(1), "old")}


def test_late_offsets_do_not_reach_a_fresh_producers_transaction(
    backend: Backend, process: Process, topic: str
) -> None:
    place, group = tp(topic, 0), topic
    membership = unjoined(process, group)
    producer = process.log.producer(topic)
    producer.init(TIMEOUT_S)
    producer.begin()
    late = process.hold("TxnOffsetCommit")
    producer.send_offsets([OffsetCommit(place, Offset(1), "old")], membership, TIMEOUT_S)
    late.wait()
    producer.commit(TIMEOUT_S)
    fresh = process.log.producer(topic)
    fresh.init(TIMEOUT_S)
    fresh.begin()
    fresh.send_offsets([OffsetCommit(place, Offset(2), "new")], membership, TIMEOUT_S)
    late.deliver()
    fresh.commit(TIMEOUT_S)
    assert backend.log.admin().committed(group, [place], TIMEOUT_S) == {place: Committed(Offset(2), "new")}
