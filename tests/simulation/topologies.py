"""Five jobs for the simulator, each with a feed that is drawn from a seed, an oracle, and its checkers.

An oracle is a plain fold over the inputs as they stand in their topics, with nothing of the engine in it: dicts, lists
and json. Feeds repeat records and send them late.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import pairwise
from random import Random
from typing import Any, Final

from msgspec import Struct

from streamcore import Context, DeadLetter, Job, Map, Skip, State, Topic, Value, agg
from streamcore.testing import judge
from streamcore.testing.history import History, Record
from streamcore.testing.judge import Checker, Pairs, Verdict
from streamcore.testing.simulated.scheduler import START_MS
from streamcore.testing.simulated.simulation import Feeding
from streamcore.topology.plan import Plan

FED_S: Final = 4.0
"""The feed ends about here; faults go on behind it."""
Event = tuple[bytes | None, bytes]


@dataclass(frozen=True)
class Topology:
    name: str
    job: Callable[[], Job]
    feed: Callable[[Random], list[Feeding]]
    checkers: tuple[Checker, ...]

    @property
    def plan(self) -> Plan:
        return _plan(self.job)


@cache
def _plan(job: Callable[[], Job]) -> Plan:
    return job().plan()


def _fed(random: Random, topic: str, events: Sequence[Event]) -> list[Feeding]:
    """In small batches over FED_S; event times follow, some of them late."""
    feedings: list[Feeding] = []
    at_s = 0.0
    step_s = 2 * FED_S / max(1, len(events) / 4)
    for i in range(0, len(events), 4):
        at_s += random.uniform(0, step_s)
        part = events[i : i + 4]
        times = tuple(START_MS + int(at_s * 1000) - random.choice((0, 0, 0, 7, 400)) for _ in part)
        feedings.append(Feeding(at_s, topic, tuple(k for k, _ in part), tuple(v for _, v in part), times))
    return feedings


def _reordered(random: Random, events: list[Event], repeats: int) -> list[Event]:
    """Some come again, soon or late, and neighbours change places."""
    for _ in range(repeats):
        at = random.randrange(len(events))
        events.insert(min(len(events), at + random.choice((1, 2, 9, 60))), events[at])
    for _ in range(len(events) // 10):
        i = random.randrange(len(events) - 1)
        events[i], events[i + 1] = events[i + 1], events[i]
    return events


def _json(value: Any) -> bytes:
    """As msgspec writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _values(history: History, topic: str) -> Iterator[tuple[Record, Any]]:
    """Inputs, partition by partition, each in its order."""
    for record in history.inputs[topic]:
        assert record.value is not None
        yield record, json.loads(record.value)


# --- a: two stages, a table and a copy ------------------------------------------------------------------------------

LINES = Topic("lines", str)
COUNTS = Topic("counts", int, key=str)
COPIES = Topic("copies", str)
WORDS: Final = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "tis", "nobler", "in", "mind"]


def word_count(name: str = "words") -> Job:
    job = Job(name)
    lines = job.stream(LINES)
    lines.to(COPIES)
    lines.flat_map(str.split).key_by("by-word", str.lower).aggregate("count", agg.count()).to(COUNTS)
    return job


def _feed_lines(random: Random) -> list[Feeding]:
    lines: list[Event] = [(None, " ".join(random.choices(WORDS, k=3)).encode()) for _ in range(190)]
    return _fed(random, "lines", _reordered(random, lines, 10))


def _copies(history: History) -> Pairs:
    return [(None, record.value) for record in history.inputs["lines"]]


def _counts(history: History) -> Pairs:
    seen = Counter(word for r in history.inputs["lines"] for word in (r.value or b"").decode().split())
    return [(word.encode(), b"%d" % i) for word, n in seen.items() for i in range(1, n + 1)]


# --- b: fed at least once, deduped, then a state with a Value and one output a record -------------------------------


class Transfer(Struct, frozen=True):
    id: str
    amount: int


class Account(State):
    balance = Value(int, default=0)
    transfers = Value(int, default=0)


def book(transfer: Transfer, state: Account, ctx: Context[str]) -> Iterator[str]:
    state.balance += transfer.amount
    state.transfers += 1
    yield f"{transfer.id} {state.transfers} {state.balance}"


TRANSFERS = Topic("transfers", Transfer, key=str)
BOOKED = Topic("booked", str, key=str)


