"""Law 11: what waits is bounded, and slowness reaches the consumer as a pause."""

from __future__ import annotations

from streamcore import Job, Topic, limits
from streamcore.errors import AccessDenied
from streamcore.types import Partition, TopicPartition
from tests.laws.harness import Cluster
from tests.laws.jobs import SENT, lines, word_count

slow_in = Topic("slow-in", str)
slow_out = Topic("slow-out", str)


def slow_job(cluster_of: list[Cluster]) -> Job:
    """A function that takes three seconds a record, by the injected clock."""

    def slowly(value: str) -> str:
        cluster_of[0].clock.sleep_s(3.0)
        return value

    job = Job("slow")
    job.stream(slow_in).map(slowly).to(slow_out)
    return job


def test_law_11_a_slow_function_pauses_the_consumer_and_keeps_its_membership() -> None:
    box: list[Cluster] = []
    cluster = Cluster(slow_job(box))
    box.append(cluster)
    process = cluster.start(0)
    sent = [f"r{n}" for n in range(200)]
    cluster.send(slow_in, *sent)
    most_waiting = 0
    for _ in range(400):
        cluster.turn(0)
        most_waiting = max(most_waiting, process.worker.waiting_records)
    cluster.settle()
    assert process.metrics.registry.get_sample_value("streamcore_pauses_total"), "the consumer was never paused"
    assert most_waiting <= limits.POLL_RECORDS
    assert sorted(value for _, value in cluster.read(slow_out)) == sorted(sent)
    assert process.metrics.registry.get_sample_value("streamcore_rebalances_total", {"what": "lost"}) is None


def test_law_11_an_epoch_ends_on_its_bound_of_records(monkeypatch: object) -> None:
    cluster = Cluster(word_count())
    cluster.start(0)
    cluster.send(lines, *SENT)
    cluster.settle()
    before = cluster.processes[0].worker.progress().commits
    limits_were = limits.EPOCH_RECORDS
    limits.EPOCH_RECORDS = 1  # pyright: ignore[reportConstantRedefinition]
    try:
        cluster.send(lines, *SENT)
        for _ in range(30):
            cluster.turn(0)  # no time passes between turns: only the bound can end an epoch
    finally:
        limits.EPOCH_RECORDS = limits_were  # pyright: ignore[reportConstantRedefinition]
    assert cluster.processes[0].worker.progress().commits > before + 1


def test_shuffles_are_trimmed_behind_the_commit_and_a_refusal_stops_nothing() -> None:
    cluster = Cluster(word_count())
    process = cluster.start(0)
    cluster.send(lines, *SENT)
    cluster.settle()

    def refuse(deliver: object) -> None:
        raise AccessDenied("DeleteRecords is not allowed")

    shuffle = [TopicPartition("wc.shuffle.by-word", Partition(p)) for p in (0, 1)]
    process.wire.at("DeleteRecords", refuse)
    cluster.pass_time(limits.TRIM_INTERVAL_S + 1)
    cluster.send(lines, "one more")
    cluster.settle()
    assert set(cluster.admin.first_offsets(shuffle).values()) == {0}
    cluster.pass_time(limits.TRIM_INTERVAL_S + 1)
    cluster.send(lines, "and another")
    cluster.settle()
    first = cluster.admin.first_offsets(shuffle)
    assert any(first.values()), "nothing was trimmed"
    committed = cluster.committed()
    assert all(first[tp] <= committed[tp][0] for tp in shuffle), "trimmed past the commit"
