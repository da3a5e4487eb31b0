"""The commands as a user gives them, on the embedded log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from streamcore.cli.main import app
from streamcore.errors import EXIT_STOP

T = TypeVar("T")
ROOT = Path(__file__).parents[2]

COUNT = """
from streamcore import Job, Topic, agg

job = Job("words")
words = job.stream(Topic("lines", str)).flat_map(str.split).key_by("by-word", str.lower)
words.aggregate("count", agg.count()).to(Topic("counts", int, key=str))
"""
DOUBLE = """
from streamcore import Job, Topic

job = Job("doubler")
job.stream(Topic("numbers", int)).map(lambda n: 2 * n).to(Topic("doubled", int))
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("count.py").write_text(COUNT)
    Path("double.py").write_text(DOUBLE)
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in ("count", "double"):
        if name not in modules:
            sys.modules.pop(name, None)


def streamcore(*arguments: str, code: int = 0, stdin: str | None = None) -> str:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert result.exit_code == code, f"{result.exit_code}: {result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result.stdout if code == 0 else result.stderr


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "streamcore", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def eventually(what: Callable[[], T | None], seconds: float = 60.0) -> T:
    """Another process's pace: poll, with a bound."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found is not None:
            return found
    raise AssertionError("did not happen in time")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def counted(output: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split("\t") for line in output.splitlines())}


def records(topic: str, *more: str) -> list[dict[str, object]]:
    output = streamcore("topics", "read", topic, "--committed", "--json", "--until-end", *more)
    return [json.loads(line) for line in output.splitlines()]


# --- run ------------------------------------------------------------------------------------------------------------


def test_a_fed_file_is_counted_shown_and_done() -> None:
    Path("text").write_text("to be or not to be\nThat is the question\n")
    output = streamcore("run", "count.py:job", "--feed", "lines=text", "--show", "counts", "--until-idle")
    assert counted(output) == Counter(["to", "be", "or", "not", "to", "be", "that", "is", "the", "question"])


def test_a_second_run_goes_on_where_the_first_one_ended() -> None:
    Path("text").write_text("to be or not to be\n")
    streamcore("run", "count.py:job", "--feed", "lines=text", "--until-idle")
    output = streamcore("run", "count.py:job", "--feed", "lines=text", "--show", "counts", "--until-idle")
    assert counted(output) == {"to": 4, "be": 4, "or": 2, "not": 2}
    assert streamcore("run", "count.py:job", "--show", "counts", "--until-idle") == ""


def test_at_least_once_is_one_setting() -> None:
    Path("text").write_text("1\n2\n3\n")
    output = streamcore(
        "run", "double.py", "--mode", "at-least-once", "--feed", "numbers=text", "--show", "doubled", "--until-idle"
    )
    assert sorted(output.split()) == ["2", "4", "6"]


def test_a_dead_letters_story_can_be_read() -> None:
    lenient = DOUBLE.replace('"doubler"', '"doubler", on_error=DeadLetter("bad")')
    Path("double.py").write_text(lenient.replace("Job,", "DeadLetter, Job,"))
    Path("text").write_text("1\nx\n")
    streamcore("run", "double.py:job", "--feed", "numbers=text", "--until-idle")
    (letter,) = records("bad", "--headers")
    assert letter["value"] == "x"
    assert letter["headers"]["streamcore-topic"] == "numbers"  # type: ignore[index]
    assert [record["headers"] for record in records("doubled", "--headers")] == [{}]


def test_many_workers_on_the_embedded_log_are_refused_with_the_reason() -> None:
    message = streamcore("run", "count.py:job", "--workers", "2", code=EXIT_STOP)
    assert "--workers 2 on the embedded log: it belongs to one process" in message
    assert "--kafka" in message


def test_a_record_that_cannot_be_read_stops_the_job_by_name() -> None:
    Path("text").write_text("1\nzwei\n3\n")
    message = streamcore("run", "double.py", "--feed", "numbers=text", "--until-idle", code=EXIT_STOP)
    assert "numbers" in message and "zwei" in message and "what to do" in message


def test_feeding_a_keyed_topic_without_keys_is_refused() -> None:
    Path("keyed.py").write_text(
        "from streamcore import Job, Topic\n"
        'job = Job("keyed")\n'
        'job.stream(Topic("in", int, key=str)).to(Topic("out", int, key=str))\n'
    )
    Path("text").write_text("k\t1\n")
    message = streamcore("run", "keyed.py", "--feed", "in=text", "--until-idle", code=EXIT_STOP)
    assert "topic in has keys" in message
    output = streamcore("run", "keyed.py", "--feed", "in=text", "--feed-key", "--show", "out", "--until-idle")
    assert output == "k\t1\n"


def test_a_misspelt_topic_to_feed_or_to_show_is_refused_and_not_made() -> None:
    Path("text").write_text("to be\n")
    told = streamcore("run", "count.py:job", "--feed", "line=text", "--until-idle", code=EXIT_STOP)
    assert "does not read a topic line" in told and "it reads lines" in told
    told = streamcore("run", "count.py:job", "--feed", "lines=text", "--show", "count", "--until-idle", code=EXIT_STOP)
    assert "no such topic: count" in told
    assert not {"line", "count"} & {line.split("\t")[0] for line in streamcore("topics", "list").splitlines()}


def test_a_wrong_flag_says_what_is_allowed() -> None:
    message = streamcore("run", "count.py:job", "--mode", "twice", code=EXIT_STOP)
    assert "guarantee.mode (a flag): 'twice' is not allowed" in message
    message = streamcore("run", "count.py:job", "--commit-interval", "soon", code=EXIT_STOP)
    assert "worker.commit_interval (a flag): 'soon'" in message


def test_help_lists_the_exit_codes() -> None:
    for arguments in (["--help"], ["run", "--help"]):
        told = " ".join(streamcore(*arguments).split())
        for code in ("0 done", "10 a person must act", "11 stepped aside", "12 start again", "13 start again later"):
            assert code in told


# --- beside a running job ------------------------------------------------------------------------------------------


def test_a_running_job_can_be_watched_and_stopped() -> None:
    Path("text").write_text("to be or not to be\n")
    port = free_port()
    process = start("run", "count.py:job", "--feed", "lines=text", "--show", "counts", "--metrics-port", str(port))
    try:
        eventually(lambda: Path(".streamcore/log.local/CURRENT").exists() or None)
        eventually(lambda: (process.poll() is None and _count_records() == 4) or None)
        tasks = json.loads(streamcore("status", "words", "--json"))
        assert {task["stage"] for task in tasks} == {"lines", "by-word"}
        assert sum(task["lag"] for task in tasks) == 0
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            scraped = answer.read().decode()
        assert 'streamcore_records_in_total{topic="lines"} 1.0' in scraped
        assert 'streamcore_records_out_total{topic="counts"} 4.0' in scraped
        assert "streamcore_tasks 8.0" in scraped
        message = streamcore("topics", "produce", "lines", "text", code=EXIT_STOP)
        assert "in use by process" in message
        message = streamcore("reset", "words", "--yes", code=EXIT_STOP)
        assert "in use by process" in message
    finally:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert counted(output) == {"to": 2, "be": 2, "or": 1, "not": 1}
    assert all(line.startswith("time=") for line in errors.splitlines()), errors


def _count_records() -> int | None:
    result = CliRunner().invoke(app, ["topics", "read", "counts", "--committed", "--json", "--until-end"])
    return len(result.stdout.splitlines()) if result.exit_code == 0 else None


# --- topics, explain, check, reset ----------------------------------------------------------------------------------


def test_topics_are_created_filled_listed_and_read() -> None:
    assert streamcore("topics", "create", "t", "--partitions", "2") == "created t with 2 partitions\n"
    assert "exists, with 2 partitions" in streamcore("topics", "create", "t", "--partitions", "2", code=EXIT_STOP)
    Path("text").write_text("k1\tone\nk2\ttwo\n")
    streamcore("topics", "produce", "t", "text", "--key")
    assert streamcore("topics", "list") == "t\t2\n"
    found = records("t")
    assert {(record["key"], record["value"]) for record in found} == {("k1", "one"), ("k2", "two")}
    assert all(set(record) == {"partition", "offset", "key", "value", "timestamp"} for record in found)
    assert "no such topic: u" in streamcore("topics", "read", "u", code=EXIT_STOP)


def test_a_log_that_is_not_there_is_not_made_by_looking() -> None:
    assert "there is no embedded log" in streamcore("topics", "list", code=EXIT_STOP)
    assert "there is no embedded log" in streamcore("status", "words", code=EXIT_STOP)
    assert not Path(".streamcore").exists()


def test_check_finds_a_job_good_before_and_after_it_ran() -> None:
    assert "nothing has run yet" in streamcore("check", "count.py:job")
    Path("text").write_text("to be\n")
    streamcore("run", "count.py:job", "--feed", "lines=text", "--until-idle")
    assert "saved state of 8 tasks fits the code" in streamcore("check", "count.py:job")


def test_check_names_a_step_that_was_renamed() -> None:
    Path("text").write_text("to be\n")
    streamcore("run", "count.py:job", "--feed", "lines=text", "--until-idle")
    Path("renamed.py").write_text(COUNT.replace('"count"', '"tally"'))
    result = CliRunner().invoke(app, ["check", "renamed.py:job"])
    assert result.exit_code == EXIT_STOP
    assert "stage 'by-word' holds state of step 'count', and the code has no such step" in result.stdout


def test_explain_draws_without_a_log() -> None:
    assert "by-word" in streamcore("explain", "count.py:job")
    assert "flowchart" in streamcore("explain", "count.py:job", "--mermaid")


def test_reset_asks_and_then_the_job_starts_over() -> None:
    Path("text").write_text("to be\n")
    streamcore("run", "count.py:job", "--feed", "lines=text", "--until-idle")
    assert "nothing was changed" in streamcore("reset", "words", code=EXIT_STOP)
    assert "topic words.journal.lines" in streamcore("reset", "count.py:job", "--yes")
    output = streamcore("run", "count.py:job", "--show", "counts", "--until-idle")
    assert counted(output) == {"to": 1, "be": 1}, "from the beginning, not added to what was counted before"


def test_recover_finds_nothing_to_do_after_a_clean_stop() -> None:
    Path("text").write_text("to be\n")
    streamcore("run", "count.py:job", "--feed", "lines=text", "--until-idle")
    assert streamcore("recover", "words") == "8 of 8 tasks are as their journals say.\n"


def test_the_demo_ends_with_an_equal_comparison() -> None:
    output = streamcore("demo")
    assert "DIFFERENT" not in output
    assert "counted exactly once, through two crashes" in output