def deduped(name: str = "accounts") -> Job:
    job = Job(name)
    transfers = job.stream(TRANSFERS)
    transfers.dedupe("seen", by=lambda t: t.id, keep=timedelta(days=1)).process("account", Account, book).to(BOOKED)
    return job


def _feed_transfers(random: Random) -> list[Feeding]:
    events: list[Event] = [
        (f"a{random.randrange(8)}".encode(), _json({"id": f"t{i}", "amount": random.randrange(-50, 100)}))
        for i in range(140)
    ]
    return _fed(random, "transfers", _reordered(random, events, 60))


def _booked(history: History) -> Pairs:
    known: set[tuple[bytes | None, str]] = set()
    balances: defaultdict[bytes | None, list[int]] = defaultdict(list)
    booked: Pairs = []
    for record, transfer in _values(history, "transfers"):
        if (record.key, transfer["id"]) not in known:
            known.add((record.key, transfer["id"]))
            own = balances[record.key]
            own.append(transfer["amount"])
            booked.append((record.key, f"{transfer['id']} {len(own)} {sum(own)}".encode()))
    return booked


# --- c: values that change in place, a Map, and records that fail half-way ------------------------------------------


class Move(Struct, frozen=True):
    item: str
    n: int


class Cart(State):
    recent = Value(list[int])
    total = Value(int, default=0)
    items = Map(str, int)


def on_move(move: Move, state: Cart, ctx: Context[str]) -> Iterator[str]:
    if state.recent is None:
        state.recent = []
    state.recent.append(move.n)
    del state.recent[:-4]
    state.total += move.n
    held = state.items.get(move.item, 0) + move.n
    if held:
        state.items[move.item] = held
    elif move.item in state.items:
        del state.items[move.item]
    if move.n % 7 == 0:
        raise ValueError(f"{move.n} is refused")
    held_items = ",".join(f"{item}{n}" for item, n in state.items.items())
    yield f"{state.total} {','.join(map(str, state.recent))} {held_items}"


MOVES = Topic("moves", Move, key=str)
CARTS = Topic("carts", str, key=str)
REFUSED: Final = "refused-moves"


def carts() -> Job:
    job = Job("carts", on_error=DeadLetter(REFUSED))
    job.stream(MOVES).process("cart", Cart, on_move).to(CARTS)
    return job


def _feed_moves(random: Random) -> list[Feeding]:
    events: list[Event] = [
        (f"c{random.randrange(6)}".encode(), _json({"item": random.choice("pqrs"), "n": random.randrange(-9, 22)}))
        for _ in range(185)
    ]
    return _fed(random, "moves", _reordered(random, events, 15))


def _carts(history: History) -> Pairs:
    states: dict[bytes | None, tuple[list[int], dict[str, int]]] = {}
    shown: Pairs = []
    for record, move in _values(history, "moves"):
        item, n = move["item"], move["n"]
        if n % 7 == 0:
            continue
        taken, items = states.setdefault(record.key, ([], {}))
        taken.append(n)
        items[item] = items.get(item, 0) + n
        items = {name: count for name, count in sorted(items.items()) if count}
        states[record.key] = taken, items
        held = ",".join(f"{name}{count}" for name, count in items.items())
        shown.append((record.key, f"{sum(taken)} {','.join(map(str, taken[-4:]))} {held}".encode()))
    return shown


def _refused(history: History) -> Pairs:
    return [(record.key, record.value) for record, move in _values(history, "moves") if move["n"] % 7 == 0]


# --- d: two sources merged, three stages, two shuffles, four aggregates ---------------------------------------------


class Sale(Struct, frozen=True):
    shop: str
    region: str
    amount: int
    mark: str
    """Its source and number: which record this is."""


class Ledger(State):
    sales = Value(int, default=0)


def in_shop(sale: Sale, state: Ledger, ctx: Context[str]) -> Iterator[Sale]:
    state.sales += 1
    yield Sale(sale.shop, sale.region, sale.amount, f"{sale.mark}#{state.sales}")


ONLINE = Topic("online", Sale)
COUNTER = Topic("counter", Sale)
TOTALS = Topic("totals", int, key=str)
LOWEST = Topic("lowest", int, key=str)
HIGHEST = Topic("highest", int, key=str)
SALES = Topic("sales", tuple[str, ...], key=str)


