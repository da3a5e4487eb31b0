"""aggregate: one accumulator a key, folded by slices, emitted once an epoch.

A slice opens its keys' accumulators in the overlay, folds its values into them in place, and closes them; the overlay
undoes what a failed slice leaves. The event time of a result is the latest of its inputs.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from streamcore.operators.batch import Batch
from streamcore.operators.errors import refuse
from streamcore.operators.stateless import Run, whole
from streamcore.operators.values import fits, immutable_classes
from streamcore.state.overlay import ABSENT, Overlay, Packer
from streamcore.state.store import Column, Delta
from streamcore.topology.nodes import Aggregate
from streamcore.types import TopicPartition


class AggregateStep:
    def __init__(self, node: Aggregate, then: Run, column: Column, packer: Packer, tp: TopicPartition) -> None:
        self.name = node.name
        self._zero, self._add, self._result = node.zero, node.add, node.result
        self._then = then
        self._tp = tp
        classes = immutable_classes(node.accumulator)
        self._overlay = Overlay(node.name, column, packer, lambda values: fits(values, classes))
        self._times: dict[Any, int] = {}
        self._origins: dict[Any, str] = {}
        self._slice_times: dict[Any, int] = {}
        self._slice_origins: dict[Any, str] = {}

    # --- records ----------------------------------------------------------------------------------------------

    def run(self, batch: Batch) -> None:
        keys, add = batch.keys or [], self._add
        try:
            latest = latest_times(keys, batch.times)
            accumulators = self._opened(list(latest))
            for key, value in zip(keys, batch.values, strict=True):
                accumulators[key] = add(accumulators[key], value)
            self._overlay.close()
        except Exception as error:
            refuse(self.name, error)
        merge_latest(self._slice_times, latest)
        if batch.origins is not None:
            self._slice_origins.update(zip(keys, batch.origins, strict=True))

    def _opened(self, keys: list[Any]) -> dict[Any, Any]:
        """The accumulators of at least these keys; new keys start from zero."""
        found = self._overlay.open(keys)
        accumulators = self._overlay.values
        if ABSENT in found:
            zero = self._zero
            accumulators.update((k, zero()) for k, value in zip(keys, found, strict=True) if value is ABSENT)
        return accumulators

    # --- the table --------------------------------------------------------------------------------------------

    def changed(self) -> Batch | None:
        """The accumulators of the epoch's changed keys, in the order of first change, for `emit`."""
        self.keep()
        if not self._times:
            return None
        keys = list(self._times)
        origins = [self._origins[key] for key in keys] if self._origins else None
        return Batch(self._overlay.read(keys), keys, list(self._times.values()), self._tp, origins)

    def emit(self, batch: Batch) -> None:
        """A part of `changed`, as results, to what follows."""
        try:
            values = whole(list(map(self._result, batch.values)), batch)
        except Exception as error:
            refuse(self.name, error)
        self._then(batch.with_values(values))

    # --- slices and epochs ------------------------------------------------------------------------------------

    def keep(self) -> None:
        self._overlay.keep()
        if self._slice_times:
            merge_latest(self._times, self._slice_times)
            self._origins.update(self._slice_origins)
            self._slice_times, self._slice_origins = {}, {}

    def undo(self) -> None:
        self._overlay.undo()
        self._slice_times, self._slice_origins = {}, {}

    def drain(self) -> Delta:
        return self._overlay.drain()

    def committed(self) -> None:
        self._overlay.committed()
        self._forget()

    def drop(self) -> None:
        self._overlay.drop()
        self._forget()

    def _forget(self) -> None:
        self._times, self._origins, self._slice_times, self._slice_origins = {}, {}, {}, {}

    @property
    def size_bytes(self) -> int:
        return self._overlay.size_bytes


def latest_times(keys: list[Any], times: list[int]) -> dict[Any, int]:
    """Each distinct key's latest time, in the order of first appearance."""
    if times == sorted(times):
        return dict(zip(keys, times, strict=True))
    latest = dict.fromkeys(keys, 0)
    latest.update(sorted(zip(keys, times, strict=True), key=itemgetter(1)))
    return latest


def merge_latest(into: dict[Any, int], more: dict[Any, int]) -> None:
    """Keys keep their places. Time mostly goes on, and then the newer one is the latest."""
    if into and min(more.values()) < max(into.values()):
        known = into.get
        into.update((key, time) for key, time in more.items() if time >= known(key, time))
    else:
        into.update(more)
