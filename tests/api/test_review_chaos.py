"""What a person may give to chaos that would show nothing: it is refused, and not passed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from streamcore import Job, Topic, agg
from streamcore.errors import TopologyError
from streamcore.testing import chaos

lines = Topic("lines", str)
other = Topic("other", str)
counts = Topic("counts", int, key=str)
LINES = ["to be or not to be"] * 20


def word_count() -> Job:
    job = Job("sound")
    job.stream(lines).flat_map(str.split).key_by("by-word", str.lower).aggregate("count", agg.count()).to(counts)
    return job


def run(**given: Any) -> chaos.Report:
    usual: dict[str, Any] = {"feeds": [chaos.feed(lines, LINES)], "faults": [], "checks": [], "seeds": range(2)}
    return chaos.run(word_count(), **{**usual, **given})


def happened(*faults: chaos.Fault) -> Counter[str]:
    kinds: Counter[str] = Counter()

    def look(history: chaos.History) -> str | None:
        kinds.update(e.told.split(", ")[1].split(" ")[0] for e in history.run.events or () if e.what == "killed")
        return None

    run(faults=faults, checks=[look], seeds=range(12))
    return kinds


def test_a_feed_that_nobody_reads_is_refused() -> None:
    with pytest.raises(TopologyError, match="does not read the topic 'other'"):
        run(feeds=[chaos.feed(lines, LINES), chaos.feed(other, LINES)])


@pytest.mark.parametrize("feeds", [[], [chaos.feed(lines, [])]])
def test_a_run_without_an_event_is_refused(feeds: list[chaos.Feed]) -> None:
    with pytest.raises(TopologyError, match="nothing is fed"):
        run(feeds=feeds)


def test_a_topic_that_the_job_does_not_write_is_refused() -> None:
    with pytest.raises(TopologyError, match="does not write the topic 'other'"):
        run(checks=[chaos.same_as_quiet_run(other)])


def test_no_seed_is_not_ok() -> None:
    assert not run(seeds=[]).ok


@pytest.mark.parametrize("fault", [chaos.Kill(rate=-0.1), chaos.Pause(rate=1.1), chaos.Duplicate(rate=float("nan"))])
def test_a_rate_that_is_none_is_refused(fault: chaos.Fault) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        run(faults=[fault])


def test_a_fault_that_would_not_count_is_refused() -> None:
    with pytest.raises(ValueError, match="Kill is given 2 times"):
        run(faults=[chaos.Kill(at="before-commit"), chaos.Kill(at="after-commit")])
    with pytest.raises(TypeError, match="no fault"):
        run(faults=[chaos.Kill])


def test_a_rate_of_zero_is_no_fault_and_no_error() -> None:
    report = run(faults=[chaos.Kill(rate=0), chaos.Disk(rate=0.02), chaos.Clock(rate=0)])
    assert report.ok, report.explain()


def test_one_exact_point_stays_one_with_other_faults_beside() -> None:
    kinds = happened(chaos.Kill(at="before-commit", rate=0.1), chaos.Clock(rate=0.1), chaos.Pause())
    assert kinds.keys() == {"point"}


def test_a_check_may_assert() -> None:
    def check(history: chaos.History) -> str | None:
        assert not history.run.outputs, "there is something"
        return None

    report = run(checks=[check])
    assert report.failure is not None
    assert any("there is something" in problem for problem in report.failure.problems)


def test_a_check_that_says_yes_or_no_is_refused() -> None:
    def no(history: chaos.History) -> bool:
        return False

    with pytest.raises(TypeError, match="say what is wrong, or None"):
        run(checks=[no])
