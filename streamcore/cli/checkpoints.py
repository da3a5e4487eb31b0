"""`checkpoints list|show|verify|drop`: what a job has in its checkpoint store."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from streamcore import limits
from streamcore.checkpoint import holds
from streamcore.checkpoint.discard import belongings, discard
from streamcore.checkpoint.manifest import Layout, Manifest, load, parsed
from streamcore.checkpoint.store import CheckpointStore
from streamcore.checkpoint.verify import Verdict, Verifier
from streamcore.cli.connect import EMBEDDED, administered, opened, required_store
from streamcore.cli.inspect import ago
from streamcore.cli.load import job_name
from streamcore.cli.options import Checkpoints, Config, JobName, Json, Kafka, StateDir, Yes, looking
from streamcore.cli.rehearse import Then, replaying
from streamcore.cli.repair import ask as ask_person
from streamcore.clock import SystemClock, SystemEntropy
from streamcore.config import Settings
from streamcore.config import load as load_settings
from streamcore.errors import EXIT_STOP, CheckpointDamaged, StateMismatch, StopError
from streamcore.runtime.rehearsal import Rehearsed
from streamcore.runtime.status import refuse_members

app = typer.Typer(help="A job's checkpoints in their store.", no_args_is_help=True, rich_markup_mode=None)

Names = Annotated[
    list[str] | None, typer.Argument(metavar="CHECKPOINT", help="STAGE/PARTITION/LINEAGE/EPOCH, as `list` gives it.")
]


@dataclass(frozen=True, slots=True)
class Listed:
    key: str
    name: str
    """What of the key tells it from the job's others."""
    modified_ms: int
    held_by: tuple[str, ...]
    manifest: Manifest | None
    trouble: str = ""


@app.command("list")
@looking
def list_(
    job: JobName, checkpoints: Checkpoints = None, state_dir: StateDir = None, as_json: Json = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Every checkpoint there is, oldest first for each task."""
    store = _store(checkpoints, state_dir, config)
    found = [_listed(store, listed) for listed in _all(store, job_name(job))]
    if as_json:
        typer.echo(json.dumps([_facts(each) for each in found]))
        return
    now_ms = SystemClock().wall_ms()
    table = Table(title=f"{len(found)} checkpoints in {store.place}", title_justify="left")
    for name in ("checkpoint", "barrier", "files", "bytes", "stored", "kept for"):
        table.add_column(name, justify="right" if name in ("barrier", "files", "bytes") else "left", overflow="fold")
    for each in found:
        manifest, stored = each.manifest, ago(each.modified_ms, now_ms)
        if manifest is None:
            table.add_row(each.name, "", "", "", stored, each.trouble)
        else:
            barrier = "–" if manifest.barrier is None else str(manifest.barrier)
            files, size = str(len(manifest.files)), f"{manifest.size_bytes:,}"
            table.add_row(each.name, barrier, files, size, stored, ", ".join(each.held_by))
    Console(width=None if Console().is_terminal else 160).print(table)


@app.command()
@looking
def show(
    job: JobName,
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="As `list` gives it.")],
    checkpoints: Checkpoints = None, state_dir: StateDir = None, config: Config = None,
) -> None:  # fmt: skip
    """One checkpoint's manifest, as JSON."""
    store = _store(checkpoints, state_dir, config)
    (found,) = _chosen(store, job_name(job), [checkpoint])
    typer.echo(msgspec.json.format(msgspec.json.encode(load(store, found.key)), indent=2).decode())


@app.command()
@looking
def verify(
    job: JobName, names: Names = None,
    digest: Annotated[bool, typer.Option("--digest", help="Read all of the state too, and print its digest.")] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="Replay the journal behind each too, up to its task's last commit.")
    ] = False,
    scratch: Annotated[
        Path | None, typer.Option(help="Where to restore to; as large as a task's state. Default: a temporary place")
    ] = None,
    kafka: Kafka = None, checkpoints: Checkpoints = None, state_dir: StateDir = None, as_json: Json = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Restore each checkpoint (or those named) into a scratch directory, and compare the digest of its state where its
    task recorded one. Exit 10 when any is not whole, or not what its task recorded."""
    settings, name = _settings(kafka, checkpoints, state_dir, config), job_name(job)
    store = required_store(settings)
    chosen = _chosen(store, name, names)
    verifier = Verifier(store, SystemClock(), SystemEntropy(), threads=limits.CHECKPOINT_THREADS)
    verdicts: list[Verdict] = []
    replays: list[Rehearsed | None] = []
    with (
        tempfile.TemporaryDirectory(prefix="streamcore-verify-", dir=scratch) as path,
        _bar() as bar,
        replaying(settings, store, name, replay) as rehearse,
    ):
        for each in chosen:
            listed, then = _listed(store, each), Then(rehearse)
            with _told(bar, listed) as progress:
                scratch_path = Path(path) / "task"
                verdicts.append(verifier.verify(each.key, scratch_path, digest=digest, progress=progress, then=then))
            replays.append(then.found)
            if not as_json:
                _print_verdict(each, verdicts[-1], then.found)
    if as_json:
        told = zip(chosen, verdicts, replays, strict=True)
        typer.echo(json.dumps([_verdict(each, verdict, replayed) for each, verdict, replayed in told]))
    bad = sum(not verdict.whole for verdict in verdicts)
    if bad:
        typer.echo(f"{bad} of {len(verdicts)} checkpoints are not whole; docs/operations.md says what to do", err=True)
        raise typer.Exit(EXIT_STOP)


@app.command()
@looking
def drop(
    job: JobName, names: Names = None,
    every: Annotated[bool, typer.Option("--all", help="All of the job's, and its claim on the prefix.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also a task's newest.")] = False,
    kafka: Kafka = None, checkpoints: Checkpoints = None, state_dir: StateDir = None, yes: Yes = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Let checkpoints go; what only they named is collected after an hour. What a savepoint holds is refused."""
    settings = _settings(kafka, checkpoints, state_dir, config)
    store, name = required_store(settings), job_name(job)
    if every == bool(names):
        raise StopError("nothing was dropped: name checkpoints, or give --all", "`streamcore checkpoints list JOB`")
    if every:
        _drop_all(settings, store, name, yes)
        return
    chosen = _chosen(store, name, names)
    _refuse_needed(store, name, chosen, force)
    for each in chosen:
        typer.echo(f"  {each.name}")
    ask_person(yes)
    for each in chosen:
        store.delete(each.key)
    typer.echo("done")


