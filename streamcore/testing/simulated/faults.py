"""What can go wrong in a run, where, and how it is drawn.

An `Injection` is one fault at one site, a plain value that can be printed, left out, and played again. A site is the
n-th port call of a slot, the n-th time a slot comes to a named point, or a moment. A `Schedule` is all of a run: drawn
from the seed while the run goes on, or given (a shrunk one), and then nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from streamcore.runtime.points import POINTS

Value = float | int | str


@dataclass(frozen=True, slots=True)
class Injection:
    where: str
    """`slot 1`, `job`."""
    site: str
    """`call`, `point NAME`, `time`."""
    nth: float
    """Of the slot's calls, of its visits to the point; for `time` the second."""
    kind: str
    how: tuple[Value, ...] = ()
    on: str = ""
    """The request that it met, for reading."""

    def __str__(self) -> str:
        at = f"at {self.nth:.2f} s" if self.site == "time" else f"{self.site} {self.nth:.0f}"
        text = DESCRIPTIONS[self.kind].format(*self.how)
        return f"{self.where}, {at}{f' ({self.on})' if self.on else ''}: {text}"


DESCRIPTIONS: Final = {
    "kill-before": "killed before the request is sent; slot {1} comes back in {0:.1f} s with {2} disk",
    "kill-after": "killed before the answer arrives; slot {1} comes back in {0:.1f} s with {2} disk",
    "kill": "killed; slot {1} comes back in {0:.1f} s with {2} disk",
    "power": "the machine loses power: {3} unsynced writes are lost, {4}; slot {1} comes back in {0:.1f} s",
    "pause": "stopped for {0:.1f} s, then awake again",
    "replace": "stopped for {0:.1f} s while another machine takes its slot",
    "lost-request": "the request is lost, the client gives up after {0:.2f} s; a copy arrives {1}",
    "lost-answer": "done, but the answer is lost, the client gives up after {0:.2f} s; a copy arrives {1}",
    "slow": "done after {0:.2f} s; a copy arrives {1}",
    "delay": "takes {0:.3f} s",
    "refused": "refused: the transaction can only be aborted",
    "cut-off": "no broker answers",
    "evict": "the group drops its member; what it is at takes {0:.2f} s",
    "damage": "the local state cannot be read",
    "join": "a worker of slot {0} joins, and leaves after {1:.1f} s",
    "leave": "is asked to stop, and comes back in {0:.1f} s",
    "wall": "the wall clock jumps by {0:.1f} s",
    "freeze": "everything stands still for {0:.1f} s",
    "store fail": "the checkpoint store does not answer",
    "store answer lost": "the checkpoint store does it, and does not answer",
    "store slow": "the checkpoint store takes {0:.1f} s",
    "store torn": "the checkpoint store keeps half of the object, and does not answer",
    "store corrupt": "the checkpoint store keeps a wrong byte",
    "store late": "the checkpoint store lists the object only after {0:.1f} s",
    "expire": "the group's offsets expire",
    "recreate": "the source topic is deleted and made anew",
    "stall": "partition {0} of {1} answers no fetch for {2:.1f} s",
    "behind": "partition {0} of {1} shows an old end, as a new leader may, for {2:.1f} s",
    "move": "the coordinator of {0} moves to another broker: it answers nobody for {1:.1f} s",
}
CALL_KINDS: Final = (
    "kill-before", "kill-after", "pause", "lost-request", "lost-answer", "slow", "delay", "cut-off", "evict",
)  # fmt: skip
TXN_KINDS: Final = (*CALL_KINDS, "refused")
POINT_KINDS: Final = ("kill", "pause", "evict")
TIME_KINDS: Final = ("kill", "power", "pause", "replace", "join", "leave", "wall", "freeze", "stall", "behind", "move")
OF_THE_JOB: Final = ("join", "freeze", "stall", "behind", "move")
STORE_KINDS: Final = (
    "store fail", "store answer lost", "store slow", "store torn", "store corrupt", "store late",
    "kill-before", "pause",
)  # fmt: skip
STOPPING_KINDS: Final = ("expire", "recreate")
"""Faults that must stop the job by name; each has its remedy."""
ALL_KINDS: Final = tuple(dict.fromkeys((*TXN_KINDS, *POINT_KINDS, *TIME_KINDS, "damage")))
TXN_REQUESTS: Final = frozenset(
    {"AddPartitionsToTxn", "AddOffsetsToTxn", "Produce", "TxnOffsetCommit", "EndTxn", "InitProducerId"}
)
TWIN_REQUESTS: Final = frozenset({"TxnOffsetCommit", "EndTxn"})
"""Requests that a client sends again by itself, and whose copy the broker cannot tell from a new one."""
COORDINATED: Final[Mapping[str, frozenset[str]]] = {
    "the group": frozenset({"JoinGroup", "Heartbeat", "LeaveGroup", "OffsetCommit", "OffsetFetch", "TxnOffsetCommit"}),
    "the transactions": frozenset({"InitProducerId", "AddPartitionsToTxn", "AddOffsetsToTxn", "EndTxn"}),
}
"""Requests that only the coordinator answers."""
NO_COPY: Final = "never"
DISKS: Final = ("its own", "an old copy of its", "a bare", "a strange", "a mistaken")
"""Strange: of the same job before it was reset, another lineage. Mistaken: of a commit that a broker has lost since."""
ARRIVALS: Final = ("before-flush", "after-flush", "after-send-offsets", "before-commit", "soon", "later")


