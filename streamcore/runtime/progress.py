"""A worker's progress, as a snapshot for the live line, the log and the tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamcore.types import Epoch, TaskId


@dataclass(frozen=True, slots=True)
class Progress:
    records_in: int
    records_out: int
    lag: int
    commits: int
    tasks: Mapping[TaskId, Epoch]
    """The last committed epoch of each task that runs here."""
    taking_over: bool
    uncommitted: int
    """Records in the open epoch, or polled and waiting."""
