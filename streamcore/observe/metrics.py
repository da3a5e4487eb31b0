"""One worker's metrics: counted a batch at a time, never a record.

A `Metrics` has a registry of its own, so that several workers, or tests, live in one process. The counting methods are
called on the processing thread; the server reads from a thread of its own, which prometheus-client allows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from threading import Thread
from types import TracebackType
from typing import Final, Literal
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

from streamcore.errors import SettingsError
from streamcore.observe import catalog
from streamcore.observe.catalog import Spec
from streamcore.types import TopicPartition

RECENT_COMMITS: Final = 1_000
"""How many commits the live line's p99 looks back on."""


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._records_in = self._counter(catalog.RECORDS_IN)
        self._records_out = self._counter(catalog.RECORDS_OUT)
        self._lag = self._gauge(catalog.LAG)
        self._tasks = self._gauge(catalog.TASKS)
        self._epochs = self._counter(catalog.EPOCHS)
        self._aborted = self._counter(catalog.ABORTED)
        self._unknown = self._counter(catalog.UNKNOWN)
        self._commit_s = self._histogram(catalog.COMMIT_S)
        self._batch = self._histogram(catalog.BATCH)
        self._overlay = self._gauge(catalog.OVERLAY)
        self._journal = self._counter(catalog.JOURNAL)
        self._replay_s = self._histogram(catalog.REPLAY_S)
        self._replayed = self._counter(catalog.REPLAYED)
        self._state_rebuilt = self._counter(catalog.STATE_REBUILT)
        self._rebalances = self._counter(catalog.REBALANCES)
        self._dedupe = self._counter(catalog.DEDUPE)
        self._dead_letters = self._counter(catalog.DEAD_LETTERS)
        self._skipped = self._counter(catalog.SKIPPED)
        self._reruns = self._counter(catalog.RERUNS)
        self._pauses = self._counter(catalog.PAUSES)
        self._producers = self._counter(catalog.PRODUCERS)
        self._checkpoint_s = self._histogram(catalog.CHECKPOINT_S)
        self._snapshot_s = self._histogram(catalog.SNAPSHOT_S)
        self._checkpoint_new = self._counter(catalog.CHECKPOINT_NEW)
        self._checkpoint_bytes = self._gauge(catalog.CHECKPOINT_BYTES)
        self._checkpoint_failed = self._counter(catalog.CHECKPOINT_FAILED)
        self._drills = self._counter(catalog.DRILLS)
        self._drilled_epochs = self._counter(catalog.DRILLED_EPOCHS)
        self._restore_s = self._histogram(catalog.RESTORE_S)
        self._barriers = self._counter(catalog.BARRIERS)
        self._held_s = self._histogram(catalog.HELD_S)
        self._recovery_s = self._gauge(catalog.RECOVERY_S)
        self._rto_left_s = self._gauge(catalog.RTO_LEFT_S)
        self._over_rto = self._counter(catalog.OVER_RTO)
        self._uncommitted_s = self._histogram(catalog.UNCOMMITTED_S)
        self._over_rpo = self._counter(catalog.OVER_RPO)
        self._in_of: dict[str, Counter] = {}
        self._out_of: dict[str, Counter] = {}
        """Of each topic: finding a label's own counter takes longer than counting."""
        self._lagging: set[TopicPartition] = set()
        self._recent_commits_s: deque[float] = deque(maxlen=RECENT_COMMITS)
        self.total_in = 0
        self.total_out = 0

    # --- the data path ----------------------------------------------------------------------------------------

    def read(self, topic: str, records: int) -> None:
        child = self._in_of.get(topic)
        if child is None:
            child = self._in_of[topic] = self._records_in.labels(topic)
        child.inc(records)
        self.total_in += records

    def wrote(self, topic: str, records: int) -> None:
        child = self._out_of.get(topic)
        if child is None:
            child = self._out_of[topic] = self._records_out.labels(topic)
        child.inc(records)
        self.total_out += records

    def deduped(self, step: str, accepted: int, duplicates: int, too_old: int) -> None:
        for verdict, records in (("accepted", accepted), ("duplicate", duplicates), ("too_old", too_old)):
            if records:
                self._dedupe.labels(step, verdict).inc(records)

    def dead_lettered(self, topic: str, records: int = 1) -> None:
        self._dead_letters.labels(topic).inc(records)

    def skipped(self, step: str, records: int = 1) -> None:
        self._skipped.labels(step).inc(records)

    def rerun(self) -> None:
        self._reruns.inc()

    def paused(self) -> None:
        self._pauses.inc()

    def overlay(self, size_bytes: int) -> None:
        self._overlay.set(size_bytes)

    # --- commits ----------------------------------------------------------------------------------------------

    def committed(self, *, tasks: int, records: int, seconds: float) -> None:
        self._epochs.inc(tasks)
        self._batch.observe(records)
        self._commit_s.observe(seconds)
        self._recent_commits_s.append(seconds)

    def undone(self) -> None:
        self._aborted.inc()

    def unknown(self) -> None:
        self._unknown.inc()

    def journaled(self, size_bytes: int) -> None:
        self._journal.inc(size_bytes)

    def producer_rebuilt(self) -> None:
        self._producers.inc()

    def commit_p99_s(self) -> float | None:
        """Over the last RECENT_COMMITS; None before the first."""
        recent = sorted(self._recent_commits_s)
        return recent[(len(recent) * 99) // 100] if recent else None

    # --- tasks ------------------------------------------------------------------------------------------------

    def running(self, tasks: int) -> None:
        self._tasks.set(tasks)

    def lagging(self, lags: Iterable[tuple[TopicPartition, int]]) -> None:
        """Of all partitions owned now; those of others go."""
        present: set[TopicPartition] = set()
        for tp, lag in lags:
            present.add(tp)
            self._lag.labels(tp.topic, str(tp.partition)).set(lag)
        for tp in self._lagging - present:
            self._lag.remove(tp.topic, str(tp.partition))
        self._lagging = present

    def rebalanced(self, what: Literal["assigned", "revoked", "lost"]) -> None:
        self._rebalances.labels(what).inc()

    def took_over(self, *, frames: int, seconds: float) -> None:
        self._replay_s.observe(seconds)
        self._replayed.inc(frames)

    def state_rebuilt(self) -> None:
        self._state_rebuilt.inc()

    # --- barriers and checkpoints -------------------------------------------------------------------------------

    def snapshot(self, seconds: float) -> None:
        self._snapshot_s.observe(seconds)

    def checkpointed(self, seconds: float, bytes_new: int, bytes_total: int) -> None:
        self._checkpoint_s.observe(seconds)
        self._checkpoint_new.inc(bytes_new)
        self._checkpoint_bytes.set(bytes_total)

    def checkpoint_failed(self, cause: str) -> None:
        self._checkpoint_failed.labels(cause).inc()

    def drilled(self, outcome: Literal["whole", "damaged", "differs", "unknown"], epochs: int = 0) -> None:
        """`epochs`: of the journal, replayed behind the checkpoint."""
        self._drills.labels(outcome).inc()
        self._drilled_epochs.inc(epochs)

    def restored(self, seconds: float) -> None:
        self._restore_s.observe(seconds)

    def barrier_decided(self, outcome: str) -> None:
        self._barriers.labels(outcome).inc()

    def held(self, seconds: float) -> None:
        self._held_s.observe(seconds)

    # --- budgets ------------------------------------------------------------------------------------------------

    def recovery(self, seconds: float, rto_s: float) -> None:
        """`rto_s` 0: there is none."""
        self._recovery_s.set(seconds)
        if rto_s:
            self._rto_left_s.set(rto_s - seconds)

    def over_rto(self) -> None:
        self._over_rto.inc()

    def uncommitted(self, seconds: float) -> None:
        self._uncommitted_s.observe(seconds)

    def over_rpo(self) -> None:
        self._over_rpo.inc()

    # --- scraping ---------------------------------------------------------------------------------------------

    def text(self) -> str:
        """As /metrics would answer."""
        return generate_latest(self.registry).decode()

    def _counter(self, spec: Spec) -> Counter:
        return Counter(spec.name, spec.help, spec.labels, registry=self.registry)

    def _gauge(self, spec: Spec) -> Gauge:
        return Gauge(spec.name, spec.help, spec.labels, registry=self.registry)

    def _histogram(self, spec: Spec) -> Histogram:
        return Histogram(spec.name, spec.help, spec.labels, registry=self.registry, buckets=spec.buckets)


class MetricsServer:
    """Serves a registry at /metrics until closed. `port` 0 takes a free one. Raises SettingsError when it is taken."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        try:
            started: tuple[WSGIServer, Thread] = start_http_server(port, host, metrics.registry)
        except OSError as error:
            raise SettingsError(
                f"metrics cannot be served on {host}:{port} ({error.strerror})",
                "give a free port with --metrics-port (metrics.port); each worker on a machine needs its own",
            ) from error
        self._server, self._thread = started
        self.port = int(self._server.server_port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