@dataclass
class Rates:
    """How often, and which kinds: a seed has its own, so that some runs see one thing only (swarm testing)."""

    calls: float = 0.004
    """A fault a port call."""
    points: float = 0.01
    """A fault a visit of a named point."""
    times: float = 4
    """Faults at a moment of their own, a run."""
    kinds: frozenset[str] = frozenset(
        ALL_KINDS,
    )
    only_point: str = ""
    """Points are met by faults at this one alone; with weights, by kills."""
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    """`SITE KIND` (call, point or time) to a rate of its own, where not alike: what has none does not happen there."""
    store: float = 0.0
    """A fault a call of the checkpoint store."""
    store_kinds: Sequence[str] = ()
    """Which; none: all."""
    stopping: float = 0.0
    """The share of runs that meet a fault of STOPPING_KINDS."""

    @classmethod
    def drawn(cls, draw: Random) -> Rates:
        """A seed's own: some runs see everything, some two or three kinds and often, some one point."""
        way = draw.random()
        if way < 0.3:
            return cls(stopping=0.05)
        if way < 0.45:
            return cls(0.0, 0.25, 0.0, only_point=draw.choice(POINTS))
        kinds = draw.sample(ALL_KINDS, draw.choice((1, 2, 2, 3)))
        calls, points = draw.choice((0.004, 0.02, 0.05)), draw.choice((0.0, 0.02, 0.1))
        return cls(calls, points, draw.choice((2.0, 6.0)), frozenset(kinds))


