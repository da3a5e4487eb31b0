"""State objects: what a `process` function reads and assigns.

Each is an instance of a subclass of the user's State that has a real slot for every field, so that reading and writing
one costs what any attribute costs.

    HotStates    every Value is of an immutable built-in type: the objects themselves are cached by key, over epochs;
                 slots are compared and restored column by column
    ColdStates   a Value can be changed in place: objects are made for one batch, from bytes, and bytes are compared
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import compress, repeat
from operator import attrgetter, is_not
from typing import Any

from streamcore.codecs import kinds
from streamcore.errors import shown
from streamcore.operators.values import fits, immutable_classes
from streamcore.state.overlay import ABSENT, Overlay
from streamcore.state.rows import Rows
from streamcore.state.store import Column
from streamcore.topology.nodes import FieldSpec, StateSchema

Columns = Sequence[Sequence[Any]]


class StateObjects:
    def __init__(self, state: type[Any], schema: StateSchema) -> None:
        names = tuple(field.name for field in schema.fields)
        space: dict[str, Any] = {"__slots__": names, "__module__": state.__module__, "__qualname__": state.__qualname__}
        metaclass: Any = type(state)
        made: Any = metaclass(state.__name__, (state,), space)
        self._class: type[Any] = made
        self._setters: dict[str, Callable[[Any, Any], None]] = {name: _setter(made, name) for name in names}
        self.values = tuple(field for field in schema.fields if field.map_key is None)
        self.maps = tuple(field for field in schema.fields if field.map_key is not None)
        self._getters = [attrgetter(field.name) for field in self.values]
        self._classes = [_classes_of(field) for field in self.values]
        self._checks = [kinds.Check(_type_of(field)) for field in self.values]
        self.immutable = all(self._classes)
        """Every Value is of a built-in type that cannot be changed in place."""

    def make(self, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """Objects of these rows. Maps are still to be set."""
        objects: list[Any] = list(map(object.__new__, repeat(self._class, len(rows))))
        self.fill(objects, list(zip(*rows, strict=True)))
        return objects

    def fill(self, objects: list[Any], columns: Columns) -> None:
        for field, column in zip(self.values, columns, strict=True):
            self.set(field, objects, column)

    def set(self, field: FieldSpec, objects: Iterable[Any], column: Iterable[Any]) -> None:
        """One field of all objects."""
        deque(map(self._setters[field.name], objects, column), maxlen=0)

    def read(self, objects: list[Any]) -> Columns:
        """Raises AttributeError where a function has deleted a field."""
        return [list(map(getter, objects)) for getter in self._getters]

    def check_maps(self, field: FieldSpec, objects: list[Any], views: Sequence[Any]) -> None:
        """Raises TypeError where a function has put something else in a Map's place: it would be lost."""
        if any(map(is_not, map(attrgetter(field.name), objects), views)):
            raise TypeError(
                f"{self._class.__name__}.{field.name} was assigned: it is a Map, whose entries are assigned "
                f"(state.{field.name}[key] = value), or state.{field.name}.clear()"
            )

    def check(self, columns: Columns) -> None:
        """Raises TypeError for a value of another type than its field's, naming both."""
        for field, classes, check, column in zip(self.values, self._classes, self._checks, columns, strict=True):
            if classes and fits(list(column), classes):
                continue
            where = f"{self._class.__name__}.{field.name}"
            try:
                check(list(column))
            except TypeError as error:
                raise TypeError(f"{where}: {error}") from error
            bad = next((value for value in column if classes and not fits([value], classes)), None)
            if bad is not None:
                raise TypeError(f"{where}: {shown(bad)} is of a subclass, beyond 64 bits, or no valid Unicode")


def _setter(of: Any, name: str) -> Any:
    slot: Any = getattr(of, name)
    return slot.__set__


