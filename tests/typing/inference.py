"""What a type-checker must infer without help. Never run."""

from decimal import Decimal
from typing import assert_type

from msgspec import Struct

from streamcore import Aggregate, Job, KeyedStream, Record, Stream, Table, Topic, agg, json


class Order(Struct):
    id: str
    total: int
    amount: Decimal


class Refund(Struct, tag=True):
    id: str


def add(a: int, order: Order) -> int:
    return a + order.total


job = Job("j")
plain = assert_type(job.stream(Topic("plain", Order)), Stream[Order])
s = assert_type(job.stream(Topic("keyed", Order, key=str)), KeyedStream[str, Order])
assert_type(Topic("either", json(Order, Refund)), Topic[None, Order | Refund])
assert_type(Topic("nullable", json(Order, type(None)), key=int), Topic[int, Order | None])
assert_type(s.map(lambda o: o.total), KeyedStream[str, int])
assert_type(s.map_items(lambda k, o: (k, o.total)), KeyedStream[str, tuple[str, int]])
assert_type(s.map_batch(lambda os: [o.id for o in os]), KeyedStream[str, str])
assert_type(s.flat_map(lambda o: [o.id, o.id]).filter(lambda i: i != ""), KeyedStream[str, str])
assert_type(s.records().map(lambda r: r.value.id), KeyedStream[str, str])
assert_type(s.records(), KeyedStream[str, Record[str, Order]])
assert_type(s.merge(s.map(lambda o: o.id)), Stream[Order | str])
assert_type(s.pipe(lambda t: t.map(lambda o: o.id)), KeyedStream[str, str])
assert_type(plain.key_by("by-total", lambda o: (o.id, o.total)), KeyedStream[tuple[str, int], Order])
assert_type(s.aggregate("1", agg.count()), Table[str, int])
assert_type(s.aggregate("2", agg.sum(lambda o: o.amount)), Table[str, Decimal])
assert_type(s.aggregate("3", agg.mean(lambda o: o.total)), Table[str, float])
assert_type(s.aggregate("4", agg.min(lambda o: o.id)), Table[str, str])
assert_type(s.aggregate("5", agg.max(lambda o: o.amount)), Table[str, Decimal])
assert_type(s.aggregate("6", agg.first()), Table[str, Order])
assert_type(s.aggregate("7", agg.last()), Table[str, Order])
assert_type(s.aggregate("8", agg.last(lambda o: o.id)), Table[str, str])
assert_type(s.aggregate("9", agg.collect(lambda o: o.id)), Table[str, tuple[str, ...]])
assert_type(s.aggregate("10", Aggregate(int, add, str)).updates(), KeyedStream[str, str])
