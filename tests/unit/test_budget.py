"""RPO and RTO: what is promised in settings bounds the commit interval and the journals, and is told where it fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from streamcore import limits
from streamcore.checkpoint.manifest import Layout, load
from streamcore.checkpoint.memory import Fault
from streamcore.clock import SystemClock
from streamcore.config import Settings
from streamcore.config import load as load_settings
from streamcore.errors import SettingsError
from streamcore.log.port import Admin
from streamcore.observe.metrics import Metrics
from streamcore.runtime.budget import Behind, Promised, Rates, Rpo, Rto
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.estimate import estimate
from streamcore.runtime.restores import Restores
from streamcore.runtime.statedir import RocksStores
from streamcore.runtime.status import status
from streamcore.runtime.tail import Tail
from streamcore.runtime.told import look
from streamcore.runtime.worker import Worker, WorkerSettings
from streamcore.testing.clock import ManualClock
from streamcore.types import Partition, Slot, TaskId
from tests.unit.test_savepoints import LINES, Cluster, expected, word_count

ONE, OTHER = TaskId("lines", Partition(0)), TaskId("by-word", Partition(1))
SLOW = 100.0
"""Bytes a second: what the words of this file make takes seconds to replay."""
MB = 1_000_000


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("elsewhere")
def test_an_interval_longer_than_the_rpo_is_refused_by_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCORE_GUARANTEE__RPO", "200ms")
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"worker.commit_interval": "500ms"})
    assert str(caught.value) == (
        "setting worker.commit_interval (a flag): 500ms is longer than guarantee.rpo (the environment), 200ms: an "
        "epoch's input is what a failure has done again\n"
        "  what to do: give an interval of at most 200ms, or leave it out: it is then the smaller of 100ms and the RPO"
    )


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("interval", "rpo", "expected_ms"),
    [(None, None, 100), (None, "50ms", 50), (None, "5s", 100), ("200ms", "200ms", 200), ("20ms", "1s", 20)],
)
def test_the_interval_is_the_smaller_of_what_is_set_and_the_rpo(
    interval: str | None, rpo: str | None, expected_ms: int
) -> None:
    settings = load_settings(None, {"worker.commit_interval": interval, "guarantee.rpo": rpo})
    assert settings.commit_interval_ms == expected_ms


@pytest.mark.usefixtures("elsewhere")
def test_a_budget_in_seconds_that_was_read_as_milliseconds_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"guarantee\.rto \(a flag\): '60' is not allowed\n.* from 1s, as 60s"):
        load_settings(None, {"guarantee.rto": "60"})
    assert load_settings(None, {"guarantee.rto": "0"}).guarantee.rto == 0
    assert Settings().guarantee.rto == 60_000


# --- rates ------------------------------------------------------------------------------------------------------------


def test_a_rate_is_assumed_until_a_takeover_has_shown_it() -> None:
    rates = Rates()
    assert rates.takeover_s(limits.RESTORE_BYTES_S * 3, limits.REPLAY_BYTES_S * 2) == limits.TAKEOVER_S + 5
    rates.restored(limits.RATE_SAMPLE_BYTES - 1, 10.0)
    rates.replayed(10 * MB, 0.01)
    assert not rates.measured, "too little to say anything"
    rates.restored(40 * MB, 2.0)
    rates.replayed(10 * MB, 5.0)
    assert rates.measured
    assert rates.takeover_s(60 * MB, 8 * MB) == limits.TAKEOVER_S + 3 + 4


def test_of_two_takeovers_neither_says_all() -> None:
    rates = Rates()
    rates.replayed(10 * MB, 1.0)
    rates.replayed(20 * MB, 1.0)
    assert rates.replay_bytes_s == 15 * MB


def test_another_workers_rates_are_taken_where_there_are_none_of_our_own() -> None:
    rates = Rates()
    rates.restored(10 * MB, 1.0)
    rates.adopt(7.0, 8.0)
    assert (rates.restore_bytes_s, rates.replay_bytes_s) == (10 * MB, 8.0)


# --- RTO --------------------------------------------------------------------------------------------------------------


def rto(seconds: float, metrics: Metrics | None = None) -> Rto:
    """At 10 MB a second restored, and 1 MB a second replayed."""
    return Rto(round(seconds * 1000), Rates(10 * MB, MB), metrics or Metrics())


def test_a_checkpoint_is_wanted_when_half_of_what_a_restore_leaves_is_used() -> None:
    judge = rto(10.5 + limits.TAKEOVER_S)

    def wanted(uncut: int, state: int = 0) -> bool:
        return bool(judge.judge({ONE: Behind(state, uncut, uncut)}, ""))

    assert not wanted(5_240_000)
    assert wanted(5_250_000)
    assert not wanted(2_740_000, state=50 * MB)
    assert wanted(2_750_000, state=50 * MB), "5 s of the budget go to the restore"


def test_the_tasks_of_a_worker_are_taken_over_together() -> None:
    metrics = Metrics()
    judge = rto(10 + limits.TAKEOVER_S, metrics)
    half = Behind(0, 3 * MB, 3 * MB)
    assert not judge.judge({ONE: half}, "")
    assert judge.judge({ONE: half, OTHER: half}, "")
    assert metrics.registry.get_sample_value("streamcore_recovery_seconds") == 6 + limits.TAKEOVER_S
    assert metrics.registry.get_sample_value("streamcore_rto_left_seconds") == 4


def test_what_is_cut_and_not_yet_stored_counts_and_makes_no_further_barrier() -> None:
    metrics = Metrics()
    assert not rto(10, metrics).judge({ONE: Behind(0, 20 * MB, 0)}, "")
    assert metrics.registry.get_sample_value("streamcore_rto_left_seconds") == -10 - limits.TAKEOVER_S


def test_no_barrier_helps_where_restoring_alone_takes_the_budget() -> None:
    judge = rto(10)
    assert not judge.judge({ONE: Behind(95 * MB, 50 * MB, 50 * MB)}, "")
    assert not judge.alone(50 * MB)


def test_a_barriers_own_frames_do_not_make_the_next_one_due() -> None:
    judge = rto(10)
    barely = round((10 - limits.TAKEOVER_S - 0.01) * 10 * MB)
    assert not judge.judge({ONE: Behind(barely, 190_000, 190_000)}, "")
    assert judge.judge({ONE: Behind(barely, 210_000, 210_000)}, "")


def test_a_job_without_an_rto_is_never_hurried() -> None:
    judge = rto(0)
    assert not judge.judge({ONE: Behind(0, 10**12, 10**12)}, "")
    assert not judge.alone(10**12)


def test_being_over_the_rto_is_told_once_each_time(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    judge = rto(10, metrics)
    over, within = {ONE: Behind(0, MB, 0), OTHER: Behind(0, 20 * MB, 0)}, {ONE: Behind(0, MB, 0)}
    with caplog.at_level(logging.INFO):
        for tasks in (within, over, over, over, within, within, over):
            judge.judge(tasks, "the store is full")
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "INFO", "WARNING"]
    assert "over the RTO of 10 s" in told[0][1] and "the largest is by-word[1]" in told[0][1]
    assert "No checkpoint can be made: the store is full." in told[0][1] and "goes on committing" in told[0][1]
    assert metrics.registry.get_sample_value("streamcore_rto_exceeded_total") == 2


# --- RPO --------------------------------------------------------------------------------------------------------------


def test_the_interval_leaves_room_for_the_commit_within_the_rpo() -> None:
    assert Rpo(200, Metrics()).interval_s(0.3, 0.05) == pytest.approx(0.15)  # pyright: ignore[reportUnknownMemberType]
    assert Rpo(200, Metrics()).interval_s(0.1, 0.05) == 0.1
    assert Rpo(200, Metrics()).interval_s(2.5, 0.4) == 0.0
    assert Rpo(0, Metrics()).interval_s(2.5, 0.4) == 2.5


def test_input_that_an_undone_epoch_held_stays_uncommitted_until_it_is_done_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics()
    rpo = Rpo(200, metrics)
    with caplog.at_level(logging.WARNING):
        rpo.committed(10.0, 10.2)
        assert not caplog.records
        rpo.undone(11.0)
        rpo.undone(11.2)
        rpo.committed(11.4, 11.5)
        rpo.committed(12.0, 13.0)
        rpo.committed(14.0, 14.1)
    (told,) = (record.getMessage() for record in caplog.records)
    assert "over the RPO of 0.2 s: input stayed uncommitted for 0.50 s" in told
    assert metrics.registry.get_sample_value("streamcore_rpo_exceeded_total") == 2
    assert metrics.registry.get_sample_value("streamcore_uncommitted_seconds_count") == 4


# --- what lies behind a checkpoint ----------------------------------------------------------------------------------


def test_what_a_refused_snapshot_would_have_held_stays_in_the_tail() -> None:
    tail = Tail()
    tail.wrote(10)
    tail.cut()
    tail.wrote(20)
    tail.cut(taken=False)
    tail.wrote(40)
    assert (tail.size_bytes, tail.uncut_bytes) == (70, 40)
    tail.stored()
    assert tail.size_bytes == 60, "the first snapshot is stored, and holds ten"


def test_epochs_of_the_owner_before_are_of_the_size_that_it_told() -> None:
    tail = Tail(epochs_before=5, mean_before=100)
    assert (tail.size_bytes, tail.uncut_bytes) == (500, 500)
    tail.wrote(10, records=3)
    assert (tail.size_bytes, tail.records_since_cut) == (60, 3), "its own are better known"
    tail.cut()
    assert (tail.size_bytes, tail.uncut_bytes, tail.records_since_cut) == (60, 0, 0)


def test_what_came_since_a_cut_was_wanted_is_told_from_what_made_it_wanted() -> None:
    tail = Tail()
    tail.wrote(10, records=1)
    assert tail.since_wanted == (0, 0)
    tail.want_cut()
    tail.wrote(20, records=2)
    tail.want_cut()
    assert tail.since_wanted == (20, 2)
    tail.cut()
    tail.wrote(40, records=4)
    assert tail.since_wanted == (0, 0)


# --- a running job --------------------------------------------------------------------------------------------------


class Budgeted(Cluster):
    """Its timer of barriers comes too late for everything here."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.workers: list[Worker] = []

    def start(
        self,
        promised: Promised | None,
        *,
        slot: int = 0,
        fresh_disk: bool = True,
        rates: Rates | None = None,
        records: int = 0,
    ) -> Worker:
        self._disk += fresh_disk
        stores = RocksStores(self.path / f"disk{self._disk}", "wc", Slot(slot))
        how = Checkpointing(
            self.store, stores, beside=False, promised=promised, rates=rates or Rates(MB, SLOW),
            milestone_records=records, restores=Restores(),
        )  # fmt: skip
        self.metrics = Metrics()
        self.rates = how.rates
        settings = WorkerSettings(Slot(slot), checkpoint_interval_s=3_600)
        worker = Worker(
            word_count(), self.log.connect(), settings, clock=self.clock, entropy=self.entropy, metrics=self.metrics,
            stores=stores, checkpointing=how,
        )  # fmt: skip
        self.workers.append(worker)
        worker.open()
        return worker

    def stored(self) -> dict[TaskId, int | None]:
        """Of each task with a checkpoint, the barrier of one."""
        keys = [stat.key for stat in self.store.list(Layout("wc").manifests)]
        return {manifest.task: manifest.barrier for manifest in (load(self.store, key) for key in keys)}

    def sample(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"streamcore_{name}") or 0.0


