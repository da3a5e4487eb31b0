"""Committed records of some topics as they come: `--show` and `topics read`.

Not for the engine's own reading: no group, no offsets kept. One thread, that of the caller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import LogUnavailable, TopicError
from streamcore.log.port import Admin, Log, Reader, Run
from streamcore.runtime.idle import nothing_after
from streamcore.types import Offset, Partition, TopicPartition


def partitions_of(admin: Admin, topics: Iterable[str]) -> list[TopicPartition]:
    """Raises TopicError, naming a topic that does not exist."""
    wanted = list(dict.fromkeys(topics))
    found = admin.topics(wanted)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise TopicError(f"no such topic: {', '.join(missing)}", "`streamcore topics list` shows those that exist")
    return [TopicPartition(name, Partition(p)) for name in wanted for p in range(found[name].partitions)]


class Show:
    def __init__(
        self,
        log: Log,
        starts: Mapping[TopicPartition, Offset],
        emit: Callable[[Run], None],
        clock: Clock,
        committed: bool = True,
        headers: bool = False,
    ) -> None:
        self._log = log
        self._tps = frozenset(starts)
        self._emit = emit
        self._clock = clock
        self._committed = committed
        self._reader: Reader = log.reader(starts, committed=committed, headers=headers)

    def step(self, timeout_s: float = 0.0) -> bool:
        """What has come. True when the (stable) end has been reached."""
        for run in self._reader.poll(limits.POLL_RECORDS, timeout_s):
            self._emit(run)
        return self._reader.ended() >= self._tps

    def finish(self) -> None:
        """On to the end, and past what is still being decided: the last commit's records are among what was shown.
        Raises LogUnavailable when that does not come within a transaction's timeout."""
        deadline = self._clock.monotonic_s() + limits.TRANSACTION_TIMEOUT_MS / 1000 + limits.CALL_TIMEOUT_S
        while self._clock.monotonic_s() < deadline:
            if self.step() and self._all_decided():
                return
            self.step(timeout_s=0.05)
        raise LogUnavailable("the shown topics' last records are still undecided", "look for a transaction left open")

    def close(self) -> None:
        self._reader.close()

    def _all_decided(self) -> bool:
        ends = {tp: self._reader.position(tp) for tp in self._tps}
        return nothing_after(self._log, ends, self._clock, committed=False) is not None


def as_text(run: Run) -> list[str]:
    """A line a record: the value, after the key and a tab where there is one."""
    return [
        _text(value) if key is None else f"{_text(key)}\t{_text(value)}"
        for key, value in zip(run.keys, run.values, strict=True)
    ]


def as_json(run: Run) -> list[str]:
    """A line a record: {partition, offset, key, value, timestamp}; timestamp in ms, bytes that are no UTF-8 escaped.
    A run that was read with headers has them as a sixth field; of those with one name the last."""
    lines: list[dict[str, Any]] = [
        {
            "partition": run.tp.partition,
            "offset": offset,
            "key": None if key is None else _text(key),
            "value": None if value is None else _text(value),
            "timestamp": time_ms,
        }
        for offset, key, value, time_ms in zip(run.offsets, run.keys, run.values, run.times, strict=True)
    ]
    for line, told in zip(lines, run.headers or (), strict=False):
        line["headers"] = {name: _text(data) for name, data in told or ()}
    return [json.dumps(line, ensure_ascii=False) for line in lines]


def _text(data: bytes | None) -> str:
    return "" if data is None else data.decode("utf-8", errors="backslashreplace")
