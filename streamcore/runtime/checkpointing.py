"""That a job has checkpoints, and how: what its workers are given, and the simulator in other forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from streamcore.checkpoint.background import Beside, Inline, Work
from streamcore.checkpoint.collect import Retention
from streamcore.checkpoint.restore import Restorer
from streamcore.checkpoint.snapshot import Form, Opener, rocks, rocks_to_go_on
from streamcore.checkpoint.store import CheckpointStore
from streamcore.checkpoint.verify import Verifier
from streamcore.clock import Clock, Entropy
from streamcore.log.port import Log
from streamcore.runtime.budget import Promised, Rates
from streamcore.runtime.rehearsal import Rehearsal
from streamcore.runtime.restores import Restores
from streamcore.types import TaskId


class Folders(Protocol):
    """Where a worker's local state lies."""

    def folder(self, task: TaskId) -> Path:
        """A task's directory, which a restore makes; snapshots lie beside it."""
        ...

    def adopt(self, task: TaskId) -> None:
        """A restore has put the task's directory there."""
        ...


@dataclass(frozen=True)
class Checkpointing:
    """That a job has checkpoints, and how."""

    store: CheckpointStore
    folders: Folders
    form: Form = rocks
    beside: bool = True
    """Uploads and restores on threads of their own; else at once, where a simulator needs it."""
    retention: Retention = field(default_factory=Retention)
    trims: bool = True
    """Whether journals are trimmed behind checkpoints: not when the store is lost with the machine, and the log is
    not."""
    milestone_bytes: int = 0
    """A task's journal has grown by so much since its last cut: a checkpoint before its time. 0: none."""
    milestone_records: int = 0
    """The same, when a task has processed so many."""
    bound_bytes: int = 0
    """A task's journal since its newest checkpoint is longer: the job stops. 0: no bound."""
    drill_every_s: float = 0.0
    log: Log | None = None
    """For drills, which replay journals too; None: they restore, and no more."""
    opener: Opener = rocks_to_go_on
    digest_share: float = 0.0
    """Of a worker's time that may go into digests of states, for drills to compare. 0: none are recorded."""
    restores: Restores = field(default_factory=Restores)
    promised: Promised | None = None
    """What is kept to, and told. None: nothing."""
    rates: Rates = field(default_factory=Rates)

    def restorer(self, clock: Clock, entropy: Entropy) -> Restorer:
        if self.beside:
            return Restorer(self.store, clock, entropy, form=self.form)
        return Restorer(self.store, clock, entropy, form=self.form, threads=0)

    def verifier(self, clock: Clock, entropy: Entropy) -> Verifier:
        return Verifier(self.store, clock, entropy, form=self.form, threads=2 if self.beside else 0)

    def rehearsal(self, job: str, clock: Clock) -> Rehearsal | None:
        return None if self.log is None else Rehearsal(self.log, self.store, job, clock, self.opener)

    def work(self, name: str) -> Work[object]:
        return Beside(name) if self.beside else Inline(name)
