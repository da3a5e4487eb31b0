"""dedupe: the inbox before a stream. Of the records of one key with one id, the first passes."""

from __future__ import annotations

from typing import Protocol

from streamcore import limits
from streamcore.inbox.inbox import ACCEPTED, DUPLICATE, TOO_OLD, Inbox
from streamcore.operators.batch import Batch
from streamcore.operators.errors import StepFailed, refuse
from streamcore.operators.stateless import Run, select, whole
from streamcore.state.keys import encode_key, encode_keys, group_prefix
from streamcore.state.store import Column, Delta
from streamcore.topology.nodes import Dedupe, Skip


class Counters(Protocol):
    """What steps count, a batch at a time (observe.metrics.Metrics)."""

    def deduped(self, step: str, accepted: int, duplicates: int, too_old: int) -> None: ...


class Prefixes(dict[object, bytes]):
    """Key to key group's prefix, for the keys met of late."""

    def __missing__(self, key: object) -> bytes:
        if len(self) >= limits.KEY_CACHE_ENTRIES:
            self.clear()
        found = self[key] = group_prefix(encode_key(key))
        return found


class DedupeStep:
    def __init__(self, node: Dedupe, then: Run, column: Column, counters: Counters) -> None:
        """Raises StateMismatch, StateDamaged."""
        self.name = node.name
        self._by = node.by
        self._too_old = node.too_old
        self._keep_ms = node.keep_ms
        self._then = then
        self._counters = counters
        self._prefix_of = Prefixes().__getitem__
        self._inbox = Inbox(column, node.keep_ms, node.name)
        self._slice = [0, 0, 0]
        """Accepted, duplicate, too old in the open slice."""

    def run(self, batch: Batch) -> None:
        try:
            ids = encode_keys(whole(list(map(self._by, batch.values)), batch))
            prefixes = list(map(self._prefix_of, batch.keys or []))
            verdicts = self._inbox.admit(ids, prefixes, batch.times)
        except Exception as error:
            refuse(self.name, error)
        if TOO_OLD in verdicts and not isinstance(self._too_old, Skip):
            self._refuse_old(batch)
        self._slice = [n + verdicts.count(v) for v, n in zip((ACCEPTED, DUPLICATE, TOO_OLD), self._slice, strict=True)]
        fresh = select(batch, [verdict == ACCEPTED for verdict in verdicts])
        if fresh is not None:
            self._then(fresh)

    def _refuse_old(self, batch: Batch) -> None:
        """By the step's own policy, which holds for one record at a time."""
        if len(batch) == 1:
            self._counters.deduped(self.name, 0, 0, 1)
        since = self._inbox.known_since_ms
        cause = ValueError(
            f"the record's event time is before {since} ms, from where on ids are known (keep is {self._keep_ms} ms): "
            "it may have been processed already"
        )
        raise StepFailed(self.name, cause, self._too_old)

    # --- slices and epochs ------------------------------------------------------------------------------------

    def keep(self) -> None:
        if any(self._slice):
            self._counters.deduped(self.name, *self._slice)
            self._slice = [0, 0, 0]
        self._inbox.mark()

    def undo(self) -> None:
        self._slice = [0, 0, 0]
        self._inbox.undo()

    def drain(self) -> Delta:
        self.keep()
        return self._inbox.drain()

    def committed(self) -> None:
        self._inbox.committed()

    def drop(self) -> None:
        self._slice = [0, 0, 0]
        self._inbox.drop()

    @property
    def size_bytes(self) -> int:
        return self._inbox.size_bytes
