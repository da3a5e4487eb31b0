"""Commands about checkpoints, and what `run`, `status` and `reset` make of a store; on the embedded log."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from streamcore.checkpoint import holds
from streamcore.checkpoint.directory import DirectoryStore
from streamcore.checkpoint.manifest import load
from streamcore.cli.main import app
from streamcore.errors import EXIT_STOP

COUNT = """
from streamcore import Job, Topic, agg

job = Job("words")
words = job.stream(Topic("lines", str)).flat_map(str.split).key_by("by-word", str.lower)
words.aggregate("count", agg.count()).to(Topic("counts", int, key=str))
"""
ROOT = Path(__file__).parents[2]
STORE = Path("kept")


def settings(path: Path) -> dict[str, str]:
    return {
        "STREAMCORE_TOPICS__PARTITIONS": "1",
        "STREAMCORE_CHECKPOINTS__STORE": f"file://{path}/kept",
        "STREAMCORE_CHECKPOINTS__INTERVAL": "200ms",
    }


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name, value in settings(tmp_path).items():
        monkeypatch.setenv(name, value)
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


class Worker:
    """`run` in a process of its own, fed with one line."""

    def __init__(self, directory: Path) -> None:
        (directory / "text").write_text("to be or not to be\n")
        self._told = directory / "told"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "streamcore", "run", "count.py:job", "--feed", "lines=text"]
        with self._told.open("w") as told:
            self.process = subprocess.Popen(command, stderr=told, env=environment, cwd=directory)

    def until(self, there: Callable[[], object]) -> str:
        """Another process's pace: poll, with a bound. What it told, once it is stopped."""
        deadline = time.monotonic() + 60
        while not there():
            assert time.monotonic() < deadline and self.process.poll() is None, self.told()
        return self.stopped()

    def stopped(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.told()
        return self.told()

    def ends_with(self, code: int) -> str:
        assert self.process.wait(60) == code, self.told()
        return self.told()

    def told(self) -> str:
        return self._told.read_text()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    started: list[Worker] = []

    def start() -> Worker:
        started.append(Worker(tmp_path))
        return started[-1]

    yield start
    for worker in started:
        worker.process.kill()
        worker.process.wait()


def checkpoints() -> list[dict[str, object]]:
    return json.loads(streamcore("checkpoints", "list", "words", "--json"))


def manifests(directory: Path, stage: str) -> list[Path]:
    return list((directory / STORE / "words" / "manifests" / stage / "0").glob("*/*.json"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a job ran until it had two checkpoints of each of its tasks."""
    path = tmp_path_factory.mktemp("ran")
    (path / "count.py").write_text(COUNT)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in settings(path).items():
            monkeypatch.setenv(name, value)
        worker = Worker(path)
        worker.until(lambda: all(len(manifests(path, stage)) > 1 for stage in ("lines", "by-word")))
    return path


@pytest.fixture
def found(ran: Path) -> list[dict[str, object]]:
    """The checkpoints that there are, of each task in their order."""
    for name in (STORE, Path(".streamcore")):
        shutil.copytree(ran / name, name)
    return checkpoints()


def test_checkpoints_of_a_job_are_listed_shown_and_verified(found: list[dict[str, object]]) -> None:
    assert {"by-word", "lines"} == {each["stage"] for each in found}
    shown = json.loads(streamcore("checkpoints", "show", "words", str(found[0]["checkpoint"])))
    assert (shown["job"], shown["epoch"]) == ("words", found[0]["epoch"])
    assert str(found[0]["checkpoint"]).partition("/")[0] in streamcore("checkpoints", "list", "words")
    verdicts = json.loads(streamcore("checkpoints", "verify", "words", "--json", "--digest"))
    assert len(verdicts) == len(found)
    assert all(verdict["whole"] and verdict["digest"] for verdict in verdicts)
    assert f"ok    {found[0]['checkpoint']}" in streamcore("checkpoints", "verify", "words", str(found[0]["key"]))


def test_a_wrong_and_a_missing_object_are_named_and_the_exit_code_is_not_0(found: list[dict[str, object]]) -> None:
    shown = json.loads(streamcore("checkpoints", "show", "words", str(found[0]["checkpoint"])))
    largest, second = sorted(shown["files"], key=lambda file: file["size"])[-2:][::-1]
    objects = STORE / "words" / "objects"
    (objects / largest["object"]).write_bytes(bytes(largest["size"]))
    (objects / second["object"]).unlink()
    told = streamcore("checkpoints", "verify", "words", code=EXIT_STOP)
    assert f"BAD   {found[0]['checkpoint']}" in told
    assert f"{largest['object']} is not what its name says" in told and f"{second['object']} is missing" in told
    assert "are not whole" in told


def test_a_manifest_that_was_edited_is_listed_with_what_is_wrong_with_it(found: list[dict[str, object]]) -> None:
    path = STORE / str(found[0]["key"])
    path.write_text(path.read_text().replace('"job":"words"', '"job":"sword"'))
    assert "its seal does not fit" in str(checkpoints()[0]["trouble"])
    assert "its seal does not fit" in streamcore("checkpoints", "verify", "words", code=EXIT_STOP)


def test_the_newest_and_what_a_savepoint_holds_are_dropped_by_force_or_not_at_all(
    found: list[dict[str, object]],
) -> None:
    oldest, newest = found[0], [each for each in found if each["stage"] == found[0]["stage"]][-1]
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


def test_all_of_a_jobs_checkpoints_are_dropped_and_the_prefix_is_free(found: list[dict[str, object]]) -> None:
    assert found
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


def test_now_on_the_embedded_log_leaves_word_for_the_next_run(
    worker: Callable[[], Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = streamcore("checkpoint", "now", "words", code=EXIT_STOP)
    assert "there is no embedded log" in told
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__INTERVAL", "1h")
    running = worker()
    running.until(lambda: "running 2 tasks" in running.told())
    assert not checkpoints()
    assert "begins with a checkpoint" in streamcore("checkpoint", "now", "words")
    worker().until(lambda: manifests(tmp_path, "by-word"))


def test_now_beside_a_running_job_on_the_embedded_log_is_refused_with_what_to_do(
    worker: Callable[[], Worker],
) -> None:
    running = worker()
    while "running 2 tasks" not in running.told():
        assert running.process.poll() is None
    told = streamcore("checkpoint", "now", "words", code=EXIT_STOP)
    assert "nobody can be asked" in told and "in use by process" in told and "every 0.2 s" in told
    running.stopped()


def test_status_tells_of_checkpoints_and_the_last_barrier(found: list[dict[str, object]]) -> None:
    assert found
    told = streamcore("status", "words")
    assert "checkpoint" in told and "epoch" in told and "barrier " in told
    tasks = json.loads(streamcore("status", "words", "--json"))
    assert any(task["checkpoint_epoch"] is not None and task["checkpoint_ms"] for task in tasks)
    assert all(task["barrier"] >= 1 and task["barrier_state"] for task in tasks)


def test_a_prefix_of_another_life_is_refused_by_name(
    found: list[dict[str, object]], worker: Callable[[], Worker]
) -> None:
    assert found
    shutil.rmtree(".streamcore")
    told = worker().ends_with(EXIT_STOP)
    assert "CheckpointStoreTaken" in told and "belong to another job words" in told and "drop words --all" in told


def test_reset_lets_the_checkpoints_go_and_the_job_begins_anew(
    found: list[dict[str, object]], worker: Callable[[], Worker], tmp_path: Path
) -> None:
    assert found
    told = streamcore("reset", "words", "--yes")
    assert f"checkpoints in file://{tmp_path}/kept" in told
    assert not checkpoints()
    worker().until(lambda: manifests(tmp_path, "by-word"))


def test_none_runs_without_barriers_and_without_a_control_topic() -> None:
    streamcore("run", "count.py:job", "--until-idle", "--checkpoints", "none")
    assert "words.control" not in streamcore("topics", "list")
    assert not STORE.exists()


def test_a_journal_that_grows_makes_a_checkpoint_before_its_time(
    worker: Callable[[], Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__INTERVAL", "1h")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__JOURNAL_MILESTONE_BYTES", "200")
    worker().until(lambda: manifests(tmp_path, "by-word"))


def test_a_journal_past_its_bound_stops_the_job_and_says_why_there_is_no_checkpoint(
    worker: Callable[[], Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__STORE", f"file://{tmp_path}/not/mounted")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__JOURNAL_MILESTONE_BYTES", "0")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__JOURNAL_BOUND_BYTES", "1000")
    told = worker().ends_with(EXIT_STOP)
    assert "JournalTooLong" in told and "it has no checkpoint" in told and "The bound is 1,000" in told
    assert "The last failure: " in told and "No such file or directory" in told


def test_a_drill_restores_a_retained_checkpoint_beside_the_job(
    found: list[dict[str, object]], worker: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__INTERVAL", "1h")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__DRILL", "1s")
    running = worker()
    told = running.until(lambda: "drill: " in running.told())
    assert "is whole" in told


def test_a_drill_names_what_is_wrong_and_the_job_goes_on(
    found: list[dict[str, object]], worker: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__INTERVAL", "1h")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__DRILL", "1s")
    for path in (STORE / "words" / "objects").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    running = worker()
    told = running.until(lambda: "drill: " in running.told())
    assert "cannot be restored" in told and "is not what its name says" in told


def test_verify_replays_the_journal_behind_each_and_tells_what_is_not_as_it_was_recorded(
    found: list[dict[str, object]], tmp_path: Path
) -> None:
    assert found
    told = streamcore("checkpoints", "verify", "words", "--replay")
    assert told.count("epochs replayed behind it") == len(found) and "not replayed" not in told
    assert "digest " in told, "a small state's is recorded"
    (path, *_) = sorted(manifests(tmp_path, "by-word"), key=lambda path: int(path.stem))
    store, key = DirectoryStore(tmp_path / STORE), str(path.relative_to(tmp_path / STORE))
    false = msgspec.structs.replace(load(store, key), digest="0" * 64)
    path.unlink()
    assert store.put_once(key, false.encode())
    told = streamcore("checkpoints", "verify", "words", code=EXIT_STOP)
    assert told.count("BAD ") == 1 and f"its task recorded {'0' * 64}" in told
