"""An interval run again on a savepoint's state, and held against what was published of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from streamcore import Context, DeadLetter, Job, State, Topic, Value, agg
from streamcore.checkpoint import savepoint as savepoints
from streamcore.cli.replay import end_of
from streamcore.errors import SettingsError, StopError, TopicError
from streamcore.runtime.compare import Compared, Outcome
from streamcore.runtime.interval import Times
from streamcore.runtime.reprocess import Asked, Reprocessing, outputs, verdict
from streamcore.runtime.show import partitions_of
from streamcore.topology.plan import Plan
from streamcore.topology.repeatable import Shape, fate
from streamcore.types import TimestampMs
from tests.unit.test_savepoints import LINES, Cluster, lower, word_count

lines = Topic("lines", str)
loud = Topic("counts", str)
counts = Topic("counts", int, key=str)
FIRST_MS = 1_600_000_000_000
"""Each fed line is a second behind the one before it."""


class Replayed(Cluster):
    """A cluster whose inputs have times of their own, and which can be replayed."""

    sent = 0

    def send(self, *values: str, gap_ms: int = 1_000) -> None:
        for value in values:
            self._feeder.produce("lines", None, [value.encode()], None, [FIRST_MS + self.sent * gap_ms])
            self.sent += 1
        self._feeder.flush(1.0)

    def time(self, line: int) -> TimestampMs:
        return TimestampMs(FIRST_MS + line * 1_000)

    def savepoint(self, worker: Any, name: str) -> None:
        self.ask("wc", name)
        self.run(worker, 200)
        assert name in savepoints.names(self.store, "wc")

    def turn(self) -> None:
        self.clock.advance(timedelta(milliseconds=20))

    def reprocessing(self, tick: Callable[[], None]) -> Reprocessing:
        scratch = self.path / "replaying"
        return Reprocessing(
            self.log, self.admin, self.store, scratch, self.clock, self.entropy, session_s=11.0, tick=tick
        )

    def replay(
        self, plan: Plan, until: TimestampMs | str, topics: Sequence[str] = ("counts",), of: str = "s1", **asked: Any
    ) -> list[Compared]:
        end = savepoints.load(self.store, "wc", until) if isinstance(until, str) else until
        saved = savepoints.load(self.store, "wc", of)
        wanted = Asked(plan, saved, end, tuple(topics), wait_s=0.0, **asked)
        return self.reprocessing(self.turn).run(wanted)

    def publish(self, key: str | None, value: str, time_ms: int) -> None:
        """By somebody else."""
        keys = None if key is None else [key.encode()]
        self._feeder.produce("counts", None, [value.encode()], keys, [time_ms])
        self._feeder.flush(1.0)

    def world(self) -> object:
        """All there is beside the replay's own."""
        names = sorted(name for name in self.admin.topics() if "replay" not in name)
        tps = [tp for name in names for tp in self.partitions(name)]
        group = self.admin.committed("wc", self.partitions("lines"), 1.0)
        return names, self.admin.stable_ends(tps), group, [stat.key for stat in self.store.list("")]

    def partitions(self, topic: str) -> list[Any]:
        return partitions_of(self.admin, [topic])


@pytest.fixture
def cluster() -> Iterator[Replayed]:
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as path:
        yield Replayed(Path(path))


def shout(line: str) -> str:
    return line.upper()


def shouting(f: Callable[[str], str] = shout, **how: Any) -> Plan:
    """A stream, record by record."""
    job = Job("wc", **how)
    job.stream(lines).map(f).to(loud)
    return job.plan()


def ran(cluster: Replayed, plan: Plan, *, after: int = 40) -> Replayed:
    """Fed up to 20, savepoint s1, fed up to `after`, savepoint s2, fed to 60 and idle."""
    worker = cluster.worker(plan)
    cluster.run(worker, 60)
    cluster.send(*LINES[:20])
    cluster.run(worker)
    cluster.savepoint(worker, "s1")
    cluster.send(*LINES[20:after])
    cluster.run(worker)
    cluster.savepoint(worker, "s2")
    cluster.send(*LINES[after:])
    cluster.run(worker, 200)
    cluster.gone(worker)
    return cluster


