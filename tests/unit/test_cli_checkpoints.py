"""`checkpoints`, `checkpoint now`, and what `run`, `status` and `reset` make of a checkpoint store; on the embedded log."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamcore.checkpoint import holds
from streamcore.checkpoint.directory import DirectoryStore
from streamcore.cli.main import app
from streamcore.errors import EXIT_STOP

COUNT = """
from streamcore import Job, Topic, agg

job = Job("words")
words = job.stream(Topic("lines", str)).flat_map(str.split).key_by("by-word", str.lower)
words.aggregate("count", agg.count()).to(Topic("counts", int, key=str))
"""
STORE = Path("kept")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMCORE_TOPICS__PARTITIONS", "1")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__STORE", f"file://{tmp_path}/kept")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__INTERVAL", "100ms")
    Path("count.py").write_text(COUNT)
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    if "count" not in modules:
        sys.modules.pop("count", None)


def streamcore(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, f"{result.exit_code}: {result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result.stdout if code == 0 else f"{result.stdout}\n{result.stderr}"


def run(*lines: str, code: int = 0) -> str:
    Path("text").write_text("".join(f"{line}\n" for line in lines))
    return streamcore("run", "count.py:job", "--feed", "lines=text", "--until-idle", code=code)


def checkpoints() -> list[dict[str, object]]:
    return json.loads(streamcore("checkpoints", "list", "words", "--json"))


def checkpointed() -> list[dict[str, object]]:
    """A job that has run until there were checkpoints of both of its tasks."""
    for _ in range(20):
        run("to be or not to be")
        if STORE.joinpath("words").exists() and len({(c["stage"], c["partition"]) for c in checkpoints()}) == 2:
            return checkpoints()
    raise AssertionError("no checkpoint in twenty runs")


def test_checkpoints_of_a_job_are_listed_shown_and_verified() -> None:
    found = checkpointed()
    assert {"by-word", "lines"} == {each["stage"] for each in found}
    shown = json.loads(streamcore("checkpoints", "show", "words", str(found[0]["checkpoint"])))
    assert (shown["job"], shown["epoch"]) == ("words", found[0]["epoch"])
    assert str(found[0]["checkpoint"]).partition("/")[0] in streamcore("checkpoints", "list", "words")
    verdicts = json.loads(streamcore("checkpoints", "verify", "words", "--json", "--digest"))
    assert len(verdicts) == len(found)
    assert all(verdict["whole"] and verdict["digest"] for verdict in verdicts)
    assert f"ok    {found[0]['checkpoint']}" in streamcore("checkpoints", "verify", "words", str(found[0]["key"]))


def test_a_wrong_and_a_missing_object_are_named_and_the_exit_code_is_not_0() -> None:
    found = checkpointed()
    shown = json.loads(streamcore("checkpoints", "show", "words", str(found[0]["checkpoint"])))
    largest, second = sorted(shown["files"], key=lambda file: file["size"])[-2:][::-1]
    objects = STORE / "words" / "objects"
    (objects / largest["object"]).write_bytes(bytes(largest["size"]))
    (objects / second["object"]).unlink()
    told = streamcore("checkpoints", "verify", "words", code=EXIT_STOP)
    assert f"BAD   {found[0]['checkpoint']}" in told
    assert f"{largest['object']} is not what its name says" in told and f"{second['object']} is missing" in told
    assert "are not whole" in told


def test_a_manifest_that_was_edited_is_listed_with_what_is_wrong_with_it() -> None:
    found = checkpointed()
    path = STORE / str(found[0]["key"])
    path.write_text(path.read_text().replace('"job":"words"', '"job":"sword"'))
    assert "its seal does not fit" in str(checkpoints()[0]["trouble"])
    assert "its seal does not fit" in streamcore("checkpoints", "verify", "words", code=EXIT_STOP)


def test_the_newest_and_what_a_savepoint_holds_are_dropped_by_force_or_not_at_all() -> None:
    for _ in range(20):
        found = checkpointed()
        oldest, newest = found[0], [each for each in found if each["stage"] == found[0]["stage"]][-1]
        if oldest is not newest:
            break
    told = streamcore("checkpoints", "drop", "words", str(newest["checkpoint"]), "--yes", code=EXIT_STOP)
    assert "its task's newest" in told
    holds.put(DirectoryStore(STORE), "words", "savepoint-s", [str(oldest["key"])])
    told = streamcore("checkpoints", "drop", "words", str(oldest["checkpoint"]), "--force", "--yes", code=EXIT_STOP)
    assert "kept for savepoint-s" in told
    holds.drop(DirectoryStore(STORE), "words", "savepoint-s")
    streamcore("checkpoints", "drop", "words", str(oldest["checkpoint"]), code=EXIT_STOP)
    streamcore("checkpoints", "drop", "words", str(oldest["checkpoint"]), "--yes")
    streamcore("checkpoints", "drop", "words", str(newest["checkpoint"]), "--force", "--yes")
    assert not {oldest["checkpoint"], newest["checkpoint"]} & {each["checkpoint"] for each in checkpoints()}


def test_all_of_a_jobs_checkpoints_are_dropped_and_the_prefix_is_free() -> None:
    checkpointed()
    shutil.rmtree(".streamcore")  # so that nobody is a member
    streamcore("checkpoints", "drop", "words", "--all", code=EXIT_STOP)
    streamcore("checkpoints", "drop", "words", "--all", "--yes")
    assert not [path for path in (STORE / "words").rglob("*") if path.is_file()]
    assert "nothing of a job 'words'" in streamcore("checkpoints", "drop", "words", "--all", "--yes", code=EXIT_STOP)


def test_what_is_not_there_is_said_with_where_it_was_looked_for(tmp_path: Path) -> None:
    told = streamcore("checkpoints", "list", "words")
    assert "0 checkpoints" in told
    for command in (["verify", "words"], ["show", "words", "a/0/b/1"], ["drop", "words", "a/0/b/1"]):
        told = streamcore("checkpoints", *command, code=EXIT_STOP)
        assert "no checkpoints of a job 'words'" in told and str(tmp_path) in told
    assert "turned off" in streamcore("checkpoints", "list", "words", "--checkpoints", "none", code=EXIT_STOP)
    assert "none that is known" in streamcore(
        "checkpoints", "list", "words", "--checkpoints", "ftp://x", code=EXIT_STOP
    )


def test_now_on_the_embedded_log_leaves_word_for_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    told = streamcore("checkpoint", "now", "words", code=EXIT_STOP)
    assert "there is no embedded log" in told
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__INTERVAL", "1h")
    run("to be")
    assert not checkpoints()
    assert "begins with a checkpoint" in streamcore("checkpoint", "now", "words")
    for _ in range(20):
        run("or not to be")
        if checkpoints():
            break
    assert checkpoints()


def test_status_tells_of_checkpoints_and_the_last_barrier() -> None:
    checkpointed()
    told = streamcore("status", "words")
    assert "checkpoint" in told and "epoch" in told and "barrier " in told
    tasks = json.loads(streamcore("status", "words", "--json"))
    assert any(task["checkpoint_epoch"] is not None and task["checkpoint_ms"] for task in tasks)
    assert all(task["barrier"] >= 1 and task["barrier_state"] for task in tasks)


def test_a_prefix_of_another_life_is_refused_by_name_and_reset_gives_it_free() -> None:
    checkpointed()
    shutil.rmtree(".streamcore")
    told = ""
    for _ in range(20):
        Path("text").write_text("to be\n")
        result = CliRunner().invoke(app, ["run", "count.py:job", "--feed", "lines=text", "--until-idle"])
        told = result.stdout + result.stderr
        if result.exit_code == EXIT_STOP:
            break
    assert "CheckpointStoreTaken" in told and "belong to another job words" in told and "drop words --all" in told


def test_reset_lets_the_checkpoints_go_and_the_job_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCORE_WORKER__SESSION_TIMEOUT", "1s")
    checkpointed()
    told = streamcore("reset", "words", "--yes")
    assert f"checkpoints in file://{STORE.absolute()}" in told
    assert not checkpoints()
    checkpointed()


def test_none_runs_without_barriers_and_without_a_control_topic() -> None:
    streamcore("run", "count.py:job", "--until-idle", "--checkpoints", "none")
    assert "words.control" not in streamcore("topics", "list")
    assert not STORE.exists()
