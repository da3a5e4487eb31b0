"""The plan: how a topology is cut into stages, and what is refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from streamcore import Context, DeadLetter, Job, Skip, State, Topic, Value, agg
from streamcore.errors import TopologyError
from streamcore.topology.nodes import KeyBy, Merge, Node
from streamcore.topology.plan import Stage

HERE = Path(__file__).name


class Click(Struct):
    page: str


class Count(State):
    n = Value(int, default=0)


def shows_origin(click: Click, state: Count, ctx: Context[str]) -> Iterator[str]:
    yield ctx.correlation_id


def helper(ctx: Context[str]) -> str:
    return ctx.correlation_id


def shows_it_through_another(click: Click, state: Count, ctx: Context[str]) -> Iterator[str]:
    yield helper(ctx)


def shows_none(click: Click, state: Count, ctx: Context[str]) -> Iterator[str]:
    yield ctx.key


clicks = Topic("clicks", Click)
taps = Topic("taps", Click)
keyed = Topic("keyed", Click, key=str)
counts = Topic("counts", int, key=str)
words = Topic("words", str, key=str)


def page(click: Click) -> str:
    return click.page


def names(found: tuple[Node, ...]) -> list[str]:
    return [node.name for node in found]


def two_shuffles() -> Job:
    job = Job("j", on_error=DeadLetter("dlq"))
    by_page = job.stream(clicks, on_error=Skip()).filter(bool, name="real").key_by("by-page", page)
    by_page.aggregate("views", agg.count()).to(counts)
    by_page.dedupe("once", by=page, keep=timedelta(days=1), too_old=DeadLetter("late")).key_by("again", page).to(
        Topic("out", Click, key=str)
    )
    return job


def test_a_stage_ends_where_records_are_regrouped() -> None:
    plan = two_shuffles().plan()
    assert [(s.name, s.topic, s.is_shuffle, names(s.nodes)) for s in plan.stages] == [
        ("clicks", "clicks", False, ["real", "by-page"]),
        ("by-page", "j.shuffle.by-page", True, ["views", "to#1", "once", "again"]),
        ("again", "j.shuffle.again", True, ["to#2"]),
    ]
    assert [(names(s.stateful), names(s.shuffles), names(s.sinks)) for s in plan.stages] == [
        ([], ["by-page"], []),
        (["views", "once"], ["again"], ["to#1"]),
        ([], [], ["to#2"]),
    ]
    assert [(s.name, s.topic, s.upstream) for s in plan.shuffles] == [
        ("by-page", "j.shuffle.by-page", ("clicks",)),
        ("again", "j.shuffle.again", ("by-page",)),
    ]
    assert plan.stage("again") is plan.stages[2]
    assert plan.journal_topic("again") == "j.journal.again"


def test_topics_are_known_by_their_part() -> None:
    plan = two_shuffles().plan()
    assert plan.source_topics == ("clicks",)
    assert plan.sink_topics == ("counts", "out")
    assert plan.dead_letter_topics == ("dlq", "late")


def test_a_source_keeps_its_policy_and_later_stages_take_the_jobs() -> None:
    assert [s.on_error for s in two_shuffles().plan().stages] == [Skip(), DeadLetter("dlq"), DeadLetter("dlq")]


def test_children_are_those_within_the_stage() -> None:
    stages = two_shuffles().plan().stages
    by_page = stages[0].shuffles[0]
    assert stages[0].children[by_page] == ()
    assert names(stages[1].children[by_page]) == ["views", "once"]
    assert all(set(s.children) == {s.input, *s.nodes} for s in stages)


def test_what_follows_a_merge_belongs_to_every_stage_that_reaches_it() -> None:
    job = Job("j")
    merged = job.stream(clicks).merge(job.stream(taps), job.stream(clicks).key_by("k", page).map(page))
    merged.map(str, name="text").key_by("by-text", str).aggregate("n", agg.count()).to(counts)
    plan = job.plan()
    merge = next(n for n in plan.nodes if isinstance(n, Merge))
    assert [names(s.nodes) for s in plan.stages] == [
        ["k", merge.name, "text", "by-text"],
        [merge.name, "text", "by-text"],
        ["map#1", merge.name, "text", "by-text"],
        ["n", "to#1"],
    ]
    assert plan.shuffles[1].upstream == ("clicks", "taps", "k")


def test_a_plan_of_the_same_program_has_the_same_version() -> None:
    assert two_shuffles().plan().version == two_shuffles().plan().version
    assert len(two_shuffles().plan().version) == 16


def with_step(name: str = "n", how: Any = None, state: type[State] = Count) -> Job:
    job = Job("j")
    stream = job.stream(keyed)
    if how is not None:
        stream.aggregate(name, how).to(counts)
    else:
        stream.process(name, state, shows_none).to(words)
    return job


def test_the_version_follows_what_is_durable_and_nothing_else() -> None:
    class Later(State, version=2, upgrades={1: lambda old: old}):
        n = Value(int, default=0)

    same = with_step(how=agg.count()).plan().version
    assert with_step(how=agg.last(lambda c: 1)).plan().version == same
    others = {
        with_step(name="m", how=agg.count()).plan().version,
        with_step().plan().version,
        with_step(state=Later).plan().version,
    }
    assert len(others | {same}) == 4


@pytest.mark.parametrize(
    ("on_event", "told"),
    [(shows_origin, True), (shows_it_through_another, True), (shows_none, False)],
)
def test_correlation_ids_are_carried_where_a_step_shows_them(on_event: Any, told: bool) -> None:
    job = Job("j")
    job.stream(taps).key_by("other", page).aggregate("n", agg.count()).to(counts)
    job.stream(clicks).key_by("k", page).process("p", Count, on_event).to(words)
    plan = job.plan()
    assert {s.name: s.needs_origins for s in plan.stages} == {"taps": False, "other": False, "clicks": told, "k": told}
    assert plan.needs_headers is told
    assert not plan.correlation_ids


def test_correlation_ids_are_carried_everywhere_when_the_job_asks() -> None:
    job = Job("j", correlation_ids=True)
    job.stream(keyed).aggregate("n", agg.count()).to(counts)
    assert job.plan().correlation_ids
    assert all(s.needs_origins for s in job.plan().stages)


def test_headers_are_read_for_records_and_for_dead_letters_only() -> None:
    def needs(**settings: Any) -> bool:
        job = Job("j", **settings)
        job.stream(keyed).to(keyed)
        return job.plan().needs_headers

    assert not needs()
    assert not needs(on_error=Skip())
    assert needs(on_error=DeadLetter("dlq"))
    job = Job("j")
    job.stream(keyed).records().map(lambda r: 1).to(counts)
    assert job.plan().needs_headers


def test_the_registry_knows_what_the_job_names() -> None:
    assert Click in two_shuffles().plan().registry.classes


# --- refused ------------------------------------------------------------------------------------------------------


def refused(job: Job) -> str:
    with pytest.raises(TopologyError) as error:
        job.plan()
    where, found, rest = str(error.value).partition(f"{HERE}:")
    if not found:
        return where
    assert Path(where + HERE) == Path(__file__)
    return rest.partition(": ")[2]


def nothing(job: Job) -> None: ...


def dangling_source(job: Job) -> None:
    job.stream(clicks)


def dangling_step(job: Job) -> None:
    job.stream(clicks).map(page)


def dangling_table(job: Job) -> None:
    job.stream(keyed).aggregate("n", agg.count())


def bad_name(job: Job) -> None:
    job.stream(clicks).key_by("by page", page).to(keyed)


def reserved_name(job: Job) -> None:
    job.stream(keyed).aggregate("default", agg.count()).to(counts)


def shuffle_named_as_a_topic(job: Job) -> None:
    job.stream(clicks).key_by("clicks", page).to(keyed)


def own_topic(job: Job) -> None:
    job.stream(Topic("j.shuffle.x", Click, key=str)).to(keyed)


def long_topic(job: Job) -> None:
    job.stream(Topic("x" * 245, Click, key=str)).to(keyed)


ENDS = "end it with .to(topic), or take it out"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (nothing, "job 'j' reads nothing\n  what to do: start with job.stream(topic), end with .to(topic)"),
        (dangling_source, f"the stream of topic 'clicks' goes nowhere in job 'j'\n  what to do: {ENDS}"),
        (dangling_step, f"what step 'map#1' gives goes nowhere in job 'j'\n  what to do: {ENDS}"),
        (dangling_table, f"what step 'n' gives goes nowhere in job 'j'\n  what to do: {ENDS}"),
        (
            bad_name,
            "a key_by step cannot be named 'by page'\n  what to do: use 1 to 100 letters, digits, '-' and '_': the "
            "name becomes part of topic names and of saved state",
        ),
        (
            reserved_name,
            "an aggregate step cannot be named 'default'\n  what to do: take another name: RocksDB keeps this one",
        ),
        (
            shuffle_named_as_a_topic,
            "the key_by step 'clicks' has the name of a topic that the job reads\n  what to do: give the step another "
            "name: each stage has a journal topic, named after the topic or the step",
        ),
        (
            own_topic,
            "topic 'j.shuffle.x' has a name that job 'j' keeps for itself\n"
            "  what to do: name it otherwise than j.shuffle.*, j.journal.*, j.sink.* and j.control",
        ),
        (
            long_topic,
            f"the journal topic 'j.journal.{'x' * 245}' is longer than Kafka's 249 characters\n"
            "  what to do: shorten the name of the job, of the topic or of the step",
        ),
    ],
)
def test_a_topology_that_could_not_run_is_refused(write: Callable[[Job], None], message: str) -> None:
    job = Job("j")
    write(job)
    assert refused(job) == message


def test_two_steps_of_one_name_are_named_with_both_places() -> None:
    job = Job("j")
    stream = job.stream(keyed)
    stream.aggregate("n", agg.count()).to(counts)
    stream.process("n", Count, shows_none).to(words)
    first = next(n.where for n in job._graph.nodes if n.name == "n")  # pyright: ignore[reportPrivateUsage]
    assert refused(job) == (
        f"two steps are named 'n'; the other is at {first}\n"
        "  what to do: give one of them another name: topics and saved state are found by it"
    )


def test_a_stage_says_whether_it_is_fed_by_a_shuffle() -> None:
    stages: tuple[Stage, ...] = two_shuffles().plan().stages
    assert [isinstance(s.input, KeyBy) for s in stages] == [s.is_shuffle for s in stages]
