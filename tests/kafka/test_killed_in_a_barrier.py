"""kill -9 in every phase of a barrier and of an upload: a real Kafka, a real S3-compatible server, lost disks."""

from __future__ import annotations

import shutil
import signal
import subprocess

import pytest

from tests.checkpoint.s3 import S3Server
from tests.kafka.test_checkpoints import Keeping, in_s3
from tests.kafka.test_checkpoints import keeping as keeping
from tests.kafka.test_command_line import some_lines
from tests.kafka.trapped import PHASES

EACH = 200


def wait_s(worker: subprocess.Popen[str], seconds: float) -> int | None:
    """How it ended; None: it runs."""
    try:
        return worker.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


def test_a_worker_that_is_killed_in_any_phase_of_a_barrier_loses_and_repeats_nothing(
    keeping: Keeping, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One life after the other, each ends in another phase; each second time the disk is lost too."""
    in_s3(monkeypatch, s3_server.endpoint, f"s3://{s3_server.bucket(f'killed-{keeping.job}')}/prefix")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__INTERVAL", "300ms")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__KEEP", "2")
    lines = some_lines(EACH * (len(PHASES) + 1))
    for number, phase in enumerate(PHASES):
        keeping.produce(*lines[number * EACH : (number + 1) * EACH])
        monkeypatch.setenv("TRAPPED", phase)
        worker = keeping.start("run", "count.py:job", module="tests.kafka.trapped")
        died = wait_s(worker, 60)
        assert died == -signal.SIGKILL, f"{phase}: {keeping.errors()[-5000:]}"
        if number % 2:
            shutil.rmtree(keeping.directory / ".streamcore")
    keeping.produce(*lines[len(PHASES) * EACH :])
    complete = keeping.errors().count("barrier: Complete(")
    worker = keeping.run()
    keeping.until_counted(lines)
    keeping.until_said("barrier: Complete(", complete + 2)
    keeping.stop(worker)
    keeping.refuse_repeats()
    told = keeping("checkpoints", "verify", keeping.job)
    assert told.count("ok    ") >= 4 and "BAD " not in told
    shutil.rmtree(keeping.directory / ".streamcore")
    worker = keeping.run()
    keeping.produce("at last")
    keeping.until_counted([*lines, "at last"])
    keeping.stop(worker)
    keeping.refuse_repeats()
