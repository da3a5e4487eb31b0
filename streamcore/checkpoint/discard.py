"""All checkpoints of a job let go at once, but for what savepoints hold: for a job that starts over, and has no worker.

In this order, so that whatever interrupts it leaves nothing half: manifests, then the objects that no manifest which
stays names, then the claim on the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamcore.checkpoint import holds, owner
from streamcore.checkpoint.manifest import Layout, load, parsed
from streamcore.checkpoint.store import CheckpointStore


@dataclass(frozen=True, slots=True)
class Belongings:
    """What a job has in a store."""

    store: CheckpointStore
    job: str
    manifests: tuple[str, ...]
    """Those that nobody holds."""
    held: tuple[str, ...]
    claimed: bool

    def __bool__(self) -> bool:
        return bool(self.manifests) or self.claimed

    def line(self) -> str:
        stay = f" ({len(self.held)} stay, for savepoints)" if self.held else ""
        return f"{len(self.manifests)} checkpoints in {self.store.place}{stay}"


def belongings(store: CheckpointStore, job: str) -> Belongings:
    """Raises what the store raises, and CheckpointDamaged or StateMismatch for a hold that cannot be read."""
    layout = Layout(job)
    held = holds.held(store, job)
    keys = [stat.key for stat in store.list(layout.manifests) if parsed(stat.key)]
    claimed = store.stat(layout.owner) is not None
    stay = tuple(key for key in keys if key in held)
    return Belongings(store, job, tuple(key for key in keys if key not in held), stay, claimed)


def discard(what: Belongings) -> None:
    """Raises as `belongings`, and CheckpointDamaged for a held manifest that cannot be read: then its objects, and so
    all, stay."""
    store, layout = what.store, Layout(what.job)
    for key in what.manifests:
        store.delete(key)
    named = {layout.object(file.object) for key in what.held for file in load(store, key).files}
    for stat in store.list(layout.objects):
        if stat.key not in named:
            store.delete(stat.key)
    owner.release(store, what.job)
