"""`streamcore run`: one worker in this process, or N in processes of their own."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Final

import typer

from streamcore import limits
from streamcore.checkpoint.collect import Retention
from streamcore.cli.beside import Beside
from streamcore.cli.connect import (
    CHECKPOINTS,
    NO_CHECKPOINTS,
    administered,
    checkpoint_store,
    ensure_topics,
    opened,
    patiently,
    user_topics,
)
from streamcore.cli.load import load_job
from streamcore.cli.options import Checkpoints, Config, Kafka, StateDir, Target, by_remedy
from streamcore.clock import SystemClock, SystemEntropy
from streamcore.codecs import kinds
from streamcore.config import Settings, load
from streamcore.errors import EXIT_AT_SAVEPOINT, EXIT_DONE, EXIT_HUNG, SettingsError
from streamcore.log.port import Admin, Log
from streamcore.observe.metrics import Metrics, MetricsServer
from streamcore.runtime.budget import Promised
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.feed import FeedSpec
from streamcore.runtime.restores import Restores
from streamcore.runtime.show import partitions_of
from streamcore.runtime.statedir import RocksStores
from streamcore.runtime.supervisor import Link, ProcessChild, Supervisor, Told
from streamcore.runtime.watchdog import Watchdog
from streamcore.runtime.worker import Worker, WorkerSettings
from streamcore.topology.nodes import Source
from streamcore.topology.plan import Plan
from streamcore.types import Slot
from streamcore.ui.live import LinkedView, LiveView, LogView, View

logger = logging.getLogger(__name__)

SUPERVISE_EVERY_S: Final = 0.05
TELL_EVERY_S: Final = 0.1
"""Progress is asked for no more often: each partition's lag takes a lock that its fetcher holds much of the time."""
GC_THRESHOLDS: Final = (50_000, 20, 100)
_Handler = Callable[[int, FrameType | None], object] | int | None


@dataclass(frozen=True)
class Wanted:
    """The command line, read."""

    target: str
    plan: Plan
    settings: Settings
    feeds: tuple[FeedSpec, ...]
    shown: tuple[str, ...]
    until_idle: bool
    flags: tuple[str, ...]
    """What a supervised worker's command line repeats."""


@by_remedy
def run(
    target: Target,
    kafka: Kafka = None,
    workers: Annotated[int | None, typer.Option(help="Processes on this machine, a slot each. Default: 1")] = None,
    slot: Annotated[
        int | None, typer.Option(help="This machine's first slot: each machine has its own. Default: 0")
    ] = None,
    state_dir: StateDir = None,
    commit_interval: Annotated[str | None, typer.Option(metavar="TIME", help="As 100ms (the default), or 1s.")] = None,
    checkpoints: Checkpoints = None,
    rpo: Annotated[
        str | None, typer.Option(metavar="TIME", help="How much input time a failure may have done again, as 500ms.")
    ] = None,
    rto: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long a takeover may take, as 60s (the default); 0: any.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="exactly-once (the default) or at-least-once.")] = None,
    feed: Annotated[list[str] | None, typer.Option(metavar="TOPIC=FILE|-", help="Send each line as a record.")] = None,
    feed_key: Annotated[bool, typer.Option("--feed-key", help="A fed line is key<TAB>value.")] = False,
    show: Annotated[
        list[str] | None, typer.Option(metavar="TOPIC", help="Print committed records as they come.")
    ] = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Exit 0 once everything fed and read is processed and committed.")
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Serve Prometheus metrics; one port a slot.")
    ] = None,
    config: Config = None,
) -> None:
    """Run a job until it is stopped (SIGTERM or Ctrl-C: what is open is committed first)."""
    settings = load(
        config,
        {
            "kafka.bootstrap": kafka,
            "worker.workers": workers,
            "worker.slot": slot,
            "worker.state_dir": state_dir,
            "worker.commit_interval": commit_interval,
            "checkpoints.store": checkpoints,
            "guarantee.mode": mode,
            "guarantee.rpo": rpo,
            "guarantee.rto": rto,
            "metrics.port": metrics_port,
        },
    )
    if settings.worker.workers > 1 and settings.kafka.bootstrap is None:
        raise SettingsError(
            f"--workers {settings.worker.workers} on the embedded log: it belongs to one process",
            "leave --workers out, or give a Kafka cluster with --kafka",
        )
    plan = load_job(target).plan()
    given = {
        "--kafka": kafka,
        "--state-dir": state_dir,
        "--commit-interval": commit_interval,
        "--checkpoints": checkpoints,
        "--mode": mode,
        "--rpo": rpo,
        "--rto": rto,
        "--config": config,
    }
    flags = tuple(part for name, value in given.items() if value is not None for part in (name, str(value)))
    feeds = tuple(_feed_spec(plan, text, feed_key) for text in feed or ())
    wanted = Wanted(target, plan, settings, feeds, tuple(show or ()), until_idle, flags)
    code = _supervised(wanted) if settings.worker.workers > 1 else _alone(wanted)
    if code != EXIT_DONE:
        raise typer.Exit(code)


