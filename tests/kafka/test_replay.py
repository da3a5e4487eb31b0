"""An interval of a job that runs, run again on a real Kafka beside it."""

from __future__ import annotations

import json

import pytest

from streamcore.errors import EXIT_DIFFERENT, EXIT_UNKNOWN
from tests.kafka.test_checkpoints import Keeping
from tests.kafka.test_command_line import COUNT, some_lines
from tests.kafka.test_savepoints import keeping as keeping

COUNT_CHANGED = COUNT.replace("str.lower", 'lambda word: "end" if word == "w7" else word')


def world(keeping: Keeping) -> tuple[list[str], list[str], list[str]]:
    """Topics, groups and members of the job, and of all whose names begin as its own."""
    admin = keeping.log.admin()
    try:
        names = sorted(name for name in admin.topics() if name.startswith(keeping.job))
        groups = sorted(name for name in admin.groups() if name.startswith(keeping.job))
        members = [member.member_id for member in admin.members(keeping.job)]
        return names, groups, members
    finally:
        admin.close()


@pytest.mark.timeout(300)
def test_a_running_job_is_replayed_and_the_verdict_is_the_exit_code(keeping: Keeping) -> None:
    lines = some_lines(1_500)
    worker = keeping.run()
    keeping.produce(*lines[:500])
    keeping.until_counted(lines[:500])
    keeping("savepoint", "create", keeping.job, "s1")
    keeping.produce(*lines[500:1_000])
    keeping.until_counted(lines[:1_000])
    keeping("savepoint", "create", keeping.job, "s2")
    keeping.produce(*lines[1_000:])
    keeping.until_counted(lines)
    before, read = world(keeping), keeping.read()

    asked = ("replay", "count.py:job", "--from", "s1", "--compare", keeping.counts)
    told = keeping(*asked, "--until", "s2")
    assert told.startswith(f"equal      {keeping.counts}: ")
    told = keeping(*asked, "--until", "2100-01-01T00:00:00Z", "--keep")
    assert told.startswith("equal"), told
    (kept,) = [name for name in world(keeping)[0] if ".replay.s1-" in name]
    last = keeping("topics", "read", kept, "--committed", "--json", "--until-end")
    assert {json.loads(line)["key"] for line in last.splitlines()} == {w for line in lines[500:] for w in line.split()}
    admin = keeping.log.admin()
    admin.delete([kept])
    admin.close()

    (keeping.directory / "count.py").write_text(COUNT_CHANGED.format(job=keeping.job))
    told = keeping(*asked, "--until", "s2", code=EXIT_DIFFERENT)
    assert told.startswith("different") and "key 'w7'" in told and "replayed   nothing" in told
    timed = "import time" + COUNT.replace("str.split", "lambda line: [line, str(time.time())]")
    (keeping.directory / "count.py").write_text(timed.format(job=keeping.job))
    told = keeping(*asked, "--until", "s2", code=EXIT_UNKNOWN)
    assert told.startswith("unknown"), told

    assert world(keeping) == before, "the job is as it was, and nothing of the replays stays"
    assert keeping.read() == read
    keeping.stop(worker)