def regions(name: str = "regions") -> Job:
    job = Job(name)
    sales = job.stream(ONLINE).merge(job.stream(COUNTER))
    shops = sales.key_by("by-shop", lambda sale: sale.shop).process("shop", Ledger, in_shop)
    by_region = shops.key_by("by-region", lambda sale: sale.region)
    by_region.aggregate("total", agg.sum(lambda sale: sale.amount)).to(TOTALS)
    by_region.aggregate("lowest", agg.min(lambda sale: sale.amount)).to(LOWEST)
    by_region.aggregate("highest", agg.max(lambda sale: sale.amount)).to(HIGHEST)
    by_region.aggregate("all", agg.collect(lambda sale: sale.mark)).to(SALES)
    return job


def _feed_sales(random: Random) -> list[Feeding]:
    feedings: list[Feeding] = []
    for topic in ("online", "counter"):
        events: list[Event] = []
        for i in range(95):
            shop = random.randrange(6)
            sale = {"shop": f"s{shop}", "region": f"r{shop % 3}", "amount": random.randrange(1, 500)}
            events.append((None, _json({**sale, "mark": f"{topic[0]}{i}"})))
        feedings += _fed(random, topic, _reordered(random, events, 5))
    return feedings


def _sales(history: History) -> dict[bytes, list[dict[str, Any]]]:
    found: defaultdict[bytes, list[dict[str, Any]]] = defaultdict(list)
    for topic in ("online", "counter"):
        for record, sale in _values(history, topic):
            found[sale["region"].encode()].append({**sale, "tp": record.tp})
    return found


def ends_as(topic: str, of: Callable[[list[dict[str, Any]]], int], rises: bool) -> Checker:
    """A table over records whose order is nobody's: the last value is the oracle's, and none before goes back."""

    def check(history: History) -> Verdict:
        wrong: list[str] = []
        found = _by_key(history, topic)
        wanted = {region: of(sales) for region, sales in _sales(history).items()}
        for region, want in wanted.items():
            got = [int(value) for value in found.get(region, [])]
            if got != sorted(got, reverse=not rises):
                wrong.append(f"{topic}: {region!r} goes back: {got}")
            if got[-1:] != [want] and not history.cut_short:
                wrong.append(f"{topic}: {region!r} ends as {got[-1:]}, should be {want}")
            if got and (got[-1] > want if rises else got[-1] < want):
                wrong.append(f"{topic}: {region!r} is {got[-1]}, beyond {want}")
        wrong += [f"{topic}: {region!r} was never fed" for region in found.keys() - wanted.keys()]
        return Verdict(f"ends as it should ({topic})", not wrong, "; ".join(wrong[:3]))

    return check


def collected(history: History) -> Verdict:
    """Every value of a region begins with the one before; the last holds each sale once, those of one source partition
    and shop in their order, each numbered by its shop."""
    wrong: list[str] = []
    found, sales_of = _by_key(history, "sales"), _sales(history)
    for region, sales in sales_of.items():
        got: list[list[str]] = [json.loads(value) for value in found.get(region, [])]
        for before, after in pairwise(got):
            if after[: len(before)] != before:
                wrong.append(f"{region!r}: what was collected changed: {before[-2:]}, then {after[:3]}")
        last = [mark.rpartition("#")[0] for mark in (got[-1] if got else [])]
        missing, extra = (
            Counter(s["mark"] for s in sales) - Counter(last),
            Counter(last) - Counter(s["mark"] for s in sales),
        )
        if extra or (missing and not history.cut_short):
            wrong.append(f"{region!r}: {list(missing)[:3]} missing, {list(extra)[:3]} too many")
        wrong += _out_of_order(last, sales)
        wrong += _misnumbered(got[-1] if got else [], sales)
    return Verdict("collected in order (sales)", not wrong, "; ".join(wrong[:3]))


def _out_of_order(last: list[str], sales: list[dict[str, Any]]) -> list[str]:
    """Of one source partition and one shop all go one way. (Marks that are sent twice stand where they stand.)"""
    wrong: list[str] = []
    lines: defaultdict[tuple[Any, str], list[str]] = defaultdict(list)
    for sale in sales:
        lines[sale["tp"], sale["shop"]].append(sale["mark"])
    twice = {mark for mark, n in Counter(sale["mark"] for sale in sales).items() if n > 1}
    for (tp, shop), marks in lines.items():
        own = [mark for mark in marks if mark not in twice]
        kept = set(own)
        got = [mark for mark in last if mark in kept]
        if got != own[: len(got)]:
            wrong.append(f"{tp}, {shop}: came as {got[:6]}, should be {own[:6]}")
    return wrong


