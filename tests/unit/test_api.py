"""The public API: what a program writes down, and the whole message for each mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from pydantic import BaseModel

from streamcore import (
    Aggregate,
    Context,
    DeadLetter,
    Job,
    Map,
    Record,
    Skip,
    State,
    Stop,
    Topic,
    Value,
    agg,
    json,
)
from streamcore.errors import TopologyError
from streamcore.topology import nodes
from streamcore.topology.nodes import UNKNOWN


class Order(Struct):
    id: str
    total: int


class Refund(BaseModel):
    id: str


class Seen(State):
    times = Value(int, default=0)


def on_order(order: Order, state: Seen, ctx: Context[str]) -> Iterator[Refund] | None:
    return None


def to_key(order: Order) -> str:
    return order.id


orders = Topic("orders", Order)
keyed = Topic("keyed", Order, key=str)
totals = Topic("totals", int, key=str)
HERE = Path(__file__).name


def refused(do: Callable[[], Any]) -> str:
    """The error's message, without this file's path and line."""
    with pytest.raises(TopologyError) as error:
        do()
    where, found, rest = str(error.value).partition(f"{HERE}:")
    assert found and Path(where + HERE) == Path(__file__)
    line, _, message = rest.partition(": ")
    assert line.isdigit()
    return message


def at_class(do: Callable[[], Any]) -> str:
    return refused(do)


# --- what is written down -----------------------------------------------------------------------------------------


def test_every_step_becomes_a_node_with_what_is_known_of_its_types() -> None:
    job = Job("j")
    s = job.stream(keyed)
    (
        s.map(lambda o: o.id, name="ids")
        .flat_map(lambda i: [i])
        .filter(lambda i: i != "")
        .map_items(lambda k, v: (k, v))
        .map_batch(list, most=3)
        .only(tuple)
    )
    s.records()
    s.merge(s.filter(lambda o: o.total > 0)).key_by("again", to_key)
    s.process("seen", Seen, on_order)
    s.aggregate("count", agg.count()).to(totals)
    s.dedupe("once", by=to_key, keep=timedelta(days=1), too_old=Skip())
    made = job._graph.nodes  # pyright: ignore[reportPrivateUsage]
    assert [(n.kind, n.name, n.key_type, n.value_type) for n in made] == [
        ("Source", "keyed", str, Order),
        ("Map", "ids", str, UNKNOWN),
        ("FlatMap", "flat_map#1", str, UNKNOWN),
        ("Filter", "filter#1", str, UNKNOWN),
        ("MapItems", "map_items#1", str, UNKNOWN),
        ("MapBatch", "map_batch#1", str, UNKNOWN),
        ("Only", "only#1", str, tuple),
        ("Records", "records#1", str, Record),
        ("Filter", "filter#2", str, Order),
        ("Merge", "merge#1", None, Order),
        ("KeyBy", "again", str, Order),
        ("Process", "seen", str, Refund),
        ("Aggregate", "count", str, int),
        ("Sink", "to#1", str, int),
        ("Dedupe", "once", str, Order),
    ]
    assert all(n.where.startswith(f"{__file__}:") for n in made)
    dedupe = made[-1]
    assert isinstance(dedupe, nodes.Dedupe)
    assert (dedupe.keep_ms, dedupe.too_old) == (86_400_000, Skip())


def one(order: Order) -> Refund:
    raise NotImplementedError


def many(order: Order) -> list[Refund]:
    raise NotImplementedError


def pairs(order: Order) -> Iterator[tuple[str, int]] | None:
    raise NotImplementedError


def whatever(order: Order) -> Any:
    raise NotImplementedError


def unheard_of(order: Order) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
    raise NotImplementedError


@pytest.mark.parametrize(
    ("f", "mapped", "flat"),
    [
        (one, Refund, UNKNOWN),
        (many, list[Refund], Refund),
        (pairs, Iterator[tuple[str, int]] | None, tuple[str, int]),
        (whatever, UNKNOWN, UNKNOWN),
        (unheard_of, UNKNOWN, UNKNOWN),
        (Refund, Refund, UNKNOWN),
        (str.split, UNKNOWN, UNKNOWN),
        (lambda o: o, UNKNOWN, UNKNOWN),
    ],
)
def test_annotations_tell_what_a_step_gives(f: Any, mapped: Any, flat: Any) -> None:
    job = Job("j")
    job.stream(orders).map(f)
    job.stream(orders).flat_map(f)
    assert [n.value_type for n in job._graph.nodes[1:]] == [mapped, flat]  # pyright: ignore[reportPrivateUsage]


def test_an_accumulators_type_is_told_by_the_aggregate_or_by_its_functions() -> None:
    def add(total: float, order: Order) -> float:
        return total + order.total

    def total(order: Order) -> int:
        return order.total

    def kept(how: Aggregate[Order, Any, Any]) -> tuple[Any, Any]:
        job = Job("j")
        job.stream(keyed).aggregate("n", how)
        node = job._graph.nodes[-1]  # pyright: ignore[reportPrivateUsage]
        assert isinstance(node, nodes.Aggregate)
        return node.accumulator, node.value_type

    assert kept(agg.count()) == (int, int)
    assert kept(agg.sum(total)) == (int | None, int)
    assert kept(agg.sum(lambda o: o.total)) == (UNKNOWN, UNKNOWN)
    assert kept(agg.mean(total)) == (tuple[float, int], float)
    assert kept(agg.last()) == (Order, Order)
    assert kept(agg.last(total)) == (int, int)
    assert kept(agg.first()) == (UNKNOWN, Order)
    assert kept(Aggregate(float, add, str)) == (float, str)
    assert kept(Aggregate(int, lambda a, o: a + o.total / 2, lambda a: a)) == (UNKNOWN, UNKNOWN)


def test_a_topic_can_be_asked_for_twice_and_is_read_once() -> None:
    job = Job("j", on_error=DeadLetter("dlq"))
    job.stream(keyed).to(keyed)
    job.stream(keyed).aggregate("n", agg.count()).to(totals)
    sources = [n for n in job._graph.nodes if isinstance(n, nodes.Source)]  # pyright: ignore[reportPrivateUsage]
    assert [(s.name, s.on_error, s.start) for s in sources] == [("keyed", DeadLetter("dlq"), "earliest")]


def test_a_start_is_a_place_or_a_time() -> None:
    job = Job("j")
    job.stream(orders, start=datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), on_error=Skip())
    (source,) = job._graph.nodes  # pyright: ignore[reportPrivateUsage]
    assert isinstance(source, nodes.Source)
    assert (source.start, source.on_error) == (1000, Skip())


def test_a_pipe_is_a_step_of_ones_own() -> None:
    job = Job("j")
    job.stream(orders).pipe(lambda s: s.map(lambda o: o.id)).to(Topic("ids", str))
    assert [n.kind for n in job.plan().nodes] == ["Source", "Map", "Sink"]


def test_a_topic_shows_its_types() -> None:
    assert repr(keyed) == "Topic('keyed', Order, key=str)"
    assert repr(Topic("e", json(Refund, type(None)))) == "Topic('e', Refund | None)"
    assert Topic("e", json(Refund, type(None))).spec.optional_value
    assert not keyed.spec.optional_value


# --- mistakes -------------------------------------------------------------------------------------------------------


def with_stream(do: Callable[[Any, Any], Any], topic: Topic[Any, Any] = keyed) -> Callable[[], Any]:
    job = Job("j")
    stream = job.stream(topic)
    return lambda: do(job, stream)


def keyed_by_maybe(order: Order) -> str | None:
    return order.id or None


def keyed_by_list(order: Order) -> list[str]:
    return [order.id]


NAME = "use 1 to 100 letters, digits, '-' and '_': the name becomes part of topic names and of saved state"
KEYS = "a key is a str, int, bytes, UUID, datetime, or a tuple of these"


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: Job("a b"), f"a job cannot be named 'a b'\n  what to do: {NAME}"),
        (lambda: Job(""), f"a job cannot be named ''\n  what to do: {NAME}"),
        (
            lambda: Topic("a/b", int),
            "no topic can be named 'a/b'\n  what to do: use 1 to 249 letters, digits, '.', '_' and '-', as Kafka does",
        ),
        (lambda: Topic("t", int, key=float), f"topic 't' cannot be keyed by float\n  what to do: {KEYS}"),
        (lambda: Topic("t", int, key=list[str]), f"topic 't' cannot be keyed by list[str]\n  what to do: {KEYS}"),
        (with_stream(lambda j, s: s.map(str, name="a.b")), f"a map step cannot be named 'a.b'\n  what to do: {NAME}"),
        (
            with_stream(lambda j, s: s.key_by("k", keyed_by_maybe)),
            "the key_by step 'k' gives keys of type str | None\n"
            "  what to do: leave records without a key out before it, with .filter(...)",
        ),
        (
            with_stream(lambda j, s: s.key_by("k", keyed_by_list)),
            f"the key_by step 'k' gives keys of type list[str]\n  what to do: {KEYS}",
        ),
        (
            with_stream(lambda j, s: s.merge(Job("other").stream(orders))),
            "streams of two jobs cannot be merged\n  what to do: write one to a topic and read it in the other job",
        ),
        (
            with_stream(lambda j, s: s.merge(s)),
            "a stream cannot be merged with itself\n"
            "  what to do: to have each record twice, use .flat_map(lambda v: [v, v])",
        ),
        (
            with_stream(lambda j, s: s.map_batch(list, most=0)),
            "map_batch with most=0\n  what to do: give it at least one value at once",
        ),
        (
            with_stream(lambda j, s: s.key_by("k", to_key).records()),
            "records() stands behind a key_by, where a message's topic, offset and headers are not known any more\n"
            "  what to do: call it before key_by, and take along what is needed",
        ),
        (
            with_stream(lambda j, s: s.process("p", Order, on_order)),
            f"the process step 'p' was given {Order!r} for its state\n"
            "  what to do: give it a class: class Seen(State): times = Value(int, default=0)",
        ),
        (
            with_stream(lambda j, s: s.dedupe("d", by=to_key, keep=timedelta(0))),
            "the dedupe step 'd' keeps ids for 0:00:00\n  what to do: keep them for a second or more",
        ),
        (
            with_stream(lambda j, s: s.to(orders)),
            "step 'keyed' cannot be written to topic 'orders': the stream has a key and the topic none\n"
            "  what to do: give the topic key=...",
        ),
        (
            with_stream(lambda j, s: s.to(keyed), orders),
            "step 'orders' cannot be written to topic 'keyed': the topic has a key and the stream none\n"
            "  what to do: put .key_by(NAME, f) before .to(...)",
        ),
        (
            with_stream(lambda j, s: s.to(totals)),
            "step 'keyed' gives values of Order, and topic 'totals' takes int\n"
            "  what to do: mend the topic's type, or .map(...) before .to(...)",
        ),
        (
            with_stream(lambda j, s: s.to(Topic("by-number", Order, key=int))),
            "step 'keyed' gives keys of str, and topic 'by-number' takes int\n"
            "  what to do: mend the topic's type, or .map(...) before .to(...)",
        ),
        (
            with_stream(lambda j, s: j.stream(orders, start="first")),
            "topic 'orders' cannot start at 'first'\n  what to do: start at \"earliest\", \"latest\", or a datetime",
        ),
        (
            with_stream(lambda j, s: j.stream(orders, start=datetime(2024, 1, 1))),
            "topic 'orders' starts at 2024-01-01T00:00:00, a time without a zone\n"
            "  what to do: add one: datetime(2024, 1, 1, tzinfo=UTC)",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_its_remedy(do: Callable[[], Any], message: str) -> None:
    assert refused(do) == message


def test_a_topic_read_with_two_settings_is_refused_naming_the_first() -> None:
    job = Job("j")
    job.stream(orders)
    message = refused(lambda: job.stream(orders, start="latest"))
    assert message.startswith("topic 'orders' is read twice, with different types or settings; first at ")
    assert message.endswith("\n  what to do: a job reads a topic once: call stream(...) once and use its result twice")
    with pytest.raises(TopologyError, match="is read twice"):
        job.stream(Topic("orders", str))


@pytest.mark.parametrize("step", ["aggregate", "dedupe", "map_items", "process", "records"])
def test_state_without_a_key_is_an_attribute_error_that_says_so(step: str) -> None:
    stream = Job("j").stream(orders)
    assert not hasattr(stream, step)
    with pytest.raises(AttributeError) as error:
        getattr(stream, step)
    assert str(error.value) == (
        f"{step}() is for keyed streams, and this one (orders) has no key\n"
        "  what to do: put .key_by(NAME, f) before it, or give the topic key=...: state is kept by key"
    )
    with pytest.raises(AttributeError, match="'Stream' object has no attribute 'window'"):
        _ = stream.window  # type: ignore[attr-defined]


def test_what_a_job_does_not_do_is_not_there() -> None:
    with pytest.raises(TypeError):
        Job("j", on_error=Stop(), time=None)  # type: ignore[call-arg]


# --- State ----------------------------------------------------------------------------------------------------------


def first_upgrade(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "views": 0}


class Presence(State, version=2, upgrades={1: first_upgrade}):
    online = Value(bool, default=False)
    since = Value(datetime)
    devices = Map(str, datetime)
    LIMIT = 3

    def is_new(self) -> bool:
        return self.since is None


def test_a_state_class_is_a_schema() -> None:
    schema = Presence.__schema__
    assert (schema.name, schema.version, schema.upgrades, Presence.version) == ("Presence", 2, {1: first_upgrade}, 2)
    assert [(f.name, f.type, f.default, f.optional, f.map_key) for f in schema.fields] == [
        ("online", bool, False, False, None),
        ("since", datetime, None, True, None),
        ("devices", datetime, None, False, str),
    ]


def test_a_subclass_has_the_fields_of_its_base() -> None:
    class Wider(Presence, version=3, upgrades={1: first_upgrade, 2: first_upgrade}):
        visits = Value(int, default=0)

    assert [f.name for f in Wider.__schema__.fields] == ["online", "since", "devices", "visits"]
    assert [f.name for f in Presence.__schema__.fields] == ["online", "since", "devices"]


def test_the_engine_makes_objects_with_a_slot_for_each_value() -> None:
    made: Any = type("Presence", (Presence,), {"__slots__": ("online", "since", "devices")})
    state = made()
    state.since = None
    assert made.__schema__ is Presence.__schema__
    assert state.is_new()
    with pytest.raises(AttributeError):
        state.sinse = 1


def test_a_state_object_of_ones_own_says_where_they_come_from() -> None:
    state = Presence()
    for use in (lambda: state.online, lambda: setattr(state, "online", True), lambda: state.devices):
        with pytest.raises(AttributeError) as error:
            use()
        assert str(error.value) == (
            "Presence objects are made by the engine, for one key: in a test, use streamcore.testing.Driver"
        )


def state_class(fields: dict[str, Any], **settings: Any) -> Callable[[], Any]:
    return lambda: type(State)("Bad", (State,), fields, **settings)


class Stranger:
    pass


UNSAVED = "write {0} = Value(...), or, for a constant, an upper-case name"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (state_class({}, version=0), "Bad cannot have version 0\n  what to do: versions count from 1"),
        (
            state_class({}, version=3, upgrades={1: first_upgrade}),
            "Bad has version 3, but no upgrade from version 2\n"
            "  what to do: add upgrades={2: f}: f takes the fields of version 2 as a dict and returns those of 3",
        ),
        (
            state_class({}, version=2),
            "Bad has version 2, but no upgrade from version 1\n"
            "  what to do: add upgrades={1: f}: f takes the fields of version 1 as a dict and returns those of 2",
        ),
        (
            state_class({}, version=2, upgrades={1: first_upgrade, 2: first_upgrade}),
            "Bad has version 2, but an upgrade from version 2\n"
            "  what to do: upgrades lead from 1 to 1 at most: raise the version, or take the upgrade out",
        ),
        (
            state_class({"items": Value(list[int], default=[])}),
            "Bad.items: the default [] can be changed in place, for all keys at once\n"
            "  what to do: use Value(tuple[...], default=())",
        ),
        (
            state_class({"items": Value(dict[str, int], default={})}),
            "Bad.items: the default {} can be changed in place, for all keys at once\n  what to do: use a Map",
        ),
        (
            state_class({"order": Value(Order, default=Order("a", 1))}),
            "Bad.order: the default Order(id='a', total=1) can be changed in place, for all keys at once\n"
            "  what to do: use a frozen class, or no default",
        ),
        (
            state_class({"n": Value(int, default="a")}),  # type: ignore[arg-type]
            "Bad.n: the default is not of the field's type: expected int, got 'a' of type str\n"
            "  what to do: mend one of the two",
        ),
        (
            state_class({"n": Value(Stranger)}),
            "Bad.n: values of Stranger cannot be saved\n"
            "  what to do: use built-ins, pydantic models, msgspec Structs, dataclasses, Enums, or containers of these",
        ),
        (
            state_class({"n": Map(float, int)}),  # type: ignore[type-var]
            f"Bad.n: a Map cannot be keyed by float\n  what to do: {KEYS}",
        ),
        (
            state_class({"_n": Value(int)}),
            "Bad._n: no saved field can have this name\n  what to do: take another name",
        ),
        (
            state_class({"n": 0}),
            f"Bad.n would not be saved: it is neither a Value nor a Map\n  what to do: {UNSAVED.format('n')}",
        ),
        (
            state_class({"__annotations__": {"n": "int"}}),
            f"Bad.n would not be saved: it is neither a Value nor a Map\n  what to do: {UNSAVED.format('n')}",
        ),
    ],
)
def test_a_state_class_that_could_not_be_kept_is_refused_when_it_is_written(
    make: Callable[[], Any], message: str
) -> None:
    assert refused(make) == message
