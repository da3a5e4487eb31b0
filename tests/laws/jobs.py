"""The jobs that the laws are tested on: two stages with a shuffle and state between."""

from __future__ import annotations

from collections import Counter

from streamcore import Job, Topic, agg

lines = Topic("lines", str)
counts = Topic("counts", int, key=str)
copies = Topic("copies", str)


def word_count() -> Job:
    job = Job("wc")
    words = job.stream(lines)
    words.to(copies)
    words.flat_map(str.split).key_by("by-word", str.lower).aggregate("count", agg.count()).to(counts)
    return job


def expected(sent: list[str]) -> dict[str, int]:
    return dict(Counter(word.lower() for line in sent for word in line.split()))


SENT = ["to be or not to be", "that is the question", "whether tis nobler", "in the mind to suffer", "the slings"]
