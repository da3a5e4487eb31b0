"""State objects: what a `process` function reads and assigns.

Each is an instance of a subclass of the user's State that has a real slot for every field, so that reading and writing
one costs what any attribute costs. Objects live for one slice: they are filled from rows, column by column, and read
back the same way; a function that keeps one behind the engine's back changes nothing by it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import attrgetter, is_not
from typing import Any

from streamcore.codecs import kinds
from streamcore.operators.values import fits, immutable_classes
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

    def make(self, rows: Sequence[Sequence[Any]]) -> tuple[list[Any], Columns]:
        """Objects of these rows, and the rows as columns."""
        objects: list[Any] = list(map(object.__new__, repeat(self._class, len(rows))))
        columns: Columns = list(zip(*rows, strict=True)) if self.values else []
        for field, column in zip(self.values, columns, strict=True):
            self.set(field, objects, column)
        return objects, columns

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
            try:
                check(list(column))
                if classes:
                    raise TypeError("a number beyond 64 bits, or a text that is no valid Unicode")
            except TypeError as error:
                raise TypeError(f"{self._class.__name__}.{field.name}: {error}") from error


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