# --- what there is ----------------------------------------------------------------------------------------------------


def _all(store: CheckpointStore, job: str) -> list[Listed]:
    layout = Layout(job)
    held: dict[str, list[str]] = {}
    for hold in holds.all_of(store, job):
        for key in hold.manifests:
            held.setdefault(key, []).append(hold.name)
    found: list[tuple[tuple[str, int, str, int], Listed]] = []
    for stat in store.list(layout.manifests):
        about = parsed(stat.key)
        if about is None:
            continue
        name = stat.key.removeprefix(layout.manifests).removesuffix(".json")
        stage, partition, lineage, _ = name.rsplit("/", 3)
        listed = Listed(stat.key, name, stat.modified_ms, tuple(held.get(stat.key, ())), None)
        found.append(((stage, int(partition) if partition.isdecimal() else -1, lineage, about[1]), listed))
    return [listed for _, listed in sorted(found, key=lambda pair: pair[0])]


def _listed(store: CheckpointStore, found: Listed) -> Listed:
    """With its manifest."""
    try:
        manifest, trouble = load(store, found.key), ""
    except (CheckpointDamaged, StateMismatch) as error:
        manifest, trouble = None, error.what
    return Listed(found.key, found.name, found.modified_ms, found.held_by, manifest, trouble)


def _chosen(store: CheckpointStore, job: str, names: Sequence[str] | None) -> list[Listed]:
    """Those named, or all. Raises StopError for none, and for a name that is none of them."""
    found = _all(store, job)
    if not found:
        raise StopError(
            f"there are no checkpoints of a job {job!r} in {store.place}",
            "give the --checkpoints (or the --state-dir) that the job runs with, and its name",
        )
    if not names:
        return found
    by_name = {each.name: each for each in found} | {each.key: each for each in found}
    for name in names:
        if name not in by_name:
            raise StopError(
                f"there is no checkpoint {name!r} of job {job} in {store.place}",
                f"`streamcore checkpoints list {job}` names them",
            )
    return [by_name[name] for name in names]


