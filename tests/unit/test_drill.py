"""A drill rehearses a takeover: what was restored and replayed is held against what the task recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from streamcore.checkpoint.manifest import Layout, Manifest, load
from streamcore.checkpoint.memory import MemoryObjects
from streamcore.checkpoint.snapshot import Snapshot, memory
from streamcore.checkpoint.verify import Verdict, Verifier, state_digest
from streamcore.clock import SeededEntropy
from streamcore.errors import OffsetsLost
from streamcore.log.local import LocalLog
from streamcore.log.metadata import Metadata, decode
from streamcore.log.port import Run
from streamcore.observe.metrics import Metrics
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.control import Request, encode
from streamcore.runtime.cutting import control_partition
from streamcore.runtime.digests import Digests
from streamcore.runtime.rehearsal import Rehearsal, Rehearsed
from streamcore.runtime.statedir import RocksStores
from streamcore.runtime.worker import Worker, WorkerSettings
from streamcore.state.frames import FrameAssembler
from streamcore.state.frames import encode as encode_frame
from streamcore.state.memory import MemoryStore
from streamcore.state.store import Delta, EpochMark
from streamcore.testing.clock import ManualClock
from streamcore.types import Epoch, Offset, Partition, Slot, TaskId, TopicPartition
from tests.unit.test_savepoints import LINES, word_count

TASK = TaskId("by-word", Partition(0))
JOURNAL = TopicPartition("wc.journal.by-word", Partition(0))


class Drilled:
    """A job that was fed, checkpointed, fed, checkpointed, fed."""

    def __init__(self, path: Path, **how: Any) -> None:
        self.clock = ManualClock()
        self.log = LocalLog.memory(self.clock, auto_create_partitions=1)
        self.store = MemoryObjects(self.clock)
        self.entropy = SeededEntropy(1)
        self.metrics = Metrics()
        self.path = path
        self.admin = self.log.admin()
        self.admin.create("lines", 1, {})
        self.admin.create("counts", 1, {})
        self._feeder = self.log.producer(None)
        self._feeder.init(1.0)
        stores = RocksStores(path, "wc", Slot(0))
        how = {"digest_share": 0.01, "log": self.log, **how}
        self.worker = Worker(
            word_count(), self.log.connect(), WorkerSettings(Slot(0), checkpoint_interval_s=3_600), clock=self.clock,
            entropy=self.entropy, metrics=self.metrics, stores=stores,
            checkpointing=Checkpointing(self.store, stores, beside=False, **how),
        )  # fmt: skip
        self.worker.open()
        self.run(60)
        for begin in (0, 20):
            self.feed(LINES[begin : begin + 20])
            self._feeder.send(control_partition("wc"), encode(Request(f"t{begin}", None, False)))
            self._feeder.flush(1.0)
            self.run(150)
        self.feed(LINES[40:])

    def feed(self, lines: list[str]) -> None:
        for line in lines:
            self._feeder.produce("lines", None, [line.encode()])
            self._feeder.flush(1.0)
            self.run(10)

    def run(self, turns: int) -> None:
        for _ in range(turns):
            self.worker.turn()
            self.clock.advance(timedelta(milliseconds=20))

    def manifests(self) -> list[Manifest]:
        """Of the counting task, oldest first."""
        layout = Layout("wc")
        found = [load(self.store, stat.key) for stat in self.store.list(layout.of_task(TASK))]
        return sorted(found, key=lambda manifest: manifest.epoch)

    def rewrite(self, manifest: Manifest, **changes: object) -> None:
        """Under a good seal, and false."""
        changed: Manifest = msgspec.structs.replace(manifest, **changes)
        self.store.replace(manifest.key, changed.encode())

    def target(self) -> Metadata:
        shuffle = TopicPartition("wc.shuffle.by-word", Partition(0))
        return decode(self.admin.committed("wc", [shuffle], 1.0)[shuffle].metadata, "here")

    def rehearse(self, manifest: Manifest, log: Any = None) -> tuple[Verdict, Rehearsed]:
        rehearsal = Rehearsal(log or self.log, self.store, "wc", self.clock)
        verifier = Verifier(self.store, self.clock, self.entropy, threads=0)
        found: list[Rehearsed] = []

        def go_on(manifest: Manifest, scratch: Path) -> list[str]:
            found.append(rehearsal.run(manifest, scratch, ["count"], self.target()))
            return found[0].wrong

        verdict = verifier.verify(manifest.key, self.path / "scratch", digest=False, then=go_on)
        return verdict, found[0] if found else Rehearsed()


@pytest.fixture
def drilled() -> Iterator[Drilled]:
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as path:
        made = Drilled(Path(path))
        yield made
        made.worker.close()


def test_a_checkpoint_of_a_small_state_tells_its_digest(drilled: Drilled) -> None:
    oldest, newest = drilled.manifests()[0], drilled.manifests()[-1]
    assert oldest.digest is not None and newest.digest is not None and oldest.digest != newest.digest
    found = Verifier(drilled.store, drilled.clock, drilled.entropy, threads=0).verify(newest.key, drilled.path / "v")
    assert found.whole and found.digest == newest.digest


def test_an_old_checkpoint_is_replayed_to_the_newest_commit_and_compared_on_the_way(drilled: Drilled) -> None:
    oldest, newest = drilled.manifests()[0], drilled.manifests()[-1]
    verdict, found = drilled.rehearse(oldest)
    assert verdict.whole and not found.unknown
    assert found.epochs == drilled.target().epoch - oldest.epoch > newest.epoch - oldest.epoch > 0
    assert found.digests == found.compared == len(drilled.manifests()) - 1
    assert not (drilled.path / "scratch").exists()


def test_what_a_drill_does_leaves_job_journal_and_store_as_they_were(drilled: Drilled) -> None:
    def world() -> object:
        ends = drilled.admin.stable_ends([JOURNAL, TopicPartition("counts", Partition(0))])
        return ends, [stat.key for stat in drilled.store.list("")], drilled.target(), drilled.admin.groups()

    before = world()
    drilled.rehearse(drilled.manifests()[0])
    assert world() == before


WRONG: dict[str, tuple[Callable[[Drilled], None], str]] = {
    "its own digest": (
        lambda d: d.rewrite(d.manifests()[0], digest="0" * 64),
        f"its task recorded {'0' * 64}",
    ),
    "the digest of the next one": (
        lambda d: d.rewrite(d.manifests()[-1], digest="0" * 64),
        f"and the task recorded {'0' * 64}",
    ),
    "the mark of the next one": (lambda d: d.rewrite(d.manifests()[-1], nonce="another"), "it stands at EpochMark"),
    "a journal that was trimmed past it": (
        lambda d: d.admin.delete_records({JOURNAL: Offset(d.manifests()[-1].journal)}),
        "journal",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_as_the_task_recorded_is_told(drilled: Drilled, what: str) -> None:
    spoil, told = WRONG[what]
    oldest = drilled.manifests()[0]
    spoil(drilled)
    verdict, _ = drilled.rehearse(oldest)
    assert not verdict.whole
    assert told in "; ".join(verdict.wrong)
    assert not verdict.objects, "its objects are as they should be"


class Lying:
    """The log, with one change in one frame of the journal: what a lost or altered delta would be."""

    def __init__(self, drilled: Drilled, epoch: int) -> None:
        self._log = drilled.log
        self._epoch = epoch
        self.lied = 0

    def reader(self, starts: Any, **how: Any) -> Any:
        return _LyingReader(self, self._log.reader(starts, **how))

    def changed(self, offset: int, data: bytes | None) -> bytes | None:
        placed = FrameAssembler("here", chained=True).feed(offset, data or b"")
        if placed is None or placed.frame.epoch != self._epoch or not placed.frame.deltas:
            return data
        self.lied += 1
        (step, delta), *_ = placed.frame.deltas.items()
        lost = Delta(delta.keys[1:], delta.values[1:], delta.ranges)
        (message,) = encode_frame(msgspec.structs.replace(placed.frame, deltas={step: lost}))
        return message


class _LyingReader:
    def __init__(self, lying: Lying, reader: Any) -> None:
        self._lying = lying
        self._reader = reader

    def poll(self, most: int, timeout_s: float) -> list[Run]:
        return [
            Run(
                run.tp, run.offsets, run.keys,
                [self._lying.changed(o, v) for o, v in zip(run.offsets, run.values, strict=True)], run.times,
            )
            for run in self._reader.poll(most, timeout_s)
        ]  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def test_an_entry_lost_from_the_journal_is_found_by_the_digest(drilled: Drilled) -> None:
    oldest, newest = drilled.manifests()[0], drilled.manifests()[-1]
    for epoch in range(oldest.epoch + 1, newest.epoch + 1):
        lying = Lying(drilled, epoch)
        verdict, _ = drilled.rehearse(oldest, lying)
        if lying.lied and not verdict.whole:
            assert "its state has the digest" in verdict.wrong[0]
            return
    raise AssertionError("no epoch's loss was found")


def test_a_checkpoint_of_an_ended_lineage_has_no_journal_to_replay(drilled: Drilled) -> None:
    (oldest, *_) = drilled.manifests()
    rehearsal = Rehearsal(drilled.log, drilled.store, "wc", drilled.clock)
    target = replace(drilled.target(), lineage="another")
    assert "another" in rehearsal.run(oldest, drilled.path / "none", [], target).unknown


def test_a_running_job_drills_by_itself_and_counts_what_came_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made = Drilled(tmp_path, drill_every_s=2.0)
    made.run(200)
    text = made.metrics.text()
    assert 'streamcore_checkpoint_drills_total{outcome="whole"}' in text
    assert 'outcome="differs"' not in text and 'outcome="damaged"' not in text
    assert "epochs replayed behind it" in caplog.text and "with the digest that its task recorded" in caplog.text
    for manifest in made.manifests():
        made.rewrite(manifest, digest="0" * 64)
    made.run(1_000)
    assert 'streamcore_checkpoint_drills_total{outcome="differs"}' in made.metrics.text()
    assert "is not what its task recorded" in caplog.text
    made.worker.close()


# --- digests: what they may cost --------------------------------------------------------------------------------------


class Costly:
    """Opens a state in memory whose reading takes time."""

    def __init__(self, clock: ManualClock, seconds: float, entries: int = 10_000) -> None:
        self._clock = clock
        self._seconds = seconds
        self._entries = entries
        self.opened = 0

    def __call__(self, path: Path) -> Any:
        self.opened += 1
        self._clock.advance(timedelta(seconds=self._seconds))
        keys = [b"\0\0%05d" % n for n in range(self._entries)]
        mark = EpochMark("l", Epoch(0), "n", Offset(0), Offset(1))
        store = MemoryStore(["count"])
        store.apply({"count": Delta(keys, [b"v" for _ in keys])}, mark)
        return store


def snapshot(path: Path) -> Snapshot:
    path.joinpath("db").mkdir(parents=True, exist_ok=True)
    path.joinpath("db", "file").write_bytes(b"some")
    return Snapshot(path, EpochMark("l", Epoch(0), "n", Offset(0), Offset(1)), frozenset({"count"}))


def test_a_digest_is_followed_by_none_for_a_hundred_times_as_long(tmp_path: Path) -> None:
    clock = ManualClock()
    costly, taken = Costly(clock, 1.0), snapshot(tmp_path)
    digests = Digests(costly, 0.01, clock)
    assert digests.of(TASK, taken) == state_digest(costly(tmp_path))
    clock.advance(timedelta(seconds=98))
    assert digests.of(TASK, taken) is None
    clock.advance(timedelta(seconds=2))
    assert digests.of(TASK, taken) is not None


def test_a_state_that_takes_too_long_is_given_up_and_not_tried_again(tmp_path: Path) -> None:
    clock = ManualClock()
    costly, taken = Costly(clock, 3.0), snapshot(tmp_path)
    digests = Digests(costly, 0.01, clock)
    for _ in range(3):
        assert digests.of(TASK, taken) is None
        clock.advance(timedelta(hours=1))
    assert costly.opened == 1


def test_without_a_share_no_digest_is_made_and_the_clock_is_not_asked(tmp_path: Path) -> None:
    class Unasked(ManualClock):
        def monotonic_s(self) -> float:
            raise AssertionError("the clock was asked")

    assert Digests(memory, 0.0, Unasked()).of(TASK, snapshot(tmp_path)) is None


def test_a_reader_behind_a_trimmed_journal_is_told_so(drilled: Drilled) -> None:
    """What the drill rests on: the log does not go on silently behind the gap."""
    drilled.admin.delete_records({JOURNAL: Offset(5)})
    with pytest.raises(OffsetsLost):
        drilled.log.reader({JOURNAL: Offset(1)}).poll(10, 0.0)
