"""Numbers and names that could be swapped by mistake, each a type of its own."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, NewType

Partition = NewType("Partition", int)
Offset = NewType("Offset", int)
Epoch = NewType("Epoch", int)
"""One commit of one task; the first (genesis) is 0 and each later one is its predecessor plus one."""
Slot = NewType("Slot", int)
"""A worker's stable number: group.instance.id and transactional.id are JOB.SLOT."""
TimestampMs = NewType("TimestampMs", int)
"""Event time: milliseconds since the Unix epoch, UTC."""


class TopicPartition(NamedTuple):
    topic: str
    partition: Partition

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class TaskId(NamedTuple):
    """(stage, partition): the unit of ownership, of state and of epochs."""

    stage: str
    partition: Partition

    def __str__(self) -> str:
        return f"{self.stage}[{self.partition}]"


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final[Any] = _Unknown()
"""The static type of a value that no annotation or topic tells (a lambda's result)."""
