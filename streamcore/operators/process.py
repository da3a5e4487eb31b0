"""process: a user's function over each record, with the state of its key.

A slice's keys are read at once, and their state objects made; the function runs record by record; then what has
changed is found by comparing slots, checked against the declared types, and written into the overlay, where it can
still be undone with the slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import compress, repeat
from operator import sub
from random import Random
from types import GeneratorType
from typing import Any, Final
from uuid import UUID

from streamcore.codecs.dynamic import Registry
from streamcore.errors import TopologyError
from streamcore.operators.batch import Batch
from streamcore.operators.errors import refuse
from streamcore.operators.maps import MapField, View
from streamcore.operators.stateless import Run, as_list, repeated
from streamcore.operators.states import Columns, StateObjects, changed
from streamcore.state.keys import encode_keys, state_keys
from streamcore.state.overlay import ABSENT, Overlay
from streamcore.state.rows import VERSIONS_KEY, Entries, Rows, check_versions
from streamcore.state.store import Column, Delta
from streamcore.topology.nodes import Process, StateSchema

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_AS_THEY_ARE: Final = frozenset((list, tuple, GeneratorType))


class Context:
    """api.Context, one object a step, set anew for each record."""

    __slots__ = ("key", "now_ms", "origin", "random", "time_ms")

    def __init__(self, random: Random) -> None:
        self.random = random
        self.key: Any = None
        self.time_ms = 0
        self.now_ms = 0
        self.origin: str | None = None

    @property
    def event_time(self) -> datetime:
        return _EPOCH + timedelta(milliseconds=self.time_ms)

    @property
    def now(self) -> datetime:
        return _EPOCH + timedelta(milliseconds=self.now_ms)

    @property
    def correlation_id(self) -> str:
        if self.origin is None:
            raise TopologyError(
                "ctx.correlation_id was asked for in a way that could not be seen when the job was built",
                "name it in the step's function itself (ctx.correlation_id), or set correlation_ids=True on the Job",
            )
        return self.origin

    def uuid(self) -> UUID:
        return UUID(int=self.random.getrandbits(128), version=4)


class ProcessStep:
    def __init__(
        self, node: Process, then: Run, column: Column, registry: Registry, context: Context, now_ms: Callable[[], int]
    ) -> None:
        """Raises StateMismatch for state saved by a version that the code cannot read."""
        schema: StateSchema = node.state.__schema__
        rows = Rows(schema, registry, node.name)
        self.name = node.name
        self._on_event = node.on_event
        self._then = then
        self._context = context
        self._now_ms = now_ms
        self._rows = rows
        self._objects = StateObjects(node.state, schema)
        self._immutable = self._objects.immutable
        self._defaults = rows.defaults()
        self._overlay = Overlay(node.name, column, rows, lambda values: self._immutable)
        self._maps = [
            MapField(f, Entries(schema, f, registry, node.name), column, node.name) for f in self._objects.maps
        ]
        self._versions = check_versions(column, schema, node.name)
        """To be written with the next change."""
        self._views: list[list[View]] = []

    def run(self, batch: Batch) -> None:
        keys = batch.keys or []
        distinct = list(dict.fromkeys(keys))
        try:
            rows = self._overlay.read(distinct)
            objects, before = self._made(distinct, rows)
            out, ends = self._called(batch, dict(zip(distinct, objects, strict=True)))
            self._write(distinct, rows, objects, before)
        except Exception as error:
            refuse(self.name, error)
        if out:
            self._then(_spread(batch, out, ends))

    def _called(self, batch: Batch, states: dict[Any, Any]) -> tuple[list[Any], list[int]]:
        """The function over every record: what it gave, and how much of it stood after each."""
        on_event, context = self._on_event, self._context
        context.now_ms = self._now_ms()
        out: list[Any] = []
        ends: list[int] = []
        extend, ended = out.extend, ends.append
        origins = batch.origins if batch.origins is not None else repeat(None)
        records = zip(batch.keys or [], batch.values, batch.times, origins)  # noqa: B905 - origins may be endless
        for key, value, time_ms, origin in records:
            context.key = key
            context.time_ms = time_ms
            context.origin = origin
            result = on_event(value, states[key], context)
            if result is not None:
                extend(result if type(result) in _AS_THEY_ARE else as_list(result))
            ended(len(out))
        return out, ends

    def _made(self, keys: list[Any], rows: list[Any]) -> tuple[list[Any], Columns]:
        """State objects of these keys, and their Values as they are before the function runs."""
        fresh = [self._fresh() if row is ABSENT else row for row in rows] if ABSENT in rows else rows
        objects, before = self._objects.make(fresh)
        if self._maps:
            at = state_keys(encode_keys(keys))
            self._views = [list(map(field.view, at)) for field in self._maps]
            for spec, views in zip(self._objects.maps, self._views, strict=True):
                self._objects.set(spec, objects, views)
        return objects, before

    def _fresh(self) -> Sequence[Any]:
        return self._defaults if self._immutable else self._rows.defaults()

    def _write(self, keys: list[Any], rows: list[Any], objects: list[Any], before: Columns) -> None:
        """What the function has changed, into the slice."""
        for field, spec, views in zip(self._maps, self._objects.maps, self._views, strict=True):
            self._objects.check_maps(spec, objects, views)
            field.seal(views)
        if not before:
            return
        after = self._objects.read(objects)
        if self._immutable:
            flags = changed(before, after)
        else:  # an object of before may have changed in place: it is written, and compared as bytes
            flags = [row is not ABSENT or list(new) != self._defaults for row, *new in zip(rows, *after, strict=True)]
        if True in flags:
            after = [list(compress(column, flags)) for column in after]
            self._objects.check(after)
            self._overlay.write(dict(zip(compress(keys, flags), zip(*after, strict=True), strict=True)))

    def peek(self, key: Any) -> Any:
        """The state object of a key as it stands, for tests."""
        return self._made([key], self._overlay.read([key]))[0][0]

    # --- slices and epochs ------------------------------------------------------------------------------------

    def keep(self) -> None:
        self._overlay.keep()
        for field in self._maps:
            field.keep()

    def undo(self) -> None:
        self._overlay.undo()
        for field in self._maps:
            field.undo()

    def drain(self) -> Delta:
        delta = self._overlay.drain()
        for field in self._maps:
            entries = field.drain()
            delta = Delta(delta.keys + entries.keys, delta.values + entries.values)
        if delta and self._versions is not None:
            delta = Delta([*delta.keys, VERSIONS_KEY], [*delta.values, self._versions])
        return delta

    def committed(self) -> None:
        if self._overlay.size_bytes or any(field.size_bytes for field in self._maps):
            self._versions = None  # written with them
        self._overlay.committed()
        for field in self._maps:
            field.forget()

    def drop(self) -> None:
        self._overlay.drop()
        for field in self._maps:
            field.forget()

    @property
    def size_bytes(self) -> int:
        return self._overlay.size_bytes + sum(field.size_bytes for field in self._maps)


def _spread(batch: Batch, out: list[Any], ends: list[int]) -> Batch:
    """The outputs, each with the key, time and origin of the record that it came of."""
    if len(out) == len(ends) and ends == list(range(1, len(ends) + 1)):
        return batch.with_values(out)
    counts = list(map(sub, ends, [0, *ends]))
    keys, origins, positions = batch.keys, batch.origins, batch.positions
    return Batch(
        out,
        None if keys is None else repeated(keys, counts),
        repeated(batch.times, counts),
        batch.tp,
        None if origins is None else repeated(origins, counts),
        None if positions is None else repeated(positions, counts),
    )
