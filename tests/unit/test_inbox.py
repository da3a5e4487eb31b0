"""The inbox against an obvious slow one, and what its caches and filter must and must not do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from streamcore import limits
from streamcore.errors import StateDamaged, StateMismatch
from streamcore.inbox import filter as filter_module
from streamcore.inbox.buckets import TIMELINE_KEY, bucket_prefix
from streamcore.inbox.filter import AgeFilter
from streamcore.inbox.inbox import ACCEPTED, DUPLICATE, TOO_OLD, Counts, Inbox
from streamcore.state.memory import MemoryStore
from streamcore.state.rocks import RocksStore
from streamcore.state.store import RESERVED, Column, Delta, EpochMark, Store
from streamcore.types import Epoch, Offset, Partition, TaskId

GROUP = b"\0\1"
HOUR = 3_600_000


class Host:
    """An inbox over a store, as a task has it."""

    def __init__(self, store: Store, keep_ms: int = 16_000, recent_ids: int = 1_000) -> None:
        self.store = store
        self.keep_ms = keep_ms
        self.recent_ids = recent_ids
        self.epoch = 0
        self.restart()

    def restart(self) -> None:
        self.inbox = Inbox(Counting(self.store.column("seen")), self.keep_ms, "seen", self.recent_ids, 4096)

    def admit(self, *records: tuple[str, int]) -> list[int]:
        ids = [name.encode() for name, _ in records]
        return self.inbox.admit(ids, [GROUP] * len(ids), [time for _, time in records])

    def commit(self) -> Delta:
        delta = self.inbox.drain()
        mark = EpochMark("l", Epoch(self.epoch), "n", Offset(self.epoch), Offset(self.epoch + 1))
        self.store.apply({"seen": delta}, mark)
        self.epoch += 1
        self.inbox.committed()
        return delta

    @property
    def reads(self) -> int:
        column = self.inbox._column  # pyright: ignore[reportPrivateUsage]
        assert isinstance(column, Counting)
        return column.reads

    def saved(self) -> list[bytes]:
        return [key for key, _ in self.store.column("seen").scan(b"", b"\xf0")]


class Counting:
    """A column that counts the keys it is asked for."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self.reads = 0

    def get(self, key: bytes) -> bytes | None:
        return self._column.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        self.reads += len(keys)
        return self._column.get_many(keys)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._column.scan(start, stop)


@pytest.fixture
def host() -> Host:
    return Host(MemoryStore(["seen"]))


