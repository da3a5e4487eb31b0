"""What must stay whatever its age: manifests that a savepoint names.

    JOB/holds/NAME.json   {"format": 1, "job": …, "name": …, "manifests": [KEY, …]}   created once

A hold is put while its manifests are the newest of their tasks, which are never collected, or (by an upgrade) before
they are there; so it cannot come too late.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from streamcore.checkpoint.manifest import Layout
from streamcore.checkpoint.store import CheckpointStore, read
from streamcore.errors import CheckpointDamaged, SettingsError, StateMismatch, shown
from streamcore.state.store import UNREADABLE

FORMAT: Final = 1
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Hold(msgspec.Struct, frozen=True):
    format: int
    job: str
    name: str
    manifests: list[str]


def put(store: CheckpointStore, job: str, name: str, manifests: Sequence[str]) -> bool:
    """False: there is a hold of this name, and it stays as it is."""
    if not _NAME.fullmatch(name):
        raise SettingsError(f"a hold cannot be called {shown(name)}", "use letters, digits, - and _")
    data = msgspec.json.encode(Hold(FORMAT, job, name, sorted(manifests))) + b"\n"
    return store.put_once(Layout(job).hold(name), data)


def drop(store: CheckpointStore, job: str, name: str) -> None:
    store.delete(Layout(job).hold(name))


def all_of(store: CheckpointStore, job: str) -> list[Hold]:
    """Raises CheckpointDamaged, StateMismatch: who cannot read a hold must not delete anything."""
    return [_load(store, stat.key) for stat in store.list(Layout(job).holds)]


def held(store: CheckpointStore, job: str) -> frozenset[str]:
    """Keys of manifests."""
    return frozenset(key for hold in all_of(store, job) for key in hold.manifests)


def _load(store: CheckpointStore, key: str) -> Hold:
    try:
        found = msgspec.json.decode(read(store, key), type=Hold)
    except UNREADABLE as error:
        raise CheckpointDamaged(f"the hold {key} in {store.place} cannot be read: {error}") from error
    if found.format > FORMAT:
        raise StateMismatch(
            f"the hold {key} in {store.place} has format {found.format}, newer than this streamcore's {FORMAT}",
            "run the version of streamcore that wrote it, or a newer one",
        )
    return found
