"""Map fields: entries kept one by one, seen by a step's function as a mapping.

    view    one key's Map within one run: decoded entries that were read or written
    slice   what sealed views have left, encoded               undo()   forgets it, keep() moves it down
    epoch   what kept slices have left, encoded                drop()   forgets it
    column  what is committed and applied

Invariants: nothing decoded outlives its run, so an entry's value belongs to the function that reads it; a value of a
type that can be changed in place counts as written once it was read, and is saved if its bytes differ; iteration sees
the entries as they stood when it began, in the order of keys. An entry that nobody asks for costs nothing.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from typing import Any, Final

from streamcore import limits
from streamcore.api.state import MapView
from streamcore.codecs import kinds
from streamcore.errors import RecordTooLarge, StateMismatch, shown
from streamcore.state.immutable import is_immutable
from streamcore.state.keys import decode_at
from streamcore.state.overlay import ABSENT, ENTRY_BYTES
from streamcore.state.rows import Entries
from streamcore.state.store import Column, Delta, prefix_end
from streamcore.topology.nodes import FieldSpec

Saved = dict[bytes, dict[bytes, bytes | None]]
"""State key to entry's full key to value; None deletes."""
_UNREAD: Final[Any] = object()


class MapField:
    """One Map field of a step, over the task's keys."""

    def __init__(self, field: FieldSpec, entries: Entries, column: Column, step: str) -> None:
        self.entries: Final = entries
        self.column: Final = column
        self.mutable: Final = not is_immutable(field.type)
        self._where = f"step {step!r}, Map {field.name!r}"
        self._check_key = kinds.Check(field.map_key)
        self._slice: Saved = {}
        self._epoch: Saved = {}
        self._entries = 0

    def view(self, state_key: bytes) -> View:
        return View(self, state_key)

    def seal(self, views: list[View]) -> None:
        """What these have written becomes the slice's. Raises TypeError, ValueError, RecordTooLarge."""
        for view in views:
            if view.written:
                self._seal(view)

    def _seal(self, view: View) -> None:
        keys = list(view.written)
        self._check_key(keys)
        values = [view.known[key] for key in keys]
        present = [value for value in values if value is not ABSENT]
        payloads = iter(self.entries.encode(present))
        into = self._slice.setdefault(view.state_key, {})
        for key, at, value in zip(keys, self.entries.keys(view.state_key, keys), values, strict=True):
            data = None if value is ABSENT else next(payloads)
            if data is not None and len(data) > limits.STATE_VALUE_BYTES:
                raise RecordTooLarge(
                    f"{self._where}: the entry {shown(key)} takes {len(data)} bytes, the limit is "
                    f"{limits.STATE_VALUE_BYTES}",
                    "keep a reference to the large value, or split it over several entries",
                )
            if at not in view.raw or view.raw[at] != data:
                into[at] = data

    # --- reading ----------------------------------------------------------------------------------------------

    def saved(self, state_key: bytes, at: bytes) -> bytes | None:
        for layer in (self._slice, self._epoch):
            entries = layer.get(state_key)
            if entries is not None and at in entries:
                return entries[at]
        return self.column.get(at)

    def over(self, state_key: bytes, start: bytes, stop: bytes) -> dict[bytes, bytes | None]:
        """What slice and epoch have between two entries' keys."""
        both = {**self._epoch.get(state_key, {}), **self._slice.get(state_key, {})}
        return {at: data for at, data in both.items() if start <= at < stop}

    def decoded(self, data: bytes) -> Any:
        try:
            return self.entries.decode([data])[0]
        except ValueError as error:
            raise StateMismatch(
                f"{self._where}: a saved entry is not of the type that the code has now: {error}",
                "go back to the type it was saved with, or use a new field of the new type",
            ) from error

    # --- slices and epochs ------------------------------------------------------------------------------------

    def keep(self) -> None:
        for state_key, entries in self._slice.items():
            self._epoch.setdefault(state_key, {}).update(entries)
            self._entries += len(entries)
        self._slice = {}

    def undo(self) -> None:
        self._slice = {}

    def drain(self) -> Delta:
        self.keep()
        written = [item for entries in self._epoch.values() for item in entries.items()]
        return Delta([at for at, _ in written], [data for _, data in written])

    def forget(self) -> None:
        """The epoch was applied, or undone."""
        self._slice, self._epoch, self._entries = {}, {}, 0

    @property
    def size_bytes(self) -> int:
        return self._entries * ENTRY_BYTES


