"""Steps without state. Each is made from its node and what follows it, and is called with a batch.

A `Run` raises StepFailed for what a user's function raised or returned; nothing it did downstream needs undoing but
what the program undoes for the whole slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, compress, repeat, starmap
from typing import Any, TypeVar, cast

from streamcore.errors import shown
from streamcore.operators.batch import Batch
from streamcore.operators.errors import none_returned, refuse
from streamcore.topology.nodes import Filter, FlatMap, Map, MapBatch, MapItems, Only

Run = Callable[[Batch], None]


def nowhere(batch: Batch) -> None:
    """The end of a branch whose last step is there for its state."""


T = TypeVar("T")


def whole(results: list[T], batch: Batch) -> list[T]:
    """What map() gave for a batch. A StopIteration raised by a user's function would end it early, without a word."""
    if len(results) != len(batch):
        raise RuntimeError("the function raised StopIteration: give next() a default")
    return results


def fan_out(runs: Sequence[Run]) -> Run:
    """One batch to each consumer, in the order of the topology."""
    if not runs:
        return nowhere
    if len(runs) == 1:
        return runs[0]
    each = tuple(runs)

    def run(batch: Batch) -> None:
        for then in each:
            then(batch)

    return run


def map_step(node: Map, then: Run) -> Run:
    name, f = node.name, node.f

    def run(batch: Batch) -> None:
        try:
            values = whole(list(map(f, batch.values)), batch)
        except Exception as error:
            refuse(name, error)
        then(batch.with_values(values))

    return run


def map_items_step(node: MapItems, then: Run) -> Run:
    name, f = node.name, node.f

    def run(batch: Batch) -> None:
        keys = batch.keys if batch.keys is not None else repeat(None)
        try:
            values = whole(list(map(f, keys, batch.values)), batch)
        except Exception as error:
            refuse(name, error)
        then(batch.with_values(values))

    return run


def filter_step(node: Filter, then: Run) -> Run:
    name, f = node.name, node.f

    def run(batch: Batch) -> None:
        try:
            wanted = whole(list(map(bool, map(f, batch.values))), batch)
        except Exception as error:
            refuse(name, error)
        kept = select(batch, wanted)
        if kept is not None:
            then(kept)

    return run


def only_step(node: Only, then: Run) -> Run:
    of = node.of

    def run(batch: Batch) -> None:
        kept = select(batch, [isinstance(value, of) for value in batch.values])
        if kept is not None:
            then(kept)

    return run


def select(batch: Batch, wanted: list[bool]) -> Batch | None:
    """The records that are wanted; None when none is."""
    if True not in wanted:
        return None
    if False not in wanted:
        return batch
    keys, origins, positions = batch.keys, batch.origins, batch.positions
    return Batch(
        list(compress(batch.values, wanted)),
        None if keys is None else list(compress(keys, wanted)),
        list(compress(batch.times, wanted)),
        batch.tp,
        None if origins is None else list(compress(origins, wanted)),
        None if positions is None else list(compress(positions, wanted)),
    )


def flat_map_step(node: FlatMap, then: Run) -> Run:
    name, f = node.name, node.f

    def run(batch: Batch) -> None:
        try:
            many = whole(list(map(as_list, map(f, batch.values))), batch)
        except Exception as error:
            refuse(name, error)
        spread = expand(batch, many)
        if spread is not None:
            then(spread)

    return run


def as_list(result: Any) -> list[Any]:
    """What a user's function gave for one record. A str or a mapping is iterable, and surely a mistake."""
    if type(result) is list:
        return cast("list[Any]", result)
    if result is None or isinstance(result, str | bytes | dict):
        raise none_returned("the function", result)
    try:
        return list(result)
    except TypeError as error:
        if not hasattr(result, "__iter__"):
            raise none_returned("the function", result) from error
        raise


def expand(batch: Batch, many: list[list[Any]]) -> Batch | None:
    """Each record replaced by those in its list, which take over its key, time and origin; None when none is left."""
    values = list(chain.from_iterable(many))
    if not values:
        return None
    counts = list(map(len, many))
    keys, origins, positions = batch.keys, batch.origins, batch.positions
    return Batch(
        values,
        None if keys is None else repeated(keys, counts),
        repeated(batch.times, counts),
        batch.tp,
        None if origins is None else repeated(origins, counts),
        None if positions is None else repeated(positions, counts),
    )


def repeated(items: list[Any], counts: list[int]) -> list[Any]:
    return list(chain.from_iterable(starmap(repeat, zip(items, counts, strict=True))))


def map_batch_step(node: MapBatch, then: Run) -> Run:
    name, f, most = node.name, node.f, node.most

    def run(batch: Batch) -> None:
        given = batch.values
        values: list[Any] = []
        try:
            for i in range(0, len(given), most):
                part = given[i : i + most]
                values += _counted(f(part), len(part))
        except Exception as error:
            refuse(name, error)
        then(batch.with_values(values))

    return run


def _counted(got: Any, given: int) -> list[Any]:
    if not isinstance(got, Sequence) or isinstance(got, str | bytes):
        raise TypeError(f"the function returned {shown(got)}: return a sequence, one result a value, in order")
    results: list[Any] = list(got)  # pyright: ignore[reportUnknownArgumentType]
    if len(results) != given:
        raise ValueError(f"the function returned {len(results)} results for {given} values: return one a value")
    return results