# --- equal ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("until", ["s2", "time", "the end"])
def test_the_same_code_gives_what_was_published(cluster: Replayed, until: str) -> None:
    ran(cluster, shouting())
    end = {"s2": "s2", "time": cluster.time(33), "the end": cluster.time(1_000)}[until]
    (found,) = cluster.replay(shouting(), end)
    records = {"s2": 20, "time": 13, "the end": 40}[until]
    assert (found.outcome, found.replayed, found.published) == (Outcome.EQUAL, records, records)
    assert not found.undecided


@pytest.mark.parametrize("until", ["s2", "the end"])
def test_a_tables_last_values_are_those_that_were_published(cluster: Replayed, until: str) -> None:
    ran(cluster, word_count())
    (found,) = cluster.replay(word_count(), "s2" if until == "s2" else cluster.time(1_000))
    assert found.outcome is Outcome.EQUAL
    words = {word for line in LINES[20 : 40 if until == "s2" else 60] for word in line.split()}
    assert found.replayed == len(words)


def test_nothing_of_the_job_is_touched_and_nothing_of_the_replay_stays(cluster: Replayed) -> None:
    ran(cluster, word_count())
    before, topics, groups = cluster.world(), set(cluster.admin.topics()), cluster.admin.groups()
    cluster.replay(word_count(), "s2")
    assert cluster.world() == before
    assert set(cluster.admin.topics()) == topics and cluster.admin.groups() == groups
    assert not (cluster.path / "replaying").exists()


def test_a_job_that_runs_is_replayed_beside_it(cluster: Replayed) -> None:
    worker = cluster.worker(word_count())
    cluster.run(worker, 60)
    cluster.send(*LINES[:20])
    cluster.run(worker)
    cluster.savepoint(worker, "s1")
    cluster.send(*LINES[20:])
    cluster.run(worker, 200)
    replaying = cluster.reprocessing(lambda: cluster.run(worker, 1))
    saved = savepoints.load(cluster.store, "wc", "s1")
    (found,) = replaying.run(Asked(word_count(), saved, cluster.time(1_000), ("counts",)))
    assert found.outcome is Outcome.EQUAL
    assert len(cluster.admin.members("wc")) == 1
    worker.close()


def test_the_scratch_topic_is_kept_when_it_is_asked_for(cluster: Replayed) -> None:
    ran(cluster, shouting())
    cluster.replay(shouting(), "s2", keep=True)
    (kept,) = [name for name in cluster.admin.topics() if "replay" in name]
    assert kept.startswith("wc.replay.s1-") and kept.endswith(".counts")
    ends = cluster.admin.stable_ends(cluster.partitions(kept))
    assert sum(end > 0 for end in ends.values())


# --- different --------------------------------------------------------------------------------------------------------


def test_code_that_gives_something_else_is_different_and_the_first_is_shown(cluster: Replayed) -> None:
    ran(cluster, shouting())

    def changed(line: str) -> str:
        return line.upper().replace("QUESTION", "?") if not line.endswith(" 3") else "else"

    (found,) = cluster.replay(shouting(changed), "s2")
    wrong = sum(line.endswith(" 3") for line in LINES[20:40])
    assert (found.outcome, found.differing) == (Outcome.DIFFERENT, 2 * wrong)
    one = found.differences[0]
    assert one.replayed is not None and one.replayed.value == b"else"
    assert one.published is not None and one.published.value == b"TO BE OR NOT TO BE 3"
    assert verdict([found]) is Outcome.DIFFERENT


def test_a_table_of_other_code_is_different_and_names_the_key(cluster: Replayed) -> None:
    ran(cluster, word_count())

    def other(word: str) -> str:
        return "be" if word == "or" else word.lower()

    (found,) = cluster.replay(word_count(key=other), "s2")
    assert found.outcome is Outcome.DIFFERENT
    assert {one.key for one in found.differences} == {b"be", b"or"}
    assert found.mixes == ("count",), "the count takes records of two partitions"


