"""A savepoint: one consistent cut of a job, kept until it is dropped; source offsets plus state, and nothing else.

    JOB/savepoints/NAME.json     created once, when every manifest that it names is stored; beside it a hold (see
                                 checkpoint.holds) keeps those manifests from being collected

One JSON object in UTF-8 without line breaks, and a newline. Its members, in this order:

    format       1; a higher number is another version's, and refused before anything else is read
    job, name, barrier, topology, created_ms
    stages       {stage: {shuffle, key, partitions, steps: {step: {kind, version}}, tasks: [TASK, …]}}
    seal         SHA-256, in hexadecimal, of all bytes before `,"seal":`

`shuffle`: the stage reads a key_by's shuffle (which is empty at a cut), not a topic. `key`: the type of its keys. TASK:

    partition, lineage, epoch, nonce     the commit that was the task's cut
    offsets                              {topic: the next offset to be read}; of a shuffle of no use elsewhere
    manifest                             key of its checkpoint (see checkpoint.manifest)
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from streamcore.checkpoint import holds, manifest, sealed
from streamcore.checkpoint.manifest import Layout
from streamcore.checkpoint.store import CheckpointStore, read
from streamcore.errors import CheckpointDamaged, SettingsError, shown
from streamcore.types import Epoch, Partition

FORMAT: Final = 1
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,90}")
HOLD: Final = "savepoint-"
NAMED: Final = 5
"""Of what a savepoint misses, a message names so many."""


class SavedTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    partition: Partition
    lineage: str
    epoch: Epoch
    nonce: str
    offsets: dict[str, int]
    manifest: str


class SavedStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    version: int | None


class SavedStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shuffle: bool
    key: str
    partitions: int
    steps: dict[str, SavedStep]
    tasks: tuple[SavedTask, ...]


class Savepoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int = FORMAT
    job: str
    name: str
    barrier: int
    topology: str
    created_ms: int
    stages: dict[str, SavedStage]
    seal: str = ""

    def encode(self) -> bytes:
        return sealed.encode(self)

    @property
    def manifests(self) -> list[str]:
        return [task.manifest for stage in self.stages.values() for task in stage.tasks]


def folder(job: str) -> str:
    return f"{job}/savepoints/"


def key_of(job: str, name: str) -> str:
    return f"{folder(job)}{checked_name(name)}.json"


def checked_name(name: str) -> str:
    """Raises SettingsError."""
    if not NAME.fullmatch(name):
        raise SettingsError(f"a savepoint cannot be called {shown(name)}", "use at most 90 letters, digits, - and _")
    return name


def write(store: CheckpointStore, savepoint: Savepoint) -> bool:
    """The hold first, so that nothing it names is ever unheld. False: there is another of this name, and it stays. The
    same may be written again: by a coordinator that does not know what became of it."""
    key = key_of(savepoint.job, savepoint.name)
    if store.stat(key) is None:
        _hold(store, savepoint)
        if store.put_once(key, savepoint.encode()):
            return True
    found = decode(read(store, key), key)
    return msgspec.structs.replace(savepoint, created_ms=found.created_ms, seal=found.seal) == found


def _hold(store: CheckpointStore, savepoint: Savepoint) -> None:
    """A hold without its savepoint is what an interrupted writing or dropping left, and holds others' manifests."""
    name = HOLD + savepoint.name
    if not holds.put(store, savepoint.job, name, savepoint.manifests):
        holds.drop(store, savepoint.job, name)
        holds.put(store, savepoint.job, name, savepoint.manifests)


def load(store: CheckpointStore, job: str, name: str) -> Savepoint:
    """Raises CheckpointDamaged, StateMismatch (a newer version's), SettingsError (no such savepoint)."""
    key = key_of(job, name)
    if store.stat(key) is None:
        there = ", ".join(names(store, job)) or "none"
        raise SettingsError(
            f"job {job} has no savepoint {name!r} in {store.place}",
            f"those there are: {there}; or correct --checkpoints",
        )
    return decode(read(store, key), key)


def refuse_half(store: CheckpointStore, savepoint: Savepoint) -> None:
    """By names and sizes, before anything rests on it; what is in the objects is found out when they are read. Raises
    CheckpointDamaged, naming what is missing or cut short, and what the store raises."""
    layout = Layout(savepoint.job)
    listed = {stat.key: stat.size for stat in store.list(layout.objects)}
    wrong = [key for key in savepoint.manifests if store.stat(key) is None]
    wanted = [file for key in savepoint.manifests if key not in wrong for file in manifest.load(store, key).files]
    for file in wanted:
        key = layout.object(file.object)
        if listed.get(key) != file.size and ((stat := store.stat(key)) is None or stat.size != file.size):
            wrong.append(key)
    if wrong:
        told = ", ".join(dict.fromkeys(wrong[:NAMED])) + (f" and {len(wrong) - NAMED} more" if wrong[NAMED:] else "")
        raise CheckpointDamaged(
            f"savepoint {savepoint.name!r} of job {savepoint.job} is not whole: {told} in {store.place} is missing or "
            "cut short",
            "copy it anew from where it was copied from, or take another savepoint",
        )


def decode(data: bytes, where: str) -> Savepoint:
    return sealed.decode(data, Savepoint, FORMAT, f"the savepoint {where}")


def names(store: CheckpointStore, job: str) -> list[str]:
    prefix = folder(job)
    return [
        stat.key.removeprefix(prefix).removesuffix(".json") for stat in store.list(prefix) if stat.key.endswith(".json")
    ]


def drop(store: CheckpointStore, job: str, name: str) -> None:
    """The savepoint first: one without a hold must not be there to be trusted."""
    load(store, job, name)
    store.delete(key_of(job, name))
    holds.drop(store, job, HOLD + name)
