"""Whose a prefix is: two jobs of one name, at two clusters, must not share one.

    JOB/owner.json   {"format": 1, "job": …, "cluster": …, "lineage": …}   created once, by the job's first worker

`cluster` is the broker's cluster id (the embedded log's own for that): with the job's name it says which job this is.
`lineage` is one of its first, for people.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streamcore.checkpoint.manifest import Layout
from streamcore.checkpoint.store import CheckpointStore, read
from streamcore.errors import CheckpointStoreError, StateMismatch
from streamcore.state.store import UNREADABLE

FORMAT: Final = 1


class Owner(msgspec.Struct, frozen=True):
    format: int
    job: str
    cluster: str
    lineage: str


def claim(store: CheckpointStore, job: str, cluster: str, lineage: str) -> Owner:
    """The prefix is this job's, or becomes it. Called at a job's start, before anything is put: it also finds out
    whether the store can be written. Raises CheckpointStoreError for another job's, and what the store raises."""
    key = Layout(job).owner
    mine = Owner(FORMAT, job, cluster, lineage)
    if store.stat(key) is None and store.put_once(key, msgspec.json.encode(mine) + b"\n"):
        return mine
    found = look(store, job)
    if (found.job, found.cluster) != (job, cluster):
        raise CheckpointStoreError(
            f"the checkpoints in {store.place}/{job}/ belong to the job {found.job} of the Kafka cluster "
            f"{found.cluster} (its first lineage: {found.lineage}), not to the job {job} of the cluster {cluster}",
            "give each job a prefix of its own with --checkpoints; a copied one goes on from a savepoint",
        )
    return found


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
    return found
