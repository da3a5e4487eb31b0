"""Jobs that are stopped at a savepoint under load and faults, and go on from it with other partition counts: what must
hold of both lives together.

    a share of the seeds    rescaled, under its own name
                            with the count it had, under its own name
                            under another name, rescaled: what the first life had stays
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import pytest
from msgspec import Struct

from streamcore import Context, Job, Map, State, Topic, Value, limits
from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.collect import Retention
from streamcore.checkpoint.memory import MemoryObjects
from streamcore.errors import StreamcoreError
from streamcore.runtime.gathering import FIRST_OWN, MERGED
from streamcore.state.keys import decode_key, encode_key, group_prefix
from streamcore.state.store import MARK_KEY
from streamcore.testing import judge
from streamcore.testing.history import History
from streamcore.testing.judge import ALWAYS, WITH_BARRIERS, Checker, Pairs, Rows, Verdict, at_rest, failed, fold
from streamcore.testing.simulated.faults import Rates, Schedule
from streamcore.testing.simulated.simulation import Feeding
from streamcore.topology.nodes import Dedupe, Node, Process
from streamcore.topology.plan import Plan
from streamcore.types import Partition, TaskId
from tests.simulation.lives import Given, Life, Lived, Recorded, live
from tests.simulation.runs import quiet
from tests.simulation.topologies import TOPOLOGIES, Topology, _fed, _json, _reordered, _values

EVERY_S: Final = 1.5
HORIZON_S: Final = 6.0
ASKED_S: Final = (1.0, 3.5)
COUNTS: Final = (1, 3, 4, 5)
SOURCES: Final = 2


# --- a job that keeps all that there is, behind a shuffle ---------------------------------------------------------


class Payment(Struct, frozen=True):
    id: str
    account: str
    item: str
    amount: int


class Balance(State):
    amount = Value(int, default=0)
    payments = Value(int, default=0)
    items = Map(str, int)


def pay(payment: Payment, state: Balance, ctx: Context[str]) -> Iterator[str]:
    state.amount += payment.amount
    state.payments += 1
    state.items[payment.item] = state.items.get(payment.item, 0) + 1
    held = ",".join(f"{item}{n}" for item, n in state.items.items())
    yield f"{payment.id} {state.payments} {state.amount} {held}"


PAYMENTS: Final = Topic("payments", Payment, key=str)
PAID: Final = Topic("paid", str, key=str)


def payments(name: str = "payments-job") -> Job:
    job = Job(name)
    by_account = job.stream(PAYMENTS).key_by("by-account", lambda p: p.account)
    by_account.dedupe("once", by=lambda p: p.id, keep=timedelta(days=1)).process("balance", Balance, pay).to(PAID)
    return job


def _feed_payments(random: Random) -> list[Feeding]:
    events: list[tuple[bytes | None, bytes]] = []
    for i in range(140):
        account = f"a{random.randrange(9)}"
        what = {"id": f"p{i}", "account": account, "item": random.choice("pqr"), "amount": random.randrange(-50, 100)}
        events.append((account.encode(), _json(what)))
    return _fed(random, "payments", _reordered(random, events, 60))


def _paid(history: History) -> Pairs:
    known: set[str] = set()
    states: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    shown: Pairs = []
    for _, payment in _values(history, "payments"):
        if payment["id"] in known:
            continue
        known.add(payment["id"])
        own = states[payment["account"]]
        own.append(payment)
        items = [p["item"] for p in own]
        held = ",".join(f"{item}{items.count(item)}" for item in sorted(set(items)))
        text = f"{payment['id']} {len(own)} {sum(p['amount'] for p in own)} {held}"
        shown.append((payment["account"].encode(), text.encode()))
    return shown


PAYING: Final = Topology(
    "payments", payments, _feed_payments,
    (judge.outputs_equal("paid", _paid), judge.order_per_key("paid", _paid), *ALWAYS),
)  # fmt: skip


# --- the oracle's state, per step and key -----------------------------------------------------------------------------


def _counted(history: History) -> dict[str, dict[str, Any]]:
    found: defaultdict[str, int] = defaultdict(int)
    for record in history.inputs["lines"]:
        for word in (record.value or b"").decode().split():
            found[word] += 1
    return {"count": dict(found)}


def _balances(history: History) -> dict[str, dict[str, Any]]:
    known: set[str] = set()
    found: dict[str, dict[str, int]] = {}
    for _, payment in _values(history, "payments"):
        if payment["id"] not in known:
            known.add(payment["id"])
            row = found.setdefault(payment["account"], {"amount": 0, "payments": 0})
            row["amount"] += payment["amount"]
            row["payments"] += 1
    return {"balance": found}


def _sums(history: History) -> dict[str, dict[str, Any]]:
    sales = [sale for topic in ("online", "counter") for _, sale in _values(history, topic)]
    shops: defaultdict[str, dict[str, int]] = defaultdict(lambda: {"sales": 0})
    found: dict[str, dict[str, int]] = {"total": {}, "lowest": {}, "highest": {}}
    for sale in sales:
        region, amount = sale["region"], sale["amount"]
        shops[sale["shop"]]["sales"] += 1
        found["total"][region] = found["total"].get(region, 0) + amount
        found["lowest"][region] = min(found["lowest"].get(region, amount), amount)
        found["highest"][region] = max(found["highest"].get(region, amount), amount)
    return {**found, "shop": dict(shops)}


ORACLES: Final[Mapping[str, Callable[[History], dict[str, dict[str, Any]]]]] = {
    "words": _counted, "payments": _balances, "regions": _sums,
}  # fmt: skip
RESCALED: Final = {"words": TOPOLOGIES["words"], "payments": PAYING, "regions": TOPOLOGIES["regions"]}


# --- what must hold -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Judged:
    topology: str
    seed: int
    lived: Lived
    told: list[str]
    """Faults, and what the operator met."""
    wrong: list[Verdict]

    def __str__(self) -> str:
        head = f"topology {self.topology}, seed {self.seed}"
        return "\n".join([head, *(f"  {line}" for line in self.told), *map(str, self.wrong)])


def judged_first(topology: Topology, first: Recorded) -> list[Verdict]:
    """Of the life that ended at the savepoint: it wrote what the oracle says of the input before the cut, and no more.
    That it is not at rest is no matter."""
    history = dataclasses.replace(first.history)
    cuts = {topic: {} for topic in history.inputs}
    for cut in first.cuts.values():
        for topic, offset in cut.offsets.items():
            cuts.setdefault(topic, {})[cut.partition] = offset
    history.inputs = {
        topic: [r for r in records if r.offset < cuts[topic].get(r.tp.partition, 0)]
        for topic, records in history.inputs.items()
    }
    checkers = [checker for checker in topology.checkers if checker is not at_rest]
    stopped = Verdict("the first life stops at the savepoint alone", not history.stopped, "; ".join(history.stopped))
    return [*judge.judge(history, [*checkers, *WITH_BARRIERS]), stopped]


def names_every_task(first: Recorded) -> Verdict:
    """The savepoint has one checkpoint of each task, of the epoch at which it was cut or of one of words alone."""
    wrong: list[str] = []
    found = {TaskId(name, t.partition): t for name, stage in first.saved.stages.items() for t in stage.tasks}
    for task, cut in first.cuts.items():
        saved = found.get(task)
        if saved is None:
            wrong.append(f"{task} is missing")
        elif saved.lineage != cut.lineage or saved.epoch != cut.epoch or saved.offsets != cut.offsets:
            wrong.append(f"{task} was cut at {cut}, and is saved as {saved}")
    wrong += [f"{task} was never cut" for task in found.keys() - first.cuts.keys()]
    return Verdict("a savepoint names every task at its cut", not wrong, "; ".join(wrong[:3]))


def begun(first: Recorded, plan: Plan, counts: Mapping[str, int]) -> dict[TaskId, dict[str, Rows]]:
    """What each task of the second life has to begin with: told by the frames of the first alone."""
    history, found = first.history, dict[TaskId, dict[str, Rows]]()
    for stage in plan.stages:
        olds = [task for task in first.cuts if task.stage == stage.name]
        folds = {
            task.partition: fold([f for f in history.frames[task] if f.frame.epoch <= first.cuts[task].epoch])
            for task in olds
        }
        count = counts[stage.name]
        for p in range(count):
            rows = found[TaskId(stage.name, Partition(p))] = dict[str, Rows]()
            for node in stage.stateful:
                every = isinstance(node, Dedupe)
                for q, folded in folds.items():
                    if count == len(olds) and q != p:
                        continue
                    old = folded.get(node.name, {})
                    _gather(rows.setdefault(node.name, {}), old, p, count, every or not stage.is_shuffle)
    return found


def _gather(into: Rows, rows: Rows, partition: int, count: int, every: bool) -> None:
    for key, value in rows.items():
        if key >= FIRST_OWN:
            into[key] = MERGED[key](into[key], value) if key in into else value
        elif every or int.from_bytes(key[:2]) % count == partition:
            into[key] = value


def keys_in_their_places(plan: Plan) -> Checker:
    """Each key is in one task alone: the one that its key group belongs to."""
    inboxes = {node.name for stage in plan.stages for node in stage.stateful if isinstance(node, Dedupe)}

    def check(history: History) -> Verdict:
        wrong: list[str] = []
        places: defaultdict[tuple[str, bytes], list[TaskId]] = defaultdict(list)
        for state in history.states or ():
            count = history.partitions[history.stages[state.task.stage]]
            for step, rows in state.rows.items() if state.owner else ():
                for key in rows:
                    if key >= FIRST_OWN or step in inboxes:
                        continue
                    places[step, key].append(state.task)
                    belongs = int.from_bytes(key[:2]) % count
                    if plan.stage(state.task.stage).is_shuffle and belongs != state.task.partition:
                        wrong.append(f"step {step}: {key!r} is in {state.task}, and belongs to partition {belongs}")
        wrong += [f"step {step}: {key!r} is in {at}" for (step, key), at in places.items() if len(at) > 1]
        return Verdict("each key is in the one task of its group", not wrong, "; ".join(wrong[:3]))

    return check


def state_is_the_oracles(plan: Plan, oracle: Callable[[History], dict[str, dict[str, Any]]]) -> Checker:
    def check(history: History) -> Verdict:
        wrong: list[str] = []
        wanted = oracle(history)
        found: dict[str, dict[Any, Any]] = {step: {} for step in wanted}
        owned = {state.task for state in history.states or () if state.owner}
        unseen = [task for task in history.frames if task not in owned]
        for state in history.states or ():
            for step, rows in state.rows.items() if state.owner else ():
                if step in wanted:
                    found[step].update(_plain(rows, 2 * isinstance(plan_step(plan, step), Process)))
        if unseen:
            wrong.append(f"the state of {unseen} is on no disk")
        for step, want in wanted.items():
            got = found[step]
            wrong += [
                f"step {step}: {key!r} is {got.get(key)}, should be {want.get(key)}"
                for key in sorted(got.keys() | want.keys())
                if got.get(key) != want.get(key)
            ]
        return Verdict("state is the oracle's", not wrong, "; ".join(wrong[:3]))

    return check


def plan_step(plan: Plan, name: str) -> Node:
    return next(node for stage in plan.stages for node in stage.stateful if node.name == name)


def _plain(rows: Rows, begin: int) -> dict[Any, Any]:
    """Of a State its Values, behind its version; of an aggregate its accumulator."""
    found: dict[Any, Any] = {}
    for data, value in rows.items():
        if data >= FIRST_OWN or data == MARK_KEY:
            continue
        try:
            key = decode_key(data[2:])
        except StreamcoreError:
            continue  # an entry of a Map
        if group_prefix(encode_key(key)) == data[:2]:
            found[key] = msgspec.msgpack.decode(value[begin:])
    return found


def second_judged(topology: Topology, lived: Lived, plan: Plan, counts: Mapping[str, int]) -> list[Verdict]:
    first, history, operator = lived.first, lived.second, lived.operator
    assert first is not None and history is not None
    marks = operator.marks
    history.transactions = (history.transactions or [])[marks["transactions"] :]
    sent = (history.offsets_sent or [])[marks["offsets_sent"] :]
    history.offsets_sent = [s for s in sent if s.actor != operator.name]  # it is no member, nor is anybody
    history.opened = (history.opened or [])[marks["opened"] :]
    history.doubtful = (history.doubtful or [])[marks["doubtful"] :]
    history.events = (history.events or [])[marks["events"] :]
    history.begun = begun(first, plan, counts)
    lineages = {f.frame.lineage for frames in history.frames.values() for f in frames}
    history.checkpoints = [seen for seen in history.checkpoints or () if seen.lineage in lineages]
    before = {cut.lineage for cut in first.cuts.values()}  # who was stopped in between had an epoch to apply
    history.states = [s for s in history.states or () if s.owner or s.mark is None or s.mark.lineage not in before]
    began = history.transactions[0].begun_step if history.transactions else 0
    history.journals_trimmed = [t for t in history.journals_trimmed or () if t.step >= began]
    oracle = ORACLES[topology.name]
    checkers = [*topology.checkers, *WITH_BARRIERS, keys_in_their_places(plan), state_is_the_oracles(plan, oracle)]
    return judge.judge(history, checkers)


def stands(store: MemoryObjects, lived: Lived) -> Verdict:
    """Whatever the second life has retained and collected: what the savepoint names is there."""
    name, saved = "the savepoint stands", lived.first.saved if lived.first else None
    if saved is None:
        return Verdict(name, None, "there is none")
    try:
        savepoints.refuse_half(store, saved)
    except StreamcoreError as error:
        return Verdict(name, False, error.what)
    return Verdict(name, True)


# --- a seed -------------------------------------------------------------------------------------------------------


@cache
def _plan(topology: str, name: str | None) -> Plan:
    job: Callable[..., Job] = RESCALED[topology].job
    return job().plan() if name is None else job(name).plan()


def run(
    topology: str, seed: int, rates: Rates | None = None, kill_at: int | None = None, rocks: bool = False
) -> Judged:
    """`kill_at`: the resume is killed at that call of its, and given again; nothing else fails then."""
    one, draw = RESCALED[topology], Random(f"{seed}/lives")
    way = draw.choices(("rescaled", "as it was", "renamed"), (6, 2, 2))[0]
    name = "another" if way == "renamed" else None
    partitions = None if way == "as it was" else draw.choice(COUNTS)
    plan, asked_s = _plan(topology, name), draw.uniform(*ASKED_S)
    operators = draw.choice((0.0, 0.0, 0.01, 0.04))
    given = Given(plan, partitions, asked_s, 0.0 if kill_at is not None else operators, kill_at)
    feedings = one.feed(Random(f"{seed}/feed"))
    early = [f for f in feedings if f.at_s <= asked_s + 0.5]
    late = [dataclasses.replace(f, at_s=max(0.0, f.at_s - asked_s - 0.5)) for f in feedings if f not in early]
    drawn = rates or dataclasses.replace(Rates.drawn(Random(f"{seed}/rates")), stopping=0.0, store=0.02)
    schedules = [Schedule(drawn, Random(f"{seed}/faults/{life}"), horizon_s=HORIZON_S) for life in (1, 2)]
    counts = {
        stage.name: SOURCES if partitions is None or not stage.is_shuffle else partitions for stage in plan.stages
    }
    shared = Path("/dev/shm")
    with (
        TemporaryDirectory(dir=shared if shared.is_dir() else None) as scratch,
        pytest.MonkeyPatch.context() as patch,
        quiet(),
    ):
        patch.setattr(limits, "BARRIER_TIMEOUT_S", 15.0)

        def life(number: int, of: Plan, feed: list[Feeding], before: Life | None) -> Life:
            return Life(
                of, feed, schedules[number], seed=f"{seed}/{number}" if number else str(seed), horizon_s=HORIZON_S,
                scratch=Path(scratch) / str(number), checkpoint_every_s=EVERY_S, retention=Retention(2), before=before,
                rocks=Path(scratch) / f"rocks{number}" if rocks else None, shuffled=partitions if number else None,
            )  # fmt: skip

        first = life(0, one.plan, early, None)
        lived = live(first, given, lambda before: life(1, plan, late, before), str(seed), Path(scratch), rocks)
        verdicts: list[Verdict] = []
        if lived.second is not None:
            verdicts += [*second_judged(one, lived, plan, counts), stands(first.store, lived)]
        if lived.first is not None:
            verdicts += [*judged_first(one, lived.first), names_every_task(lived.first)]
    verdicts.append(Verdict("the job begins again", not lived.stopped, "; ".join(lived.stopped)))
    happened = [f"life {n + 1}: {fault}" for n, schedule in enumerate(schedules) for fault in schedule.happened]
    told = [f"{way}, to {partitions}, asked for at {asked_s:.2f} s", *happened, *lived.operator.told]
    return Judged(topology, seed, lived, told, failed(verdicts))
