"""Steps over batches: what comes out, what is undone, who is blamed."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from streamcore import limits
from streamcore.codecs.wire import codec_for
from streamcore.log.port import Run
from streamcore.operators.batch import Batch
from streamcore.operators.errors import StepFailed
from streamcore.source.decode import decode, decode_shuffle
from streamcore.state.memory import MemoryStore
from streamcore.topology import nodes, plan
from streamcore.topology.nodes import UNKNOWN, Stop, TopicSpec
from streamcore.types import Partition, TopicPartition
from tests.unit.stages import COUNTS, EVENTS, LINES, OTHER, Taken, Task, chain, count, events, keyed, sink, source


def word_count() -> plan.Plan:
    lines = source(LINES)
    words = nodes.FlatMap(name="split", inputs=(lines,), f=str.split)
    by_word = nodes.KeyBy(name="by-word", inputs=(words,), key_type=str, value_type=str, f=str.lower)
    counted = count(by_word)
    return chain(lines, words, by_word, counted, sink(counted, COUNTS))


# --- end to end -------------------------------------------------------------------------------------------------


def test_word_count_through_a_shuffle_equals_a_plain_count() -> None:
    rng = random.Random(7)
    text = [" ".join(rng.choice(["to", "Be", "or", "not", "é"]) for _ in range(rng.randrange(5))) for _ in range(500)]
    built = word_count()
    first = Task(built, "lines")
    for i in range(0, len(text), 100):
        part = text[i : i + 100]
        n = len(part)
        run = Run(
            TopicPartition("lines", Partition(0)), list(range(n)), [None] * n, [t.encode() for t in part], [5] * n
        )
        first.feed(decode(run, LINES))
    first.close()
    found: Counter[str] = Counter()
    seen_on: dict[str, set[int]] = {}
    for p in range(4):
        run = first.producer.runs("job.shuffle.by-word", p)
        if run is None:
            continue
        batch = decode_shuffle(run, built.registry.codec(str))
        assert batch is not None and batch.keys is not None
        for key in batch.keys:
            seen_on.setdefault(key, set()).add(p)
        second = Task(built, "by-word")
        second.feed(batch)
        second.commit()
        for key, value in second.producer.items("counts"):
            found[key.decode()] += int(value)
    assert found == Counter(word.lower() for line in text for word in line.split())
    assert all(len(where) == 1 for where in seen_on.values())


# --- stateless --------------------------------------------------------------------------------------------------


def test_steps_without_state_do_what_a_loop_does() -> None:
    s = source(EVENTS)
    doubled = keyed(nodes.Map, s, "double", f=lambda v: v * 2)
    some = keyed(nodes.Filter, doubled, "some", f=lambda v: v % 3)
    spread = keyed(nodes.FlatMap, some, "spread", f=lambda v: (v + i for i in range(v % 4)))
    named = keyed(nodes.MapItems, spread, "named", f=lambda k, v: v * 10 + len(k))
    whole = keyed(nodes.MapBatch, named, "whole", f=lambda vs: [v + 1 for v in vs], most=3)
    task = Task(chain(s, doubled, some, spread, named, whole, sink(whole, COUNTS)), "events")
    rng = random.Random(3)
    pairs = [("k" * rng.randrange(1, 4), rng.randrange(100)) for _ in range(200)]
    task.feed(events(*pairs))
    task.close()
    expected = [
        (k.encode(), str((v * 2 + i) * 10 + len(k) + 1).encode())
        for k, v in pairs
        if v * 2 % 3
        for i in range(v * 2 % 4)
    ]
    assert task.producer.items("counts") == expected


def test_times_keys_and_origins_stay_with_their_records() -> None:
    s = source(EVENTS)
    odd = keyed(nodes.Filter, s, "odd", f=lambda v: v % 2)
    twice = keyed(nodes.FlatMap, odd, "twice", f=lambda v: [v, v])
    built = plan.build("job", [s, odd, twice, sink(twice, COUNTS)], Stop(), correlation_ids=True)
    task = Task(built, "events")
    task.feed(events(("a", 1), ("b", 2), ("c", 3), time=10, origins=True))
    task.close()
    ((_, _, values, keys, times, headers),) = task.producer.columns
    assert (values, keys, times) == ([b"1", b"1", b"3", b"3"], [b"a", b"a", b"c", b"c"], [10, 10, 12, 12])
    assert [h[0] for h in headers] == [("correlation-id", i) for i in (b"id-0", b"id-0", b"id-2", b"id-2")]


def test_only_uses_the_class() -> None:
    s = source(EVENTS)
    ints = keyed(nodes.Only, s, "ints", of=int)
    task = Task(chain(s, ints, sink(ints, COUNTS)), "events")
    task.feed(events(("a", 1), ("b", "x"), ("c", 3)))
    task.close()
    assert task.producer.items("counts") == [(b"a", b"1"), (b"c", b"3")]


def test_every_consumer_of_a_stream_gets_every_record() -> None:
    s = source(EVENTS)
    plus = keyed(nodes.Map, s, "plus", f=lambda v: v + 1)
    minus = keyed(nodes.Map, s, "minus", f=lambda v: v - 1)
    both = nodes.Merge(name="both", inputs=(plus, minus))
    unkeyed = TopicSpec("unkeyed", codec_for(int), None)
    task = Task(
        chain(s, plus, minus, both, sink(plus, COUNTS), sink(s, OTHER, "to2"), sink(both, unkeyed, "to3")), "events"
    )
    task.feed(events(("a", 1), ("b", 2)))
    task.close()
    assert task.producer.items("counts") == [(b"a", b"2"), (b"b", b"3")]
    assert task.producer.items("other") == [(b"a", b"1"), (b"b", b"2")]
    assert sorted(v for _, v in task.producer.items("unkeyed")) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        (nodes.Map, {"f": lambda v: 1 // v}, "ZeroDivisionError"),
        (nodes.Filter, {"f": lambda v: v.nothing}, "no attribute 'nothing'"),
        (nodes.FlatMap, {"f": lambda v: None}, "returned NoneType"),
        (nodes.FlatMap, {"f": lambda v: "ab"}, "returned str"),
        (nodes.FlatMap, {"f": lambda v: v}, "returned int"),
        (nodes.MapBatch, {"f": lambda vs: vs[1:]}, "0 results for 1 values"),
        (nodes.MapBatch, {"f": lambda vs: None}, "returned None"),
    ],
)
def test_the_step_that_fails_is_named(kind: Any, more: Any, message: str) -> None:
    s = source(EVENTS)
    bad = keyed(kind, s, "bad-one", **more)
    task = Task(chain(s, bad, sink(bad, COUNTS)), "events")
    with pytest.raises(StepFailed, match="bad-one") as caught:
        task.feed(events(("a", 0)))
    assert message in str(caught.value)
    task.close()
    assert task.producer.columns == []


def stop(value: Any) -> Any:
    if value:
        raise StopIteration
    return value


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (nodes.Map, {"f": stop}),
        (nodes.MapItems, {"f": lambda k, v: stop(v)}),
        (nodes.Filter, {"f": stop}),
        (nodes.FlatMap, {"f": stop}),
        (nodes.MapBatch, {"f": lambda vs: [stop(v) for v in vs]}),
        (nodes.Dedupe, {"by": stop, "keep_ms": 1_000, "too_old": Stop()}),
        (nodes.Aggregate, {"zero": int, "add": lambda a, v: stop(v), "result": int, "accumulator": int}),
    ],
)
def test_no_record_is_lost_when_a_function_raises_stop_iteration(kind: Any, more: Any) -> None:
    s = source(EVENTS)
    bad = keyed(kind, s, "bad-one", **more)
    task = Task(chain(s, bad, sink(bad, COUNTS)), "events")
    with pytest.raises(StepFailed, match="bad-one"):
        task.feed(events(("a", 0), ("b", 1), ("c", 0)))


def test_a_value_of_the_wrong_type_is_blamed_on_the_sink() -> None:
    s = source(EVENTS)
    text = keyed(nodes.Map, s, "text", f=str)
    task = Task(chain(s, text, sink(text, COUNTS, "to-counts")), "events")
    with pytest.raises(StepFailed, match="to-counts"):
        task.feed(events(("a", 0)))


def test_a_record_over_the_topics_limit_is_blamed_on_the_sink() -> None:
    texts = TopicSpec("texts", codec_for(str), codec_for(str))
    s = source(EVENTS)
    long = keyed(nodes.Map, s, "long", f=lambda v: "x" * v)
    task = Task(chain(s, long, sink(long, texts)), "events")
    task.feed(events(*[("a", 10_000)] * 200))
    with pytest.raises(StepFailed, match=r"max\.message\.bytes") as caught:
        task.feed(events(("a", 1), ("b", 1_100_000)))
    assert "'b'" in str(caught.value)


@pytest.mark.parametrize("key", [None, [1], 1.5, {"a": 1}])
def test_what_is_no_key_is_blamed_on_key_by(key: Any) -> None:
    s = source(EVENTS)
    by = nodes.KeyBy(name="by", inputs=(s,), key_type=str, value_type=int, f=lambda v: key)
    counted = count(by)
    task = Task(chain(s, by, counted, sink(counted, COUNTS)), "events")
    with pytest.raises(StepFailed, match="step 'by'"):
        task.feed(events(("a", 0)))


# --- aggregate --------------------------------------------------------------------------------------------------


def counting(store: MemoryStore | None = None, **more: Any) -> Task:
    s = source(EVENTS)
    counted = count(s, **more)
    return Task(chain(s, counted, sink(counted, COUNTS)), "events", store)


def test_a_table_emits_each_changed_key_once_an_epoch_at_the_latest_time() -> None:
    task = counting()
    task.feed(events(("b", 0), ("a", 0), ("b", 0), time=50))
    task.feed(events(("a", 0), ("c", 0), time=10))
    task.commit()
    ((_, _, values, keys, times, _),) = task.producer.columns
    assert (keys, values, times) == ([b"b", b"a", b"c"], [b"2", b"2", b"1"], [52, 51, 11])
    task.feed(events(("c", 0)))
    task.commit()
    assert task.producer.items("counts")[3:] == [(b"c", b"2")]


def test_times_out_of_order_give_the_latest() -> None:
    task = counting()
    tp = TopicPartition("events", Partition(0))
    task.feed(Batch([0, 0, 0, 0], ["a", "b", "a", "b"], [9, 1, 3, 2], tp))
    task.close()
    ((_, _, _, keys, times, _),) = task.producer.columns
    assert (keys, times) == ([b"a", b"b"], [9, 2])


def test_a_failed_slice_leaves_no_trace_in_an_aggregate() -> None:
    def add(n: int, v: int) -> int:
        if v < 0:
            raise ValueError("negative")
        return n + v

    s = source(EVENTS)
    total = keyed(nodes.Aggregate, s, "sum", zero=int, add=add, result=lambda n: n, accumulator=UNKNOWN)
    task = Task(chain(s, total, sink(total, COUNTS)), "events")
    task.feed(events(("a", 1)))
    with pytest.raises(StepFailed, match="negative"):
        task.feed(events(("a", 5), ("new", 1), ("a", -1)))
    task.feed(events(("a", 2)))
    task.commit()
    assert task.producer.items("counts") == [(b"a", b"3")]


def test_a_dropped_epoch_goes_back_to_the_commit() -> None:
    task = counting()
    task.feed(events(("a", 0), ("b", 0)))
    task.commit()
    task.feed(events(("a", 0), ("c", 0)))
    task.program.drop()
    task.outbox.drop()
    assert task.program.drain() == {}
    task.feed(events(("a", 0), ("c", 0)))
    task.commit()
    assert task.producer.items("counts")[2:] == [(b"a", b"2"), (b"c", b"1")]


def test_another_task_goes_on_from_the_store() -> None:
    task = counting()
    task.feed(events(("a", 0), ("b", 0), ("a", 0)))
    task.commit()
    again = counting(task.store)
    again.feed(events(("a", 0)))
    again.commit()
    assert again.producer.items("counts") == [(b"a", b"3")]


def test_a_mutable_accumulator_is_undone_like_any_other() -> None:
    def add(seen: list[int], v: int) -> list[int]:
        seen.append(v)
        if v < 0:
            raise ValueError("negative")
        return seen

    s = source(EVENTS)
    listed = keyed(nodes.Aggregate, s, "list", zero=list, add=add, result=len, accumulator=list[int])
    task = Task(chain(s, listed, sink(listed, COUNTS)), "events")
    task.feed(events(("a", 1), ("a", 2)))
    with pytest.raises(StepFailed):
        task.feed(events(("a", 3), ("a", -1)))
    task.feed(events(("a", 4)))
    task.commit()
    task.feed(events(("a", 5)))
    with pytest.raises(StepFailed):
        task.feed(events(("a", 3), ("a", -1)))
    task.commit()
    assert task.producer.items("counts") == [(b"a", b"3"), (b"a", b"4")]


@pytest.mark.parametrize(
    ("of", "bad"), [(int, "text"), (int, 1.5), (int, 1 << 70), (list[int], ["x"]), (UNKNOWN, object())]
)
def test_an_accumulator_of_the_wrong_type_is_found_with_its_record(of: Any, bad: Any) -> None:
    s = source(EVENTS)
    step = keyed(nodes.Aggregate, s, "odd", zero=int, add=lambda a, v: bad, result=lambda a: 1, accumulator=of)
    task = Task(chain(s, step, sink(step, COUNTS)), "events")
    with pytest.raises(StepFailed, match="odd"):
        task.feed(events(("a", 1)))
    assert task.commit() == {}


def test_a_failing_result_is_found_key_by_key() -> None:
    task = counting(result=lambda n: 10 // (n - 1))
    task.feed(events(("a", 0), ("a", 0), ("b", 0)))
    (emission,) = task.program.emissions()
    with pytest.raises(StepFailed, match="count"):
        task.slice(emission.batch, emission.run)
    for i in range(len(emission.batch)):
        part = emission.batch.part(i, i + 1)
        if part.keys == ["b"]:
            with pytest.raises(StepFailed):
                task.slice(part, emission.run)
        else:
            task.slice(part, emission.run)
    task.outbox.release(task.producer, final=True)  # pyright: ignore[reportArgumentType]
    assert task.producer.items("counts") == [(b"a", b"10")]


def test_tables_emit_after_the_tables_above_them() -> None:
    s = source(EVENTS)
    first = count(s, "first")
    second = count(first, "second")
    task = Task(chain(s, first, second, sink(first, COUNTS), sink(second, OTHER, "to2")), "events")
    for n in (1, 2):
        task.feed(events(("a", 0), ("a", 0)))
        task.commit()
        assert task.producer.items("other")[-1] == (b"a", str(n).encode())


def test_aggregates_equal_a_plain_loop_over_failures_commits_and_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_ENTRIES", 8)  # a cache that turns over all the time
    rng = random.Random(11)

    def add(total: int, v: int) -> int:
        if v == 13:
            raise ValueError("unlucky")
        return total + v

    s = source(EVENTS)
    total = keyed(nodes.Aggregate, s, "sum", zero=int, add=add, result=lambda n: n, accumulator=int)
    built = chain(s, total, sink(total, COUNTS))
    task = Task(built, "events")
    plain: Counter[str] = Counter()
    uncommitted: Counter[str] = Counter()
    for _ in range(400):
        act = rng.random()
        if act < 0.7:
            pairs = [(f"k{rng.randrange(30)}", rng.randrange(40)) for _ in range(rng.randrange(1, 9))]
            try:
                task.feed(events(*pairs))
            except StepFailed:
                assert 13 in [v for _, v in pairs]
            else:
                for k, v in pairs:
                    uncommitted[k] += v
        elif act < 0.85:
            task.producer = Taken()
            task.commit()
            plain.update(uncommitted)
            assert dict(task.producer.items("counts")) == {k.encode(): str(plain[k]).encode() for k in uncommitted}
            uncommitted.clear()
        else:
            task.program.drop()
            task.outbox.drop()
            uncommitted.clear()


# --- records ----------------------------------------------------------------------------------------------------


def test_records_tell_what_the_message_told() -> None:
    s = source(EVENTS)
    some = keyed(nodes.Filter, s, "some", f=lambda v: v > 1)
    twice = keyed(nodes.FlatMap, some, "twice", f=lambda v: [v, v])
    whole = keyed(nodes.Records, twice, "records")
    told: list[Any] = []
    kept = keyed(nodes.Map, whole, "keep", f=lambda record: told.append(record) or record.value)
    built = chain(s, some, twice, whole, kept, sink(kept, COUNTS))
    assert built.stage("events").needs_origins
    task = Task(built, "events")
    tp = TopicPartition("events", Partition(3))
    run = Run(tp, [7, 8], [b"a", b"b"], [b"1", b"2"], [0, 2_500], [None, [("h", b"1"), ("h", b"2")]])
    task.feed(decode(run, EVENTS, origins=True, positions=True))
    assert len(told) == 2 and told[0] == told[1]
    record = told[0]
    assert (record.key, record.value, record.timestamp.timestamp(), record.topic) == ("b", 2, 2.5, "events")
    assert (record.partition, record.offset, record.headers, record.correlation_id) == (3, 8, {"h": b"2"}, "events-3-8")
