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


def test_whatever_a_check_raises_names_its_seed() -> None:
    def check(history: chaos.History) -> str | None:
        raise LookupError("not there")

    with pytest.raises(LookupError) as raised:
        run(checks=[check], seeds=[5])
    assert "seed 5" in str(getattr(raised.value, "__notes__", ""))


@pytest.mark.parametrize("given", [{"workers": 0}, {"partitions": 0}, {"seconds": 0.0}, {"seconds": float("nan")}])
def test_a_run_of_nothing_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        run(**given)


def test_the_workers_warnings_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    report = run(faults=[chaos.Kill(rate=0.1), chaos.Network(rate=0.05)], seeds=range(3))
    assert report.faults
    assert not caplog.records


def test_a_store_that_spoils_checkpoints_loses_nothing() -> None:
    seen = Counter[str]()

    def look(history: chaos.History) -> str | None:
        seen.update(state for _, state in history.run.barriers or ())
        return None

    faults = [chaos.CorruptCheckpoint(rate=0.1), chaos.Kill(), chaos.Disk(rate=0.02)]
    report = run(
        faults=faults, checks=[look, chaos.same_as_quiet_run(counts), chaos.no_gaps_or_repeats()], seeds=range(5)
    )
    assert report.ok, report.explain()
    assert seen["complete"]


def test_a_store_that_fails_tears_and_is_late_holds_nothing_up() -> None:
    report = run(
        faults=[chaos.CheckpointStore(rate=0.3)],
        checks=[chaos.same_as_quiet_run(counts), chaos.no_gaps_or_repeats()],
        seeds=range(5),
    )
    assert report.ok, report.explain()
    assert report.faults > 20
