"""A takeover in rehearsal: a restored checkpoint and the journal behind it, brought to a commit in a scratch directory.

    restored at epoch E ──frames──▶ E+1 … F (a newer checkpoint: its mark, its digest) … ──▶ the target's commit

Compared: each epoch follows the one before it (`Replay`); at the epoch of every newer checkpoint of the lineage the
mark is its manifest's, and so is the digest of the state, where one was recorded; at the end the mark is the target's.
So what a task wrote, what it uploaded and what a takeover would build of it are held against each other.

Reads; writes to the scratch directory alone. Any one thread, which the log's reader then belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streamcore import limits
from streamcore.checkpoint.manifest import Layout, Manifest, listed, load
from streamcore.checkpoint.snapshot import Opener, rocks_to_go_on
from streamcore.checkpoint.store import CheckpointStore
from streamcore.checkpoint.verify import state_digest
from streamcore.clock import Clock
from streamcore.errors import CheckpointDamaged, OffsetsLost, StateDamaged, StateMismatch
from streamcore.log.metadata import Metadata
from streamcore.log.port import Log, Reader, Run
from streamcore.runtime.replay import Replay, Verdict
from streamcore.source.decode import slice_of
from streamcore.state.frames import Origin
from streamcore.state.store import EpochMark, Store
from streamcore.topology.plan import journal_topic
from streamcore.types import Epoch, Slot, TopicPartition


@dataclass
class Rehearsed:
    epochs: int = 0
    """Replayed behind the checkpoint."""
    compared: int = 0
    """Newer checkpoints whose marks were compared."""
    digests: int = 0
    """Of these, with the state's digest."""
    bytes: int = 0
    """Of the journal, read."""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list[str])
    unknown: str = ""
    """Why it did not come to the target, and nothing is wrong for all that is known."""


def target_of(mark: EpochMark) -> Metadata:
    """What the offsets of that commit carry, as far as a replay asks."""
    return Metadata(
        mark.lineage, mark.epoch, mark.nonce, mark.journal_end, None, None, None, Slot(0), "", "eo", None
    )  # fmt: skip


class Rehearsal:
    def __init__(
        self, log: Log, store: CheckpointStore, job: str, clock: Clock, opener: Opener = rocks_to_go_on
    ) -> None:
        self._log = log
        self._store = store
        self._job = job
        self._clock = clock
        self._opener = opener

    def run(self, manifest: Manifest, scratch: Path, steps: Iterable[str], target: Metadata) -> Rehearsed:
        """`scratch`: the manifest's state, which is changed. `steps`: those of the code, which the journal may know
        and the checkpoint not yet. Raises LogUnavailable, and what the store raises: then nothing is known."""
        found = Rehearsed()
        if manifest.lineage != target.lineage or manifest.epoch > target.epoch:
            found.unknown = f"it is not of the lineage {target.lineage} at or before epoch {target.epoch}"
            return found
        newer = self._newer(manifest, target.epoch)
        known = frozenset(steps).union(manifest.steps, *(each.steps for each in newer.values()))
        store = self._opener(scratch, self._job, manifest.task, known)
        try:
            self._replay(manifest, store, newer, target, found)
        except (OffsetsLost, StateDamaged) as error:
            if self._store.stat(manifest.key) is None:
                found.unknown = "its owner collected it meanwhile"
            else:
                found.wrong.append(error.what)
        except StateMismatch as error:
            found.unknown = error.what
        finally:
            store.close()
        return found

    def _newer(self, manifest: Manifest, until: Epoch) -> Mapping[Epoch, Manifest]:
        """Checkpoints of the lineage that the replay comes by. One that cannot be read is another drill's to tell."""
        layout, found = Layout(self._job), dict[Epoch, Manifest]()
        for epoch in listed(self._store, layout, manifest.task, manifest.lineage):
            if manifest.epoch < epoch <= until:
                try:
                    found[epoch] = load(self._store, layout.manifest(manifest.task, manifest.lineage, epoch))
                except (CheckpointDamaged, StateMismatch):
                    continue
        return found

    def _replay(
        self, manifest: Manifest, store: Store, newer: Mapping[Epoch, Manifest], target: Metadata, found: Rehearsed
    ) -> None:
        journal = TopicPartition(journal_topic(self._job, manifest.stage), manifest.partition)
        replay = Replay(manifest.task, journal, store, target, _any_topics)
        reader = self._log.reader({journal: manifest.journal})
        begun_s = self._clock.monotonic_s()
        deadline_s = begun_s + limits.TAKEOVER_TIMEOUT_S
        try:
            while replay.verdict is Verdict.MORE:
                runs = self._polled(reader, journal, replay)
                for run in runs:
                    self._feed(run, replay, store, newer, found)
                now_s = self._clock.monotonic_s()
                if runs:
                    deadline_s = now_s + limits.TAKEOVER_TIMEOUT_S
                elif now_s > deadline_s:
                    found.unknown = f"{journal} was not read to epoch {target.epoch} in time"
                    return
        finally:
            reader.close()
            found.seconds = self._clock.monotonic_s() - begun_s
        if replay.verdict is Verdict.FOREIGN:
            found.wrong.append(f"the frame at offset {manifest.journal} of {journal} is not its epoch's")

    def _polled(self, reader: Reader, journal: TopicPartition, replay: Replay) -> list[Run]:
        runs = reader.poll(limits.POLL_RECORDS, 0.1)
        if not runs and journal in reader.ended():
            replay.ended(reader.position(journal))
        return runs

    def _feed(self, run: Run, replay: Replay, store: Store, newer: Mapping[Epoch, Manifest], found: Rehearsed) -> None:
        """Message by message: behind the target's frame there are others, of a job that goes on."""
        for at in range(len(run)):
            if replay.verdict is not Verdict.MORE:
                return
            before = replay.mark
            found.bytes += len(run.values[at] or b"")
            replay.feed(slice_of(run, at, at + 1))
            mark = replay.mark
            if mark is not None and mark != before:
                found.epochs += 1
                if mark.epoch in newer:
                    _compare(mark, store, newer[mark.epoch], found)


def _compare(mark: EpochMark, store: Store, manifest: Manifest, found: Rehearsed) -> None:
    found.compared += 1
    if mark != manifest.mark:
        found.wrong.append(f"replayed to epoch {mark.epoch} it stands at {mark}, and {manifest.key} at {manifest.mark}")
    if manifest.digest is None:
        return
    found.digests += 1
    digest = state_digest(store, manifest.steps)
    if digest != manifest.digest:
        found.wrong.append(
            f"replayed to epoch {mark.epoch} its state has the digest {digest}, and the task recorded "
            f"{manifest.digest} in {manifest.key}"
        )


def _any_topics(origin: Origin) -> None:
    """Whether the input topics are still the same is not asked here."""
