"""An interval of a job's input run again, on a savepoint's state, into scratch topics: the audit of what was published.

    1 wait      until the job itself has committed all that comes of the interval
    2 begin     a scratch job from the savepoint (runtime.resume), its outputs to scratch topics, its checkpoints in a
                directory that goes with it
    3 run       one ordinary worker, on a log that ends where the interval does (runtime.bounded), until it is idle
    4 compare   each topic with what was published (runtime.compare)
    5 clear     the scratch job and its topics go, also when anything before has failed

Nothing is written of the job itself: not its group, its topics, its journals, its checkpoints. The scratch job has:

    JOB-replay-TOKEN                     its name, group and transactional id
    JOB-replay-TOKEN.shuffle.* …         its internal topics
    JOB.replay.NAME.TOPIC                what it writes in place of TOPIC; kept, if asked for
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from streamcore.checkpoint.directory import DirectoryStore
from streamcore.checkpoint.savepoint import Savepoint
from streamcore.checkpoint.store import CheckpointStore
from streamcore.clock import Clock, Entropy
from streamcore.errors import StopError, StreamcoreError, TopicError
from streamcore.log.port import Admin, Log, Run
from streamcore.observe.metrics import Metrics
from streamcore.runtime.bounded import BoundedLog
from streamcore.runtime.checkpointing import Checkpointing
from streamcore.runtime.compare import Compared, Comparison, Outcome
from streamcore.runtime.gathering import own
from streamcore.runtime.idle import IdleCheck
from streamcore.runtime.interval import Around, Interval, Times, interval, wait_until_passed
from streamcore.runtime.mapping import Changes, plan_resume
from streamcore.runtime.resume import Resuming
from streamcore.runtime.statedir import RocksStores
from streamcore.runtime.status import job_topics
from streamcore.runtime.worker import FIRST_SLOT, Worker, WorkerSettings
from streamcore.topology.plan import TOPIC_NAME_LENGTH, Plan
from streamcore.topology.rehomed import rehomed
from streamcore.topology.repeatable import fate
from streamcore.types import TimestampMs

logger = logging.getLogger(__name__)

WAIT_S: Final = 60.0
IDLE_EVERY_S: Final = 0.3
GONE_EVERY_S: Final = 0.5
NO_BARRIERS_S: Final = 1e9
MARK: Final = "-replay-"


@dataclass(frozen=True)
class Asked:
    plan: Plan
    savepoint: Savepoint
    until: TimestampMs | Savepoint
    topics: tuple[str, ...]
    """To be compared: outputs of the job."""
    changes: Changes = field(default_factory=Changes)
    keep: bool = False
    """The scratch topics stay."""
    wait_s: float = WAIT_S


def outputs(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*plan.sink_topics, *plan.dead_letter_topics]))


class Reprocessing:
    """One thread. `scratch` is made and deleted."""

    def __init__(
        self,
        log: Log,
        admin: Admin,
        store: CheckpointStore,
        scratch: Path,
        clock: Clock,
        entropy: Entropy,
        *,
        replication: int | None = None,
        session_s: float = 10.0,
        tell: Callable[[str], None] = lambda line: None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """`session_s`: how long the group remembers a member that has left. `tick`: called after each of the worker's
        turns."""
        self._log = log
        self._admin = admin
        self._store = store
        self._scratch = scratch
        self._clock = clock
        self._entropy = entropy
        self._replication = replication
        self._session_s = session_s
        self._tell = tell
        self._tick = tick
        self._worker: Worker | None = None
        self._stopped = False

    def stop(self) -> None:
        """From a signal handler: the run ends without a verdict, and what it made goes."""
        self._stopped = True
        if self._worker is not None:
            self._worker.stop()

    def run(self, asked: Asked) -> list[Compared]:
        """Raises StopError by name: for what does not fit, for an interval that is not processed yet, for a record
        that the code now refuses; and what log and store raise."""
        plan, fates = asked.plan, {topic: fate(asked.plan, topic) for topic in asked.topics}
        _refuse_foreign(asked)
        if all(each.unknown for each in fates.values()):
            return [Compared(topic, Outcome.UNKNOWN, each.unknown) for topic, each in fates.items()]
        span = interval(plan, self._admin, asked.savepoint, asked.until)
        for line in span.lines():
            self._tell(line)
        wait_until_passed(self._log, self._admin, plan, span.ends, self._clock, asked.wait_s)
        home = _Home(plan, asked.savepoint.name, self._entropy.token()[:8])
        inside = Times()
        try:
            with own(self._scratch):
                self._into(asked, home, span, inside)
            around = Around(self._log, self._admin, span, inside)
            comparison = Comparison(self._log, self._admin, span, around)
            return [comparison.compare(topic, home.moved(topic), fates[topic]) for topic in asked.topics]
        finally:
            self._clear(home, asked.keep)

    # --- 2 begin, 3 run -------------------------------------------------------------------------------------------

    def _into(self, asked: Asked, home: _Home, span: Interval, inside: Times) -> None:
        self._scratch.mkdir(parents=True)
        target = DirectoryStore(self._scratch / "checkpoints")
        resuming = plan_resume(home.plan, asked.savepoint, asked.changes)
        for topic in outputs(asked.plan):
            self._create(topic, home.moved(topic))
        Resuming(
            home.plan, self._log, self._admin, self._store, target, self._scratch / "building", self._clock,
            self._entropy, replication=self._replication, tell=self._tell,
        ).begin(resuming)  # fmt: skip

        def seen(run: Run) -> None:
            inside.add(run.times)

        log = BoundedLog(self._log, span.ends, seen)
        idle = IdleCheck(home.plan, log, self._admin, self._clock)
        self._run(home.plan, log, target, idle)
        if self._stopped:
            raise StopError("the replay was stopped before it came to its end: there is no verdict", "start it again")
        if not inside:
            raise StopError("no record lies between the savepoint and the end that was given", "give a later --until")

    def _create(self, topic: str, scratch: str) -> None:
        info = self._admin.topics([topic]).get(topic)
        if info is None:
            raise TopicError(f"there is no topic {topic}, which the job writes to", "replay the job that wrote it")
        config = {"retention.ms": "-1", "max.message.bytes": self._admin.config(topic)["max.message.bytes"]}
        self._admin.create(scratch, info.partitions, config, self._replication)

    def _run(self, plan: Plan, log: Log, target: CheckpointStore, idle: IdleCheck) -> None:
        state_dir = self._scratch / "state"
        stores = RocksStores(state_dir, plan.job, FIRST_SLOT)
        settings = WorkerSettings(
            state_dir=state_dir, replication=self._replication, checkpoint_interval_s=NO_BARRIERS_S
        )
        worker = self._worker = Worker(
            plan, log, settings, clock=self._clock, entropy=self._entropy, metrics=Metrics(), stores=stores,
            checkpointing=Checkpointing(target, stores, trims=False),
        )  # fmt: skip
        look_s, records = 0.0, -1

        def between() -> None:
            nonlocal look_s, records
            self._tick()
            if self._stopped:
                worker.stop()
            now_s = self._clock.monotonic_s()
            if now_s < look_s:
                return
            look_s, before = now_s + IDLE_EVERY_S, records
            records = worker.progress().records_in
            if records == before and idle.idle():
                worker.stop()

        worker.run(between)

    # --- 5 clear --------------------------------------------------------------------------------------------------

    def _clear(self, home: _Home, keep: bool) -> None:
        """Whatever of it fails is told, and not raised: the verdict, or the error, is what counts."""
        scratch = [home.moved(topic) for topic in outputs(home.of)]
        gone = [*job_topics(self._admin, home.job).all, *([] if keep else scratch)]
        try:
            self._admin.delete(gone)
            until_s = self._clock.monotonic_s() + 2 * self._session_s
            while self._admin.members(home.job) and self._clock.monotonic_s() < until_s:
                self._clock.sleep_s(GONE_EVERY_S)
            self._admin.delete_group(home.job)
        except StreamcoreError as error:
            logger.warning(
                "what the replay made is not all gone: `streamcore reset %s` deletes it; %s", home.job, error.what
            )
        if keep:
            self._tell(f"kept: {', '.join(scratch)}")


class _Home:
    """The scratch job's names."""

    def __init__(self, of: Plan, savepoint: str, token: str) -> None:
        self.of = of
        self.job = f"{of.job[:80]}{MARK}{token}"
        self._prefix = f"{of.job}.replay.{savepoint}-{token}."
        too_long = [topic for topic in outputs(of) if len(self.moved(topic)) > TOPIC_NAME_LENGTH]
        if too_long:
            raise TopicError(
                f"the scratch topic {self.moved(too_long[0])} has a longer name than Kafka allows",
                "use a savepoint with a shorter name",
            )
        self.plan = rehomed(of, self.job, self.moved)

    def moved(self, topic: str) -> str:
        return f"{self._prefix}{topic}"


def _refuse_foreign(asked: Asked) -> None:
    own = outputs(asked.plan)
    foreign = [topic for topic in asked.topics if topic not in own]
    if foreign or not asked.topics:
        raise TopicError(
            f"job {asked.plan.job} does not write to {', '.join(foreign) or 'any topic'}",
            f"those it writes to: {', '.join(own)}",
        )


def verdict(found: Sequence[Compared]) -> Outcome:
    outcomes = {each.outcome for each in found}
    for outcome in (Outcome.DIFFERENT, Outcome.UNKNOWN):
        if outcome in outcomes:
            return outcome
    return Outcome.EQUAL
