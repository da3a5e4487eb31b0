"""What a savepoint and the code say of each other: told beforehand by `check --against`, refused alike by `resume`."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.directory import DirectoryStore
from streamcore.checkpoint.manifest import File, Layout, Manifest
from streamcore.checkpoint.savepoint import SavedStage, SavedStep, SavedTask, Savepoint
from streamcore.cli.main import app
from streamcore.errors import EXIT_DONE, EXIT_STOP
from streamcore.log.local import LocalLog
from streamcore.testing.clock import ManualClock
from streamcore.types import Epoch, Offset, Partition, TopicPartition

CODE = """
from streamcore import Job, State, Topic, Value, agg

class Seen(State, version=3, upgrades={2: dict, **MORE}):
    n = Value(int, default=0)

def lower(word: str) -> str:
    return word.lower()

def on_event(value, state, ctx):
    state.n += 1
    yield state.n

lines, counts, seen = Topic("lines", str), Topic("counts", int, key=str), Topic("seen", int, key=str)
job = Job("words")
words = job.stream(lines).flat_map(str.split).key_by("by-word", lower)
words.aggregate("COUNT", agg.count()).to(counts)
words.process("SEEN", Seen, on_event).to(seen)
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__STORE", f"file://{tmp_path}/kept")
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("words", "streamcore_job")):
            del sys.modules[name]


def code(*, count: str = "count", seen: str = "seen", upgrades: str = "{1: dict}") -> None:
    text = CODE.replace("COUNT", count).replace("SEEN", seen).replace("MORE", upgrades)
    Path("words.py").write_text(text)


def saved(
    version: int = 2, kind: str = "process", job: str = "words", stage: str = "by-word", key: str = "str"
) -> None:
    """Of a job of four partitions, whose checkpoints have one file each."""
    store, at = DirectoryStore(Path("kept")), Layout(job)

    def tasks(topic: str) -> tuple[SavedTask, ...]:
        return tuple(SavedTask(p, "l", Epoch(1), "n", {topic: 5}, manifest(topic, p)) for p in map(Partition, range(4)))

    def manifest(topic: str, partition: Partition) -> str:
        data = f"{topic} {partition}".encode()
        sha = hashlib.sha256(data).hexdigest()
        store.put_once(at.object(sha), data)
        found = Manifest(
            job=job, stage=topic, partition=partition, lineage="l", epoch=Epoch(1), nonce="n", journal=Offset(0),
            journal_end=Offset(1), topology="t", steps={}, files=(File("a", sha, len(data), sha),), created_ms=1,
        )  # fmt: skip
        store.put_once(found.key, found.encode())
        return found.key

    steps = {"count": SavedStep("aggregate", None), "seen": SavedStep(kind, version)}
    stages = {
        "lines": SavedStage(False, "None", 4, {}, tasks("lines")),
        stage: SavedStage(True, key, 4, steps, tasks(f"{job}.shuffle.{stage}")),
    }
    found = Savepoint(job=job, name="s1", barrier=1, topology="t", created_ms=1, stages=stages)
    assert savepoints.write(store, found)


def check(*arguments: str, code: int = EXIT_DONE) -> str:
    result = CliRunner().invoke(app, ["check", "words.py:job", "--against", "s1", *arguments])
    assert result.exit_code == code, f"{result.exit_code}: {result.output}\n{result.exception!r}"
    return result.output


def resumes(*arguments: str) -> str:
    """What `resume` refuses, without a log to be changed: it never gets there."""
    result = CliRunner().invoke(app, ["resume", "words.py:job", "--from", "s1", "--kafka", "127.0.0.1:1", *arguments])
    assert result.exit_code == EXIT_STOP, result.output
    return result.output


def test_what_fits_is_told_and_needs_no_log() -> None:
    code()
    saved(version=3)
    told = check()
    assert "ok    stage lines: resumes, as its topic with 4 partitions" in told
    assert "ok    stage by-word: resumes with 4 partitions; --partitions can move it" in told
    assert "step count: kept" in told and "step seen: kept" in told
    assert "ok    savepoint 's1' fits the code" in told
    assert not Path(".streamcore").exists()


def test_the_upgrades_that_would_apply_are_told() -> None:
    code()
    saved(version=1)
    assert "note    step seen: kept, State version 1 becomes 3: the upgrades from 1 to 3 apply to each row" in check()


def test_a_version_without_its_upgrade_is_refused() -> None:
    code(upgrades="{}")
    saved(version=1)
    assert "there is no upgrade from version 1" in check(code=EXIT_STOP)
    assert "there is no upgrade from version 1" in resumes()


def test_rows_that_may_be_older_than_every_upgrade_are_told_of() -> None:
    code(upgrades="{}")
    saved(version=3)
    assert "last written by version 1 or before would be refused" in check()


def test_a_newer_state_is_refused() -> None:
    code()
    saved(version=4)
    assert "saved by version 4 of Seen, the code has version 3" in check(code=EXIT_STOP)
    assert "saved by version 4 of Seen, the code has version 3" in resumes()


