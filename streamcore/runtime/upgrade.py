"""A savepoint whose rows are all of the code's State versions: a new one beside the old, which stays as it was.

    1 hold      what will be named, before it is there: no collection takes it meanwhile
    2 rewrite   each task that has older rows: downloaded, written anew (state.rewriting), counted, digested, uploaded
                under a lineage of its own; a task without any keeps the old savepoint's checkpoint
    3 name      the new savepoint, created once

Names of stages and steps are the old savepoint's, so that what was said for the one holds for the other. Whatever fails
before 3 leaves no savepoint, and takes its checkpoints back; a killed one leaves a hold, which the same command
replaces.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from streamcore.checkpoint import holds
from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.manifest import Manifest, load
from streamcore.checkpoint.savepoint import SavedStage, SavedStep, SavedTask, Savepoint
from streamcore.checkpoint.snapshot import SUFFIX, take
from streamcore.checkpoint.store import CheckpointStore
from streamcore.checkpoint.upload import Facts, Uploader
from streamcore.checkpoint.verify import state_digest
from streamcore.clock import Clock, Entropy
from streamcore.errors import CheckpointDamaged, SettingsError, StateMismatch, invariant
from streamcore.runtime.gathering import Fetched, all_keys, bookkeeping, chunks, own
from streamcore.runtime.mapping import ResumePlan, StagePlan
from streamcore.state.rewriting import Rewriting
from streamcore.state.rocks import RocksStore
from streamcore.state.rows import VERSIONS_KEY
from streamcore.state.store import Delta, EpochMark, Store
from streamcore.topology.nodes import Process
from streamcore.topology.plan import Plan
from streamcore.types import TaskId

HOLD: Final = "upgrade-"


@dataclass(frozen=True, slots=True)
class Upgraded:
    savepoint: Savepoint
    tasks: int
    """That were written anew."""
    rows: int
    """Rows and entries of Maps that were of an older version."""


class Upgrading:
    """One thread. `scratch` is made and deleted; it takes a task's state twice."""

    def __init__(
        self,
        plan: Plan,
        store: CheckpointStore,
        scratch: Path,
        clock: Clock,
        entropy: Entropy,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._plan = plan
        self._store = store
        self._scratch = scratch
        self._clock = clock
        self._entropy = entropy
        self._tell = tell
        self._rows = 0
        self._made: list[str] = []
        """Keys of manifests that were uploaded."""

    def write(self, resume: ResumePlan, name: str) -> Upgraded:
        """Raises SettingsError (there is a savepoint `name`), StateMismatch (a row that an upgrade does not take: task,
        step, key and versions are named), CheckpointDamaged, StateDirError, and what the store raises."""
        with own(self._scratch):
            return self._write(resume, name)

    def _write(self, resume: ResumePlan, name: str) -> Upgraded:
        old = resume.savepoint
        savepoints.refuse_half(self._store, old)
        key = savepoints.key_of(old.job, name)
        if self._store.stat(key) is not None:
            raise _there(old.job, name)
        lineages = {manifest: self._entropy.token() for manifest in old.manifests}
        try:
            self._hold(old, name, lineages)
            new = self._savepoint(resume, name, lineages)
            if not savepoints.write(self._store, new):
                raise _there(old.job, name)
        except BaseException:
            self._take_back(key)
            raise
        finally:
            holds.drop(self._store, old.job, HOLD + name)
        return Upgraded(savepoints.load(self._store, old.job, name), len(self._made), self._rows)

    def _hold(self, old: Savepoint, name: str, lineages: Mapping[str, str]) -> None:
        keys = list(old.manifests)
        for key in old.manifests:
            keys.append(_anew(load(self._store, key), lineages[key]).key)
        if not holds.put(self._store, old.job, HOLD + name, keys):
            holds.drop(self._store, old.job, HOLD + name)
            holds.put(self._store, old.job, HOLD + name, keys)

    def _take_back(self, key: str) -> None:
        """Unless the savepoint came to be: its answer may have been lost."""
        if self._store.stat(key) is None:
            for manifest in self._made:
                self._store.delete(manifest)

    def _savepoint(self, resume: ResumePlan, name: str, lineages: Mapping[str, str]) -> Savepoint:
        old = resume.savepoint
        stages = dict(old.stages)
        for each in resume.stages:
            if each.saved is not None:
                stage = next(name for name, saved in old.stages.items() if saved is each.saved)
                stages[stage] = self._stage(old, stage, each, each.saved, lineages)
        return Savepoint(
            job=old.job,
            name=name,
            barrier=old.barrier,
            topology=self._plan.version,
            created_ms=self._clock.wall_ms(),
            stages=stages,
        )

    def _stage(
        self, old: Savepoint, stage: str, each: StagePlan, saved: SavedStage, lineages: Mapping[str, str]
    ) -> SavedStage:
        states = {
            each.steps[node.name]: Rewriting(node.state.__schema__, self._plan.registry, node.name)
            for node in each.stage.stateful
            if isinstance(node, Process) and node.name in each.steps and node.state.__schema__.version > 1
        }
        tasks: list[SavedTask] = []
        for task in saved.tasks:
            at = TaskId(stage, task.partition)
            try:
                manifest = self._task(at, task.manifest, states, lineages[task.manifest]) if states else task.manifest
            except StateMismatch as error:
                raise StateMismatch(
                    f"savepoint {old.name!r}, task {at}: {error.what}",
                    f"{error.remedy}; then give the command again: {old.name!r} is as it was, and no other was written",
                ) from error
            tasks.append(msgspec.structs.replace(task, manifest=manifest))
        steps = {name: SavedStep(step.kind, _version(states, name, step)) for name, step in saved.steps.items()}
        return msgspec.structs.replace(saved, steps=steps, tasks=tuple(tasks))

    # --- a task -----------------------------------------------------------------------------------------------------

    def _task(self, task: TaskId, key: str, states: Mapping[str, Rewriting], lineage: str) -> str:
        """Key of the checkpoint that has everything of today's versions."""
        fetched = Fetched(self._store, key, self._scratch / "source", self._clock, self._entropy)
        with fetched as source:
            older = {step: state for step, state in states.items() if state.wanted(source.column(step))}
            if not older:
                return key
            manifest = fetched.manifest
            if manifest.digest is not None and manifest.digest != state_digest(source):
                raise CheckpointDamaged(f"the savepoint's checkpoint {key} has not the digest that its manifest tells")
            return self._anew(task, manifest, source, older, lineage)

    def _anew(self, task: TaskId, old: Manifest, source: Store, older: Mapping[str, Rewriting], lineage: str) -> str:
        new = _anew(old, lineage)
        path = self._scratch / f"{task.stage}-{task.partition}"
        store = RocksStore.open(path, old.steps, job=old.job, task=task)
        try:
            store.apply({}, new.mark)
            for step in sorted(old.steps):
                before = self._rows
                count = self._step(source, store, step, older.get(step), new.mark)
                if step in older:
                    told = f"{self._rows - before} of {count} rows become version {older[step].version}"
                    self._tell(f"{task}, step {step}: {told}")
            digest = state_digest(store)
            snapshot = take(store, path.with_name(path.name + SUFFIX))
        finally:
            store.close()
        versions = {step: older[step].version if step in older else version for step, version in old.steps.items()}
        uploader = Uploader(self._store, old.job, task, self._clock, self._entropy)
        uploaded = uploader.upload(snapshot, Facts(self._plan.version, versions, old.barrier, digest))
        invariant(uploaded.key == new.key, f"{uploaded.key} is not the checkpoint that is held, {new.key}")
        self._made.append(uploaded.key)
        shutil.rmtree(path, ignore_errors=True)
        return uploaded.key

    def _step(self, source: Store, store: RocksStore, step: str, state: Rewriting | None, mark: EpochMark) -> int:
        """Entries that stand there now, as many as before."""
        count = 0
        for delta in chunks(source, step, all_keys):
            count += len(delta.keys)
            if state is not None:
                self._rewrite(delta, state)
            store.apply({step: delta}, mark)
        kept = bookkeeping(source, step)
        if state is not None:
            kept[VERSIONS_KEY] = state.versions
        store.apply({step: Delta(list(kept), list(kept.values()))}, mark)
        self._check(store, step, state, count)
        return count

    def _rewrite(self, delta: Delta, state: Rewriting) -> None:
        for at, (key, value) in enumerate(zip(delta.keys, delta.values, strict=True)):
            assert value is not None
            new = state.value(key, value)
            if new is not value:
                delta.values[at] = new
                self._rows += 1

    def _check(self, store: RocksStore, step: str, state: Rewriting | None, count: int) -> None:
        """What was written, read again."""
        found = 0
        for delta in chunks(store, step, all_keys):
            found += len(delta.keys)
            if state is not None:
                kept = {value[:2] for value in delta.values if value is not None}
                invariant(kept == {state.versions[:2]}, f"step {step!r} has rows of the versions {sorted(kept)}")
        invariant(found == count, f"step {step!r} had {count} entries, and has {found}")


def _anew(old: Manifest, lineage: str) -> Manifest:
    """The same cut, in a line of its own."""
    return msgspec.structs.replace(old, lineage=lineage)


def _version(states: Mapping[str, Rewriting], name: str, step: SavedStep) -> int | None:
    return states[name].version if name in states else step.version


def _there(job: str, name: str) -> SettingsError:
    return SettingsError(f"job {job} has a savepoint {name!r} already", "give --to a name of its own")