# --- against the obvious one -------------------------------------------------------------------------------------
@dataclass
class Model:
    """Every id with the stream time it arrived in; looked through from end to end."""

    keep: int
    stream: int | None = None
    dropped: int | None = None
    buckets: dict[int, int] = field(default_factory=dict[int, int])
    ids: dict[str, int] = field(default_factory=dict[str, int])

    def admit(self, name: str, time: int) -> int:
        self.stream = time if self.stream is None else max(self.stream, time)
        width = -(-self.keep // 16)
        start = self.stream // width * width
        for old, end in list(self.buckets.items()):
            if end <= start - 16 * width:
                self.dropped = end if self.dropped is None else max(self.dropped, end)
                del self.buckets[old]
                self.ids = {key: at for key, at in self.ids.items() if at != old}
        if time < self.stream - self.keep or (self.dropped is not None and time < self.dropped):
            return TOO_OLD
        if name in self.ids:
            return DUPLICATE
        self.ids[name] = start
        self.buckets[start] = max(start + width, self.buckets.get(start, start))
        return ACCEPTED


def run_against_the_model(seed: int, store: Store, reopened: Callable[[], Store]) -> list[int]:
    random = Random(seed)
    keep = random.choice([16, 100, 1_000, 50_000])
    host = Host(store, keep, recent_ids=random.choice([2, 40, 1_000]))
    now, model = 0, Model(keep)
    committed = copy.deepcopy(model)
    seen: list[int] = []
    names = random.choice([20, 400])
    for _ in range(60):
        host.inbox.mark()
        before, counts = copy.deepcopy(model), host.inbox.counts
        records: list[tuple[str, int]] = []
        for _ in range(random.randrange(30)):
            now += random.choice([0, 0, 1, keep // 16 or 1, keep // 3]) * random.randrange(2)
            late = random.choice([0, 0, keep // 2, keep, keep + 1, 2 * keep])
            records.append((f"id{random.randrange(names)}", now - random.randrange(late + 1)))
        verdicts = host.admit(*records)
        assert verdicts == [model.admit(*record) for record in records], f"seed {seed}"
        seen += verdicts
        fate = random.random()
        if fate < 0.2:
            host.inbox.undo()
            model = before
            assert host.inbox.counts == counts
        elif fate < 0.5:
            host.commit()
            committed = copy.deepcopy(model)
        elif fate < 0.6:
            host.inbox.drop()
            model = copy.deepcopy(committed)
        elif fate < 0.7:
            model = copy.deepcopy(committed)
            host.store.close()
            host.store = reopened()
            if random.random() < 0.5:
                host.keep_ms = model.keep = random.choice([keep, keep * 3, keep // 2 + 1])
                committed.keep = model.keep
            host.restart()
    host.inbox.drop()
    expected = {bucket_prefix(at) + GROUP + name.encode() for name, at in committed.ids.items()}
    assert set(host.saved()) == expected
    return seen


@pytest.mark.parametrize("seed", range(60))
def test_verdicts_are_those_of_the_obvious_inbox(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INBOX_REBUILD_IDS", 3)
    tables: dict[str, dict[bytes, bytes]] = {}
    run_against_the_model(seed, MemoryStore(["seen"], tables), lambda: MemoryStore(["seen"], tables))


def test_the_random_input_meets_every_verdict() -> None:
    seen: list[int] = []
    for seed in range(10):
        tables: dict[str, dict[bytes, bytes]] = {}
        seen += run_against_the_model(seed, MemoryStore(["seen"], tables), lambda: MemoryStore(["seen"], tables))  # noqa: B023
    assert min(seen.count(verdict) for verdict in (ACCEPTED, DUPLICATE, TOO_OLD)) > 300


@pytest.mark.parametrize("seed", range(100, 106))
def test_on_disk_too(seed: int, tmp_path: Path) -> None:
    def opened() -> Store:
        return RocksStore.open(tmp_path / "t", ["seen"], job="j", task=TaskId("s", Partition(0)))

    run_against_the_model(seed, opened(), opened)


# --- verdicts ------------------------------------------------------------------------------------------------------
def test_an_id_is_accepted_once_within_a_batch_an_epoch_and_after_the_commit(host: Host) -> None:
    assert host.admit(("a", 1), ("b", 2), ("a", 3)) == [ACCEPTED, ACCEPTED, DUPLICATE]
    assert host.admit(("b", 4), ("c", 4)) == [DUPLICATE, ACCEPTED]
    host.commit()
    assert host.admit(("c", 5), ("a", 5)) == [DUPLICATE, DUPLICATE]
    host.restart()
    assert host.admit(("c", 5), ("a", 5), ("d", 5)) == [DUPLICATE, DUPLICATE, ACCEPTED]
    assert host.admit() == []


def test_the_same_id_under_two_keys_is_two(host: Host) -> None:
    assert host.inbox.admit([b"a", b"a", b"a"], [b"\0\1", b"\0\2", b"\0\1"], [1, 1, 1]) == [0, 0, 1]


def test_a_record_too_old_to_know_is_never_accepted(host: Host) -> None:
    assert host.admit(("a", 100_000), ("b", 84_000), ("c", 83_999)) == [ACCEPTED, ACCEPTED, TOO_OLD]
    assert host.inbox.known_since_ms == 84_000
    host.commit()
    host.restart()
    assert host.admit(("c", 83_999), ("b", 84_000)) == [TOO_OLD, DUPLICATE]


def test_a_longer_keep_does_not_know_what_the_shorter_one_dropped(host: Host) -> None:
    host.admit(("a", 1_000))
    host.commit()
    host.admit(("b", 60_000))
    host.commit()
    host.keep_ms = 600_000
    host.restart()
    assert host.admit(("a", 1_000), ("c", 1_999), ("d", 2_000)) == [TOO_OLD, TOO_OLD, ACCEPTED]


def test_times_before_1970_are_times(host: Host) -> None:
    assert host.admit(("a", -50_000), ("a", -50_000), ("b", -20_000), ("c", -50_000)) == [0, 1, 0, 2]
    host.commit()
    host.restart()
    assert host.admit(("b", -20_000)) == [DUPLICATE]


def test_counts_are_of_what_stands(host: Host) -> None:
    host.admit(("a", 100_000), ("a", 100_000), ("b", 1))
    assert host.inbox.counts == Counts(1, 1, 1)
    host.inbox.mark()
    host.admit(("c", 100_000))
    host.inbox.undo()
    assert host.inbox.counts == Counts(1, 1, 1)
    host.commit()
    host.admit(("d", 100_000))
    host.inbox.drop()
    assert host.inbox.counts == Counts(1, 1, 1)


# --- slices and epochs -----------------------------------------------------------------------------------------------
def test_an_undone_slice_leaves_neither_ids_nor_time(host: Host) -> None:
    host.inbox.mark()
    host.admit(("a", 1_000))
    host.inbox.mark()
    assert host.admit(("b", 900_000), ("a", 900_000)) == [ACCEPTED, ACCEPTED]
    host.inbox.undo()
    assert host.admit(("b", 1_000), ("a", 1_000)) == [ACCEPTED, DUPLICATE]


def test_a_dropped_epoch_leaves_nothing(host: Host) -> None:
    host.admit(("a", 1_000))
    host.commit()
    host.admit(("b", 900_000))
    host.inbox.drop()
    assert not host.inbox.drain()
    assert host.inbox.size_bytes == 0
    assert host.admit(("a", 1_000), ("b", 1_000)) == [DUPLICATE, ACCEPTED]


def test_an_epoch_without_news_writes_nothing(host: Host) -> None:
    host.admit(("a", 1_000))
    assert host.inbox.size_bytes > 0
    assert host.commit()
    host.admit(("a", 1_000))
    assert not host.commit()


def test_a_dropped_bucket_goes_by_one_range(host: Host) -> None:
    host.admit(*[(f"id{n}", 500) for n in range(100)])
    host.admit(("later", 1_500))
    host.commit()
    host.admit(("x", 17_400))
    delta = host.commit()
    assert delta.ranges == [(bucket_prefix(0), bucket_prefix(1))]
    assert len(delta.keys) == 2
    assert host.saved() == [bucket_prefix(1_000) + GROUP + b"later", bucket_prefix(17_000) + GROUP + b"x"]


def test_a_bucket_opened_and_dropped_in_one_epoch_is_never_written(host: Host) -> None:
    host.admit(("a", 500), ("b", 100_000))
    assert host.commit().ranges == []
    assert host.saved() == [bucket_prefix(100_000) + GROUP + b"b"]


# --- reads -----------------------------------------------------------------------------------------------------------
def filled(ids: int, recent_ids: int = 10) -> Host:
    """Ids over all of a day's sixteen buckets."""
    host = Host(MemoryStore(["seen"]), keep_ms=24 * HOUR, recent_ids=recent_ids)
    host.inbox = Inbox(Counting(host.store.column("seen")), host.keep_ms, "seen", recent_ids)
    for bucket in range(16):
        at = bucket * 3 * HOUR // 2
        host.admit(*[(f"id{bucket}-{n}", at) for n in range(ids // 16)])
        host.commit()
    return host


def test_a_new_id_hardly_ever_costs_a_read() -> None:
    host = filled(16_000)
    before = host.reads
    verdicts = host.admit(*[(f"new{n}", 23 * HOUR) for n in range(10_000)])
    assert verdicts == [ACCEPTED] * 10_000
    assert (host.reads - before) / 10_000 < 0.1  # of some 16 buckets


def test_a_recent_duplicate_costs_no_read() -> None:
    host = filled(1_600, recent_ids=10_000)
    before = host.reads
    assert host.admit(*[(f"id15-{n}", 23 * HOUR) for n in range(100)]) == [DUPLICATE] * 100
    assert host.reads == before


def test_after_a_restart_the_filter_comes_back_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INBOX_REBUILD_IDS", 400)
    host = filled(1_600)
    host.inbox = Inbox(Counting(host.store.column("seen")), host.keep_ms, "seen")
    asked: list[int] = []
    for n in range(20):
        before = host.reads
        assert host.admit((f"new{n}", 23 * HOUR), ("id3-7", 23 * HOUR)) == [ACCEPTED, DUPLICATE]
        asked.append(host.reads - before)
    assert asked[0] >= 30
    assert asked[-1] <= 16


def test_the_filter_never_denies_what_it_was_given_and_keeps_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_module, "_START_BYTES", 1 << 10)
    random = Random(1)
    made = AgeFilter(0, 1 << 14)
    hashes: dict[int, int] = {}
    for age in range(1, 200):
        fresh = [random.getrandbits(63) - (1 << 62) for _ in range(100)]
        hashes.update(dict.fromkeys(fresh, max(1, age - age % 3)))
        made.reserve(len(hashes), 1)
        made.add(fresh, max(1, age - age % 3))
    assert made.size_bytes == (1 << 10) + (1 << 12) + (1 << 14)
    assert all(made.newest(h) >= age for h, age in hashes.items())
    assert made.suspects(list(hashes), 1) == list(range(len(hashes)))
    young = [h for h, age in hashes.items() if age >= 150]
    made.rejuvenate(149)
    assert made.suspects(young, 1) == list(range(len(young)))
    made.reserve(100, 1)
    assert made.size_bytes == 1 << 14


def test_few_new_ids_look_like_known_ones_however_the_filter_grew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_module, "_START_BYTES", 1 << 10)
    random = Random(1)
    grown, whole = AgeFilter(0, 1 << 16), AgeFilter(8_000, 1 << 16)
    for total in range(100, 8_001, 100):
        fresh = [random.getrandbits(64) for _ in range(100)]
        for made in (grown, whole):
            made.reserve(total, 1)
            made.add(fresh, 1)
    others = [random.getrandbits(64) for _ in range(10_000)]
    assert len(whole.suspects(others, 1)) < 600
    assert len(grown.suspects(others, 1)) < 1_600  # three tables
    assert whole.suspects(others, 2) == []


def test_hundreds_of_buckets_pass_and_ids_stay_known(host: Host) -> None:
    for n in range(700):
        assert host.admit((f"id{n}", n * 1_000), (f"id{max(0, n - 5)}", n * 1_000))[0] == ACCEPTED
        host.commit()
        assert host.admit((f"id{n}", n * 1_000), (f"id{max(0, n - 15)}", n * 1_000)) == [DUPLICATE, DUPLICATE]


# --- what is saved ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x93\x01", b"\x01\x93\xa1a\xc0\x80"])
def test_an_unreadable_timeline_is_damage(host: Host, data: bytes) -> None:
    host.store.apply({"seen": Delta([TIMELINE_KEY], [data])}, EpochMark("l", Epoch(0), "n", Offset(0), Offset(1)))
    with pytest.raises(StateDamaged, match="its inbox cannot be read"):
        host.restart()


def test_a_newer_format_is_refused(host: Host) -> None:
    host.store.apply({"seen": Delta([TIMELINE_KEY], [b"\x02"])}, EpochMark("l", Epoch(0), "n", Offset(0), Offset(1)))
    with pytest.raises(StateMismatch, match="saved in format 2"):
        host.restart()


def test_its_keys_stay_below_the_stores_own(host: Host) -> None:
    host.admit(("a", (1 << 62) - 1), ("b", -(1 << 62)))
    host.commit()
    assert all(key < RESERVED for key in host.saved())
