"""Savepoints and rescaling of a job that runs, on a real Kafka."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamcore.cli.main import app
from streamcore.errors import EXIT_STOP
from streamcore.runtime.resume import Resuming
from streamcore.types import Partition, TopicPartition
from tests.kafka.test_checkpoints import PARTITIONS, SHUFFLE, Keeping
from tests.kafka.test_command_line import eventually, some_lines


@pytest.fixture
def keeping(
    request: pytest.FixtureRequest, bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Keeping]:
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__INTERVAL", "1h")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__STORE", f"file://{tmp_path}/kept")
    keeping = Keeping(bootstrap, tmp_path)
    keeping.topics(getattr(request, "param", PARTITIONS))
    yield keeping
    keeping.end()
    keeping.log.close()


def shuffle_partitions(keeping: Keeping) -> int:
    admin = keeping.log.admin()
    try:
        name = f"{keeping.job}.shuffle.{SHUFFLE}"
        return admin.topics([name])[name].partitions
    finally:
        admin.close()


def fed(keeping: Keeping, lines: list[str]) -> None:
    """In pieces, so that some come before a barrier, some while it is open, some behind it."""
    for begin in range(0, len(lines), 100):
        keeping.produce(*lines[begin : begin + 100])


@pytest.mark.timeout(400)
@pytest.mark.parametrize("keeping", [4], indirect=True)
def test_a_running_job_is_rescaled_twice_and_nothing_is_lost_or_repeated(keeping: Keeping) -> None:
    lines = some_lines(3_000)
    worker = keeping.run()
    fed(keeping, lines[:1_000])
    for before, partitions, begin in ((4, 12, 1_000), (12, 3, 2_000)):
        eventually(lambda begin=begin: True if sum_of(keeping) >= begin - 500 else None)
        assert shuffle_partitions(keeping) == before
        told = keeping("rescale", "count.py:job", "--partitions", str(partitions), "--yes")
        assert f"partitions become {partitions}" in told
        assert worker.wait(timeout=60) == 0, keeping.errors()[-3000:]
        assert shuffle_partitions(keeping) == partitions
        fed(keeping, lines[begin : begin + 500])
        worker = keeping.run()
        fed(keeping, lines[begin + 500 : begin + 1_000])
    keeping.until_counted(lines)
    keeping.refuse_repeats()
    keeping.stop(worker)


@pytest.mark.timeout(300)
def test_a_savepoint_begins_another_job_and_refuses_to_repeat_its_own(keeping: Keeping) -> None:
    lines = some_lines(2_000)
    worker = keeping.run()
    fed(keeping, lines[:1_000])
    keeping.until_counted(lines[:1_000])
    assert "savepoint good stands" in keeping("savepoint", "create", keeping.job, "good")
    assert keeping("savepoint", "list", keeping.job).split() == ["good"]
    fed(keeping, lines[1_000:])
    keeping.until_counted(lines)
    keeping.stop(worker)
    admin = keeping.log.admin()
    eventually(lambda: True if not admin.members(keeping.job) else None)
    admin.close()

    refused = keeping.start("resume", "count.py:job", "--from", "good", "--yes")
    assert refused.wait(timeout=60) == 10
    assert "--accept-repeats" in keeping.errors()
    keeping("resume", "count.py:job", "--from", "good", "--yes", "--accept-repeats")
    before = len(keeping.read())
    worker = keeping.run()
    eventually(lambda: True if len(keeping.read()) > before else None)
    keeping.until_counted(lines)
    keeping.stop(worker)


class Died(Exception):
    pass


@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", ["_prepared", "_genesis"])
def test_a_resume_that_dies_is_given_again_and_no_worker_begins_meanwhile(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """`_prepared`: the internal topics are gone, and the offsets of the shuffle with its topic."""
    lines = some_lines(1_000)
    worker = keeping.run()
    fed(keeping, lines[:500])
    keeping.until_counted(lines[:500])
    keeping("savepoint", "create", keeping.job, "good", "--stop")
    assert worker.wait(timeout=60) == 0, keeping.errors()[-3000:]
    admin = keeping.log.admin()
    eventually(lambda: True if not admin.members(keeping.job) else None)
    admin.close()
    assert "fits the code" in keeping("check", "count.py:job", "--against", "good", "--partitions", "3")
    again = ("resume", "count.py:job", "--from", "good", "--partitions", "3", "--yes")
    with monkeypatch.context() as patch:

        def dies(*_: object) -> None:
            raise Died

        patch.setattr(Resuming, step, dies)
        patch.chdir(keeping.directory)
        result = CliRunner().invoke(app, [*again, "--kafka", keeping.bootstrap])
        assert isinstance(result.exception, Died), result.output
    fed(keeping, lines[500:])
    assert keeping.run().wait(timeout=60) == EXIT_STOP
    assert "is to begin from a savepoint" in keeping.errors()
    admin = keeping.log.admin()
    eventually(lambda: True if not admin.members(keeping.job) else None)
    admin.close()
    keeping(*again)
    worker = keeping.run()
    keeping.until_counted(lines)
    keeping.refuse_repeats()
    assert shuffle_partitions(keeping) == 3
    keeping.stop(worker)


@pytest.mark.timeout(300)
def test_workers_that_are_killed_in_the_middle_of_barriers_repeat_nothing(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint each 200 ms, and kills at any moment of it; each comes back without its disk."""
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__INTERVAL", "200ms")
    lines = some_lines(2_000)
    for number in range(6):
        worker = keeping.run()
        fed(keeping, lines[number * 300 : number * 300 + 300])
        eventually(lambda done=number * 300 + 150: True if sum_of(keeping) >= done else None)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        shutil.rmtree(keeping.directory / ".streamcore", ignore_errors=True)
    worker = keeping.run()
    keeping.produce(*lines[1_800:])
    keeping.until_counted(lines)
    keeping.refuse_repeats()
    keeping.stop(worker)


def sum_of(keeping: Keeping) -> int:
    """Lines whose words were all counted, at least."""
    admin = keeping.log.admin()
    try:
        partitions = admin.topics([keeping.lines])[keeping.lines].partitions
        tps = [TopicPartition(keeping.lines, Partition(p)) for p in range(partitions)]
        return sum(at.offset for at in admin.committed(keeping.job, tps, 10.0, stable=False).values())
    finally:
        admin.close()