@pytest.mark.parametrize("what", ["lost", "twice", "altered"])
def test_what_was_published_wrongly_is_found(cluster: Replayed, what: str) -> None:
    """What a broken sink, or somebody else's producer, would leave."""
    worker = cluster.worker(shouting())
    cluster.run(worker, 60)
    cluster.send(*LINES[:20])
    cluster.run(worker)
    cluster.savepoint(worker, "s1")
    cluster.send(*LINES[20:40])
    cluster.run(worker)
    cluster.gone(worker)
    if what == "lost":
        (found,) = cluster.replay(shouting(), cluster.time(60))
        assert found.outcome is Outcome.EQUAL
        job = Job("wc")
        job.stream(lines).flat_map(lambda line: [line.upper()] * 2 if line.endswith(" 5") else [line.upper()]).to(loud)
        (found,) = cluster.replay(job.plan(), cluster.time(60))
        assert found.differences[0].published is None
    else:
        cluster.publish(None, LINES[25].upper() if what == "twice" else "ALTERED", cluster.time(25))
        (found,) = cluster.replay(shouting(), cluster.time(60))
        assert found.differences[0].replayed is None
    assert found.outcome is Outcome.DIFFERENT


def test_records_of_one_key_in_another_order_are_different(cluster: Replayed) -> None:
    keyed = Topic("keyed", str, key=str)
    cluster.admin.create("keyed", 2, {})

    def plan() -> Plan:
        job = Job("wc")
        job.stream(keyed).map(str.upper).to(Topic("counts", str, key=str))
        return job.plan()

    def feed(*values: str) -> None:
        for at, value in enumerate(values):
            cluster._feeder.produce("keyed", None, [value.encode()], [b"k"], [FIRST_MS + 10 * at])
        cluster._feeder.flush(1.0)

    worker = cluster.worker(plan())
    cluster.run(worker, 60)
    cluster.savepoint(worker, "s1")
    feed("a", "b", "c")
    cluster.run(worker)
    cluster.gone(worker)
    assert fate(plan(), "counts").ordered
    assert cluster.replay(plan(), cluster.time(9))[0].outcome is Outcome.EQUAL
    cluster.admin.delete(["counts"])
    cluster.admin.create("counts", 4, {})
    for at, value in ((0, "A"), (2, "C"), (1, "B")):
        cluster.publish("k", value, FIRST_MS + 10 * at)
    (found,) = cluster.replay(plan(), cluster.time(9))
    assert found.outcome is Outcome.DIFFERENT and found.differences[0].order
    assert found.differences[0].replayed is not None and found.differences[0].replayed.value == b"B"


# --- unknown ----------------------------------------------------------------------------------------------------------


class Seen(State):
    times = Value(int, default=0)


def at_now(value: str, state: Seen, ctx: Context[str]) -> list[str]:
    return [f"{value} {ctx.now}"]


def with_chance(value: str, state: Seen, ctx: Context[str]) -> list[str]:
    return [f"{value} {ctx.uuid()}"]


def by_the_book(value: str, state: Seen, ctx: Context[str]) -> list[str]:
    state.times += 1
    return [f"{value} {state.times} {ctx.event_time}"]


def processing(f: Any) -> Plan:
    job = Job("wc")
    job.stream(lines).key_by("by-line", lower).process("step", Seen, f).to(Topic("counts", str, key=str))
    return job.plan()


@pytest.mark.parametrize(("f", "what"), [(at_now, ".now"), (with_chance, ".uuid")])
def test_what_reads_the_clock_or_draws_lots_is_unknown_and_not_equal(cluster: Replayed, f: Any, what: str) -> None:
    ran(cluster, processing(f))
    (found,) = cluster.replay(processing(f), "s2")
    assert found.outcome is Outcome.UNKNOWN and what in found.why and "'step'" in found.why
    assert verdict([found]) is Outcome.UNKNOWN


def test_a_step_of_state_and_event_time_is_compared(cluster: Replayed) -> None:
    ran(cluster, processing(by_the_book))
    (found,) = cluster.replay(processing(by_the_book), "s2")
    assert (found.outcome, found.replayed) == (Outcome.EQUAL, 20)


def test_a_value_at_the_end_that_was_never_published_is_unknown(cluster: Replayed) -> None:
    """The end falls into the middle of an epoch of the job's: it published a later count of the words, and not that."""
    worker = cluster.worker(word_count())
    cluster.run(worker, 60)
    cluster.savepoint(worker, "s1")
    cluster.send(*LINES)  # one epoch
    cluster.run(worker)
    cluster.gone(worker)
    (found,) = cluster.replay(word_count(), cluster.time(30))
    assert found.outcome is Outcome.UNKNOWN and "never published" in found.why and found.undecided > 3
    assert cluster.replay(word_count(), cluster.time(60))[0].outcome is Outcome.EQUAL