def _feed_spec(plan: Plan, text: str, keyed: bool) -> FeedSpec:
    spec = FeedSpec.parse(text, keyed)
    for node in plan.nodes:
        if isinstance(node, Source) and node.topic.name == spec.topic:
            if node.topic.key is not None and not keyed:
                raise SettingsError(
                    f"--feed {text}: topic {spec.topic} has keys", "write lines as key<TAB>value, and give --feed-key"
                )
            return FeedSpec(
                spec.topic, spec.path, keyed, skip_blank=kinds.bare(node.topic.value.type) not in (str, bytes)
            )
    raise SettingsError(
        f"--feed {text}: job {plan.job} does not read a topic {spec.topic}",
        f"it reads {', '.join(plan.source_topics)}; `streamcore topics produce` writes to any topic",
    )


# --- one worker -----------------------------------------------------------------------------------------------------


def _alone(wanted: Wanted) -> int:
    clock, entropy = SystemClock(), SystemEntropy()
    plan, settings = wanted.plan, wanted.settings
    orphaned = threading.Event()
    link = Link.from_environment(orphaned.set)
    with _view(wanted, clock, link) as view, opened(settings, clock) as log, administered(log) as admin:
        patiently(lambda: _prepare(wanted, admin), "the log does not answer yet", clock, entropy)
        metrics = Metrics()
        stores = RocksStores(settings.worker.state_dir, plan.job, Slot(settings.worker.slot))
        checkpointing = _checkpointing(settings, stores, log)
        if link is None:
            _warn_of_checkpoints(settings)
        watchdog = Watchdog(clock, lambda: os._exit(EXIT_HUNG))
        worker = Worker(
            plan, log, _worker_settings(settings), clock=clock, entropy=entropy, metrics=metrics, stores=stores,
            watchdog=watchdog, checkpointing=checkpointing,
        )  # fmt: skip
        beside = Beside(plan, log, admin, clock, view, wanted.feeds, wanted.shown, wanted.until_idle)
        told, due_s = Told(), 0.0

        def between() -> None:
            nonlocal told, due_s
            if (now := clock.monotonic_s()) >= due_s:
                due_s = now + TELL_EVERY_S
                progress = worker.progress()
                restores = checkpointing.restores if checkpointing else Restores()
                told = Told(
                    progress.records_in,
                    progress.records_out,
                    progress.lag,
                    len(progress.tasks),
                    metrics.commit_p99_s(),
                    restores.done_bytes,
                    restores.total_bytes,
                )
            if beside.step(told) or orphaned.is_set():
                worker.stop()

        with _metrics_served(settings, metrics), graceful(worker.stop):
            _collect_seldom()
            try:
                worker.run(between)
            finally:
                beside.close()
                watchdog.close()
    return EXIT_AT_SAVEPOINT if link is not None and worker.at_savepoint else EXIT_DONE


