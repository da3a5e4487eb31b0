"""Mistakes that a type-checker must report: exactly the lines that end in `# n ...`. Never run."""

from datetime import timedelta

from pydantic import BaseModel

from streamcore import Context, Job, Map, State, Topic, Value, agg, json


class Order(BaseModel):
    id: str
    total: int


class Customer(BaseModel):
    id: int


class Seen(State):
    times = Value(int, default=0)
    last = Value(str)
    pages = Map(str, int)


orders = Topic("o", Order)
by_int = Topic("c", Customer, key=int)
out = Topic("x", int, key=str)
either = Topic("e", json(Order, Customer), key=str)
job = Job("j")
s = job.stream(orders)
k = s.key_by("k", lambda o: o.id)
s.aggregate("n", agg.count())  # 1 state without a key
k.aggregate("n", agg.count()).to(by_int)  # 2 wrong sink type
s.key_by("k", lambda o: o.totl)  # 3 misspelt field
s.key_by("k", lambda o: [o.id])  # 4 a list is no key
s.key_by(lambda o: o.id)  # 5 a shuffle without a name
s.map(lambda o: o.id).to(orders)  # 6 wrong sink
k.aggregate("n", agg.sum(lambda o: o.id))  # 7 sum of str
k.dedupe("d", by=lambda o: [o.id], keep=timedelta(days=1))  # 8 a list is no id
s.dedupe("d", by=lambda o: o.id, keep=timedelta(days=1))  # 9 dedupe without a key
k.to(orders)  # 10 a key, and a topic without one
s.to(either)  # 11 a topic with a key, and none
s.merge(k).to(orders)
k.only(Customer).map(lambda c: c.total)  # 12 a field of another class
k.map_items(lambda key, o: key + o.total)  # 13 str and int
k.process("p", Order, lambda o, state, ctx: [o])  # 14 no State class
job.stream(by_int, start="first")  # 15 no such start
Topic("t", Order, key=list)  # 16 a list is no key


def on_order(order: Order, state: Seen, ctx: Context[str]) -> list[int]:
    state.times = "one"  # 17 a str in an int's place
    state.tims = 1  # 18 misspelt field
    state.last = None
    state.pages[1] = 2  # 19 a key of another type
    return [state.times + len(state.last)]  # 20 None has no length


k.process("p", Seen, on_order).to(out)
by_number = job.stream(by_int)
by_number.process("p", Seen, on_order)  # 21 another value, another key
