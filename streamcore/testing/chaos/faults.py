"""What goes wrong in a chaos run, each fault by a rate, and the simulator's rates that they come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

from streamcore.runtime.points import POINTS
from streamcore.testing.simulated.faults import Rates
from streamcore.testing.simulated.feeds import Disturbance


@dataclass(frozen=True)
class Duplicate:
    """This share of the events reaches the topic twice: what an at-least-once source does. Use `dedupe`."""

    rate: float = 0.1


@dataclass(frozen=True)
class Reorder:
    """An event may reach the topic up to this late, behind ones that happened after it."""

    by: timedelta = timedelta(seconds=2)


@dataclass(frozen=True)
class Kill:
    """kill -9 and a restart: in the same slot or another, with its disk, an old copy of it, or a bare one. `at`: a
    point of streamcore.runtime.points.POINTS, each visit with this chance; `anywhere`: at every point, and now and
    then in the middle of any call."""

    at: str = "anywhere"
    rate: float = 0.02


@dataclass(frozen=True)
class Pause:
    """Stopped and awake again, as by SIGSTOP: sometimes for longer than the session, so that a zombie awakes, sometimes
    while another machine takes its slot."""

    rate: float = 0.01


@dataclass(frozen=True)
class Network:
    """Calls that are lost, or whose answer is; calls that take long, and whose copies arrive in the next transaction;
    partitions without a leader, coordinators that move."""

    rate: float = 0.01


@dataclass(frozen=True)
class Disk:
    """Machines that lose power: unsynced writes are gone, the last one is torn; state that cannot be read."""

    rate: float = 0.01


@dataclass(frozen=True)
class Rebalance:
    """Workers that join and leave, some properly and some by dying."""

    rate: float = 0.02


@dataclass(frozen=True)
class Clock:
    """Wall clocks that jump, back as well; a whole cluster that stands still."""

    rate: float = 0.02


@dataclass(frozen=True)
class CheckpointStore:
    """The job has barriers each second, and a checkpoint store that does not answer, is slow, keeps half of what it is
    given, or a wrong byte of it, and lists things late."""

    rate: float = 0.03


@dataclass(frozen=True)
class CorruptCheckpoint:
    """The job has barriers each second, and a checkpoint store that keeps a wrong byte now and then. Give Disk beside
    it, so that something is restored."""

    rate: float = 0.03


Fault: TypeAlias = (
    Duplicate | Reorder | Kill | Pause | Network | Disk | Rebalance | Clock | CheckpointStore | CorruptCheckpoint
)
OF_THE_STORE: Final = (CheckpointStore, CorruptCheckpoint)
SPOILS: Final = ("store corrupt",)


def everything() -> list[Fault]:
    """All that can go wrong around a job without checkpoints; events come in order and once. Add Duplicate and
    Reorder where the topology is made for them, CheckpointStore for a job with barriers."""
    return [Kill(), Pause(), Network(), Disk(), Rebalance(), Clock()]


IN_CALLS = 0.1
"""A rate counts at named points; at a single call of a port it is this share of it (there are ten times as many)."""
AT_TIMES = 100
"""For faults that come at a moment of their own: this many moments a run."""


def rates(faults: Sequence[Fault]) -> Rates:
    calls: dict[str, float] = {}
    points: dict[str, float] = {}
    times: dict[str, float] = {}
    only_point = ""
    refuse(faults)
    for fault in faults:
        match fault:
            case Kill(at, rate):
                points["kill"] = rate
                if at == "anywhere":
                    calls["kill-before"] = calls["kill-after"] = rate * IN_CALLS / 2
                elif at in POINTS:
                    only_point = at
                else:
                    raise ValueError(f"no crash point {at!r}: anywhere, or one of {', '.join(POINTS)}")
            case Pause(rate):
                points["pause"], calls["pause"], times["replace"] = rate, rate * IN_CALLS, rate
            case Network(rate):
                for kind in ("lost-request", "lost-answer", "slow", "delay", "cut-off", "refused"):
                    calls[kind] = rate * IN_CALLS
                times["stall"] = times["move"] = rate / 2
            case Disk(rate):
                times["power"], calls["damage"] = rate, rate
            case Rebalance(rate):
                times["join"] = times["leave"] = rate / 2
            case Clock(rate):
                times["wall"] = times["freeze"] = rate / 2
            case Duplicate() | Reorder() | CheckpointStore() | CorruptCheckpoint():
                pass
    sites = {"call": calls, "time": times, "point": points}
    weights = {f"{site} {kind}": rate for site, rates in sites.items() for kind, rate in rates.items()}
    return Rates(
        calls=sum(calls.values()),
        points=sum(points.values()),
        times=AT_TIMES * sum(times.values()),
        kinds=frozenset((*calls, *times, *points)),
        only_point=only_point,
        weights=weights,
        store=sum(fault.rate for fault in faults if isinstance(fault, OF_THE_STORE)),
        store_kinds=() if any(isinstance(fault, CheckpointStore) for fault in faults) else SPOILS,
    )


def with_checkpoints(faults: Sequence[Fault]) -> bool:
    return any(isinstance(fault, OF_THE_STORE) for fault in faults)


def refuse(faults: Sequence[object]) -> None:
    """What would do nothing, or something else than it says. Raises ValueError, TypeError."""
    for fault in faults:
        if not isinstance(fault, Fault):
            raise TypeError(f"{fault!r} is no fault: give one as chaos.Kill(), or chaos.everything()")
        rate = 0.0 if isinstance(fault, Reorder) else fault.rate
        if not 0 <= rate <= 1:
            raise ValueError(f"{fault}: a rate lies between 0 and 1")
    for kind, times in Counter(type(fault).__name__ for fault in faults).items():
        if times > 1:
            raise ValueError(f"{kind} is given {times} times, and would count once: give one, and others in other runs")


def disturbance(faults: Sequence[Fault]) -> Disturbance:
    duplicates = next((f.rate for f in faults if isinstance(f, Duplicate)), 0.0)
    late = next((f.by for f in faults if isinstance(f, Reorder)), timedelta())
    return Disturbance(duplicates, late.total_seconds())
