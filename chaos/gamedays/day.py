"""What every game day plays on: brokers, workers, the counted words, and a clock that stands beside what is said."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from chaos.events import Event
from chaos.history import read, whole
from chaos.run import Scene, Shape
from streamcore.testing.history import Record
from tests.kafka.broker import Local

SEED = 1
SETTLE_S = 60.0


class Day:
    def __init__(self, scene: Scene, brokers: Local) -> None:
        self.scene = scene
        self.brokers = brokers
        self.workers = scene.workers
        self._begun = time.monotonic()

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self._begun:6.1f} s  {what}", flush=True)

    def feed(self, count: int) -> None:
        """So many more of the planned records."""
        self.scene.feed(self.scene.fed + count)

    def send(self, events: list[Event]) -> None:
        """These, now: they join what was planned and sent."""
        self.scene.sent[self.scene.fed :] = events
        self.scene.feed(len(self.scene.sent))

    def flow(self, seconds: float, a_second: int = 1_000) -> float:
        """Records at a steady rate. Outputs a second, as read."""
        begun, before, fed = time.monotonic(), self.scene.read, self.scene.fed
        while (at := time.monotonic() - begun) < seconds:
            self.scene.feed(fed + int(at * a_second))
            self.scene.live(0.05)
        return (self.scene.read - before) / (time.monotonic() - begun)

    def until(self, true: Callable[[], bool], what: str) -> float:
        """Seconds that it took."""
        begun = time.monotonic()
        self.scene.wait_until(true, f"not {what}", SETTLE_S)
        return time.monotonic() - begun

    def all_out(self) -> float:
        """Every record sent has its output."""
        self.scene.producer.flush(30)
        wanted = len({event.id for event in self.scene.sent[: self.scene.fed]})
        return self.until(lambda: self.scene.read >= wanted, f"{wanted} outputs")

    def settled(self) -> float:
        return self.until(self.scene.settled, "every task with an owner")

    def dead_letters(self) -> list[Record]:
        return read(self.scene.kafka, whole(f"{self.scene.name}.dead", self.scene.shape.partitions))

    def judge(self, *but: str) -> None:
        """Ends the workers; says what the checkers found. Exits with 1 when one fails, `but` those meant to."""
        self.until(lambda: self.scene.unprocessed() == 0, "every record behind a commit")
        self.settled()
        self.scene.stop_workers()
        self.scene.judge()
        wrong = [verdict for verdict in self.scene.report.verdicts if not verdict.holds and verdict.checker not in but]
        self.say(f"{len(self.scene.report.verdicts)} checkers, {len(wrong)} not satisfied")
        for verdict in wrong:
            self.say(str(verdict))
        if wrong:
            raise SystemExit(1)


@contextmanager
def day(brokers: int = 1, workers: int = 2, records: int = 200_000) -> Iterator[Day]:
    """Nothing is struck but by the game day itself, and no exit is looked at but by it."""
    directory = Path(tempfile.mkdtemp(prefix="gameday-"))
    with closing(Local(brokers)) as cluster:
        shape = Shape(minutes=1.0, records_a_second=records // 60, workers=workers)
        scene = Scene(cluster, SEED, directory, shape)
        scene.watch = lambda: None
        try:
            scene.prepare()
            scene.wait_until(scene.settled, "the group does not come to rest", SETTLE_S)
            yield Day(scene, cluster)
        finally:
            scene.close(keep=False)
    shutil.rmtree(directory)
