"""What becomes of a record that cannot be processed: its policy, and the story that it is told with.

The policy is the failing step's own where it has one (a dedupe's too_old), else the stage's. A dead letter goes out in
the same transaction as everything else, as the record came, with headers

    streamcore-job, -step, -error, -trace, -topic, -partition, -offset

before its own. A record that came through a shuffle has no bytes of its own: it is written as the shuffle's codec and
JSON show it, and its correlation id leads back to the source.
"""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from typing import Any

import msgspec

from streamcore import limits
from streamcore.errors import RecordFailed, RecordTooLarge, StopError, shown
from streamcore.log.port import Headers, Run
from streamcore.observe.metrics import Metrics
from streamcore.operators.batch import Batch
from streamcore.operators.errors import StepFailed
from streamcore.sink.outbox import Outbox
from streamcore.source.decode import CORRELATION_HEADER, DecodeFailed
from streamcore.topology.nodes import DeadLetter, OnError, Skip
from streamcore.topology.plan import Plan, Stage
from streamcore.types import TaskId

DECODE = "decode"
"""Named as the step where a record could not be read."""


class Failures:
    def __init__(self, plan: Plan, stage: Stage, task: TaskId, outbox: Outbox, metrics: Metrics) -> None:
        self._plan = plan
        self._stage = stage
        self._task = task
        self._outbox = outbox
        self._metrics = metrics

    def settle(self, record: Run | Batch, error: DecodeFailed | StepFailed | RecordTooLarge) -> None:
        """Skips or writes the dead letter into the open slice. Raises StopError under the policy Stop."""
        step = error.step if isinstance(error, StepFailed) else DECODE if isinstance(error, DecodeFailed) else "to"
        own = error.policy if isinstance(error, StepFailed) else None
        policy: OnError = own or self._stage.on_error
        if isinstance(policy, Skip):
            self._metrics.skipped(step)
        elif isinstance(policy, DeadLetter):
            self._dead_letter(policy.topic, step, record, error)
        else:
            raise self._stopped(step, record, error)

    # --- stop -------------------------------------------------------------------------------------------------

    def _stopped(self, step: str, record: Run | Batch, error: Exception) -> StopError:
        cause = error if isinstance(error, RecordTooLarge) else getattr(error, "cause", error)
        what = (
            f"job {self._plan.job}, step {step!r}, task {self._task}: the record at {_place(record)} failed: "
            f"{type(cause).__name__}: {cause}{_users_line(cause)}; its value: {_value_shown(record)}"
        )
        remedy = _REMEDY_DECODE if isinstance(error, DecodeFailed) else _REMEDY_STEP
        stopped = (RecordTooLarge if isinstance(cause, RecordTooLarge) else RecordFailed)(what, remedy)
        stopped.__cause__ = cause
        return stopped

    # --- dead letters -----------------------------------------------------------------------------------------

    def _dead_letter(self, topic: str, step: str, record: Run | Batch, error: Exception) -> None:
        cause = getattr(error, "cause", error)
        if isinstance(record, Run):
            key, value, time, headers = record.keys[0], record.values[0], record.times[0], record.headers
            own: Headers = list(headers[0] or []) if headers else []
            offset = record.offsets[0]
        else:
            key, value, time = (
                _as_bytes(record.keys[0] if record.keys else None),
                _as_bytes(record.values[0]),
                record.times[0],
            )
            own = [(CORRELATION_HEADER, record.origins[0].encode())] if record.origins else []
            offset = record.offsets[0] if record.offsets else -1
        story: Headers = [
            ("streamcore-job", self._plan.job.encode()),
            ("streamcore-step", step.encode()),
            ("streamcore-error", _cut(f"{type(cause).__name__}: {cause}")),
            ("streamcore-trace", _cut("".join(traceback.format_exception(cause)))),
            ("streamcore-topic", record.tp.topic.encode()),
            ("streamcore-partition", str(record.tp.partition).encode()),
            ("streamcore-offset", str(offset).encode()),
        ]
        try:
            self._outbox.write(topic, [value], [key], [time], [story + own])
        except RecordTooLarge as too_large:
            raise self._stopped(step, record, too_large) from cause
        self._metrics.dead_lettered(topic)


_NOT_THE_USERS = (
    f"{Path(__file__).parents[1]}/",
    *(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    "<",
)
"""Where files of ours, of Python's and of installed libraries begin, and code that has no file."""

_REMEDY_DECODE = (
    "the producer writes another format than the topic's declared type; or set on_error to Skip() or "
    "DeadLetter('TOPIC') for this stream"
)
_REMEDY_STEP = (
    "mend the function and start again: the job goes on at this record; or set on_error to Skip() or "
    "DeadLetter('TOPIC')"
)


def _place(record: Run | Batch) -> str:
    if record.offsets:
        return f"{record.tp} offset {record.offsets[0]}"
    return f"{record.tp} (a table's emission, or past a step that spreads records)"


def _users_line(cause: Exception) -> str:
    """Where in the user's code it happened: the innermost frame that is neither ours nor a library's."""
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if not f.filename.startswith(_NOT_THE_USERS)]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _value_shown(record: Run | Batch) -> str:
    return shown(record.values[0])


def _cut(text: str) -> bytes:
    return text.encode()[-limits.STORY_BYTES :]


def _as_bytes(value: Any) -> bytes | None:
    """For people to read: what a shuffle carried has no bytes of its own."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    to_json = getattr(value, "model_dump_json", None)
    if to_json is not None:
        return str(to_json()).encode()
    try:
        return msgspec.json.encode(value, enc_hook=repr)
    except (TypeError, ValueError):
        return repr(value).encode()
