"""Three workers on three brokers, duplicates and disorder in the input, every kind of fault; judged by chaos.judge."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.run import Shape, run
from tests.kafka.broker import Local

SEED = int(os.environ.get("STREAMCORE_CHAOS_SEED", "1"))


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_repeated_while_workers_brokers_and_the_network_fail(
    brokers: Callable[[int], Local], tmp_path: Path
) -> None:
    shape = Shape(minutes=2.5, records_a_second=1_340)
    assert shape.records >= 200_000
    report = run(brokers(3), SEED, tmp_path, shape)
    assert report.ok, report.explain()
    assert report.kills >= 20
    assert report.zombies >= 3
    assert report.broker_faults >= 2
