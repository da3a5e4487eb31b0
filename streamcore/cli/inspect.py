"""`check`, `explain`, `status`: commands that look and change nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from streamcore.checkpoint import savepoint as savepoints
from streamcore.cli.connect import EMBEDDED, administered, opened, required_store
from streamcore.cli.estimate import left_of
from streamcore.cli.load import job_name, load_job
from streamcore.cli.options import (
    Checkpoints,
    Config,
    Drop,
    JobName,
    Json,
    Kafka,
    Of,
    Partitions,
    Rename,
    StateDir,
    Target,
    changes_of,
    looking,
)
from streamcore.clock import Clock, SystemClock
from streamcore.config import Settings, load
from streamcore.errors import EXIT_STOP, SettingsError
from streamcore.log.port import Log
from streamcore.runtime import against as comparing
from streamcore.runtime import check as checks
from streamcore.runtime import mapping
from streamcore.runtime import status as statuses
from streamcore.runtime.check import Finding
from streamcore.runtime.mapping import Changes
from streamcore.runtime.status import JobStatus, TaskStatus, together
from streamcore.runtime.told import BarrierTold
from streamcore.topology.explain import explain as explained
from streamcore.topology.plan import Plan
from streamcore.ui.drawing import draw

SHOWN: Final = 5
MARKS: Final = {"good": "ok  ", "note": "note", "bad": "BAD "}


@looking
def check(
    target: Target,
    against: Annotated[
        str | None, typer.Option("--against", metavar="SAVEPOINT", help="What `resume` would do with it, or refuse.")
    ] = None,
    of: Of = None,
    partitions: Partitions = None,
    drop: Drop = None,
    rename: Rename = None,
    kafka: Kafka = None,
    state_dir: StateDir = None,
    checkpoints: Checkpoints = None,
    config: Config = None,
) -> None:
    """Types, topics, partitions, and saved state against the code, without running. Exit 10 if a start would fail; with
    --against, if a resume would."""
    given = {"kafka.bootstrap": kafka, "worker.state_dir": state_dir, "checkpoints.store": checkpoints}
    settings = load(config, given)
    plan = load_job(target).plan()
    changes = changes_of(partitions, drop, rename)
    if against is not None:
        findings = _against(plan, against, of, changes, settings)
    elif of is not None or changes != Changes():
        raise SettingsError("--of, --partitions, --drop and --rename are about a savepoint", "add --against SAVEPOINT")
    else:
        findings = _as_it_is(plan, settings)
    for finding in findings:
        typer.echo(f"{MARKS[finding.level]}  {finding.what}")
        if finding.remedy:
            typer.echo(f"        what to do: {finding.remedy}")
    if any(finding.level == "bad" for finding in findings):
        raise typer.Exit(EXIT_STOP)


def _as_it_is(plan: Plan, settings: Settings) -> list[Finding]:
    if not _has_log(settings):
        return [*checks.types(plan), Finding("note", f"nothing has run yet in {settings.worker.state_dir}")]
    clock = SystemClock()
    with opened(settings, clock, read_only=True) as log:
        return _findings(plan, log, clock, settings.kafka.bootstrap is None)


def _against(plan: Plan, name: str, of: str | None, changes: Changes, settings: Settings) -> list[Finding]:
    store = required_store(settings)
    fitted = mapping.fitted(plan, savepoints.load(store, of or plan.job, name), changes)
    findings = [*checks.types(plan), *comparing.against(fitted, store)]
    if _has_log(settings):
        embedded = settings.kafka.bootstrap is None
        with opened(settings, SystemClock(), read_only=True) as log, administered(log) as admin:
            findings += comparing.at_the_log(
                plan, fitted.resume, admin, store, settings.worker.state_dir, auto_create=embedded
            )
    return findings


def _has_log(settings: Settings) -> bool:
    return settings.kafka.bootstrap is not None or (settings.worker.state_dir / EMBEDDED).exists()


def _findings(plan: Plan, log: Log, clock: Clock, embedded: bool) -> list[Finding]:
    with administered(log) as admin:
        return checks.check(plan, log, admin, clock, auto_create=embedded)


@looking
def explain(
    target: Target,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As a Mermaid flowchart.")] = False,
    kafka: Kafka = None,
    state_dir: StateDir = None,
    config: Config = None,
) -> None:
    """Draw the topology: stages, shuffles, state; with partition counts where the log knows them."""
    settings = load(config, {"kafka.bootstrap": kafka, "worker.state_dir": state_dir})
    plan = load_job(target).plan()
    partitions: dict[str, int] = {}
    if _has_log(settings):
        with opened(settings, SystemClock(), read_only=True) as log, administered(log) as admin:
            partitions = {name: info.partitions for name, info in admin.topics().items()}
    if mermaid:
        typer.echo(explained(plan, partitions, mermaid=True), nl=False)
    else:
        draw(plan, Console(), partitions)


@looking
def status(
    job: JobName, kafka: Kafka = None, state_dir: StateDir = None, as_json: Json = False, config: Config = None
) -> None:
    """Tasks, owners, epochs, lag, last commits, checkpoints, what a takeover would take and leave of the RTO, the last
    barrier. Works beside a running job."""
    settings = load(config, {"kafka.bootstrap": kafka, "worker.state_dir": state_dir})
    clock = SystemClock()
    with opened(settings, clock, read_only=True) as log, administered(log) as admin:
        found = statuses.status(log, admin, job_name(job), clock)
    if as_json:
        typer.echo(json.dumps([_facts(task, found.barrier) for task in found.tasks]))
    else:
        _print(found, clock.wall_ms())


def _facts(task: TaskStatus, barrier: BarrierTold | None) -> dict[str, object]:
    return {
        "stage": task.task.stage,
        "partition": task.task.partition,
        "topic": task.input.topic,
        "owner": task.owner,
        "epoch": task.epoch,
        "offset": task.offset,
        "lag": task.lag,
        "committed_ms": task.committed_ms,
        "checkpoint_epoch": task.checkpoint,
        "checkpoint_ms": task.checkpoint_ms,
        "barrier": barrier.number if barrier else None,
        "barrier_state": barrier.state if barrier else None,
        "trouble": task.trouble,
        **_recovery_facts(task),
    }


def _recovery_facts(task: TaskStatus) -> dict[str, object]:
    found = task.recovery
    return {
        "recovery_local_s": round(found.local_s, 3) if found else None,
        "recovery_other_s": round(found.other_s, 3) if found else None,
        "rto_s": found.rto_s if found and found.rto_s else None,
        "rto_left_s": round(found.rto_s - found.other_s, 3) if found and found.rto_s else None,
        "rates_measured": found.measured if found else None,
    }


def _print(found: JobStatus, now_ms: int) -> None:
    table = Table(
        title=f"job {found.job}: {len(found.members)} workers, {len(found.tasks)} tasks", title_justify="left"
    )
    for name in ("stage", "partition", "owner", "epoch", "lag", "last commit", "checkpoint", "recovery"):
        table.add_column(name, justify="right" if name in ("partition", "epoch", "lag") else "left")
    for task in found.tasks:
        table.add_row(
            task.task.stage,
            str(task.task.partition),
            task.owner,
            "–" if task.epoch is None else str(task.epoch),
            f"{task.lag:,}",
            task.trouble or ago(task.committed_ms, now_ms),
            _checkpoint(task, now_ms),
            "–" if task.recovery is None else f"{task.recovery.local_s:.1f} s / {task.recovery.other_s:.1f} s",
        )
    Console(width=None if Console().is_terminal else 160).print(table)
    if found.barrier is not None:
        typer.echo(_barrier(found.barrier, now_ms))
    for line in _budgets(found.tasks):
        typer.echo(line)


def _budgets(tasks: Sequence[TaskStatus]) -> list[str]:
    """A worker's tasks are taken over together."""
    told = [task.recovery for task in tasks if task.recovery is not None]
    if not told:
        return []
    rates = "measured" if all(each.measured for each in told) else "assumed (no takeover or drill has measured them)"
    lines = [f"recovery: on the machine with the state / on another one, at {rates} rates"]
    rto_s = min((each.rto_s for each in told if each.rto_s), default=0.0)
    for owner, (count, seconds) in sorted(together(tasks).items()):
        left = left_of(rto_s, seconds)
        lines.append(f"{owner}: its {count} tasks together {seconds:.1f} s on another machine{left}")
    return lines


def _checkpoint(task: TaskStatus, now_ms: int) -> str:
    if task.checkpoint is None:
        return "–"
    when = "" if task.checkpoint_ms is None else f", {ago(task.checkpoint_ms, now_ms)}"
    return f"epoch {task.checkpoint}{when}"


def _barrier(barrier: BarrierTold, now_ms: int) -> str:
    name = f"barrier {barrier.number}" + (f" (savepoint {barrier.savepoint})" if barrier.savepoint else "")
    begun = f"begun {ago(barrier.begun_ms, now_ms)}"
    if barrier.decided_ms is None:
        waits = barrier.waits_for()
        more = f" and {len(waits) - SHOWN} more" if len(waits) > SHOWN else ""
        return f"{name}: open, {begun}, waits for {', '.join(waits[:SHOWN]) or 'its coordinator'}{more}"
    why = f": {barrier.why}" if barrier.why else ""
    return f"{name}: {barrier.state} {ago(barrier.decided_ms, now_ms)}{why}"


def ago(then_ms: int | None, now_ms: int) -> str:
    if then_ms is None:
        return "–"
    seconds = max(0, now_ms - then_ms) / 1000
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.1f} s ago"