def _misnumbered(last: list[str], sales: list[dict[str, Any]]) -> list[str]:
    """A shop counts its sales from one, without a gap."""
    shop_of = {sale["mark"]: sale["shop"] for sale in sales}
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for mark in last:
        name, _, number = mark.rpartition("#")
        numbers[shop_of.get(name, "?")].append(int(number))
    return [f"{shop}: counted {n[:9]}" for shop, n in numbers.items() if n != list(range(1, len(n) + 1))]


def _by_key(history: History, topic: str) -> dict[bytes, list[bytes]]:
    found: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for record in history.outputs[topic]:
        found[record.key or b""].append(record.value or b"")
    return dict(found)


# --- e: no state but the latest value, records that cannot be read --------------------------------------------------


class Reading(Struct, frozen=True):
    at: int
    degrees: int


READINGS = Topic("readings", Reading, key=str)
PINGS = Topic("pings", int)
LATEST = Topic("latest", Reading, key=str)
HOT = Topic("hot", str, key=str)
PONGS = Topic("pongs", int)
UNREADABLE: Final = "unreadable"


def sensors() -> Job:
    job = Job("sensors", on_error=DeadLetter(UNREADABLE))
    readings = job.stream(READINGS)
    readings.aggregate("latest", agg.last()).to(LATEST)
    readings.filter(lambda r: r.degrees > 30).map(lambda r: f"{r.degrees} at {r.at}").to(HOT)
    job.stream(PINGS, on_error=Skip()).filter(lambda n: n % 2 == 0).map(lambda n: n + 1).to(PONGS)
    return job


def _feed_readings(random: Random) -> list[Feeding]:
    events: list[Event] = []
    for i in range(130):
        value = _json({"at": i, "degrees": random.randrange(60)})
        events.append((f"s{random.randrange(9)}".encode(), b"?" + value if random.random() < 0.08 else value))
    pings: list[Event] = [(None, b"x" if random.random() < 0.1 else _json(i)) for i in range(60)]
    return _fed(random, "readings", _reordered(random, events, 10)) + _fed(random, "pings", pings)


def _read(history: History, topic: str) -> Iterator[tuple[Record, Any]]:
    for record in history.inputs[topic]:
        try:
            yield record, json.loads(record.value or b"")
        except ValueError:
            yield record, None


def _latest(history: History) -> Pairs:
    return [(record.key, record.value) for record, reading in _read(history, "readings") if reading is not None]


def _hot(history: History) -> Pairs:
    return [
        (record.key, f"{reading['degrees']} at {reading['at']}".encode())
        for record, reading in _read(history, "readings")
        if reading is not None and reading["degrees"] > 30
    ]


def _pongs(history: History) -> Pairs:
    return [(None, _json(n + 1)) for _, n in _read(history, "pings") if n is not None and n % 2 == 0]


def _unreadable(history: History) -> Pairs:
    return [(record.key, record.value) for record, reading in _read(history, "readings") if reading is None]


# --- all ------------------------------------------------------------------------------------------------------------

TOPOLOGIES: Final = {
    topology.name: topology
    for topology in (
        Topology(
            "words",
            word_count,
            _feed_lines,
            (judge.outputs_equal("copies", _copies), judge.table_equals("counts", _counts), *judge.ALWAYS),
        ),
        Topology(
            "accounts",
            deduped,
            _feed_transfers,
            (judge.outputs_equal("booked", _booked), judge.order_per_key("booked", _booked), *judge.ALWAYS),
        ),
        Topology(
            "carts",
            carts,
            _feed_moves,
            (
                judge.outputs_equal("carts", _carts),
                judge.order_per_key("carts", _carts),
                judge.outputs_equal(REFUSED, _refused),
                judge.order_per_key(REFUSED, _refused),
                *judge.ALWAYS,
            ),
        ),
        Topology(
            "regions",
            regions,
            _feed_sales,
            (
                ends_as("totals", lambda sales: sum(s["amount"] for s in sales), rises=True),
                ends_as("lowest", lambda sales: min(s["amount"] for s in sales), rises=False),
                ends_as("highest", lambda sales: max(s["amount"] for s in sales), rises=True),
                collected,
                *judge.ALWAYS,
            ),
        ),
        Topology(
            "sensors",
            sensors,
            _feed_readings,
            (
                judge.table_equals("latest", _latest),
                judge.outputs_equal("hot", _hot),
                judge.order_per_key("hot", _hot),
                judge.outputs_equal("pongs", _pongs),
                judge.outputs_equal(UNREADABLE, _unreadable),
                *judge.ALWAYS,
            ),
        ),
    )
}
