"""What the simulator writes down of a run, for the judge."""

from __future__ import annotations

from random import Random

from streamcore.log.local.log import LocalLog
from streamcore.log.local.wire import DirectWire
from streamcore.log.port import Producer
from streamcore.testing.clock import ManualClock
from streamcore.testing.simulated.recorder import RecordingBroker
from streamcore.testing.simulated.scheduler import Scheduler
from streamcore.types import Offset, Partition, TopicPartition

PLACE = TopicPartition("job.journal.stage", Partition(0))


def test_what_is_trimmed_behind_an_open_transaction_is_judged_by_how_its_own_ends() -> None:
    """A transaction of a worker that sleeps holds back everything behind it from readers, and not from trimming."""
    broker = RecordingBroker(Scheduler("s"), "s", 1)
    log = LocalLog(broker, ManualClock(), DirectWire(), Random(1))

    def started(name: str) -> Producer:
        producer = log.producer(name)
        producer.init(1.0)
        producer.begin()
        return producer

    log.admin().create(PLACE.topic, 1, {})
    sleeping, awake, failing = started("sleeping"), started("awake"), started("failing")
    for producer, value in ((sleeping, b"late"), (failing, b"undone"), (awake, b"kept")):
        producer.produce(PLACE.topic, PLACE.partition, [value])
        producer.flush(1.0)
    awake.commit(1.0)
    failing.abort(1.0)
    log.admin().delete_records({PLACE: Offset(3)})
    assert [chunk.values for chunk, _, _ in broker.trimmed(PLACE)] == [[b"kept"]]
    sleeping.commit(1.0)
    assert [chunk.values for chunk, _, _ in broker.trimmed(PLACE)] == [[b"late"], [b"kept"]]