@pytest.fixture
def cluster() -> Iterator[Budgeted]:
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as path:
        cluster = Budgeted(Path(path))
        yield cluster
        for worker in cluster.workers:
            worker.close()


def begun(admin: Admin, cluster: Budgeted) -> int:
    last = look(cluster.log, admin, "wc", cluster.clock).last
    return last.number if last else 0


@pytest.mark.parametrize(("promised", "expected_barrier"), [(Promised(rto_ms=24_500), 1), (Promised(), 0), (None, 0)])
def test_a_barrier_begins_before_its_time_when_half_of_the_rto_is_used(
    cluster: Budgeted, promised: Promised | None, expected_barrier: int
) -> None:
    worker = cluster.start(promised)
    cluster.run(worker, 20)
    assert begun(cluster.admin, cluster) == 0
    cluster.send(*LINES)
    cluster.run(worker, 60)
    assert min(begun(cluster.admin, cluster), 1) == expected_barrier
    assert bool(cluster.stored()) == bool(expected_barrier)


def test_so_many_records_make_a_barrier_too(cluster: Budgeted) -> None:
    worker = cluster.start(None, records=20)
    cluster.send(*LINES[:10])
    cluster.run(worker, 40)
    assert begun(cluster.admin, cluster) == 0
    cluster.send(*LINES)
    cluster.run(worker, 40)
    assert set(cluster.stored().values()) == {1}, "however many come in one epoch"
    assert begun(cluster.admin, cluster) == 1


