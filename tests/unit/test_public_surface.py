"""What users import. A name appears here when it works, and not before."""

from __future__ import annotations

import subprocess
import sys

import streamcore
from streamcore import agg


def test_the_public_names_are_these() -> None:
    assert sorted(streamcore.__all__) == [
        *("Aggregate", "Codec", "Context", "DeadLetter", "Job", "Key", "KeyedStream", "Map", "MapView", "OnError"),
        *("Record", "Skip", "Start", "State", "Stop", "Stream", "Table", "Topic", "Value", "agg", "json"),
    ]
    assert all(hasattr(streamcore, name) for name in streamcore.__all__)


def test_the_aggregates_are_these() -> None:
    assert agg.__all__ == ["collect", "count", "first", "last", "max", "mean", "min", "sum"]


def test_the_methods_of_streams_are_these() -> None:
    def public(of: type) -> set[str]:
        return {name for name in dir(of) if not name.startswith("_")}

    stream = {"filter", "flat_map", "key_by", "map", "map_batch", "merge", "only", "pipe", "to"}
    assert public(streamcore.Stream) == stream
    assert public(streamcore.KeyedStream) == stream | {"aggregate", "dedupe", "map_items", "process", "records"}
    assert public(streamcore.Table) == {"to", "updates"}
    assert public(streamcore.Job) == {"explain", "name", "plan", "stream"}


def test_writing_a_job_down_loads_no_client_library_and_starts_nothing() -> None:
    program = (
        "import sys, threading, examples.c_payments as c; c.job.plan();"
        "bad = {'confluent_kafka', 'rocksdict', 'prometheus_client', 'typer'} & set(sys.modules);"
        "assert not bad, bad; assert threading.active_count() == 1"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
