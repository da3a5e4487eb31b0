"""A worker whose slot was taken while it slept, as the client library leaves it."""

from __future__ import annotations

import pytest

from streamcore.errors import MembershipChanged, SlotTaken
from streamcore.log.kafka import KafkaLog
from streamcore.types import Offset, Partition
from tests.conformance.logs import TIMEOUT_S, Member, eventually, settle, tp, unique


def test_a_zombie_that_goes_back_before_it_has_heard_of_its_heir_is_told_that_its_membership_is_over(
    bootstrap: str,
) -> None:
    """It wakes in the middle of an epoch, cannot commit it, and goes back to the last commit, without a poll between:
    the client has heard of the heir by then, and reads nothing any more."""
    log = KafkaLog(bootstrap)
    topic = unique("zombie")
    log.admin().create(topic, 1, {})
    producer = log.producer(None)
    producer.init(TIMEOUT_S)
    producer.produce(topic, Partition(0), [b"before", b"after"])
    producer.flush(TIMEOUT_S)
    producer.close()
    zombie = Member(log, topic, 0, [topic])
    settle(zombie, shares=[1])
    zombie.consumer.start(tp(topic, 0), Offset(1))
    heir = Member(log, topic, 0, [topic])
    settle(heir, shares=[1])

    def refused() -> bool:
        heir.poll()
        try:
            zombie.consumer.start(tp(topic, 0), Offset(1))
        except MembershipChanged:
            return True
        return False

    eventually(refused)
    with pytest.raises(SlotTaken):
        eventually(zombie.poll)
    zombie.consumer.close()
    heir.consumer.close()