def changed(before: Columns, after: Columns) -> list[bool]:
    """By row: whether any field holds another object than before."""
    fields = [map(is_not, old, new) for old, new in zip(before, after, strict=True)]
    return list(fields[0]) if len(fields) == 1 else list(map(any, zip(*fields, strict=True)))


def _type_of(field: FieldSpec) -> Any:
    return kinds.union((field.type, None)) if field.optional else field.type


def _classes_of(field: FieldSpec) -> frozenset[type[Any]]:
    return immutable_classes(_type_of(field))


class HotStates(Overlay):
    """An overlay whose values are state objects."""

    def __init__(self, step: str, column: Column, rows: Rows, objects: StateObjects) -> None:
        super().__init__(step, column, _ObjectRows(rows, objects), lambda values: True)
        self._objects = objects
        self._defaults = rows.defaults()

    def state(self, keys: list[Any]) -> dict[Any, Any]:
        """Opens; the objects of at least these keys."""
        self.open(keys)
        return self.values

    def peek(self, key: Any) -> Any:
        """A copy."""
        columns = self._objects.read(self.read([key]))
        return self._objects.make(list(zip(*columns, strict=True)) or [()])[0]

    def _found(self, keys: list[Any]) -> list[Any]:
        found = super()._found(keys)
        if ABSENT in found:
            new = [key for key, state in zip(keys, found, strict=True) if state is ABSENT]
            self.values.update(zip(new, self._objects.make([self._defaults] * len(new)), strict=True))
            found = list(map(self.values.__getitem__, keys))
        return found

    def _before(self, found: list[Any]) -> Any:
        return self._objects.read(found)

    def _restore(self, keys: list[Any], before: Any) -> None:
        self._objects.fill(list(map(self.values.__getitem__, keys)), before)

    def _unpacked(self, keys: list[Any], found: list[Any]) -> list[Any]:
        return found

    def _settled(self, keys: list[Any], before: Any) -> list[Any]:
        after = self._objects.read(list(map(self.values.__getitem__, keys)))
        if not after:
            return []
        flags = changed(before, after)
        if False in flags:
            self._objects.check([list(compress(column, flags)) for column in after])
            return list(compress(keys, flags))
        self._objects.check(after)
        return keys


class _ObjectRows:
    """A packer of state objects."""

    def __init__(self, rows: Rows, objects: StateObjects) -> None:
        self._rows = rows
        self._objects = objects

    def encode(self, values: list[Any]) -> list[bytes]:
        return self._rows.encode(list(zip(*self._objects.read(values), strict=True)))

    def decode(self, payloads: list[bytes]) -> list[Any]:
        return self._objects.make(self._rows.decode(payloads))


class ColdStates:
    """The same for rows that can be changed in place."""

    def __init__(self, step: str, column: Column, rows: Rows, objects: StateObjects) -> None:
        self._overlay = Overlay(step, column, rows, lambda values: False)
        self._rows = rows
        self._objects = objects
        self._open: dict[Any, Any] = {}
        self.keep, self.undo, self.drain = self._overlay.keep, self._overlay.undo, self._overlay.drain
        self.committed, self.drop = self._overlay.committed, self._overlay.drop

    def state(self, keys: list[Any]) -> dict[Any, Any]:
        found = self._overlay.open(keys)
        self._open = dict(zip(keys, self._objects.make([self._row(row) for row in found]), strict=True))
        return self._open

    def close(self) -> None:
        after = self._objects.read(list(self._open.values()))
        self._objects.check(after)
        values, defaults = self._overlay.values, self._rows.defaults()
        for key, *row in zip(self._open, *after, strict=True):
            if values[key] is not ABSENT or row != defaults:  # what was only looked at is not saved
                values[key] = row
        self._overlay.close()
        self._open = {}

    def peek(self, key: Any) -> Any:
        return self._objects.make([self._row(row) for row in self._overlay.read([key])])[0]

    def _row(self, found: Any) -> Any:
        return self._rows.defaults() if found is ABSENT else found

    @property
    def size_bytes(self) -> int:
        return self._overlay.size_bytes
