"""What may be deleted, and when: manifests by retention, then objects that no manifest names.

`retire` is a task's: its owner calls it after a commit that names a newer checkpoint. `Sweeper` is the job's: one
worker sweeps from time to time. Both may run twice at once, stop in the middle, and run in a worker that lost its tasks
long ago; what makes that safe:

- Manifests go before the objects they name. A hold that cannot be read, or a named checkpoint that the listing does not
  show: nothing is deleted.
- A manifest is deleted only when it is older than the one that a commit names. A worker that lost its tasks knows an
  old one of these, and so deletes less.
- Objects are listed before manifests. Of those first listed, the sweeper deletes what no manifest names, what is older
  than the grace, and what the same sweeper has found unnamed for as long as the grace. An upload takes nothing as
  uploaded that could be such an object when its manifest comes (checkpoint.upload), so it does not matter how long the
  sweeper sleeps between looking and deleting, nor how late (within the grace) the store lists a manifest.
- The clock is the store's: `now` is the newest time that its listing shows. No worker's clock is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from streamcore import limits
from streamcore.checkpoint import holds
from streamcore.checkpoint.manifest import Layout, load, parsed
from streamcore.checkpoint.store import CheckpointStore, Stat
from streamcore.errors import CheckpointDamaged, invariant
from streamcore.types import Epoch, TaskId

GRACE_MS = limits.CHECKPOINT_GRACE_S * 1000


@dataclass(frozen=True, slots=True)
class Retention:
    """Kept: the newest `count` of the lineage, and those younger than `age_s`."""

    count: int = 3
    age_s: int = 0

    def __post_init__(self) -> None:
        invariant(self.count >= 1 and self.age_s >= 0, f"{self} keeps nothing to restore from")


@dataclass(frozen=True, slots=True)
class Retired:
    kept: tuple[Epoch, ...]
    """Of the lineage, oldest first: behind the first one's journal position the journal may be trimmed."""
    deleted: tuple[str, ...]


def retire(store: CheckpointStore, job: str, task: TaskId, lineage: str, named: Epoch, retention: Retention) -> Retired:
    """`named`: the checkpoint that the newest commit of this ownership names. Raises what the store raises, and
    CheckpointDamaged or StateMismatch for a hold that cannot be read; then nothing was deleted."""
    layout = Layout(job)
    listed = store.list(layout.of_task(task))
    held = holds.held(store, job)
    ours, others = _by_lineage(listed, lineage)
    if all(epoch != named for epoch, _ in ours):
        return Retired(tuple(epoch for epoch, _ in ours), ())
    now_ms = max(stat.modified_ms for stat in listed)
    kept, gone = _retained(ours, named, retention, now_ms, held)
    gone += _ended(others, ours[0][1], retention, now_ms, held)
    for stat in gone:
        store.delete(stat.key)
    return Retired(tuple(epoch for epoch, _ in kept), tuple(stat.key for stat in gone))


def _by_lineage(listed: Iterable[Stat], lineage: str) -> tuple[list[tuple[Epoch, Stat]], dict[str, list[Stat]]]:
    """Ours, oldest first, and the others'."""
    ours: list[tuple[Epoch, Stat]] = []
    others: dict[str, list[Stat]] = {}
    for stat in listed:
        about = parsed(stat.key)
        if about is None:
            continue
        if about[0] == lineage:
            ours.append((about[1], stat))
        else:
            others.setdefault(about[0], []).append(stat)
    return sorted(ours), others


def _retained(
    ours: Sequence[tuple[Epoch, Stat]], named: Epoch, retention: Retention, now_ms: int, held: frozenset[str]
) -> tuple[list[tuple[Epoch, Stat]], list[Stat]]:
    """The named one and those before it, `count` of them; newer ones are not judged, and stay."""
    before = [epoch for epoch, _ in ours if epoch <= named]
    newest = set(before[-retention.count :])
    kept: list[tuple[Epoch, Stat]] = []
    gone: list[Stat] = []
    for epoch, stat in ours:
        young = now_ms - stat.modified_ms < retention.age_s * 1000
        stays = epoch > named or epoch in newest or young or stat.key in held
        if stays:
            kept.append((epoch, stat))
        else:
            gone.append(stat)
    return kept, gone


def _ended(
    others: dict[str, list[Stat]], oldest: Stat, retention: Retention, now_ms: int, held: frozenset[str]
) -> list[Stat]:
    """Of lineages that ended before ours began, as far as ours still shows: whole ones, past age and grace."""
    limit_ms = min(oldest.modified_ms, now_ms - max(GRACE_MS, retention.age_s * 1000))
    ended = [stats for stats in others.values() if all(stat.modified_ms < limit_ms for stat in stats)]
    return [stat for stats in ended for stat in stats if stat.key not in held]


@dataclass(frozen=True, slots=True)
class Swept:
    deleted: tuple[str, ...]
    bytes_deleted: int
    waiting: int
    """Objects that no manifest names, and whose time has not come."""


@dataclass
class Sweeper:
    """Keep it from one sweep to the next: it remembers since when an object is unnamed. A new one begins anew."""

    store: CheckpointStore
    job: str
    _unnamed_ms: dict[str, int] = field(default_factory=dict[str, int])
    """Object's key -> the store's time when it was first found unnamed, and always since."""
    _named_by: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """Manifest's key -> its objects' keys: manifests never change, so each is read once."""

    def sweep(self) -> Swept:
        """Raises CheckpointDamaged or StateMismatch for a manifest that cannot be read: nothing is deleted while it
        stands, as nobody knows what it names."""
        layout = Layout(self.job)
        objects = self.store.list(layout.objects)
        manifests = self.store.list(layout.manifests)
        named = self._named(layout, [stat.key for stat in manifests if parsed(stat.key)])
        now_ms = max((stat.modified_ms for stat in (*objects, *manifests)), default=0)
        unnamed = [stat for stat in objects if stat.key not in named]
        self._unnamed_ms = {stat.key: self._unnamed_ms.get(stat.key, now_ms) for stat in unnamed}
        due = [stat for stat in unnamed if self._due(stat, now_ms)]
        for stat in due:
            self.store.delete(stat.key)
            del self._unnamed_ms[stat.key]
        deleted = tuple(stat.key for stat in due)
        return Swept(deleted, sum(stat.size for stat in due), len(unnamed) - len(due))

    def _due(self, stat: Stat, now_ms: int) -> bool:
        return now_ms - max(stat.modified_ms, self._unnamed_ms[stat.key]) >= GRACE_MS

    def _named(self, layout: Layout, keys: Sequence[str]) -> set[str]:
        read: dict[str, frozenset[str]] = {}
        for key in keys:
            known = self._named_by.get(key)
            if known is not None:
                read[key] = known
                continue
            if (objects := self._objects(layout, key)) is not None:
                read[key] = objects
        self._named_by = read
        return set[str]().union(*read.values())

    def _objects(self, layout: Layout, key: str) -> frozenset[str] | None:
        """None: it was deleted since it was listed, by whoever may."""
        try:
            return frozenset(layout.object(file.object) for file in load(self.store, key).files)
        except CheckpointDamaged:
            if self.store.stat(key) is None:
                return None
            raise
