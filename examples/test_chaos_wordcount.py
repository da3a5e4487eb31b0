"""The word count against everything that can go wrong around it."""

from examples.a_wordcount import counts, job, lines
from streamcore.testing import chaos

LINES = ["to be or not to be", "that is the question", "whether tis nobler in the mind to suffer"]


def test_counts_survive_anything() -> None:
    report = chaos.run(
        job,
        feeds=[chaos.feed(lines, LINES * 30)],
        faults=chaos.everything(),
        seeds=range(30),
        checks=[chaos.same_as_quiet_run(counts), chaos.no_gaps_or_repeats()],
    )
    assert report.ok, report.explain()
