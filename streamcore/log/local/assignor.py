"""Kafka's range assignor: by topic, consecutive partitions to members in order of their instance ids.

Topics of one partition count are assigned alike, which is what makes a task own the same partition of all its inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from streamcore.types import Partition, TopicPartition


def range_assign(
    subscriptions: Mapping[str, Iterable[str]], order: Mapping[str, str], counts: Mapping[str, int]
) -> dict[str, list[TopicPartition]]:
    """`subscriptions`: topics by member; `order`: what a member is sorted by; `counts`: partitions of each topic,
    those that do not exist left out."""
    assigned: dict[str, list[TopicPartition]] = {member: [] for member in subscriptions}
    for topic, count in sorted(counts.items()):
        members = sorted((m for m, topics in subscriptions.items() if topic in topics), key=lambda m: (order[m], m))
        for member, partitions in zip(members, _shares(count, len(members)), strict=True):
            assigned[member] += [TopicPartition(topic, Partition(p)) for p in partitions]
    return assigned


def _shares(count: int, members: int) -> Sequence[range]:
    if members == 0:
        return []
    least, more = divmod(count, members)
    starts = [i * least + min(i, more) for i in range(members + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]
