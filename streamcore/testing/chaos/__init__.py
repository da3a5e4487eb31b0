"""Chaos for your own topology, in a unit test: the real runtime in a simulated world, many seeds, pure checks.

    def test_counts_survive_anything() -> None:
        report = chaos.run(
            job,
            feeds=[chaos.feed(lines, ["to be or not to be"] * 50)],
            faults=[chaos.Kill(), chaos.Pause(), chaos.Network(), chaos.Disk()],
            seeds=range(100),
            checks=[chaos.same_as_quiet_run(counts), chaos.no_gaps_or_repeats()],
        )
        assert report.ok, report.explain()

Three workers of the job run in one thread and simulated time; a seed decides who goes on when, and what goes wrong
where. The same seed gives the same history, on any machine. A run that fails is run again with fewer and fewer faults,
and `explain` tells what is left: the faults, the first wrong record, and the epochs it went through.
"""

from __future__ import annotations

try:
    import greenlet as _greenlet
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("streamcore.testing.chaos needs greenlet: pip install 'streamcore[testing]'") from error

from streamcore.testing.chaos.checks import Check, History, no_gaps_or_repeats, same_as_quiet_run
from streamcore.testing.chaos.faults import (
    CheckpointStore,
    Clock,
    CorruptCheckpoint,
    Disk,
    Duplicate,
    Fault,
    Kill,
    Network,
    Pause,
    Rebalance,
    Reorder,
    everything,
)
from streamcore.testing.chaos.feeds import Feed, feed
from streamcore.testing.chaos.runs import Override, Report, override, run
from streamcore.testing.chaos.telling import Failure

del _greenlet

__all__ = [
    "Check",
    "CheckpointStore",
    "Clock",
    "CorruptCheckpoint",
    "Disk",
    "Duplicate",
    "Failure",
    "Fault",
    "Feed",
    "History",
    "Kill",
    "Network",
    "Override",
    "Pause",
    "Rebalance",
    "Reorder",
    "Report",
    "everything",
    "feed",
    "no_gaps_or_repeats",
    "override",
    "run",
    "same_as_quiet_run",
]
