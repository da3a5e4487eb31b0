"""State classes: what a `process` step keeps for each key.

    class Presence(State, version=2, upgrades={1: count_from_zero}):
        online = Value(bool, default=False)
        since = Value(datetime)
        devices = Map(str, datetime)

A State class is a description (`__schema__`); objects of it are made by the engine, from a subclass of its own that has
a slot for each Value. Nothing but Values and Maps is saved, so nothing else can be assigned.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from inspect import get_annotations
from typing import Any, ClassVar, Final, Generic, NoReturn, TypeVar, overload

from streamcore.api.graph import refuse
from streamcore.api.record import Key
from streamcore.api.topic import is_key_type
from streamcore.codecs import kinds
from streamcore.errors import shown
from streamcore.topology.nodes import FieldSpec, StateSchema

K = TypeVar("K", bound=Key)
T = TypeVar("T")
V = TypeVar("V")
W = TypeVar("W")

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


class _StateType(type):
    """Makes every State class without a __dict__: a misspelt field is an error and not a lost value."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **settings: Any) -> _StateType:
        namespace.setdefault("__slots__", ())
        return super().__new__(mcs, name, bases, namespace, **settings)


class State(metaclass=_StateType):
    __slots__ = ()
    __schema__: ClassVar[StateSchema]
    version: ClassVar[int]

    def __init_subclass__(cls, *, version: int | None = None, upgrades: Mapping[int, Upgrade] | None = None) -> None:
        """`upgrades` maps a version to the function that makes its fields those of the next. A subclass without
        fields or a version of its own describes the same state."""
        super().__init_subclass__()
        own: dict[str, Value[Any] | Map[Any, Any]] = {
            name: part for name, part in vars(cls).items() if isinstance(part, Value | Map)
        }
        if version is None and upgrades is None and not own and hasattr(cls, "__schema__"):
            return
        _refuse_unsaved(cls)
        number = 1 if version is None else version
        _check_upgrades(cls, number, upgrades or {})
        for name, part in own.items():
            if name.startswith("_") or name == "version":
                raise refuse(f"{cls.__name__}.{name}: no saved field can have this name", "take another name")
            part.check(f"{cls.__name__}.{name}")
        inherited = cls.__schema__.fields if hasattr(cls, "__schema__") else ()
        fields = {spec.name: spec for spec in inherited} | {name: part.spec for name, part in own.items()}
        cls.version = number
        cls.__schema__ = StateSchema(cls.__name__, number, tuple(fields.values()), dict(upgrades or {}))


class Value(Generic[T]):
    """One value a key. Without a default it is None until it is set."""

    @overload
    def __init__(self: Value[W | None], of: type[W]) -> None: ...
    @overload
    def __init__(self: Value[W], of: type[W], default: W) -> None: ...
    def __init__(self, of: Any, default: Any = None) -> None:
        self.spec = FieldSpec("", of, default, optional=default is None)

    def __set_name__(self, owner: type[State], name: str) -> None:
        self.spec = replace(self.spec, name=name)

    def check(self, where: str) -> None:
        _check_type(where, self.spec.type)
        if not self.spec.optional:
            _check_default(where, self.spec.type, self.spec.default)

    @overload
    def __get__(self, obj: None, owner: type[State]) -> Value[T]: ...
    @overload
    def __get__(self, obj: State, owner: type[State]) -> T: ...
    def __get__(self, obj: State | None, owner: type[State]) -> Any:
        return self if obj is None else _not_made_by_the_engine(owner)

    def __set__(self, obj: State, value: T) -> None:
        _not_made_by_the_engine(type(obj))


class MapView(MutableMapping[K, V]):
    """A Map as a step's function sees it: entries are read one by one, and only those asked for."""

    @abstractmethod
    def range(self, start: K, stop: K) -> Iterator[tuple[K, V]]:
        """Entries from `start` on and before `stop`, in the order of their keys."""


class Map(Generic[K, V]):
    """Many values a key, each under a key of its own, kept one by one: as many as the disk holds."""

    def __init__(self, key: type[K], value: type[V]) -> None:
        self.spec = FieldSpec("", value, map_key=key)

    def __set_name__(self, owner: type[State], name: str) -> None:
        self.spec = replace(self.spec, name=name)

    def check(self, where: str) -> None:
        _check_type(where, self.spec.type)
        if not is_key_type(self.spec.map_key):
            raise refuse(
                f"{where}: a Map cannot be keyed by {kinds.name_of(self.spec.map_key)}",
                "a key is a str, int, bytes, UUID, datetime, or a tuple of these",
            )

    @overload
    def __get__(self, obj: None, owner: type[State]) -> Map[K, V]: ...
    @overload
    def __get__(self, obj: State, owner: type[State]) -> MapView[K, V]: ...
    def __get__(self, obj: State | None, owner: type[State]) -> Any:
        return self if obj is None else _not_made_by_the_engine(owner)


def _not_made_by_the_engine(owner: type[State]) -> NoReturn:
    raise AttributeError(
        f"{owner.__name__} objects are made by the engine, for one key: in a test, use streamcore.testing.Driver"
    )


def _refuse_unsaved(cls: type[State]) -> None:
    plain = [n for n, v in vars(cls).items() if n.islower() and not n.startswith("_") and _is_plain(v)]
    hinted = [n for n, of in get_annotations(cls).items() if "ClassVar" not in str(of) and not hasattr(cls, n)]
    for name in (*plain, *hinted):
        raise refuse(
            f"{cls.__name__}.{name} would not be saved: it is neither a Value nor a Map",
            f"write {name} = Value(...), or, for a constant, an upper-case name",
        )


def _is_plain(part: Any) -> bool:
    return not callable(part) and not isinstance(part, Value | Map | property | staticmethod | classmethod)


def _check_upgrades(cls: type[State], version: int, upgrades: Mapping[int, Upgrade]) -> None:
    if version < 1:
        raise refuse(f"{cls.__name__} cannot have version {version}", "versions count from 1")
    wrong = sorted(n for n in upgrades if not 1 <= n < version)
    if wrong:
        raise refuse(
            f"{cls.__name__} has version {version}, but an upgrade from version {wrong[0]}",
            f"upgrades lead from 1 to {version - 1} at most: raise the version, or take the upgrade out",
        )
    first = min(upgrades, default=max(1, version - 1))
    for n in range(first, version):
        if n not in upgrades:
            raise refuse(
                f"{cls.__name__} has version {version}, but no upgrade from version {n}",
                f"add upgrades={{{n}: f}}: f takes the fields of version {n} as a dict and returns those of {n + 1}",
            )


def _check_type(where: str, of: Any) -> None:
    if not kinds.can_be_kept(of):
        raise refuse(
            f"{where}: values of {kinds.name_of(of)} cannot be saved",
            "use built-ins, pydantic models, msgspec Structs, dataclasses, Enums, or containers of these",
        )


_INSTEAD: Final[dict[object, str]] = {
    list: "use Value(tuple[...], default=())",
    set: "use Value(frozenset[...], default=frozenset())",
    dict: "use a Map",
}


def _check_default(where: str, of: Any, default: object) -> None:
    try:
        hash(default)
    except TypeError:
        raise refuse(
            f"{where}: the default {shown(default)} can be changed in place, for all keys at once",
            _INSTEAD.get(type(default), "use a frozen class, or no default"),
        ) from None
    try:
        kinds.Check(of)([default])
    except TypeError as error:
        raise refuse(f"{where}: the default is not of the field's type: {error}", "mend one of the two") from None
