"""Whether a job has nothing left to do, asked of the log alone: job-wide, whoever runs its workers.

Idle: for every input partition, sources first and then shuffle by shuffle, no committed record stands at or after the
group's committed offset; and on shuffles nothing undecided stands either. Offsets alone cannot tell, for transaction
markers take offsets too; so the partitions are read. The order makes it sound: once a stage's input is found used up,
what it gave is in the log (flushed before its commit), visible or as an undecided record, before its shuffle is read.
On a source, somebody else's open transaction is not ours to wait for: "to its stable end".

Called between a worker's turns or by the supervisor, a few times a second at most; each call opens readers of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import RetryError
from streamcore.log.port import Admin, Log
from streamcore.topology.plan import Plan, Stage
from streamcore.types import Offset, Partition, TopicPartition

POLL_S: Final = 0.05


class IdleCheck:
    def __init__(self, plan: Plan, log: Log, admin: Admin, clock: Clock) -> None:
        self._plan = plan
        self._log = log
        self._admin = admin
        self._clock = clock

    def idle(self) -> bool:
        """False too when the log does not answer in time: then nothing is known."""
        try:
            return all(self._used_up(stage) for stage in self._plan.stages)
        except RetryError:
            return False

    def _used_up(self, stage: Stage) -> bool:
        info = self._admin.topics([stage.topic]).get(stage.topic)
        if info is None:
            return False
        tps = [TopicPartition(stage.topic, Partition(p)) for p in range(info.partitions)]
        committed = self._admin.committed(self._plan.job, tps, limits.CALL_TIMEOUT_S, stable=False)
        if len(committed) < len(tps):
            return False  # a task has not begun
        stable = nothing_after(self._log, {tp: at.offset for tp, at in committed.items()}, self._clock)
        if stable is None or not stage.is_shuffle:
            return stable is not None
        return nothing_after(self._log, stable, self._clock, committed=False) is not None


def nothing_after(
    log: Log, starts: Mapping[TopicPartition, Offset], clock: Clock, committed: bool = True
) -> dict[TopicPartition, Offset] | None:
    """The end of each partition when no record stands at or after its start; None when one does, or when the ends are
    not reached in time. With `committed` False undecided records count, and the ends are the logs'."""
    deadline = clock.monotonic_s() + limits.CALL_TIMEOUT_S
    reader = log.reader(starts, committed=committed)
    patience_s = 0.0  # the embedded log knows at once; no need to wait for records that mostly do not come
    try:
        while clock.monotonic_s() < deadline:
            if reader.poll(1, patience_s):
                return None
            patience_s = POLL_S
            if reader.ended() >= starts.keys():
                return {tp: reader.position(tp) for tp in starts}
        return None
    finally:
        reader.close()
