"""The seam between a client and the broker: every request of every client goes through one `Wire`, by name.

A simulator gives each process a wire of its own and there delays, drops or repeats: `deliver` hands the request to the
broker, once a call, and may be called later or twice. What a lost request or answer is for the client is the wire's
to raise: LogUnavailable where nothing was decided, OutcomeUnknown for send_offsets, commit, abort.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

T = TypeVar("T")

Request = Literal[
    "Metadata",
    "CreateTopics",
    "DeleteTopics",
    "DescribeConfigs",
    "DeleteRecords",
    "ListOffsets",
    "Fetch",
    "JoinGroup",
    "Heartbeat",
    "LeaveGroup",
    "OffsetCommit",
    "OffsetFetch",
    "DescribeGroups",
    "DeleteGroups",
    "InitProducerId",
    "AddPartitionsToTxn",
    "AddOffsetsToTxn",
    "Produce",
    "TxnOffsetCommit",
    "EndTxn",
]


class Wire(Protocol):
    def call(self, request: Request, deliver: Callable[[], T]) -> T: ...

    def alive(self) -> bool:
        """Whether the process at the other end sends heartbeats."""
        ...


class DirectWire:
    """Nothing between client and broker. `suspended`: the process is stopped, as by SIGSTOP, or killed."""

    def __init__(self) -> None:
        self.suspended = False

    def call(self, request: Request, deliver: Callable[[], T]) -> T:
        return deliver()

    def alive(self) -> bool:
        return not self.suspended
