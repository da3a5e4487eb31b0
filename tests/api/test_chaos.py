"""What a person sees who runs chaos on a topology of their own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamcore import Job, Topic, agg
from streamcore.cli.main import app
from streamcore.errors import TopologyError
from streamcore.testing import chaos

lines = Topic("lines", str)
words = Topic("words", str)
counts = Topic("counts", int, key=str)
keyed = Topic("keyed", str, key=str)
LINES = ["to be or not to be", "that is the question"] * 20


def forgetful() -> Job:
    """Counts in a global, as one would in a script: what is done again counts again."""
    seen: Counter[str] = Counter()

    def number(line: str) -> str:
        seen[line] += 1
        return f"{line} {seen[line]}"

    job = Job("forgetful")
    job.stream(lines).map(number).to(words)
    return job


def sound() -> Job:
    job = Job("sound")
    job.stream(lines).flat_map(str.split).key_by("by-word", str.lower).aggregate("count", agg.count()).to(counts)
    return job


def run_of(job: Job, topic: Topic[str, int] | Topic[None, str], *faults: chaos.Fault, seeds: int = 30) -> chaos.Report:
    return chaos.run(
        job,
        feeds=[chaos.feed(lines, LINES)],
        faults=faults,
        seeds=range(seeds),
        checks=[chaos.same_as_quiet_run(topic, order="any"), chaos.no_gaps_or_repeats()],
    )


def test_a_sound_job_survives_everything() -> None:
    report = run_of(sound(), counts, *chaos.everything())
    assert report.ok, report.explain()
    assert report.faults > len(report.seeds), "hardly anything went wrong, so nothing was shown"


def test_a_job_with_state_of_its_own_is_found_out_and_explained() -> None:
    report = run_of(forgetful(), words, chaos.Kill(), chaos.Network())
    assert not report.ok
    failure = report.failure
    assert failure is not None
    text = report.explain()
    assert f"seed {failure.seed} failed" in text
    assert "the first wrong record:" in text
    assert "input   lines[" in text and "epoch" in text and "output  words[" in text


def test_a_failure_is_told_with_few_faults() -> None:
    def no_rebalance(history: chaos.History) -> str | None:
        killed = [event for event in history.run.events or () if event.what == "killed"]
        return f"{killed[0].actor} was killed" if killed else None

    report = chaos.run(
        sound(), feeds=[chaos.feed(lines, LINES)], faults=[chaos.Kill(rate=0.1), chaos.Clock()], checks=[no_rebalance]
    )
    assert report.failure is not None
    assert [fault.kind.startswith("kill") for fault in report.failure.faults] == [True]


def test_the_same_seed_gives_the_same_history() -> None:
    digests: list[str] = []

    def digest(history: chaos.History) -> str | None:
        digests.append(history.run.digest())
        return None

    for _ in range(2):
        feeds = [chaos.feed(lines, LINES)]
        chaos.run(sound(), feeds=feeds, faults=chaos.everything(), checks=[digest], seeds=[7, 8])
    assert digests[:2] == digests[2:]
    assert digests[0] != digests[1]


def test_one_exact_point_can_be_aimed_at() -> None:
    points: set[str] = set()

    def collect(history: chaos.History) -> str | None:
        points.update(
            e.told.split(":")[0].split(", ")[1].rsplit(" ", 1)[0]
            for e in history.run.events or ()
            if e.what == "killed"
        )
        return None

    report = chaos.run(
        sound(),
        feeds=[chaos.feed(lines, LINES)],
        faults=[chaos.Kill(at="after-send-offsets", rate=0.2)],
        checks=[collect, chaos.same_as_quiet_run(counts)],
        seeds=range(10),
    )
    assert report.ok, report.explain()
    assert points == {"point after-send-offsets"}


def test_a_point_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="before-commit"):
        run_of(sound(), counts, chaos.Kill(at="before-lunch"))


def test_duplicates_without_dedupe_are_found() -> None:
    report = run_of(sound(), counts, chaos.Duplicate(rate=0.3))
    assert report.failure is not None
    assert report.failure.faults == ()
    assert "30% of the events come twice" in report.explain()


def test_a_feed_has_a_key_where_its_topic_has_one() -> None:
    with pytest.raises(TopologyError, match="keyed"):
        chaos.feed(keyed, ["a"])  # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(TopologyError, match="not keyed"):
        chaos.feed(lines, ["a"], key=str)  # pyright: ignore[reportCallIssue, reportArgumentType]


SOUND = """
from streamcore import Job, Topic
from streamcore.testing import chaos
lines, copies = Topic("lines", str), Topic("copies", str)
job = Job("copy")
job.stream(lines).map(str.upper).to(copies)

def test_copies() -> None:
    report = chaos.run(job, feeds=[chaos.feed(lines, ["a", "b"] * 9)], faults=chaos.everything(), seeds=range(1000),
                       checks=[chaos.same_as_quiet_run(copies, order="any")])
    assert report.ok, report.explain()

def test_never() -> None:
    assert chaos.run(job, feeds=[chaos.feed(lines, ["a"])], faults=[], seeds=[0], checks=[lambda history: "no"]).ok
"""


def test_the_command_runs_a_files_tests_with_seeds_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "copies.py"
    file.write_text(SOUND)
    result = CliRunner().invoke(app, ["chaos", f"{file}:test_copies", "--seeds", "3"])
    assert result.exit_code == 0, result.output
    assert "test_copies: 3 seeds" in result.output
    result = CliRunner().invoke(app, ["chaos", str(file), "--seed", "42"])
    assert result.exit_code == 10, result.output
    assert "seed 42 failed" in result.output and "1 of 2 failed: test_never" in result.output


def test_the_command_names_what_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "nothing.py"
    file.write_text("x = 1\n")
    result = CliRunner().invoke(app, ["chaos", str(file)])
    assert result.exit_code == 10
    assert "no function whose name begins with 'test_'" in result.output