def test_records_of_equal_times_on_both_sides_are_held_against_nobody(cluster: Replayed) -> None:
    """All input of one millisecond: nothing says which outputs are from before the cut."""
    worker = cluster.worker(shouting())
    cluster.run(worker, 60)
    cluster.send(*LINES[:20], gap_ms=0)
    cluster.run(worker)
    cluster.savepoint(worker, "s1")
    cluster.send(*LINES[20:40], gap_ms=0)
    cluster.run(worker)
    cluster.gone(worker)
    (found,) = cluster.replay(shouting(), cluster.time(1))
    assert (found.outcome, found.replayed, found.published, found.undecided) == (Outcome.EQUAL, 20, 40, 20)
    (found,) = cluster.replay(shouting(str.title), cluster.time(1))
    assert found.outcome is Outcome.DIFFERENT


def test_with_correlation_ids_it_is_known_whose_each_record_is(cluster: Replayed) -> None:
    worker = cluster.worker(shouting(correlation_ids=True))
    cluster.run(worker, 60)
    cluster.send(*LINES[:20], gap_ms=0)
    cluster.run(worker)
    cluster.savepoint(worker, "s1")
    cluster.send(*LINES[20:40], gap_ms=0)
    cluster.run(worker)
    cluster.gone(worker)
    (found,) = cluster.replay(shouting(correlation_ids=True), cluster.time(1))
    assert (found.outcome, found.replayed, found.published, found.undecided) == (Outcome.EQUAL, 20, 20, 0)


# --- refused ----------------------------------------------------------------------------------------------------------


def test_an_interval_that_the_job_has_not_processed_is_refused(cluster: Replayed) -> None:
    ran(cluster, shouting())
    cluster.send("more")
    with pytest.raises(StopError, match="has not processed all of the interval yet: stage lines"):
        cluster.replay(shouting(), cluster.time(1_000))


def test_an_interval_without_input_is_refused(cluster: Replayed) -> None:
    ran(cluster, shouting())
    with pytest.raises(StopError, match="no input lies between"):
        cluster.replay(shouting(), cluster.time(3))


def test_a_topic_that_the_job_does_not_write_is_refused(cluster: Replayed) -> None:
    ran(cluster, shouting())
    with pytest.raises(TopicError, match="does not write to other"):
        cluster.replay(shouting(), "s2", ["other"])


def test_input_that_has_expired_is_refused(cluster: Replayed) -> None:
    ran(cluster, shouting())
    ends = cluster.admin.stable_ends(cluster.partitions("lines"))
    cluster.admin.delete_records(ends)
    with pytest.raises(TopicError, match="has expired"):
        cluster.replay(shouting(), "s2")


def test_outputs_that_may_have_expired_are_unknown(cluster: Replayed) -> None:
    ran(cluster, shouting())
    ends = cluster.admin.stable_ends(cluster.partitions("counts"))
    cluster.admin.delete_records(dict(list(ends.items())[:4]))
    (found,) = cluster.replay(shouting(), "s2")
    assert found.outcome is Outcome.UNKNOWN and "may have expired" in found.why


def test_a_replay_that_fails_leaves_nothing(cluster: Replayed) -> None:
    ran(cluster, shouting())
    before = cluster.world(), set(cluster.admin.topics()), cluster.admin.groups()

    def failing(line: str) -> str:
        raise ValueError("the new code does not like it")

    with pytest.raises(StopError, match="does not like it"):
        cluster.replay(shouting(failing), "s2")
    assert (cluster.world(), set(cluster.admin.topics()), cluster.admin.groups()) == before


def test_a_replay_that_is_stopped_has_no_verdict_and_leaves_nothing(cluster: Replayed) -> None:
    ran(cluster, shouting())
    before = cluster.world(), set(cluster.admin.topics()), cluster.admin.groups()
    turns = 0

    def tick() -> None:
        nonlocal turns
        turns += 1
        cluster.turn()
        if turns == 5:
            replaying.stop()

    replaying = cluster.reprocessing(tick)
    saved = savepoints.load(cluster.store, "wc", "s1")
    with pytest.raises(StopError, match="there is no verdict"):
        replaying.run(Asked(shouting(), saved, cluster.time(1_000), ("counts",), wait_s=0.0))
    assert (cluster.world(), set(cluster.admin.topics()), cluster.admin.groups()) == before


