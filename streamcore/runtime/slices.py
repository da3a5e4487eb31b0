"""Feeding a task: a run in slices, each all or nothing, and what becomes of a record that fails.

A slice decodes, runs through every step, and only then reaches the producer (what is produced cannot be taken back).
When anything in it raises, the slice's state writes and outputs are undone and it is run again record by record: the
records before the culprit stand, the culprit's own writes are undone, and its policy decides: stop, skip, dead letter.

Slices adapt to SLICE_MS, so that the epoch's timer and the group are served in time whatever the user's functions cost.
A message of a shuffle holds many records: they are sliced too, but the position moves message by message, since no
offset names a record within one.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping

from streamcore import limits
from streamcore.clock import Clock, Entropy
from streamcore.errors import RecordFailed, StopError, shown
from streamcore.log.port import Headers, Producer, Run
from streamcore.observe.metrics import Metrics
from streamcore.operators.batch import Batch
from streamcore.operators.compile import compile_stage
from streamcore.operators.errors import StepFailed
from streamcore.sink.outbox import Outbox
from streamcore.source.decode import DecodeFailed, decode, decode_shuffle
from streamcore.state.store import Delta, Store
from streamcore.topology.nodes import DeadLetter, OnError, Skip, Source
from streamcore.topology.plan import Plan, Stage
from streamcore.types import TaskId


class SliceRunner:
    pass
