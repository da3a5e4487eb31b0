"""Jobs with barriers and a checkpoint store in the simulator, and the bugs planted in those parts.

As runs.py and planted.py, for what checkpoints add: a store that fails, is slow, tears and corrupts what it is given
and lists it late; barriers each second; two retained checkpoints, so that journals are trimmed close behind them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from streamcore import limits
from streamcore.checkpoint.collect import Retention
from streamcore.checkpoint.manifest import File
from streamcore.checkpoint.restore import Restorer
from streamcore.checkpoint.upload import _Run
from streamcore.runtime.barriers import Barrier, Barriers, BarrierState
from streamcore.runtime.checkpoints import Checkpoints
from streamcore.runtime.control import Complete
from streamcore.runtime.coordinator import Coordinator, Decision
from streamcore.runtime.cutting import Cutting
from streamcore.runtime.takeover import Takeover
from streamcore.testing.judge import WITH_BARRIERS, failed, judge
from streamcore.testing.simulated.faults import Rates, Schedule
from streamcore.testing.simulated.simulation import Simulation
from streamcore.types import Offset
from tests.simulation.planting import named
from tests.simulation.runs import HORIZON_S, Outcome, quiet
from tests.simulation.topologies import TOPOLOGIES

EVERY_S: Final = 1.0
SHORT_S: Final = 6.0
"""A barrier is abandoned after this: so that some are, within a run."""


def run(topology: str, seed: int, rates: Rates | None = None) -> Outcome:
    one = TOPOLOGIES[topology]
    drawn = rates or dataclasses.replace(Rates.drawn(Random(f"{seed}/rates")), stopping=0.0, store=0.03)
    schedule = Schedule(drawn, Random(f"{seed}/faults"), horizon_s=HORIZON_S)
    shared = Path("/dev/shm")
    with (
        TemporaryDirectory(dir=shared if shared.is_dir() else None) as scratch,
        pytest.MonkeyPatch.context() as patch,
        quiet(),
    ):
        patch.setattr(limits, "BARRIER_TIMEOUT_S", SHORT_S)
        simulation = Simulation(
            one.plan,
            one.feed(Random(f"{seed}/feed")),
            schedule,
            seed=str(seed),
            horizon_s=HORIZON_S,
            scratch=Path(scratch),
            checkpoint_every_s=EVERY_S,
            retention=Retention(2),
        )
        history = simulation.run()
    return Outcome(topology, seed, schedule, history, failed(judge(history, [*one.checkers, *WITH_BARRIERS])))


# --- planted bugs ---------------------------------------------------------------------------------------------------


def journal_trimmed_before_the_naming_commit(patch: pytest.MonkeyPatch) -> None:
    """A journal is trimmed as soon as the newer checkpoint is stored, and not after the commit that names it."""
    upload = Checkpoints._upload

    def uploads_and_retires(self: Any, uploader: Any, waiting: Any) -> Any:
        uploaded = upload(self, uploader, waiting)
        mark = uploaded.manifest.mark
        self._chores["early"] = lambda: retires(self, waiting.task, mark.lineage, uploaded.key)
        return uploaded

    def retires(self: Any, task: Any, lineage: str, key: str) -> Any:
        how, self._how = self._how, dataclasses.replace(self._how, retention=Retention(1))
        try:
            return self._retire(task, lineage, key)
        finally:
            self._how = how

    patch.setattr(Checkpoints, "_upload", uploads_and_retires)


def manifest_before_the_last_upload(patch: pytest.MonkeyPatch) -> None:
    """The manifest is put first, and then what it names: a worker that dies between leaves a checkpoint of nothing."""
    put = _Run._put

    def manifest(self: Any, began_s: float) -> Any:
        self.deadline_s = began_s + limits.CHECKPOINT_UPLOAD_S
        mark, paths = self.snapshot.mark, self.snapshot.files()
        base = self.known.base(mark.lineage, mark.epoch, self.retry)
        files: list[File] = []
        for path in paths:
            sha = self.known.hashed(path, path.read_bytes())
            files.append(File(path.name, sha, path.stat().st_size, base.objects.get(sha) or sha))
        there = put(self, self._manifest(tuple(files), base))
        for path, file in zip(paths, files, strict=True):
            if file.sha256 not in base.objects:
                self._created(self.layout.object(file.object), path.read_bytes())
        self.known.uploaded(there, frozenset(path.name for path in paths))
        return there

    patch.setattr(_Run, "manifest", manifest)


def hash_not_checked(patch: pytest.MonkeyPatch) -> None:
    """A restore takes what the store gives, whatever its hash."""

    def unchecked(self: Any, key: str, file: Any, path: Path, progress: Any) -> str | None:
        path.write_bytes(b"".join(self._store.get(key)))
        return None

    patch.setattr(Restorer, "_file", unchecked)


def collection_without_grace(patch: pytest.MonkeyPatch) -> None:
    """Objects that no manifest names are deleted at once: also those of an upload under way. (Every worker collects,
    after each upload of its own, so that it meets others' uploads.)"""
    begin = Checkpoints.begin

    def begins_and_sweeps(self: Any, task: Any, barrier: Any) -> None:
        begin(self, task, barrier)
        self.sweep()

    patch.setattr("streamcore.checkpoint.collect.GRACE_MS", 0)
    patch.setattr(Checkpoints, "begin", begins_and_sweeps)


def file_keyed_by_its_number(patch: pytest.MonkeyPatch) -> None:
    """An object has its file's name, and not its content's hash: the second checkpoint's is the first one's."""

    def named(self: Any, path: Path, base: Any) -> File:
        data = path.read_bytes()
        sha = self.known.hashed(path, data)
        name = (path.name.encode().hex() * 64)[:64]
        self._created(self.layout.object(name), data)
        return File(path.name, sha, len(data), name)

    patch.setattr(_Run, "_file", named)


def a_new_owner_emits_during_a_cut(patch: pytest.MonkeyPatch) -> None:
    """A takeover does not look at the cut in the metadata: its task goes on between cut and marker."""
    task = Takeover._task

    def forgetful(self: Any, taking: Any) -> Any:
        made = task(self, taking)
        made.cut = None
        return made

    patch.setattr(Takeover, "_task", forgetful)


def resume_before_all_cuts(patch: pytest.MonkeyPatch) -> None:
    """Markers are written when the first task upstream has cut."""

    def ready(self: Any) -> list[str]:
        barrier = self.open
        if barrier is None:
            return []
        cut = {task.stage for task in barrier.cuts}
        return [name for name, up in self._upstream.items() if name not in barrier.resumed and cut & set(up)]

    patch.setattr(Barriers, "ready_shuffles", ready)


def marker_before_the_last_upstreams_commit(patch: pytest.MonkeyPatch) -> None:
    """The control topic is read uncommitted: a cut counts before it is decided, and also when it is undone."""
    read = Cutting._read

    def uncommitted(self: Any) -> Any:
        if self._reader is None:
            self._reader = self._log.reader({self._control: Offset(0)}, committed=False)
        return read(self)

    patch.setattr(Cutting, "_read", uncommitted)


def an_abandoned_barrier_is_completed(patch: pytest.MonkeyPatch) -> None:
    """An abandoned barrier whose last checkpoint comes in late is declared complete."""
    hear = Barriers._hear_of

    def hears(self: Any, said: Any) -> None:
        hear(self, said)
        last = self.last
        if last is not None and last.state is BarrierState.ABANDONED and said.barrier == last.number:
            for kind in ("cuts", "stored"):
                if type(said).__name__.lower() == kind.removesuffix("s") or type(said).__name__.lower() == kind:
                    getattr(last, kind)[said.task] = said

    following = Coordinator.next

    def follows(self: Any) -> Decision | None:
        last: Barrier | None = self._barriers.last
        late = last is not None and last.state is BarrierState.ABANDONED
        if last is not None and late and not last.missing_cuts() and not last.missing_checkpoints:
            last.state = BarrierState.COMPLETE
            return Decision([Complete(last.number, self._clock.wall_ms())])
        return following(self)

    patch.setattr(Barriers, "_hear_of", hears)
    patch.setattr(Coordinator, "next", follows)


def checkpoint_of_the_overlay(patch: pytest.MonkeyPatch) -> None:
    """The checkpoint is taken when the cut begins, with what the open epoch has changed so far, and not of the commit
    that the cut is."""
    words, begin = Cutting.words, Checkpoints.begin

    def early(self: Any, tasks: Any, nonce: str) -> Any:
        for task in tasks:
            if task.cutting is not None and task.mark is not None:
                deltas = task.runner.drain()
                task.store.apply(deltas, task.mark)
                begin(self._checkpointer, task, task.cutting)
        return words(self, tasks, nonce)

    patch.setattr(Cutting, "words", early)
    patch.setattr(Checkpoints, "begin", lambda self, task, barrier: None)  # pyright: ignore[reportUnknownLambdaType]


LOSSES: Final = Rates(
    calls=0.006, points=0.01, kinds=frozenset({"kill", "kill-before"}), store=0.3, store_kinds=["store corrupt"]
)
"""Machines that die often, and a store that often spoils something: for bugs of restores."""
OWNERS: Final = Rates(
    calls=0.002, points=0.15, times=2, only_point="after-apply", kinds=frozenset({"kill", "kill-before", "pause"})
)
"""Workers that die as their commit is decided, while others stop: for bugs of takeovers at a barrier."""
PROFILES: Final[dict[str, Rates]] = {"hash_not_checked": LOSSES, "a_new_owner_emits_during_a_cut": OWNERS}
BUGS: Final = named(
    (journal_trimmed_before_the_naming_commit, ("words", "accounts")),
    (manifest_before_the_last_upload, ("words", "accounts")),
    (hash_not_checked, ("accounts", "words")),
    (collection_without_grace, ("words", "regions")),
    (file_keyed_by_its_number, ("words",)),
    (a_new_owner_emits_during_a_cut, ("words", "regions")),
    (resume_before_all_cuts, ("words", "regions")),
    (marker_before_the_last_upstreams_commit, ("words", "regions")),
    (an_abandoned_barrier_is_completed, ("words", "regions")),
    (checkpoint_of_the_overlay, ("words", "accounts")),
)


def found_by(name: str) -> Callable[[str, int], Outcome]:
    """The runs that can show the bug: its topology and seed are still to be given."""
    return lambda topology, seed: run(topology, seed, PROFILES.get(name))
