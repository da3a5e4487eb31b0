"""Whose a prefix is: two jobs of one name, at two clusters, must not share one.

    JOB/owner.json   {"format": 1, "job": …, "identity": …, "lineage": …, "seal": …}   created once, by the job's first
                                                                                    worker

`identity` is the topic id of the job's control topic: no two jobs, and no two lives of one (`reset`), have the same.
`lineage` is one of its first, for people.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from streamcore.checkpoint.manifest import Layout
from streamcore.checkpoint.store import CheckpointStore, read
from streamcore.errors import CheckpointDamaged, CheckpointStoreError, CheckpointStoreTaken, StateMismatch
from streamcore.state.store import UNREADABLE

FORMAT: Final = 1


class Owner(msgspec.Struct, frozen=True):
    format: int
    job: str
    identity: str
    lineage: str
    seal: str = ""
    """SHA-256 of the rest: a spoilt marker must not pass for another job's."""


def _sealed(owner: Owner) -> Owner:
    body = msgspec.json.encode(msgspec.structs.replace(owner, seal=""))
    return msgspec.structs.replace(owner, seal=hashlib.sha256(body).hexdigest())


def claim(store: CheckpointStore, job: str, identity: str, lineage: str) -> Owner:
    """The prefix is this job's, or becomes it. Called at a job's start, before anything is put: it also finds out
    whether the store can be written. Raises CheckpointStoreTaken for another job's, and what the store raises."""
    key = Layout(job).owner
    mine = _sealed(Owner(FORMAT, job, identity, lineage))
    if store.stat(key) is None and store.put_once(key, msgspec.json.encode(mine) + b"\n"):
        return mine
    found = look(store, job)
    if (found.job, found.identity) != (job, identity):
        raise taken(store, job, found, f"this one's has {identity}")
    return found


def taken(store: CheckpointStore, job: str, found: Owner, ours: str) -> CheckpointStoreTaken:
    return CheckpointStoreTaken(
        f"the checkpoints in {store.place}/{job}/ belong to another job {found.job}, whose control topic has the "
        f"id {found.identity} (its first lineage: {found.lineage}); {ours}",
        "give each job, at each cluster, a prefix of its own with --checkpoints; if it is this job's life before a "
        f"reset, `streamcore checkpoints drop {job} --all` lets it go",
    )


def key_of(job: str) -> str:
    return Layout(job).owner


def release(store: CheckpointStore, job: str) -> None:
    """Nobody's again: when all of the job's checkpoints are deleted."""
    store.delete(Layout(job).owner)


def look(store: CheckpointStore, job: str) -> Owner:
    """Raises CheckpointDamaged when nobody has claimed it."""
    key = Layout(job).owner
    try:
        found = msgspec.json.decode(read(store, key), type=Owner)
    except UNREADABLE as error:
        raise CheckpointStoreError(
            f"{key} in {store.place} cannot be read: {error}", "give the job another prefix with --checkpoints"
        ) from error
    if found.format > FORMAT:
        raise StateMismatch(
            f"{key} in {store.place} has format {found.format}, newer than this streamcore's {FORMAT}",
            "run the version of streamcore that wrote it, or a newer one",
        )
    if found != _sealed(found):
        raise CheckpointDamaged(f"{key} in {store.place} was changed after it was written: its seal does not fit")
    return found
