"""What a takeover of each task would take now: on the machine that has its state, and on one that has nothing.

    this machine     the frames since the last commit that its disk holds: next to none, the time to fence and seek
    another machine  the newest checkpoint restored, and the journal behind it replayed

The rates are this job's own, measured here and now: a part of a checkpoint is read and hashed, a part of a journal is
read, decoded and applied to a store in memory. Reads, changes nothing; works beside a running job.
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
from streamcore.runtime.status import JobTopics, require
from streamcore.state.frames import FrameAssembler
from streamcore.state.memory import MemoryStore
from streamcore.state.store import EpochMark
from streamcore.types import Offset, Partition, TaskId, TopicPartition

SAMPLE_S = 3.0
"""How long a rate is measured, at most."""
FENCE_S = 0.5
"""What a takeover takes beside reading: fencing, offsets, seeking (measured on one machine: 0.1 to 0.4 s)."""


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

    def left_s(self, rto_s: float) -> float:
        """Of the budget, on another machine."""
        return rto_s - self.other_s


@dataclass(frozen=True, slots=True)
class Estimate:
    restore_bytes_s: float
    replay_bytes_s: float
    """0: there was nothing to measure it on."""
    tasks: tuple[TaskEstimate, ...]


@dataclass
class _Task:
    id: TaskId
    told: Metadata
    manifest: Manifest | None
    start: Offset
    end: Offset
    read_bytes: int = 0
    read_to: int = 0

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
    read = sum(task.read_bytes for task in tasks)
    replay_rate = read / replay_s if replay_s > 0 and read else 0.0
    restore_rate = _restore_rate(store, [t.manifest for t in tasks if t.manifest is not None], clock)
    found = [_estimated(task, restore_rate, replay_rate) for task in tasks]
    return Estimate(restore_rate, replay_rate, tuple(found))


def _estimated(task: _Task, restore_rate: float, replay_rate: float) -> TaskEstimate:
    size, tail = (task.manifest.size_bytes if task.manifest else 0), task.tail_bytes
    other_s = FENCE_S + (size / restore_rate if restore_rate else 0.0) + (tail / replay_rate if replay_rate else 0.0)
    key = task.manifest.key if task.manifest else None
    return TaskEstimate(task.id, task.told.epoch, key, size, tail, FENCE_S, other_s)


def _tasks(admin: Admin, topics: JobTopics, store: CheckpointStore | None) -> list[_Task]:
    found: list[_Task] = []
    for stage, info in topics.journals.items():
        inputs = [TopicPartition(topics.input_topic(stage), Partition(p)) for p in range(info.partitions)]
        journals = {p: TopicPartition(info.name, Partition(p)) for p in range(info.partitions)}
        first = admin.first_offsets(list(journals.values()))
        for tp, at in admin.committed(topics.job, inputs, limits.CALL_TIMEOUT_S, stable=False).items():
            told = metadata.decode(at.metadata, str(tp))
            manifest = _manifest(store, told)
            start = manifest.journal_end if manifest is not None else first[journals[tp.partition]]
            found.append(_Task(TaskId(stage, tp.partition), told, manifest, start, told.journal_end))
    return found


def _manifest(store: CheckpointStore | None, told: Metadata) -> Manifest | None:
    if store is None or told.checkpoint is None:
        return None
    try:
        return load(store, told.checkpoint)
    except CheckpointDamaged:
        return None


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


def _restore_rate(store: CheckpointStore | None, manifests: list[Manifest], clock: Clock) -> float:
    if store is None or not manifests:
        return 0.0
    begun_s, size = clock.monotonic_s(), 0
    for manifest in sorted(manifests, key=lambda manifest: -manifest.size_bytes):
        for file in manifest.files:
            digest = hashlib.sha256()
            for chunk in store.get(Layout(manifest.job).object(file.object)):
                digest.update(chunk)
                size += len(chunk)
                if clock.monotonic_s() - begun_s > SAMPLE_S:
                    return size / (clock.monotonic_s() - begun_s)
    return size / max(1e-6, clock.monotonic_s() - begun_s)
