"""What a takeover of each task would take now: on the machine that has its state, and on one that has nothing.

    this machine     the frames since the last commit that its disk holds: next to none, the time to fence and seek
    another machine  the newest checkpoint restored, and the journal behind it replayed

A worker's tasks are taken over together: their restores and replays add up, and that is what is held against an RTO.

The rates are this job's own, measured here and now: a part of a checkpoint is read and hashed, a part of a journal is
read, decoded and applied to a store in memory. What is too little to measure on goes at the rate that workers have
told, or else at an assumed one. Reads, changes nothing; works beside a running job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from streamcore import limits
from streamcore.checkpoint.manifest import Layout, Manifest, load
from streamcore.checkpoint.store import CheckpointStore
from streamcore.clock import Clock
from streamcore.errors import CheckpointDamaged
from streamcore.log import metadata
from streamcore.log.metadata import Metadata
from streamcore.log.port import Admin, Log
from streamcore.runtime.budget import Rates
from streamcore.runtime.status import JobTopics, require
from streamcore.runtime.told import look
from streamcore.state.frames import FrameAssembler
from streamcore.state.memory import MemoryStore
from streamcore.state.store import EpochMark
from streamcore.types import Offset, Partition, Slot, TaskId, TopicPartition

SAMPLE_S = 3.0
"""How long a rate is measured, at most."""


@dataclass(frozen=True, slots=True)
class TaskEstimate:
    task: TaskId
    epoch: int
    checkpoint: str | None
    """Its manifest's key; None: the journal alone."""
    state_bytes: int
    """To be restored."""
    tail_bytes: int
    """Of the journal, behind the checkpoint."""
    local_s: float
    other_s: float
    slot: Slot = Slot(0)  # noqa: RUF009
    """Of the worker that wrote last."""
    trouble: str = ""
    """Why `other_s` cannot be told."""

    def left_s(self, rto_s: float) -> float:
        """Of the budget, on another machine."""
        return rto_s - self.other_s


@dataclass(frozen=True, slots=True)
class Estimate:
    restore_bytes_s: float
    replay_bytes_s: float
    measured: bool
    """By us, or by workers; else assumed."""
    tasks: tuple[TaskEstimate, ...]
    rto_s: float
    """As the job's workers tell it; 0: they do not, or have none."""

    def together_s(self) -> dict[Slot, float]:
        """What a takeover of all of a worker's tasks takes on another machine: fencing once."""
        found: dict[Slot, float] = {}
        for task in self.tasks:
            found[task.slot] = found.get(task.slot, limits.TAKEOVER_S) + task.other_s - limits.TAKEOVER_S
        return found

    def within(self, rto_s: float) -> bool:
        """What cannot be told is not within it."""
        return not any(task.trouble for task in self.tasks) and all(s <= rto_s for s in self.together_s().values())


@dataclass
class _Task:
    id: TaskId
    told: Metadata
    manifest: Manifest | None
    start: Offset
    end: Offset
    read_bytes: int = 0
    read_to: int = 0
    trouble: str = ""

    @property
    def tail_bytes(self) -> int:
        """What was read, and for the rest as much an offset."""
        covered = self.read_to - self.start
        return self.read_bytes * (self.end - self.start) // covered if covered > 0 else 0


def estimate(log: Log, admin: Admin, job: str, store: CheckpointStore | None, clock: Clock) -> Estimate:
    """Raises TopicError for a job that is not known."""
    topics = require(admin, job)
    tasks = _tasks(admin, topics, store)
    replay_s = _read_tails(log, topics, tasks, clock)
    rates = Rates()
    rates.replayed(sum(task.read_bytes for task in tasks), replay_s)
    rates.restored(*_restored(store, [t.manifest for t in tasks if t.manifest is not None], clock))
    told = look(log, admin, job, clock)
    for recovery in told.recoveries.values():
        rates.adopt(recovery.restore_bytes_s, recovery.replay_bytes_s)
    return Estimate(
        rates.restore_bytes_s or limits.RESTORE_BYTES_S,
        rates.replay_bytes_s or limits.REPLAY_BYTES_S,
        rates.measured,
        tuple(_estimated(task, rates) for task in tasks),
        told.rto_ms / 1000,
    )


