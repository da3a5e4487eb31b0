"""The partition's log against an obvious, slow one: a list with an entry an offset, on seeded input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from streamcore.log.local import LocalLog
from streamcore.log.local.producer import LocalProducer
from streamcore.types import Offset, Partition, TopicPartition

T0 = TopicPartition("t", Partition(0))


class StandingClock:
    """Nothing waits, nothing expires."""

    def monotonic_s(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return 0

    def sleep_s(self, seconds: float) -> None: ...


@dataclass
class Slow:
    """entries[offset] is (producer, value), or None for a marker; `decided` maps an entry's offset to its fate."""

    entries: list[tuple[int, bytes] | None] = field(default_factory=list[tuple[int, bytes] | None])
    decided: dict[int, bool] = field(default_factory=dict[int, bool])
    first: int = 0

    def end_transaction(self, producer: int, commit: bool) -> None:
        for offset, entry in enumerate(self.entries):
            if entry is not None and entry[0] == producer:
                self.decided.setdefault(offset, commit)
        self.entries.append(None)

    def stable_end(self) -> int:
        undecided = [o for o, e in enumerate(self.entries) if e is not None and o not in self.decided]
        return max(self.first, min(undecided, default=len(self.entries)))

    def read(self, start: int, committed: bool) -> list[tuple[int, bytes]]:
        stop = self.stable_end() if committed else len(self.entries)
        return [
            (offset, entry[1])
            for offset, entry in enumerate(self.entries[:stop])
            if offset >= start and entry is not None and (not committed or self.decided[offset])
        ]


def read(log: LocalLog, start: int, step: int, committed: bool) -> tuple[list[tuple[int, bytes]], int]:
    reader = log.reader({T0: Offset(start)}, committed=committed)
    found: list[tuple[int, bytes]] = []
    while runs := reader.poll(step, 0.0):
        for run in runs:
            assert 0 < len(run) <= step
            found += zip(run.offsets, (v for v in run.values if v is not None), strict=True)
    assert reader.ended() == {T0}
    return found, reader.position(T0)


class Play:
    def __init__(self, log: LocalLog, random: Random) -> None:
        self.log, self.random, self.slow = log, random, Slow()
        log.admin().create("t", 1, {})
        self.producers: dict[int, LocalProducer] = {}
        self.touched: dict[int, bool] = {}
        for number in range(3):
            self.producers[number] = producer = log.producer(f"p{number}")
            producer.init(1)
        self.written = 0

    def step(self) -> None:
        number = self.random.randrange(3)
        choice = self.random.random()
        if choice < 0.5:
            self.produce(number)
        elif choice < 0.85:
            self.end(number, commit=self.random.random() < 0.7)
        elif choice < 0.88:
            self.trim()
        else:
            self.compare()

    def produce(self, number: int) -> None:
        if number not in self.touched:
            self.producers[number].begin()
        values = [b"%d" % n for n in range(self.written, self.written + self.random.choice((1, 3, 40)))]
        self.written += len(values)
        self.producers[number].produce("t", Partition(0), values)
        self.producers[number].flush(1)
        self.touched[number] = True
        self.slow.entries += [(number, v) for v in values]

    def end(self, number: int, commit: bool) -> None:
        if self.touched.pop(number, None):
            producer = self.producers[number]
            producer.commit(1) if commit else producer.abort(1)
            self.slow.end_transaction(number, commit)

    def trim(self) -> None:
        offset = self.random.randint(0, len(self.slow.entries))
        self.log.admin().delete_records({T0: Offset(offset)})
        self.slow.first = max(self.slow.first, offset)

    def compare(self) -> None:
        committed = self.random.random() < 0.7
        stop = self.slow.stable_end() if committed else len(self.slow.entries)
        start = self.random.randint(self.slow.first, stop)
        found, position = read(self.log, start, self.random.choice((1, 7, 1_000)), committed)
        assert found == self.slow.read(start, committed)
        assert position == stop
        assert self.log.admin().stable_ends([T0]) == {T0: self.slow.stable_end()}
        assert self.log.admin().first_offsets([T0]) == {T0: self.slow.first}


@pytest.fixture(params=["memory", "rocks"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalLog]:
    clock = StandingClock()
    log = LocalLog.memory(clock) if request.param == "memory" else LocalLog.open(tmp_path / "log", clock)
    yield log
    log.close()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_read_is_what_an_obvious_log_holds(log: LocalLog, seed: int) -> None:
    play = Play(log, Random(seed))
    for _ in range(600):
        play.step()
    assert play.written > 1_000


@pytest.mark.parametrize("seed", range(3))
def test_a_log_that_is_opened_again_and_again_holds_the_same(tmp_path: Path, seed: int) -> None:
    log = LocalLog.open(tmp_path / "log", StandingClock())
    play = Play(log, Random(seed))
    for _ in range(8):
        for _ in range(60):
            play.step()
        for number in list(play.touched):
            play.end(number, commit=False)
        play.log.close()
        play.log = LocalLog.open(tmp_path / "log", StandingClock())
        play.compare()
        for number in play.producers:
            play.producers[number] = producer = play.log.producer(f"p{number}")
            producer.init(1)
    play.log.close()
