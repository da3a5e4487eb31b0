"""What must hold after everything: pure functions over a cluster at rest. Each raises AssertionError, naming what."""

from __future__ import annotations

from collections import Counter

from streamcore.state.store import Delta
from streamcore.types import Partition, TaskId
from tests.laws.harness import Cluster
from tests.laws.jobs import copies, counts, expected


def nothing_lost_or_repeated(cluster: Cluster, sent: list[str]) -> None:
    assert Counter(value for _, value in cluster.read(copies)) == Counter(sent), "records lost or repeated"
    latest = dict(cluster.read(counts))
    assert latest == expected(sent), f"counts differ: {latest}"
    for key, total in expected(sent).items():
        emitted = [value for k, value in cluster.read(counts) if k == key]
        assert emitted == sorted(set(emitted)), f"{key!r} went {emitted}"
        assert emitted[-1] == total


def local_state_is_not_ahead(cluster: Cluster) -> None:
    """Law 1, on every disk: what stands there is a committed frame, or older than the commit."""
    committed = cluster.committed()
    for stores in cluster.disks.values():
        for stage in cluster.plan.stages:
            for p in range(cluster.partitions):
                told = next(
                    (m for tp, (_, m) in committed.items() if tp.topic == stage.topic and tp.partition == p), None
                )
                store = stores.open(TaskId(stage.name, Partition(p)), [n.name for n in stage.stateful])
                mark = store.mark()
                if mark is None:
                    continue
                assert told is not None, f"{stage.name}[{p}] has local state and no commit"
                assert mark.lineage != told.lineage or mark.epoch <= told.epoch, (
                    f"{stage.name}[{p}]: local epoch {mark.epoch} is ahead of the commit's {told.epoch}"
                )
                known = {frame.nonce for frame in cluster.frames(stage.name, p)}
                assert mark.nonce in known, f"{stage.name}[{p}]: local state of an epoch that was never committed"


def epochs_rise_by_one(cluster: Cluster) -> None:
    for stage in cluster.plan.stages:
        for p in range(cluster.partitions):
            frames = cluster.frames(stage.name, p)
            assert [f.epoch for f in frames] == list(range(len(frames))), f"{stage.name}[{p}] has gaps"
            assert len({f.nonce for f in frames}) == len(frames)


def state_is_the_fold_of_the_frames(cluster: Cluster, slot: int) -> None:
    for stage in cluster.plan.stages:
        for p in range(cluster.partitions):
            folded: dict[tuple[str, bytes], bytes] = {}
            for frame in cluster.frames(stage.name, p):
                for step, delta in frame.deltas.items():
                    _fold(folded, step, delta)
            store = cluster.disks[slot].open(TaskId(stage.name, Partition(p)), [n.name for n in stage.stateful])
            for node in stage.stateful:
                found = dict(store.column(node.name).scan(b"", b"\xff"))
                assert found == {key: value for (step, key), value in folded.items() if step == node.name}


def _fold(folded: dict[tuple[str, bytes], bytes], step: str, delta: Delta) -> None:
    for start, stop in delta.ranges:
        for key in [k for k in folded if k[0] == step and start <= k[1] < stop]:
            del folded[key]
    for key, value in zip(delta.keys, delta.values, strict=True):
        if value is None:
            folded.pop((step, key), None)
        else:
            folded[step, key] = value


def all_of_it(cluster: Cluster, sent: list[str]) -> None:
    nothing_lost_or_repeated(cluster, sent)
    local_state_is_not_ahead(cluster)
    epochs_rise_by_one(cluster)
