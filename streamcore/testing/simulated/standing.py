"""What stands when a run is over, in topics, journals, offsets, the checkpoint store and on disks: as a History."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from streamcore.checkpoint.manifest import Layout, load, parsed
from streamcore.checkpoint.memory import MemoryObjects
from streamcore.errors import CheckpointDamaged
from streamcore.log import metadata
from streamcore.log.local.records import Chunk
from streamcore.log.port import Headers
from streamcore.operators.batch import CORRELATION_HEADER
from streamcore.runtime.control import Abandon, Complete, Cut, Start, Stored, decode
from streamcore.sink.shuffle import decode_frame
from streamcore.state.frames import FrameAssembler
from streamcore.state.memory import SNAPSHOT, Tables
from streamcore.state.store import EpochMark
from streamcore.testing.history import (
    CheckpointSeen,
    History,
    JournalFrame,
    OffsetTold,
    Record,
    Shuffled,
    TaskState,
    Trimmed,
)
from streamcore.testing.simulated.disk import Disk
from streamcore.testing.simulated.recorder import RecordingBroker
from streamcore.topology.plan import Plan, control_topic
from streamcore.types import Offset, Partition, TaskId, TopicPartition


class Standing:
    def __init__(
        self,
        plan: Plan,
        partitions: Mapping[str, int],
        broker: RecordingBroker,
        store: MemoryObjects,
        spoilt: set[str],
        disks: Sequence[tuple[str, Disk]],
    ) -> None:
        """`partitions`: by stage; `spoilt`: keys that the store keeps wrongly; `disks`: each with its name."""
        self._plan = plan
        self._partitions = partitions
        self._broker = broker
        self._store = store
        self._spoilt = spoilt
        self._disks = disks

    def history(self) -> History:
        """Of the log; inputs, states and barriers are the caller's to ask for."""
        plan, broker = self._plan, self._broker
        history = History(
            job=plan.job,
            partitions={stage.topic: self._partitions[stage.name] for stage in plan.stages},
            stages={stage.name: stage.topic for stage in plan.stages},
            transactions=broker.transactions,
            offsets_sent=broker.offsets_sent,
            opened=broker.opened,
            doubtful=broker.doubtful,
            written=broker.written,
            events=broker.events,
            open_transactions=broker.open_transactions(),
            unprocessed=0,
        )
        history.outputs = {topic: self.read(topic) for topic in (*plan.sink_topics, *plan.dead_letter_topics)}
        for task in self._tasks():
            frames = self._frames(task)
            if frames:
                history.frames[task] = frames
        tps = [TopicPartition(plan.stage(task.stage).topic, task.partition) for task in self._tasks()]
        for tp, at in (broker.committed(plan.job, tps, stable=False) or {}).items():
            history.committed[tp] = OffsetTold(tp, at.offset, metadata.decode(at.metadata, str(tp)))
        return history

    def add_barriers(self, history: History, with_rows: bool) -> None:
        """`with_rows`: checkpoints are of the store in memory, and can be read."""
        history.shuffled = self._shuffled()
        self._decisions(history)
        history.checkpoints = self._checkpoints(with_rows)
        history.journals_trimmed = self._journals_trimmed()

    def _tasks(self) -> list[TaskId]:
        return [
            TaskId(stage.name, Partition(p)) for stage in self._plan.stages for p in range(self._partitions[stage.name])
        ]

    def read(self, topic: str) -> list[Record]:
        if topic not in self._broker.topics([topic]):
            return []
        records: list[Record] = []
        for p in range(self._broker.use(topic)):
            tp = TopicPartition(topic, Partition(p))
            first = self._broker.first_offsets([tp])[tp]
            for chunk, begin, end in self._broker.trimmed(tp):
                records += [r for r in _records(tp, chunk) if begin <= r.offset < end]
            for chunk in self._broker.fetch({tp: first}, 1 << 30, True)[0].chunks:
                records += [r for r in _records(tp, chunk) if r.offset >= first]
        return records

    def _shuffled(self) -> list[Shuffled]:
        found: list[Shuffled] = []
        for stage in self._plan.stages:
            for record in self.read(stage.topic) if stage.is_shuffle else ():
                frame = decode_frame(record.value or b"", str(record.tp))
                source = TaskId(frame.stage, Partition(frame.partition)) if frame.stage else None
                found.append(Shuffled(record.tp, record.offset, source, frame.epoch))
        return found

    def _decisions(self, history: History) -> None:
        states: dict[int, str] = {}
        history.decisions = []
        cuts: dict[tuple[int, TaskId], int] = {}
        stored: dict[tuple[int, TaskId], int] = {}
        for record in self.read(control_topic(self._plan.job)):
            match decode(record.value or b"", str(record.tp)):
                case Start() as said:
                    states[said.barrier] = "open"
                case Cut() as said:
                    cuts[said.barrier, said.task] = said.epoch
                case Stored(barrier=int() as number) as said:
                    stored[number, said.task] = said.epoch
                case Complete() as said:
                    states[said.barrier] = "complete"
                    history.decisions.append((said.barrier, "complete"))
                case Abandon() as said:
                    states[said.barrier] = "abandoned"
                    history.decisions.append((said.barrier, "abandoned"))
                case _:
                    pass
        history.barriers = list(states.items())
        history.stored_cuts = [
            (number, task, cut, stored.get((number, task), -1))
            for (number, task), cut in cuts.items()
            if states.get(number) == "complete"
        ]

    def _checkpoints(self, with_rows: bool) -> list[CheckpointSeen]:
        """Every manifest that stands in the store. What the store itself spoilt is nobody's fault."""
        found: list[CheckpointSeen] = []
        for stat in self._store.list(Layout(self._plan.job).manifests):
            if parsed(stat.key) is None or stat.key in self._spoilt:
                continue
            manifest = load(self._store, stat.key)
            wrong, data = "", dict[str, bytes]()
            spoilt = False
            for file in manifest.files:
                key = Layout(self._plan.job).object(file.object)
                spoilt = spoilt or key in self._spoilt
                try:
                    data[file.name] = b"".join(self._store.get(key))
                except CheckpointDamaged as error:
                    wrong = error.what
                    continue
                if hashlib.sha256(data[file.name]).hexdigest() != file.sha256:
                    wrong = f"{key} is not what the manifest says"
            whole = not wrong and not spoilt and with_rows
            rows = msgspec.msgpack.decode(data[SNAPSHOT.name], type=Tables) if whole else None
            if rows is not None:
                rows.pop("default", None)
            found.append(
                CheckpointSeen(stat.key, manifest.task, manifest.lineage, manifest.epoch, "" if spoilt else wrong, rows)
            )
        return found

    def _journals_trimmed(self) -> list[Trimmed]:
        journals = {
            TopicPartition(self._plan.journal_topic(task.stage), task.partition): task for task in self._tasks()
        }
        deleted = self._broker.deleted
        return [Trimmed(step, journals[tp], before, named) for step, tp, before, named in deleted if tp in journals]

    def _frames(self, task: TaskId) -> list[JournalFrame]:
        assembler = FrameAssembler(str(task), chained=False)
        found: list[JournalFrame] = []
        for record in self.read(self._plan.journal_topic(task.stage)):
            if record.tp.partition == task.partition:
                placed = assembler.feed(Offset(record.offset), record.value or b"")
                if placed is not None:
                    found.append(JournalFrame(task, placed.first, placed.end, placed.frame))
        return found

    def states(self, owners: Mapping[TaskId, Disk], applied: Mapping[tuple[TaskId, EpochMark], str]) -> list[TaskState]:
        steps = {stage.name: [node.name for node in stage.stateful] for stage in self._plan.stages}
        states: list[TaskState] = []
        for machine, disk in self._disks:
            for task in disk.tasks():
                store = disk.peek(task, steps[task.stage])
                if store is None:
                    continue
                owner = owners.get(task) is disk
                rows = {s: dict(store.column(s).scan(b"", b"\xff")) for s in steps[task.stage]} if owner else {}
                states.append(TaskState(machine, task, owner, store.mark(), rows))
            disk.killed()
        return states + [TaskState(of, task, False, mark, {}) for (task, mark), of in applied.items()]


def _records(tp: TopicPartition, chunk: Chunk) -> list[Record]:
    keys = chunk.keys or [None] * len(chunk.values)
    told = chunk.headers or [None] * len(chunk.values)
    rows = zip(keys, chunk.values, chunk.times, told, strict=True)
    return [
        Record(tp, chunk.base + i, key, value, time, _origin(headers))
        for i, (key, value, time, headers) in enumerate(rows)
    ]


def _origin(headers: Headers | None) -> str:
    return next((value.decode() for name, value in headers or () if name == CORRELATION_HEADER), "")