def both(cluster: Budgeted, records: tuple[int, int]) -> tuple[Worker, Worker]:
    """Two workers, which share the tasks; the first coordinates."""
    first = cluster.start(None, slot=0, records=records[0])
    second = cluster.start(None, slot=1, records=records[1])
    turns(cluster, 60, first, second)
    assert ONE in first.progress().tasks and len(second.progress().tasks) == 2
    return first, second


def turns(cluster: Budgeted, count: int, *workers: Worker) -> None:
    for _ in range(count):
        for worker in workers:
            cluster.run(worker, 1)


def test_a_worker_that_does_not_coordinate_asks_once_for_a_barrier_before_its_time(cluster: Budgeted) -> None:
    first, second = both(cluster, (0, 20))
    cluster.send(*LINES)
    turns(cluster, 80, first, second)
    assert begun(cluster.admin, cluster) == 1
    assert len(cluster.stored()) == 4


def test_a_task_that_no_barrier_comes_to_is_checkpointed_alone(cluster: Budgeted) -> None:
    first, second = both(cluster, (0, 10))
    cluster.send(*LINES[:30])
    turns(cluster, 40, second)
    assert not cluster.stored(), "a barrier is waited for first"
    cluster.send(*LINES[30:])
    turns(cluster, 40, second)
    stored = cluster.stored()
    assert stored and set(stored.values()) == {None}
    assert stored.keys() <= second.progress().tasks.keys()
    turns(cluster, 80, first, second)
    assert cluster.latest() == expected(LINES)


