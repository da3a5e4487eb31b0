"""What the simulator found in the engine, each as a story of its own (docs/decisions/0010)."""

from __future__ import annotations

from typing import Any

from tests.laws.harness import Cluster
from tests.laws.jobs import SENT, counts, expected, lines, word_count


def drop(cluster: Cluster, slot: int) -> None:
    """The group drops the slot's member, as a coordinator may."""
    for member in cluster.log.broker.members("wc"):
        if member.instance_id == f"wc.{slot}":
            cluster.log.broker.leave("wc", member.member_id)


def test_a_worker_that_sleeps_in_a_takeover_while_others_commit_begins_it_again() -> None:
    cluster = Cluster(word_count())
    cluster.start(0)
    cluster.send(lines, *SENT)
    cluster.settle()
    sleeper = cluster.start(1)
    slept: list[str] = []

    def others_commit(deliver: Any) -> Any:
        slept.append("in the replay's first fetch")
        drop(cluster, 1)
        cluster.send(lines, *SENT)
        for _ in range(200):
            cluster.turn(0)
            cluster.clock.sleep_s(0.02)
        return deliver()

    def on_point(point: str) -> None:
        if point == "takeover-after-read" and not slept:
            sleeper.wire.at("Fetch", others_commit)

    sleeper.on_point = on_point
    cluster.settle()
    assert slept
    assert dict(cluster.read(counts)) == expected(SENT * 2)


def test_a_member_that_its_group_drops_twice_in_a_row_joins_again() -> None:
    cluster = Cluster(word_count())
    process = cluster.start(0)
    cluster.settle()

    def dropped(deliver: Any) -> Any:
        drop(cluster, 0)
        return deliver()

    process.wire.at("Heartbeat", dropped, dropped)
    cluster.send(lines, *SENT)
    cluster.settle()
    assert dict(cluster.read(counts)) == expected(SENT)
