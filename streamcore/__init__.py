"""Stream processing on Kafka, exactly once, in plain Python.

from streamcore import Job, Topic, agg

lines = Topic("lines", str)
counts = Topic("counts", int, key=str)

job = Job("word-count")
job.stream(lines).flat_map(str.split).key_by("by-word", str.lower).aggregate("count", agg.count()).to(counts)
"""

from __future__ import annotations

from streamcore import agg
from streamcore.api import (
    Aggregate,
    Codec,
    Context,
    DeadLetter,
    Job,
    Key,
    KeyedStream,
    Map,
    MapView,
    OnError,
    Record,
    Skip,
    Start,
    State,
    Stop,
    Stream,
    Table,
    Topic,
    Value,
    json,
)

__all__ = [
    "Aggregate",
    "Codec",
    "Context",
    "DeadLetter",
    "Job",
    "Key",
    "KeyedStream",
    "Map",
    "MapView",
    "OnError",
    "Record",
    "Skip",
    "Start",
    "State",
    "Stop",
    "Stream",
    "Table",
    "Topic",
    "Value",
    "agg",
    "json",
]