def test_a_failing_store_is_told_when_the_budget_is_gone_and_the_job_goes_on(
    cluster: Budgeted, caplog: pytest.LogCaptureFixture
) -> None:
    worker = cluster.start(Promised(rto_ms=200_000))
    cluster.run(worker, 20)
    cluster.store.faults = lambda call, key: Fault("denied") if call == "put_once" else None
    with caplog.at_level(logging.INFO, "streamcore.runtime.budget"):
        for line in LINES:
            cluster.send(line)
            cluster.run(worker, 10)
        over = [record.getMessage() for record in caplog.records if record.name == "streamcore.runtime.budget"]
        assert len(over) == 1 and "over the RTO of 200 s" in over[0]
        assert "No checkpoint can be made: checkpoint store memory: put_once" in over[0]
        assert cluster.sample("rto_left_seconds") < 0 and cluster.sample("rto_exceeded_total") == 1
        assert cluster.latest() == expected(LINES)
        assert begun(cluster.admin, cluster) == 1, "behind an abandoned one the timer has its say"
        cluster.store.faults = None
        cluster.ask("wc", None)
        cluster.run(worker, 200)
    assert [text for text in caplog.messages if "within the RTO of 200 s again" in text]
    assert cluster.sample("rto_left_seconds") > 0


def test_status_and_estimate_tell_recovery_by_what_the_workers_tell(cluster: Budgeted) -> None:
    worker = cluster.start(Promised(rpo_ms=500, rto_ms=60_000), rates=Rates(1000.0, 500.0))
    cluster.send(*LINES)
    cluster.run(worker, 60)
    cluster.ask("wc", None)
    cluster.run(worker, 60)
    found = status(cluster.log, cluster.admin, "wc", cluster.clock)
    tail: dict[TaskId, int] = {}
    for task in found.tasks:
        told = task.recovery
        assert told is not None and told.measured and told.rto_s == 60
        manifests = [load(cluster.store, stat.key) for stat in cluster.store.list(Layout("wc").of_task(task.task))]
        assert told.state_bytes == max(manifests, key=lambda manifest: manifest.epoch).size_bytes
        assert told.local_s == limits.TAKEOVER_S
        assert told.other_s == limits.TAKEOVER_S + told.state_bytes / 1000 + told.tail_bytes / 500
        tail[task.task] = told.tail_bytes
    cluster.send(*LINES)
    cluster.run(worker, 10)
    later = status(cluster.log, cluster.admin, "wc", cluster.clock)
    assert all(task.recovery and task.recovery.tail_bytes > tail[task.task] for task in later.tasks)
    estimated = estimate(cluster.log, cluster.admin, "wc", cluster.store, SystemClock())
    assert estimated.rto_s == 60 and estimated.measured
    (together,) = estimated.together_s().values()
    one_by_one = sum(task.other_s - limits.TAKEOVER_S for task in estimated.tasks)
    assert together == pytest.approx(limits.TAKEOVER_S + one_by_one)  # pyright: ignore[reportUnknownMemberType]
    assert estimated.within(together + 0.001) and not estimated.within(together - 0.001)