class View(MapView[Any, Any]):
    """What a State's Map field holds while its step's function runs."""

    __slots__ = ("_field", "known", "raw", "state_key", "written")

    def __init__(self, field: MapField, state_key: bytes) -> None:
        self._field = field
        self.state_key = state_key
        self.known: dict[Any, Any] = {}
        """Read or written: value, or ABSENT."""
        self.written: dict[Any, None] = {}
        self.raw: dict[bytes, bytes] = {}
        """What mutable values were read from."""

    def __getitem__(self, key: Any) -> Any:
        value = self.known.get(key, _UNREAD)
        if value is _UNREAD:
            (at,) = self._field.entries.keys(self.state_key, [key])
            value = self._took(key, at, self._field.saved(self.state_key, at))
        if value is ABSENT:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self.known[key] = value
        self.written[key] = None

    def __delitem__(self, key: Any) -> None:
        self[key]  # raises KeyError
        self.known[key] = ABSENT
        self.written[key] = None

    def __iter__(self) -> Iterator[Any]:
        return (key for key, _, _ in self._between(*self._bounds()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return next(iter(self), _UNREAD) is not _UNREAD

    def __repr__(self) -> str:
        return f"Map({dict(self.items())!r})"

    def range(self, start: Any, stop: Any) -> Iterator[tuple[Any, Any]]:
        first, last = self._field.entries.keys(self.state_key, [start, stop])
        return self.items_between(first, last)

    def items(self) -> ItemsView[Any, Any]:
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        return _Values(self)

    def clear(self) -> None:
        for key in list(self):
            del self[key]

    def all_items(self) -> Iterator[tuple[Any, Any]]:
        return self.items_between(*self._bounds())

    def items_between(self, start: bytes, stop: bytes) -> Iterator[tuple[Any, Any]]:
        for key, at, data in self._between(start, stop):
            value = self.known.get(key, _UNREAD)
            if value is _UNREAD:
                value = self._took(key, at, data) if self._field.mutable else self._field.decoded(data)
            if value is not ABSENT:  # deleted since the iteration began
                yield key, value

    def _took(self, key: Any, at: bytes, data: bytes | None) -> Any:
        """An entry read from below."""
        value = self.known[key] = ABSENT if data is None else self._field.decoded(data)
        if data is not None and self._field.mutable:
            self.written[key] = None
            self.raw[at] = data
        return value

    def _bounds(self) -> tuple[bytes, bytes]:
        prefix = self._field.entries.prefix(self.state_key)
        return prefix, prefix_end(prefix)

    def _between(self, start: bytes, stop: bytes) -> Iterator[tuple[Any, bytes, bytes]]:
        """Key, full key, and bytes (of no meaning where `known` has the value), in the order of keys."""
        over: dict[bytes, bytes | None] = self._field.over(self.state_key, start, stop)
        own = list(self.known)
        for at, key in zip(self._field.entries.keys(self.state_key, own), own, strict=True):
            if start <= at < stop:
                over[at] = None if self.known[key] is ABSENT else b""
        skip = len(self._field.entries.prefix(self.state_key))
        for at, data in merged(self._field.column.scan(start, stop), over):
            yield decode_at(at, skip)[0], at, data


class _Items(ItemsView[Any, Any]):
    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._view = view

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._view.all_items()


class _Values(ValuesView[Any]):
    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._view = view

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._view.all_items())


def merged(below: Iterator[tuple[bytes, bytes]], over: dict[bytes, bytes | None]) -> Iterator[tuple[bytes, bytes]]:
    """A column's scan with later writes over it, in order of bytes, without what they delete."""
    later = iter(sorted(over.items()))
    ours = next(later, None)
    for at, data in below:
        while ours is not None and ours[0] < at:
            if ours[1] is not None:
                yield ours[0], ours[1]
            ours = next(later, None)
        if ours is not None and ours[0] == at:
            continue
        yield at, data
    while ours is not None:
        if ours[1] is not None:
            yield ours[0], ours[1]
        ours = next(later, None)
