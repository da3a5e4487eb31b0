"""What one checkpoint is, and where everything of a job lies in its store.

    JOB/owner.json                                    whose the prefix is (see checkpoint.owner)
    JOB/manifests/STAGE/PARTITION/LINEAGE/EPOCH.json  one checkpoint of one task
    JOB/objects/SHA256                                a file of a checkpoint, named by its content
    JOB/objects/SHA256.TOKEN                          the same content once more (see checkpoint.upload)
    JOB/holds/NAME.json                               manifests that must stay (see checkpoint.holds)

A manifest is one JSON object in UTF-8 without line breaks, and a newline. Its members, in this order:

    format       1; a higher number is another version's, and refused before anything else is read
    job, stage, partition, lineage, epoch             which task's state, and of which commit
    nonce, journal, journal_end                       the commit itself: the mark in every column (state.store)
    topology     the topology version of the code that wrote it
    steps        {step: version of its State class, or null}
    files        [{name, sha256, size, object}, …]    `name` in RocksDB's directory; `object` below JOB/objects/
    created_ms   milliseconds since 1970, UTC, by the writer's clock: for people
    barrier      the number of the barrier it belongs to, or null
    previous     the epoch of the manifest it took objects over from, or null
    digest       SHA-256 over all columns (see checkpoint.verify), or null
    seal         SHA-256, in hexadecimal, of all bytes before `,"seal":`

The seal finds what was edited by hand or half copied. It is no signature.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from streamcore.checkpoint import sealed
from streamcore.checkpoint.store import CheckpointStore, is_key, read
from streamcore.errors import CheckpointDamaged
from streamcore.state.store import EpochMark
from streamcore.types import Epoch, Offset, Partition, TaskId

FORMAT: Final = 1
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_OBJECT: Final = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{1,32})?")


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    sha256: str
    size: int
    object: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int = FORMAT
    job: str
    stage: str
    partition: Partition
    lineage: str
    epoch: Epoch
    nonce: str
    journal: Offset
    journal_end: Offset
    topology: str
    steps: dict[str, int | None]
    files: tuple[File, ...]
    created_ms: int
    barrier: int | None = None
    previous: Epoch | None = None
    digest: str | None = None
    seal: str = ""

    @property
    def task(self) -> TaskId:
        return TaskId(self.stage, self.partition)

    @property
    def mark(self) -> EpochMark:
        return EpochMark(self.lineage, self.epoch, self.nonce, self.journal, self.journal_end)

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def key(self) -> str:
        return Layout(self.job).manifest(self.task, self.lineage, self.epoch)

    def encode(self) -> bytes:
        return sealed.encode(self)


class Layout:
    """Keys of one job."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.owner = f"{job}/owner.json"
        self.objects = f"{job}/objects/"
        self.holds = f"{job}/holds/"
        self.manifests = f"{job}/manifests/"

    def object(self, name: str) -> str:
        return self.objects + name

    def hold(self, name: str) -> str:
        return f"{self.holds}{name}.json"

    def of_task(self, task: TaskId) -> str:
        return f"{self.manifests}{task.stage}/{task.partition}/"

    def of_lineage(self, task: TaskId, lineage: str) -> str:
        return f"{self.of_task(task)}{lineage}/"

    def manifest(self, task: TaskId, lineage: str, epoch: Epoch) -> str:
        return f"{self.of_lineage(task, lineage)}{epoch}.json"


def parsed(key: str) -> tuple[str, Epoch] | None:
    """Lineage and epoch of a manifest's key; None of what is no manifest (somebody's note beside them)."""
    *_, lineage, name = key.rsplit("/", 2)
    number = name.removesuffix(".json")
    return (lineage, Epoch(int(number))) if name.endswith(".json") and number.isdecimal() else None


def load(store: CheckpointStore, key: str) -> Manifest:
    """Raises CheckpointDamaged, StateMismatch (a newer version's), and what the store raises."""
    return decode(read(store, key), key)


def decode(data: bytes, key: str) -> Manifest:
    """`key`: where it was found, which must be where it belongs. Raises as `load`."""
    where = f"the checkpoint manifest {key}"
    manifest = sealed.decode(data, Manifest, FORMAT, where)
    if manifest.key != key:
        raise CheckpointDamaged(f"{where} is another checkpoint's: {manifest.key}")
    for file in manifest.files:
        if not (_SHA256.fullmatch(file.sha256) and _OBJECT.fullmatch(file.object) and file.size >= 0):
            raise CheckpointDamaged(f"{where} names an object that cannot be: {file.object!r}")
        if "/" in file.name or not is_key(file.name):
            raise CheckpointDamaged(f"{where} names a file that cannot be: {file.name!r}")
    return manifest


def listed(store: CheckpointStore, layout: Layout, task: TaskId, lineage: str) -> list[Epoch]:
    """Epochs with a manifest, newest first."""
    found = (parsed(stat.key) for stat in store.list(layout.of_lineage(task, lineage)))
    return sorted((epoch for _, epoch in filter(None, found)), reverse=True)