def _collect_seldom() -> None:
    """Records come and go by the thousand: with Python's own thresholds all that stands since the start would be
    searched for garbage many times a second (0.3 s of CPU a million records)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _prepare(wanted: Wanted, admin: Admin) -> None:
    ensure_topics(wanted.settings, admin, user_topics(wanted.plan))
    if wanted.shown:
        partitions_of(admin, wanted.shown)


def _worker_settings(settings: Settings) -> WorkerSettings:
    return WorkerSettings(
        slot=Slot(settings.worker.slot),
        state_dir=settings.worker.state_dir,
        commit_interval_ms=settings.commit_interval_ms,
        rpo_ms=settings.guarantee.rpo,
        mode=settings.guarantee.mode,
        replication=settings.topics.replication,
        checkpoint_interval_s=settings.checkpoints.interval / 1000,
        auto_partitions=settings.topics.partitions if settings.kafka.bootstrap is None else None,
    )


def _checkpointing(settings: Settings, stores: RocksStores, log: Log) -> Checkpointing | None:
    store, wanted = checkpoint_store(settings), settings.checkpoints
    if store is None or settings.guarantee.mode != "exactly-once":
        return None
    return Checkpointing(
        store,
        stores,
        retention=Retention(wanted.keep, wanted.keep_for // 1000),
        trims=not _lost_with_this_machine(settings),
        milestone_bytes=wanted.journal_milestone_bytes,
        milestone_records=wanted.journal_milestone_records,
        bound_bytes=wanted.journal_bound_bytes,
        drill_every_s=wanted.drill / 1000,
        log=log,
        digest_share=limits.DIGEST_SHARE,
        promised=Promised(settings.guarantee.rpo, settings.guarantee.rto),
    )


def _lost_with_this_machine(settings: Settings) -> bool:
    """The checkpoints, and the log is not: it must go on holding all that a job on another machine would need."""
    return settings.checkpoints.store is None and settings.kafka.bootstrap is not None


def _warn_of_checkpoints(settings: Settings) -> None:
    none = settings.guarantee.mode != "exactly-once" or settings.checkpoints.store == NO_CHECKPOINTS
    if none and "rto" in settings.guarantee.model_fields_set and settings.guarantee.rto:
        logger.warning("there are no checkpoints, so nothing bounds the journals: the RTO will not be kept")
    if settings.guarantee.mode != "exactly-once":
        if settings.checkpoints.store is not None:
            logger.warning("at-least-once: there are no barriers and no checkpoints; journals hold all of the state")
    elif _lost_with_this_machine(settings):
        logger.warning(
            "checkpoints lie in %s, and are lost with this machine: so journals are not trimmed, and grow. Give a "
            "place that outlives it, for all machines the same: --checkpoints s3://BUCKET/PREFIX or file:///DIR",
            settings.worker.state_dir / CHECKPOINTS,
        )


@contextmanager
def _metrics_served(settings: Settings, metrics: Metrics) -> Generator[None]:
    if settings.metrics.port is None:
        yield
    else:
        with MetricsServer(metrics, settings.metrics.host, settings.metrics.port):
            yield


# --- many -------------------------------------------------------------------------------------------------------------


def _supervised(wanted: Wanted) -> int:
    clock, entropy = SystemClock(), SystemEntropy()
    settings = wanted.settings
    slots = [Slot(settings.worker.slot + n) for n in range(settings.worker.workers)]
    with _view(wanted, clock, None) as view, opened(settings, clock) as log, administered(log) as admin:
        patiently(lambda: _prepare(wanted, admin), "the log does not answer yet", clock, entropy)
        _warn_of_checkpoints(settings)
        supervisor = Supervisor(slots, lambda slot: ProcessChild(_arguments(wanted, slot)), clock, entropy)
        beside = Beside(wanted.plan, log, admin, clock, view, wanted.feeds, wanted.shown, wanted.until_idle)
        with graceful(supervisor.stop):
            try:
                while (code := supervisor.step()) is None:
                    if beside.step(supervisor.told()):
                        supervisor.stop()
                    clock.sleep_s(SUPERVISE_EVERY_S)
            finally:
                supervisor.close()
                beside.close()
    return code


def _arguments(wanted: Wanted, slot: Slot) -> Sequence[str]:
    own = ["--workers", "1", "--slot", str(slot)]
    port = wanted.settings.metrics.port
    if port is not None:
        own += ["--metrics-port", str(port and port + slot - wanted.settings.worker.slot)]
    return ["-m", "streamcore", "run", wanted.target, *wanted.flags, *own]


# --- both -------------------------------------------------------------------------------------------------------------


@contextmanager
def _view(wanted: Wanted, clock: SystemClock, link: Link | None) -> Generator[View]:
    job, settings = wanted.plan.job, wanted.settings
    level = settings.log.level
    view: View
    if link is not None:
        beside_live_line = sys.stdout.isatty()
        view = LinkedView(job, clock, level or ("warning" if beside_live_line else "info"), settings.worker.slot, link)
    elif sys.stdout.isatty():
        view = LiveView(job, clock, level or "warning")
    else:
        view = LogView(job, clock, level or "info")
    try:
        yield view
    finally:
        view.close()


@contextmanager
def graceful(stop: Callable[[], None]) -> Generator[None]:
    """The first SIGTERM or SIGINT stops gracefully; a second one has its usual effect."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop()
        signal.signal(number, before[number])

    before: dict[int, _Handler] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
