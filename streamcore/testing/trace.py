"""The path of a record: which input it came from, which epochs it went through, whose they were.

Read from a history alone; the origins are the correlation ids that chaos runs carry for it.
"""

from __future__ import annotations

from streamcore.testing.history import History, JournalFrame, Record, Transaction
from streamcore.types import Partition, TaskId, TopicPartition

SHOWN = 120


def path_of_output(history: History, record: Record) -> list[str]:
    """From the input to this output."""
    lines = path_of_input(history, record.origin) if record.origin else []
    writer = _writer(history, record)
    by = f", {_transaction(writer)}" if writer is not None else ""
    return [*lines, f"output  {record.tp} offset {record.offset}: {_shown(record)}{by}"]


def path_of_input(history: History, origin: str) -> list[str]:
    """From the input's place in its topic to the epochs that took it in."""
    topic, number, offset = origin.rsplit("-", 2)
    tp = TopicPartition(topic, Partition(int(number)))
    found = next((r for r in history.inputs.get(topic, ()) if r.tp == tp and r.offset == int(offset)), None)
    lines = [f"input   {tp} offset {offset}: {_shown(found) if found else 'gone'}"]
    for stage, read in history.stages.items():
        if read == topic:
            task = TaskId(stage, tp.partition)
            frame = _covering(history, task, topic, int(offset))
            lines.append(f"task    {task}: {_frame(history, frame) if frame else 'in no committed epoch'}")
    return lines


def origin_of(history: History, topic: str, key: bytes | None, value: bytes | None) -> str:
    """Of the first output with this key and value; empty where there is none."""
    records = history.outputs.get(topic, ())
    return next((r.origin for r in records if r.key == key and r.value == value and r.origin), "")


def same_input(history: History, other: History, origin: str) -> str:
    """The place in `other` of the input that stands at `origin` in `history`: two runs are fed in other orders."""
    topic, number, offset = origin.rsplit("-", 2)
    tp = TopicPartition(topic, Partition(int(number)))
    wanted = next((r for r in history.inputs.get(topic, ()) if r.tp == tp and r.offset == int(offset)), None)
    for record in other.inputs.get(topic, ()) if wanted else ():
        if wanted is not None and (record.key, record.value) == (wanted.key, wanted.value):
            return f"{topic}-{record.tp.partition}-{record.offset}"
    return ""


def _covering(history: History, task: TaskId, topic: str, offset: int) -> JournalFrame | None:
    """The first committed epoch that took the offset in."""
    return next((f for f in history.frames.get(task, ()) if f.frame.offsets.get(topic, 0) > offset), None)


def _frame(history: History, placed: JournalFrame) -> str:
    frame = placed.frame
    by = next(
        (
            t
            for t in history.transactions or ()
            if t.committed and any(told.metadata.nonce == frame.nonce for told in t.offsets)
        ),
        None,
    )
    steps = ", ".join(f"{step} ({len(delta.keys)} keys)" for step, delta in frame.deltas.items() if delta)
    return f"epoch {frame.epoch}{f', state of {steps}' if steps else ''}{f', {_transaction(by)}' if by else ''}"


def _writer(history: History, record: Record) -> Transaction | None:
    """Which transaction an output was written in, by its place: tasks and epochs are told by the offsets."""
    written = (history.written or {}).get((record.tp, record.offset))
    return next((t for t in history.transactions or () if (t.producer, t.begun_step) == written), None)


def _transaction(transaction: Transaction) -> str:
    tasks = ", ".join(f"{told.tp} to {told.offset} (epoch {told.metadata.epoch})" for told in transaction.offsets)
    return f"committed by worker {transaction.actor} at step {transaction.ended_step} with {tasks or 'no offsets'}"


def _shown(record: Record) -> str:
    text = f"{record.key!r} = {record.value!r}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
