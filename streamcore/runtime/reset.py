"""`reset JOB`: the job has never run. Its offsets, its internal topics, its local state and its checkpoints go; the
user's topics stay, and what savepoints hold.

In this order, so that whatever interrupts it leaves a job that refuses to start until the reset is repeated: the
group's offsets first (a journal without metadata stops a worker), then the topics, then disk and checkpoints (state of
no line is set aside by takeover anyway, and a prefix of another life refused). Refused while a worker runs.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamcore.checkpoint.discard import Belongings, belongings, discard
from streamcore.checkpoint.store import CheckpointStore
from streamcore.errors import StateDirError, StopError
from streamcore.log.port import Admin
from streamcore.runtime.status import job_topics, known_jobs, refuse_members


@dataclass(frozen=True, slots=True)
class ResetPlan:
    job: str
    group: bool
    topics: tuple[str, ...]
    directory: Path | None
    checkpoints: Belongings | None = None

    @property
    def empty(self) -> bool:
        return not (self.group or self.topics or self.directory or self.checkpoints)

    def lines(self) -> list[str]:
        found: list[str] = []
        if self.group:
            found.append(f"the committed offsets of group {self.job}")
        found += [f"topic {name} with all its records" for name in self.topics]
        if self.directory:
            found.append(f"local state in {self.directory}")
        if self.checkpoints:
            found.append(self.checkpoints.line())
        return found


def plan_reset(admin: Admin, job: str, state_dir: Path, store: CheckpointStore | None = None) -> ResetPlan:
    """As `found`, and raises StopError when there is nothing."""
    plan = found(admin, job, state_dir, store)
    if plan.empty:
        known = ", ".join(known_jobs(admin)) or "none"
        raise StopError(f"nothing is known of a job named {job!r}", f"the jobs that have journals here: {known}")
    return plan


def found(admin: Admin, job: str, state_dir: Path, store: CheckpointStore | None = None) -> ResetPlan:
    """What would go; of `store`, where there is one, the job's checkpoints. Raises StopError when members are alive, or
    a slot runs on this machine, and what the store raises."""
    refuse_members(admin, job)
    directory = state_dir / job
    _refuse_running(job, directory)
    return ResetPlan(
        job,
        job in admin.groups(),
        job_topics(admin, job).all,
        directory if directory.is_dir() else None,
        belongings(store, job) if store is not None else None,
    )


def reset(admin: Admin, plan: ResetPlan, between: Callable[[], None] = lambda: None) -> None:
    """`between`: when the offsets are gone, and the topics, whose journals stop every worker now, are not."""
    if plan.group:
        admin.delete_group(plan.job)
    between()
    admin.delete(plan.topics)
    if plan.directory:
        try:
            shutil.rmtree(plan.directory)
        except OSError as error:
            raise StateDirError(
                f"local state in {plan.directory} cannot be deleted ({error.strerror})",
                "delete the directory by hand; the offsets and topics are gone already",
            ) from error
    if plan.checkpoints:
        discard(plan.checkpoints)


def _refuse_running(job: str, directory: Path) -> None:
    for path in sorted(directory.glob("slot-*.lock")):
        with path.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StateDirError(
                    f"job {job}: {path.stem} is running on this machine", "stop it first (SIGTERM; it commits)"
                ) from error
