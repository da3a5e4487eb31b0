"""Brokers that die: nothing acknowledged is lost, and clients get over it by themselves."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamcore.errors import RebuildError, RetryError
from streamcore.log.kafka import KafkaLog
from streamcore.log.port import Log
from streamcore.types import Offset, Partition
from tests.conformance.logs import TIMEOUT_S, Member, eventually, read, tp, unique
from tests.kafka.broker import Local, Node

Brokers = Callable[[int], Local]
SETTLED_S = 90.0
"""A coordinator whose last transaction has its markers still to write, to a broker that was killed, mostly answers
after 9 to 14 s, and at times after 31 (Kafka 4.3.1, three brokers): till then it tells each new producer to wait."""


def put(log: Log, topic: str, value: bytes) -> None:
    """One record in a transaction, as the engine does it: after any failure a fresh producer, whose init settles what
    was open, and then the log is asked."""

    def committed() -> bool:
        producer = log.producer(topic)
        try:
            producer.init(TIMEOUT_S)
            if value in read(log, tp(topic, 0)):
                return True
            producer.begin()
            producer.produce(topic, Partition(0), [value])
            producer.flush(TIMEOUT_S)
            producer.commit(TIMEOUT_S)
        except (RebuildError, RetryError):
            return False
        finally:
            producer.close()
        return True

    eventually(committed, SETTLED_S)


def leader(cluster: Local, topic: str) -> Node:
    """The node that leads partition 0."""
    metadata = AdminClient({"bootstrap.servers": cluster.bootstrap}).list_topics(topic, timeout=TIMEOUT_S)
    return cluster.nodes[metadata.topics[topic].partitions[0].leader - 1]


def test_three_brokers_lose_no_record_when_the_leader_is_killed(brokers: Brokers) -> None:
    cluster = brokers(3)
    log = KafkaLog(cluster.bootstrap)
    topic = unique("replicated")
    log.admin().create(topic, 1, {"min.insync.replicas": "2"}, replication=3)
    put(log, topic, b"before")
    victim = leader(cluster, topic)
    victim.kill()
    put(log, topic, b"after")
    eventually(lambda: b"after" in read(log, tp(topic, 0)))  # its marker follows the commit's answer
    assert read(log, tp(topic, 0)) == [b"before", b"after"]
    cluster.start(victim)
    cluster.wait()


def test_a_consumer_goes_on_where_it_was_when_its_only_broker_comes_back(brokers: Brokers) -> None:
    cluster = brokers(1)
    log = KafkaLog(cluster.bootstrap)
    topic = unique("restarted")
    log.admin().create(topic, 1, {})
    put(log, topic, b"before")
    member = Member(log, topic, 0, [topic])
    found: list[bytes | None] = []
    position = Offset(0)
    starts = 0

    def reads(value: bytes) -> bool:
        """Starts again where it was with each assignment, as the engine does."""
        nonlocal position, starts
        for run in member.poll():
            found.extend(run.values)
            position = Offset(run.offsets[-1] + 1)
        if member.events().count("assigned") > starts:
            starts = member.events().count("assigned")
            member.consumer.start(tp(topic, 0), position)
        return value in found

    eventually(lambda: reads(b"before"))
    (node,) = cluster.nodes
    node.kill()
    assert member.poll() == []
    cluster.start(node)
    cluster.wait()
    put(log, topic, b"after")
    eventually(lambda: reads(b"after"))
    assert found == [b"before", b"after"]
    assert "revoked" not in member.events(), "away for a session is lost, and nothing else"
    member.consumer.close()


def coordinator(cluster: Local, group: str) -> Node | None:
    """Of the group; None while there is none. By a client that knows nothing yet."""
    client = AdminClient({"bootstrap.servers": cluster.internal, "log_level": 0})
    try:
        told = client.describe_consumer_groups([group], request_timeout=1)[group].result(TIMEOUT_S)
    except KafkaException:
        return None
    return cluster.nodes[told.coordinator.id - 1]


def test_a_group_is_described_though_its_coordinator_was_away_and_is_no_longer_the_one(brokers: Brokers) -> None:
    """The old one answers again, that it is not: a client that goes on asking it would never get over it."""
    cluster = brokers(3)
    log = KafkaLog(cluster.bootstrap)
    topic = unique("described")
    log.admin().create(topic, 1, {})
    member = Member(log, topic, 0, [topic])
    eventually(lambda: member.poll() or "assigned" in member.events())
    admin = log.admin()
    assert [found.instance_id for found in admin.members(topic)] == [f"{topic}.0"]
    old = eventually(lambda: coordinator(cluster, topic))
    old.kill()
    eventually(lambda: coordinator(cluster, topic) not in (None, old))
    cluster.start(old)
    cluster.wait()

    def described() -> bool:
        try:
            admin.members(topic)
        except RetryError:
            return False
        return True

    eventually(described)
    member.consumer.close()