def picky(line: str) -> str:
    if line.endswith(" 7"):
        raise ValueError("seven")
    return line.upper()


def test_dead_letters_are_compared_without_the_story_of_their_failure(cluster: Replayed) -> None:
    """It names the job, which is another, and holds a trace."""
    cluster.admin.create("failed", 2, {})
    plan = shouting(picky, on_error=DeadLetter("failed"))
    ran(cluster, plan)
    output, failed = cluster.replay(plan, "s2", ["counts", "failed"])
    sevens = sum(line.endswith(" 7") for line in LINES[20:40])
    assert (output.outcome, output.replayed) == (Outcome.EQUAL, 20 - sevens)
    assert (failed.outcome, failed.replayed) == (Outcome.EQUAL, sevens)


# --- what the code tells ----------------------------------------------------------------------------------------------


def drawn(line: str) -> str:
    return f"{line} {random.random()}"


def build(make: Callable[[Any], None], **how: Any) -> Plan:
    job = Job("wc", **how)
    make(job.stream(lines))
    return job.plan()


FATES: dict[str, tuple[Callable[[Any], None], Shape, str]] = {
    "a stream": (lambda s: s.map(shout).to(loud), Shape.STREAM, ""),
    "a table": (lambda s: s.key_by("k", lower).aggregate("n", agg.count()).to(counts), Shape.TABLE, ""),
    "a mapped table": (
        lambda s: s.key_by("k", lower).aggregate("n", agg.count()).updates().map(abs).to(counts), Shape.TABLE, "",
    ),
    "a filtered table": (
        lambda s: s.key_by("k", lower).aggregate("n", agg.count()).updates().filter(lambda n: n > 1).to(counts),
        Shape.STREAM, "takes what table 'n' emits",
    ),
    "a table of a table": (
        lambda s: s.key_by("k", lower).aggregate("n", agg.count()).updates().key_by("again", str)
        .aggregate("m", agg.count()).to(counts),
        Shape.STREAM, "takes what table 'n' emits",
    ),
    "chance": (lambda s: s.map(drawn).to(loud), Shape.STREAM, "random"),
    "a clock further up": (
        lambda s: s.key_by("k", lower).process("p", Seen, at_now).map(str.upper).to(Topic("counts", str, key=str)),
        Shape.STREAM, "'p' uses .now",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FATES)
def test_what_can_be_compared_is_read_from_the_code(what: str) -> None:
    make, shape, unknown = FATES[what]
    found = fate(build(make), "counts")
    assert (found.shape, bool(found.unknown)) == (shape, bool(unknown))
    assert unknown in found.unknown


def test_dead_letters_are_outputs_too() -> None:
    plan = build(lambda s: s.map(shout).to(loud), on_error=DeadLetter("failed"))
    assert outputs(plan) == ("counts", "failed")
    assert fate(plan, "failed").shape is Shape.STREAM and not fate(plan, "failed").unknown


def test_a_set_of_times_holds_what_was_added() -> None:
    draw, times, plain = random.Random(1), Times(), set[int]()
    for _ in range(50):
        some = [draw.randrange(1 << 44) for _ in range(5)] + [draw.randrange(5_000) for _ in range(5)]
        times.add(some)
        plain.update(some)
    assert (times.earliest_ms, times.latest_ms) == (min(plain), max(plain))
    assert all(time in times for time in plain)
    assert not any(time in times for time in range(10_000) if time not in plain)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [("yesterday", "one of: s1, s2"), ("2024-05-01T12:00:00", "write 2024-05-01T12:00:00Z"), ("../s1", "one of: s1")],
)
def test_an_end_that_is_none_is_refused_with_what_to_write(cluster: Replayed, text: str, remedy: str) -> None:
    ran(cluster, shouting())
    with pytest.raises(SettingsError) as told:
        end_of(cluster.store, "wc", text)
    assert remedy in told.value.remedy


def test_an_end_is_a_time_with_its_zone_or_a_savepoint(cluster: Replayed) -> None:
    ran(cluster, shouting())
    assert end_of(cluster.store, "wc", "2024-05-01T14:00:00.5+02:00") == 1_714_564_800_500
    assert end_of(cluster.store, "wc", "s2") == savepoints.load(cluster.store, "wc", "s2")
