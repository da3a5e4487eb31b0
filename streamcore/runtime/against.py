"""`check --against SAVEPOINT`: what `resume` would do with this code, and all that it would refuse.

What the savepoint and the code say is `mapping.fitted`, as for `resume`; the log is asked only where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamcore.checkpoint.savepoint import refuse_half
from streamcore.checkpoint.store import CheckpointStore
from streamcore.errors import CheckpointDamaged, StopError, StreamcoreError
from streamcore.log.port import Admin
from streamcore.runtime import reset
from streamcore.runtime.check import Finding, user_topics
from streamcore.runtime.mapping import Fitted, ResumePlan, misfits
from streamcore.runtime.resume import is_own_prefix, lost_offsets, ran_on
from streamcore.topology.nodes import Process
from streamcore.topology.plan import Plan, control_topic


def against(fitted: Fitted, store: CheckpointStore) -> Iterator[Finding]:
    refused: list[StreamcoreError] = [*fitted.refused]
    try:
        refuse_half(store, fitted.resume.savepoint)
    except CheckpointDamaged as error:
        refused.append(error)
    for line in fitted.resume.told():
        yield Finding("note" if line.alters else "good", line.what)
    yield from _oldest_rows(fitted.resume)
    yield from map(_bad, refused)
    if not refused:
        yield Finding("good", f"savepoint {fitted.resume.savepoint.name!r} fits the code")


def at_the_log(
    plan: Plan, resume: ResumePlan, admin: Admin, store: CheckpointStore, state_dir: Path, *, auto_create: bool
) -> Iterator[Finding]:
    found, saved = admin.topics(), resume.savepoint
    yield from user_topics(plan, found, auto_create)
    users = {name: info.partitions for name, info in found.items() if name in plan.source_topics}
    misfit = [_bad(error) for error in misfits(resume, users)]
    yield from misfit or map(_bad, lost_offsets(admin, resume, found))
    try:
        goes = reset.found(admin, plan.job, state_dir)
        is_own_prefix(saved, store, store, plan.job, found.get(control_topic(plan.job)))
    except StopError as error:
        yield _bad(error)
    else:
        for line in goes.lines():
            yield Finding("note", f"goes first: {line}")
    if saved.job == plan.job and (again := ran_on(admin, saved)):
        yield Finding(
            "note",
            f"outputs since the savepoint come again, and resume wants --accept-repeats: the job went on ({again})",
        )


def _oldest_rows(resume: ResumePlan) -> Iterator[Finding]:
    """A row keeps the version under which it was last written, which the savepoint does not tell."""
    for each in resume.stages:
        for node in each.stage.stateful:
            if isinstance(node, Process) and node.name in each.steps:
                schema = node.state.__schema__
                lowest = min(schema.upgrades, default=schema.version)
                if lowest > 1:
                    yield Finding(
                        "note",
                        f"  step {node.name}: a row that was last written by version {lowest - 1} or before would be "
                        "refused; whether there is one is found out when the rows are read",
                    )


def _bad(error: StreamcoreError) -> Finding:
    return Finding("bad", error.what, error.remedy)