def test_an_added_step_begins_empty_and_a_dropped_one_must_be_named() -> None:
    code(count="total")
    saved()
    told = check(code=EXIT_STOP)
    assert "note    step total: new, begins empty" in told
    assert "BAD   savepoint 's1' has a step 'count' with state, and the job does not" in told
    assert "--drop count, or --rename count=NEW" in told and "--drop count" in resumes()
    assert "note  step 'count' with state: dropped" in check("--drop", "count")
    assert "note    step total: was count" in check("--rename", "count=total")


def test_everything_that_is_refused_is_told_at_once() -> None:
    code(count="total", upgrades="{}")
    saved(version=1, key="int")
    told = check("--partitions", "0", code=EXIT_STOP)
    for each in (
        "shuffles of 0 partitions", "regrouped by str in the code and regrouped by int", "no upgrade from version 1",
        "has a step 'count' with state",
    ):  # fmt: skip
        assert each in told
    assert "fits the code" not in told


def test_another_kind_of_step_is_refused() -> None:
    code()
    saved(kind="aggregate")
    assert "of kind process in the code and aggregate in savepoint" in check(code=EXIT_STOP)
    assert "of kind process in the code and aggregate in savepoint" in resumes()


def test_partitions_are_told_with_which_stages_can_move() -> None:
    code()
    saved()
    told = check("--partitions", "12")
    assert "note  stage by-word: resumes, 4 partitions become 12" in told
    assert "ok    stage lines: resumes, as its topic with 4 partitions" in told


def test_a_renamed_stage_is_found_by_its_old_name_and_a_new_one_begins_empty() -> None:
    code()
    saved(stage="grouped")
    told = check(code=EXIT_STOP)
    assert "note  stage by-word: new, begins empty" in told and "step 'seen' with state, and the job does not" in told
    assert "step seen: kept" in check("--rename", "grouped=by-word")
    assert "note  step 'seen' with state: dropped" in check("--drop", "grouped")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--drop", "cuont"], "has no stage and no step 'cuont'"),
        (["--rename", "cuont=count"], "has no stage and no step 'cuont'"),
        (["--rename", "count=totl"], "the job has no stage and no step with state 'totl'"),
        (["--drop", "count"], "'count' is to be dropped, and the job has it"),
        (["--drop", "by-word"], "'by-word' is to be dropped, and the job has it"),
        (["--rename", "count"], "is not OLD=NEW"),
    ],
)
def test_a_change_that_is_misspelt_or_none_is_refused(given: list[str], told: str) -> None:
    code()
    saved()
    assert told in check(*given, code=EXIT_STOP)
    assert told in resumes(*given)


def test_a_name_that_was_given_to_another_begins_empty_where_it_is_new() -> None:
    """count's state is total's now, and must not be at both."""
    code()
    text = Path("words.py").read_text()
    Path("words.py").write_text(text + '\nwords.aggregate("total", agg.count()).to(Topic("t", int, key=str))\n')
    saved(version=3)
    told = check("--rename", "count=total")
    assert "step count: new, begins empty" in told and "step total: was count" in told


@pytest.mark.parametrize("what", ["objects", "manifests"])
def test_what_is_missing_of_a_half_copied_savepoint_is_named(what: str) -> None:
    code()
    saved(version=3)
    lost = next(path for path in sorted(Path("kept/words", what).rglob("*")) if path.is_file())
    data = lost.read_bytes()
    lost.unlink()
    assert f"is not whole: {lost.relative_to('kept')} in" in check(code=EXIT_STOP)
    if what == "objects":
        lost.write_bytes(data[:-1])
        assert f"is not whole: {lost.relative_to('kept')} in" in check(code=EXIT_STOP)
    lost.write_bytes(data)
    assert "fits the code" in check()


def test_another_jobs_savepoint_is_named_with_of() -> None:
    code()
    saved(job="other", version=3)
    assert "job words has no savepoint 's1'" in check(code=EXIT_STOP)
    assert "fits the code" in check("--of", "other")


def test_options_about_a_savepoint_without_one_are_refused() -> None:
    code()
    result = CliRunner().invoke(app, ["check", "words.py:job", "--drop", "count"])
    assert result.exit_code == EXIT_STOP and "add --against SAVEPOINT" in result.output


def embedded(partitions: int, records: int = 5) -> None:
    log = LocalLog.open(Path(".streamcore/log.local"), ManualClock())
    admin = log.admin()
    for name in ("lines", "counts", "seen"):
        admin.create(name, partitions, {})
    producer = log.producer(None)
    producer.init(1.0)
    for partition in range(partitions):
        for _ in range(records):
            producer.send(TopicPartition("lines", Partition(partition)), b"to be")
    producer.flush(1.0)
    producer.close()
    log.close()


def test_beside_a_log_the_topics_counts_are_held_against_it_too() -> None:
    code()
    saved(version=3)
    Path(".streamcore").mkdir()
    embedded(3)
    told = check(code=EXIT_STOP)
    assert "topic lines has 3 partitions, and the savepoint needs 4" in told


def test_a_topic_that_does_not_hold_what_comes_next_is_refused() -> None:
    code()
    saved(version=3)
    Path(".streamcore").mkdir()
    embedded(4, records=4)
    told = "task lines[0]: the savepoint goes on at offset 5, and topic lines holds 0 to 4"
    assert told in check(code=EXIT_STOP)
    result = CliRunner().invoke(app, ["resume", "words.py:job", "--from", "s1", "--yes"])
    assert result.exit_code == EXIT_STOP and told in result.output