def _refuse_needed(store: CheckpointStore, job: str, chosen: Sequence[Listed], force: bool) -> None:
    newest = {each.name.rsplit("/", 1)[0]: each.key for each in _all(store, job)}
    for each in chosen:
        if each.held_by:
            raise StopError(
                f"checkpoint {each.name} is kept for {', '.join(each.held_by)}",
                f"drop the savepoint first: `streamcore savepoint drop {job} NAME`",
            )
        if not force and newest[each.name.rsplit("/", 1)[0]] == each.key:
            raise StopError(
                f"checkpoint {each.name} is its task's newest, which the job's commits name",
                "if it is damaged, --force drops it: a takeover then takes the next older one, where there is one",
            )


def _drop_all(settings: Settings, store: CheckpointStore, job: str, yes: bool) -> None:
    if settings.kafka.bootstrap is not None or (settings.worker.state_dir / EMBEDDED).exists():
        with opened(settings, SystemClock(), read_only=True) as log, administered(log) as admin:
            refuse_members(admin, job)
    what = belongings(store, job)
    if not what:
        raise StopError(f"there is nothing of a job {job!r} in {store.place}", "correct the name, or --checkpoints")
    typer.echo(f"This deletes {what.line()}, and gives the prefix free.")
    typer.echo("Where journals were trimmed behind them, the job's state stands in its workers' directories alone.")
    ask_person(yes)
    discard(what)
    typer.echo("done")


# --- telling ----------------------------------------------------------------------------------------------------------


def _facts(found: Listed) -> dict[str, object]:
    manifest = found.manifest
    told: dict[str, object] = {
        "checkpoint": found.name,
        "key": found.key,
        "stored_ms": found.modified_ms,
        "held_by": list(found.held_by),
        "trouble": found.trouble,
    }
    if manifest is not None:
        told |= {
            "stage": manifest.stage,
            "partition": manifest.partition,
            "lineage": manifest.lineage,
            "epoch": manifest.epoch,
            "barrier": manifest.barrier,
            "files": len(manifest.files),
            "bytes": manifest.size_bytes,
        }
    return told


def _verdict(found: Listed, verdict: Verdict, replayed: Rehearsed | None) -> dict[str, object]:
    told: dict[str, object] = {}
    if replayed is not None:
        told = {"replayed_epochs": replayed.epochs, "not_replayed": replayed.unknown}
    return told | {
        "checkpoint": found.name,
        "whole": verdict.whole,
        "wrong": list(verdict.wrong),
        "objects": sorted(verdict.objects),
        "digest": verdict.digest,
        "seconds": round(verdict.seconds, 3),
    }


def _print_verdict(found: Listed, verdict: Verdict, replayed: Rehearsed | None) -> None:
    digest = f"  digest {verdict.digest}" if verdict.digest else ""
    behind = "" if replayed is None else f"  {replayed.epochs} epochs replayed behind it"
    if replayed is not None and replayed.unknown:
        behind = f"  journal not replayed: {replayed.unknown}"
    typer.echo(f"{'ok  ' if verdict.whole else 'BAD '}  {found.name}  {verdict.seconds:.1f} s{digest}{behind}")
    for wrong in verdict.wrong:
        typer.echo(f"        {wrong}")


@contextmanager
def _bar() -> Generator[Progress]:
    """In a terminal alone."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar


class _Count:
    """Several threads tell of what they have written."""

    def __init__(self, bar: Progress, found: Listed) -> None:
        size = found.manifest.size_bytes if found.manifest else None
        self._bar, self._task = bar, bar.add_task(found.name, total=size)

    def __call__(self, size: int) -> None:
        self._bar.advance(self._task, size)

    def end(self) -> None:
        self._bar.remove_task(self._task)


@contextmanager
def _told(bar: Progress, found: Listed) -> Generator[_Count]:
    count = _Count(bar, found)
    try:
        yield count
    finally:
        count.end()


def _settings(kafka: str | None, checkpoints: str | None, state_dir: Path | None, config: Path | None) -> Settings:
    given = {"kafka.bootstrap": kafka, "worker.state_dir": state_dir, "checkpoints.store": checkpoints}
    return load_settings(config, given)


def _store(checkpoints: str | None, state_dir: Path | None, config: Path | None) -> CheckpointStore:
    return required_store(_settings(None, checkpoints, state_dir, config))
