"""The log port: who owns what. The classic group protocol with static members, told to a listener inside poll."""

from __future__ import annotations

import pytest

from streamcore.errors import MembershipChanged, SlotTaken, StopError
from streamcore.log.port import Committed, OffsetCommit
from streamcore.types import Offset
from tests.conformance.logs import TIMEOUT_S, Backend, Member, eventually, settle, tp, unique


@pytest.fixture
def topic(backend: Backend) -> str:
    name = unique("group")
    backend.log.admin().create(name, 4, {})
    return name


def test_a_first_member_gets_everything_and_knows_its_membership(backend: Backend, topic: str) -> None:
    member = Member(backend.log, topic, 0, [topic])
    settle(member, shares=[4])
    membership = member.consumer.membership()
    assert membership.generation >= 0
    assert membership.member_id != ""
    assert membership.instance_id == f"{topic}.0"
    (told,) = eventually(lambda: backend.log.admin().members(topic))
    assert (told.member_id, told.instance_id) == (membership.member_id, f"{topic}.0")
    assert told.assignment == {tp(topic, p) for p in range(4)}
    assert topic in backend.log.admin().groups()
    member.consumer.close()


def test_partitions_of_one_number_meet_in_one_member(backend: Backend, topic: str) -> None:
    other = unique("group")
    backend.log.admin().create(other, 4, {})
    members = [Member(backend.log, topic, slot, [topic, other]) for slot in range(2)]
    settle(*members, shares=[4, 4])
    for member in members:
        assert {p.partition for p in member.owned if p.topic == topic} == {
            p.partition for p in member.owned if p.topic == other
        }
        member.consumer.close()


def test_a_second_member_has_the_first_finish_before_it_lets_go(backend: Backend, topic: str) -> None:
    """Inside `revoked` the membership is still good for a commit."""
    producer = backend.log.producer(f"{topic}.0")
    producer.init(TIMEOUT_S)
    first = Member(backend.log, topic, 0, [topic])
    settle(first, shares=[4])

    def finish() -> None:
        producer.begin()
        producer.send_offsets([OffsetCommit(tp(topic, 0), Offset(5), "last")], first.consumer.membership(), TIMEOUT_S)
        producer.commit(TIMEOUT_S)

    first.during_revoked = finish
    second = Member(backend.log, topic, 1, [topic])
    settle(first, second, shares=[2, 2])
    assert first.events() == ["assigned", "revoked", "assigned"]
    assert second.events() == ["assigned"]
    committed = backend.log.admin().committed(topic, [tp(topic, 0)], TIMEOUT_S)
    assert committed == {tp(topic, 0): Committed(Offset(5), "last")}
    first.during_revoked = lambda: None
    for member in (first, second):
        member.consumer.close()


def test_close_has_the_member_finish(backend: Backend, topic: str) -> None:
    member = Member(backend.log, topic, 0, [topic])
    settle(member, shares=[4])
    member.consumer.close()
    assert member.events() == ["assigned", "revoked"]


def test_a_static_member_that_comes_back_finds_its_tasks_and_nobody_else_is_told(backend: Backend, topic: str) -> None:
    first, second = Member(backend.log, topic, 0, [topic]), Member(backend.log, topic, 1, [topic])
    settle(first, second, shares=[2, 2])
    owned, told = first.owned, len(second.told)
    first.consumer.close()
    assert len(backend.log.admin().members(topic)) == 2, "the group keeps its place"
    heir = Member(backend.log, topic, 0, [topic])
    settle(heir, second, shares=[2, 2])
    assert heir.owned == owned
    assert len(second.told) == told
    assert heir.consumer.membership().instance_id == f"{topic}.0"
    for member in (heir, second):
        member.consumer.close()


def test_a_zombie_learns_that_its_slot_is_taken(backend: Backend, topic: str) -> None:
    zombie = Member(backend.log, topic, 0, [topic])
    settle(zombie, shares=[4])
    before = zombie.consumer.membership()
    heir = Member(backend.log, topic, 0, [topic])
    settle(heir, shares=[4])

    def fenced() -> bool:
        heir.poll()
        try:
            zombie.poll()
        except SlotTaken:
            return True
        return False

    eventually(fenced)
    assert "lost" not in zombie.events()
    producer = backend.log.producer(f"{topic}.x")
    producer.init(TIMEOUT_S)
    producer.begin()
    with pytest.raises(MembershipChanged):
        producer.send_offsets([OffsetCommit(tp(topic, 0), Offset(1), "zombie")], before, TIMEOUT_S)
    producer.abort(TIMEOUT_S)
    heir.consumer.close()


def test_a_member_that_was_away_too_long_is_told_that_it_lost_its_partitions(backend: Backend, topic: str) -> None:
    process = backend.process()
    away = Member(process.log, topic, 0, [topic])
    settle(away, shares=[4])
    stale = away.consumer.membership()
    other = Member(backend.log, topic, 1, [topic])
    settle(away, other, shares=[2, 2])
    process.cut()
    settle(other, shares=[4])
    process.restore()

    def back() -> bool:
        other.poll()
        away.poll()
        return len(away.owned) == 2 == len(other.owned)

    eventually(back)
    assert away.events() == ["assigned", "revoked", "assigned", "lost", "assigned"]
    assert away.consumer.membership().member_id != stale.member_id
    for member in (away, other):
        member.consumer.close()


def test_offsets_outside_of_a_transaction_are_committed_by_members_only(backend: Backend, topic: str) -> None:
    member = Member(backend.log, topic, 0, [topic])
    settle(member, shares=[4])
    commit = OffsetCommit(tp(topic, 1), Offset(11), "plain")
    member.consumer.commit([commit], TIMEOUT_S)
    committed = backend.log.admin().committed(topic, [commit.tp], TIMEOUT_S)
    assert committed == {commit.tp: Committed(Offset(11), "plain")}
    heir = Member(backend.log, topic, 0, [topic])
    settle(heir, shares=[4])
    with pytest.raises((MembershipChanged, SlotTaken)):
        member.consumer.commit([OffsetCommit(tp(topic, 1), Offset(12), "zombie")], TIMEOUT_S)
    heir.consumer.close()


def test_a_group_with_members_keeps_its_offsets_from_others(backend: Backend, topic: str) -> None:
    admin = backend.log.admin()
    member = Member(backend.log, topic, 0, [topic])
    settle(member, shares=[4])
    with pytest.raises(StopError, match="members"):
        admin.set_committed(topic, [OffsetCommit(tp(topic, 0), Offset(1), "")])
    with pytest.raises(StopError, match="members"):
        admin.delete_group(topic)
    member.consumer.close()


def test_a_group_without_members_has_its_offsets_set_and_can_be_deleted(backend: Backend, topic: str) -> None:
    admin, place = backend.log.admin(), tp(topic, 0)
    admin.set_committed(topic, [OffsetCommit(place, Offset(4), "recovered")])
    assert admin.committed(topic, [place], TIMEOUT_S) == {place: Committed(Offset(4), "recovered")}
    assert admin.members(topic) == []
    admin.delete_group(topic)
    admin.delete_group(topic)
    assert admin.committed(topic, [place], TIMEOUT_S) == {}
    assert topic not in admin.groups()


def test_what_a_listener_raises_comes_out_of_poll(backend: Backend, topic: str) -> None:
    class Broken(Member):
        def assigned(self, tps: list[object]) -> None:  # type: ignore[override]
            raise ZeroDivisionError("in the listener")

    member = Broken(backend.log, topic, 0, [topic])
    with pytest.raises(ZeroDivisionError, match="in the listener"):
        eventually(lambda: member.poll() or None)
    member.consumer.close()