@dataclass
class Schedule:
    rates: Rates
    random: Random
    given: dict[tuple[str, str, float], Injection] | None = None
    happened: list[Injection] = field(default_factory=list[Injection])
    slots: int = 3
    horizon_s: float = 10.0
    over: bool = False
    """Nothing is drawn any more: the run is left to heal."""

    def __post_init__(self) -> None:
        self._next_call = self._gap(self.rates.calls)
        self._draw_store = Random(f"{self.random.getstate()[1][:4]}/store") if self.rates.store else self.random

    @classmethod
    def of(cls, injections: Sequence[Injection], slots: int, horizon_s: float) -> Schedule:
        given = {(i.where, i.site, i.nth): i for i in injections}
        return cls(Rates(), Random(0), given, slots=slots, horizon_s=horizon_s)

    # --- sites ----------------------------------------------------------------------------------------------------

    def at_call(self, slot: int, nth: int, request: str) -> Injection | None:
        if self.given is not None:
            return self._play(f"slot {slot}", "call", nth)
        self._next_call -= 1
        if self._next_call > 0 or self.over:
            return None
        self._next_call = self._gap(self.rates.calls)
        kinds = self._allowed("call", TXN_KINDS if request in TXN_REQUESTS else CALL_KINDS)
        if request in ("Open", "Apply"):
            kinds = [
                k for k in (*kinds, *self._allowed("call", ("damage",))) if k.startswith(("kill", "pause", "damage"))
            ]
            kinds = [k for k in kinds if k != "damage" or request == "Open"]
        elif request in ("JoinGroup", "Heartbeat", "LeaveGroup"):
            kinds = [k for k in kinds if k in ("kill-before", "kill-after", "pause", "delay", "slow", "evict")]
        elif request in ("Produce", "AddPartitionsToTxn", "AddOffsetsToTxn", "InitProducerId", "Fetch"):
            kinds = [k for k in kinds if k != "lost-answer"]
        elif request == "EndTxn":
            kinds = [k for k in kinds if k != "cut-off"]
        if not kinds or self._spared("call", kinds, self.rates.calls):
            return None
        kind = self._one_of("call", kinds)
        return self._happens(Injection(f"slot {slot}", "call", nth, kind, self._how(kind, slot, request), request))

    def at_store(self, slot: int, nth: int, call: str) -> Injection | None:
        """A call of the checkpoint store; drawn apart, so that runs without one are what they were."""
        if self.given is not None:
            return self._play(f"slot {slot}", "store", nth)
        if self.over or self._draw_store.random() >= self.rates.store:
            return None
        kind = self._draw_store.choice(self.rates.store_kinds or STORE_KINDS)
        how = (round(self._draw_store.uniform(0.5, 20), 1),) if kind in ("store slow", "store late", "pause") else ()
        if kind == "kill-before":
            how = (round(self._draw_store.uniform(0.1, 3), 2), slot, self._draw_store.choice(("its own", "a bare")))
        return self._happens(Injection(f"slot {slot}", "store", nth, kind, how, call))

    def at_point(self, slot: int, nth: int, point: str) -> Injection | None:
        if self.given is not None:
            return self._play(f"slot {slot}", f"point {point}", nth)
        elsewhere = bool(self.rates.only_point) and self.rates.only_point != point
        if self.over or (elsewhere and not self.rates.weights):
            return None
        if self.random.random() >= self.rates.points:
            return None
        kinds = [kind for kind in self._allowed("point", POINT_KINDS) if kind != "kill" or not elsewhere]
        if not kinds or self._spared("point", kinds, self.rates.points):
            return None
        kind = self._one_of("point", kinds)
        return self._happens(Injection(f"slot {slot}", f"point {point}", nth, kind, self._how(kind, slot, "")))

    def at_times(self) -> list[Injection]:
        """Drawn before the run begins."""
        if self.given is not None:
            found = [i for i in self.given.values() if i.site == "time"]
            self.happened += found
            return found
        found: list[Injection] = []
        kinds = self._allowed("time", TIME_KINDS)
        if kinds:
            for _ in range(self._poisson(self.rates.times)):
                kind = self._one_of("time", kinds)
                slot = self.random.randrange(self.slots)
                where = "job" if kind in OF_THE_JOB else f"slot {slot}"
                found.append(self._timed(where, kind, slot))
        if self.random.random() < self.rates.stopping:
            kind = self.random.choice(STOPPING_KINDS)
            found.append(self._timed("job", kind, 0))
        for injection in found:
            self._happens(injection)
        return found

    # --- drawing --------------------------------------------------------------------------------------------------

    def _timed(self, where: str, kind: str, slot: int) -> Injection:
        return Injection(
            where, "time", round(self.random.uniform(0.2, self.horizon_s), 3), kind, self._how(kind, slot, "")
        )

    def _play(self, where: str, site: str, nth: float) -> Injection | None:
        found = (self.given or {}).get((where, site, nth))
        return None if found is None or self.over else self._happens(found)

    def _happens(self, injection: Injection) -> Injection:
        self.happened.append(injection)
        return injection

    def _one_of(self, site: str, kinds: Sequence[str]) -> str:
        weights = self.rates.weights
        if not weights:
            return self.random.choice(kinds)
        return self.random.choices(kinds, [weights[f"{site} {kind}"] for kind in kinds])[0]

    def _allowed(self, site: str, kinds: Sequence[str]) -> list[str]:
        weights = self.rates.weights
        if weights:
            return [kind for kind in kinds if weights.get(f"{site} {kind}", 0.0) > 0]
        return [kind for kind in kinds if kind in self.rates.kinds]

    def _spared(self, site: str, kinds: Sequence[str], rate: float) -> bool:
        """A place that only some kinds can meet is met as often as these have it, and not at the site's whole rate."""
        weights = self.rates.weights
        return bool(weights) and self.random.random() * rate >= sum(weights[f"{site} {kind}"] for kind in kinds)

    def _gap(self, rate: float) -> int:
        return 1 + int(self.random.expovariate(rate)) if rate > 0 else 1 << 60

    def _poisson(self, mean: float) -> int:
        count, left = 0, self.random.expovariate(1.0)
        while left < mean:
            count, left = count + 1, left + self.random.expovariate(1.0)
        return count

    def _how(self, kind: str, slot: int, request: str) -> tuple[Value, ...]:
        draw = self.random
        if kind in ("kill", "kill-before", "kill-after"):
            return self._back(slot)
        if kind == "power":
            return (*self._back(slot)[:2], "own", draw.randrange(4), draw.choice(("cleanly", "the last one torn")))
        if kind in ("pause", "replace"):
            return (round(draw.choice((draw.uniform(0.1, 3), draw.uniform(10.2, 13), 21.0)), 2),)
        if kind in ("lost-request", "lost-answer"):
            return round(draw.choice((0.1, 0.3, 1.0, 10.0)), 2), self._copy(request)
        if kind == "slow":
            return round(draw.uniform(0.1, 0.6), 3), self._copy(request)
        if kind == "delay":
            return (round(draw.uniform(0.001, 0.078), 4),)
        if kind == "join":
            return self.slots + draw.randrange(2), round(draw.uniform(0.5, 6), 2)
        if kind == "leave":
            return (round(draw.uniform(0.1, 3), 2),)
        if kind == "wall":
            return (round(draw.choice((-3600.0, -5.0, 2.0, 30.0)), 1),)
        if kind == "freeze":
            return (round(draw.choice((1.0, 12.0)), 1),)
        if kind == "stall":
            return draw.randrange(16), "a source", round(draw.uniform(0.5, 5), 2)
        if kind == "behind":
            return draw.randrange(16), "a journal", round(draw.uniform(0.5, 5), 2)
        if kind == "move":
            of = draw.choice(tuple(COORDINATED))
            return of, round(draw.choice((draw.uniform(0.1, 0.6), draw.uniform(0.6, 3), 12.0)), 2)
        if kind == "evict":
            return (round(draw.choice((0.0, draw.uniform(0.01, 0.6), draw.uniform(0.6, 3))), 2),)
        return ()

    def _back(self, slot: int) -> tuple[Value, ...]:
        """When, in which slot and with whose disk a dead worker is started again."""
        draw = self.random
        after_s = round(draw.choice((0.05, 0.2, draw.uniform(0.3, 3), 11.0)), 2)
        other = draw.random() < 0.15
        disk = draw.choices(DISKS, (11, 5, 4, 1, 3))[0]
        return after_s, self.slots + 2 + slot if other else slot, disk

    def _copy(self, request: str) -> str:
        return self.random.choice(ARRIVALS) if request in TWIN_REQUESTS and self.random.random() < 0.7 else NO_COPY
