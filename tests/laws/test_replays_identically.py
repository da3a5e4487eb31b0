"""Law 10: the same seed, the same steps, the same bytes on every topic."""

from __future__ import annotations

from typing import Any

from tests.laws.harness import Cluster
from tests.laws.jobs import SENT, lines, word_count


def history(seed: int) -> list[Any]:
    cluster = Cluster(word_count(), seed=seed)
    cluster.start(0)
    cluster.start(1)
    cluster.send(lines, *SENT[:3])
    cluster.run(10)
    cluster.kill(1)
    cluster.send(lines, *SENT[3:])
    cluster.pass_time(11)
    cluster.settle()
    return [
        (run.tp, run.offsets, run.keys, run.values, run.times)
        for topic in sorted(cluster.admin.topics())
        for run in cluster.runs(topic, committed=False)
    ]


def test_law_10_the_same_seed_gives_the_same_history_byte_for_byte() -> None:
    assert history(7) == history(7)


def test_another_seed_gives_other_nonces() -> None:
    assert history(7) != history(8)