def test_a_checkpoint_that_is_not_in_this_store_is_no_estimate(cluster: Budgeted) -> None:
    worker = cluster.start(Promised(rto_ms=60_000))
    cluster.send(*LINES)
    cluster.run(worker, 60)
    cluster.ask("wc", None)
    cluster.run(worker, 60)
    empty = type(cluster.store)(cluster.clock)
    found = estimate(cluster.log, cluster.admin, "wc", empty, SystemClock())
    assert all("is not to be had in memory" in task.trouble for task in found.tasks)
    assert not found.within(10_000_000.0)


def test_a_worker_learns_rates_and_sizes_of_its_predecessor_from_the_control_topic(cluster: Budgeted) -> None:
    first = cluster.start(Promised(rto_ms=3_600_000), rates=Rates(MB, 5 * MB))
    cluster.send(*LINES)
    cluster.run(first, 60)
    cluster.ask("wc", None)
    cluster.run(first, 60)
    behind = cluster.sample("recovery_seconds")
    assert behind > limits.TAKEOVER_S
    cluster.gone(first)
    second = cluster.start(Promised(rto_ms=3_600_000), rates=Rates(), fresh_disk=False)
    cluster.run(second, 20)
    assert (cluster.rates.restore_bytes_s, cluster.rates.replay_bytes_s) == (MB, 5 * MB)
    assert cluster.sample("recovery_seconds") == pytest.approx(behind, rel=0.2)  # pyright: ignore[reportUnknownMemberType]


class Ticking(ManualClock):
    """Each look at it takes 10 ms."""

    def monotonic_s(self) -> float:
        self.sleep_s(0.01)
        return super().monotonic_s()


def test_a_takeover_measures_what_it_restores_and_replays(cluster: Budgeted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RATE_SAMPLE_BYTES", 1)
    monkeypatch.setattr(limits, "RATE_SAMPLE_S", 0.001)
    monkeypatch.setattr(limits, "POLL_RECORDS", 10)
    first = cluster.start(Promised(), rates=Rates())
    cluster.send(*LINES[:30])
    cluster.run(first, 60)
    cluster.ask("wc", None)
    cluster.run(first, 100)
    for line in LINES[30:]:
        cluster.send(line)
        cluster.run(first, 5)
    cluster.gone(first)
    cluster.clock = Ticking()
    second = cluster.start(Promised(), rates=Rates())
    cluster.run(second, 200)
    assert cluster.rates.restore_bytes_s > 0 and cluster.rates.replay_bytes_s > 0, "nobody has told them"
    assert cluster.latest() == expected(LINES)


def test_a_job_that_promises_nothing_says_nothing_of_recovery(cluster: Budgeted) -> None:
    worker = cluster.start(None)
    cluster.send(*LINES)
    cluster.ask("wc", None)
    cluster.run(worker, 100)
    assert len(cluster.stored()) == 4
    assert look(cluster.log, cluster.admin, "wc", cluster.clock).recoveries == {}


def test_the_rpo_ends_an_epoch_that_a_slow_commit_would_stretch(cluster: Budgeted) -> None:
    stores = RocksStores(cluster.path / "own", "wc", Slot(0))
    spent: list[float] = []
    for rpo_ms in (0, 100):
        settings = WorkerSettings(Slot(0), rpo_ms=rpo_ms)
        worker = Worker(
            word_count(), cluster.log.connect(), settings, clock=cluster.clock, entropy=cluster.entropy,
            metrics=(metrics := Metrics()), stores=stores, probe=lambda point: slow(cluster.clock, point),
        )  # fmt: skip
        worker.open()
        for line in LINES * 2:
            cluster.send(line)
            cluster.run(worker, 1)
        name = "streamcore_uncommitted_seconds"
        count, total = (metrics.registry.get_sample_value(f"{name}_{part}") or 0.0 for part in ("count", "sum"))
        spent.append(total / count)
        worker.close()
        cluster.clock.sleep_s(11)
    assert spent[0] > 0.19 > 0.12 > spent[1]


def slow(clock: ManualClock, point: str) -> None:
    """A commit of 30 ms: without a budget, an interval of 300 ms."""
    if point == "before-commit":
        clock.sleep_s(0.03)