def _estimated(task: _Task, rates: Rates) -> TaskEstimate:
    size, tail = (task.manifest.size_bytes if task.manifest else 0), task.tail_bytes
    key = task.manifest.key if task.manifest else None
    other_s = rates.takeover_s(size, tail)
    return TaskEstimate(
        task.id, task.told.epoch, key, size, tail, limits.TAKEOVER_S, other_s, task.told.slot, task.trouble
    )


def _tasks(admin: Admin, topics: JobTopics, store: CheckpointStore | None) -> list[_Task]:
    found: list[_Task] = []
    for stage, info in topics.journals.items():
        inputs = [TopicPartition(topics.input_topic(stage), Partition(p)) for p in range(info.partitions)]
        journals = {p: TopicPartition(info.name, Partition(p)) for p in range(info.partitions)}
        first = admin.first_offsets(list(journals.values()))
        for tp, at in admin.committed(topics.job, inputs, limits.CALL_TIMEOUT_S, stable=False).items():
            told = metadata.decode(at.metadata, str(tp))
            manifest, trouble = _manifest(store, told)
            start = manifest.journal_end if manifest is not None else first[journals[tp.partition]]
            task = _Task(TaskId(stage, tp.partition), told, manifest, start, told.journal_end)
            if manifest is None and start > 0:
                trouble = trouble or "no checkpoint of it is known here, and its journal was trimmed"
            task.trouble = trouble
            found.append(task)
    return found


def _manifest(store: CheckpointStore | None, told: Metadata) -> tuple[Manifest | None, str]:
    """And why it is not to be had, where the commit names one."""
    if store is None or told.checkpoint is None:
        return None, ""
    try:
        return load(store, told.checkpoint), ""
    except CheckpointDamaged as error:
        return None, f"its newest checkpoint is not to be had in {store.place}: {error.what}"


def _read_tails(log: Log, topics: JobTopics, tasks: list[_Task], clock: Clock) -> float:
    """Seconds that reading, decoding and applying took."""
    by_journal = {_journal(topics, task): task for task in tasks if task.end > task.start}
    if not by_journal:
        return 0.0
    stores: Mapping[TopicPartition, FrameAssembler] = {tp: FrameAssembler(str(tp), chained=True) for tp in by_journal}
    reader = log.reader({tp: task.start for tp, task in by_journal.items()})
    begun_s = clock.monotonic_s()
    try:
        while not reader.ended() >= by_journal.keys() and clock.monotonic_s() - begun_s < SAMPLE_S:
            for run in reader.poll(limits.POLL_RECORDS, 0.1):
                task = by_journal[run.tp]
                for offset, value in zip(run.offsets, run.values, strict=True):
                    data = value or b""
                    _apply(stores[run.tp], offset, data)
                    task.read_bytes += len(data)
                    task.read_to = offset + 1
    finally:
        reader.close()
    return max(1e-6, clock.monotonic_s() - begun_s)


def _apply(assembler: FrameAssembler, offset: int, data: bytes) -> None:
    placed = assembler.feed(Offset(offset), data)
    if placed is not None:
        frame = placed.frame
        mark = EpochMark(frame.lineage, frame.epoch, frame.nonce, placed.first, placed.end)
        MemoryStore(frame.deltas).apply(frame.deltas, mark)


def _journal(topics: JobTopics, task: _Task) -> TopicPartition:
    return TopicPartition(topics.journals[task.id.stage].name, task.id.partition)


def _restored(store: CheckpointStore | None, manifests: list[Manifest], clock: Clock) -> tuple[int, float]:
    """Bytes, and the seconds that they took."""
    if store is None or not manifests:
        return 0, 0.0
    begun_s, size = clock.monotonic_s(), 0
    for manifest in sorted(manifests, key=lambda manifest: -manifest.size_bytes):
        for file in manifest.files:
            digest = hashlib.sha256()
            for chunk in store.get(Layout(manifest.job).object(file.object)):
                digest.update(chunk)
                size += len(chunk)
                if clock.monotonic_s() - begun_s > SAMPLE_S:
                    return size, clock.monotonic_s() - begun_s
    return size, clock.monotonic_s() - begun_s
