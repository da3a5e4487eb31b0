"""The topology as data: what the API writes down and the compiler reads. No behaviour, no I/O.

A node names its inputs; a graph of them is what a Job holds. Types are what is known when the program is built: a
concrete type where annotations or topics tell, `UNKNOWN` elsewhere (a lambda's result); then values crossing a shuffle
carry a tag of the job's own registry (see codecs.dynamic).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from streamcore.types import UNKNOWN as UNKNOWN
from streamcore.types import TimestampMs


@dataclass(frozen=True, slots=True)
class Stop:
    """The job stops with an error that names the record."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The record is counted and left out."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The record goes, as it came, to `topic` with the story of its failure in headers, in the same transaction."""

    topic: str


OnError = Stop | Skip | DeadLetter
StartMs = Literal["earliest", "latest"] | TimestampMs


class BatchCodec(Protocol):
    """Lists to lists; raises ValueError or TypeError for what does not fit. `type` is for messages and checks."""

    @property
    def type(self) -> Any: ...
    def encode(self, values: list[Any]) -> list[bytes]: ...
    def decode(self, payloads: list[bytes]) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class TopicSpec:
    name: str
    value: BatchCodec
    key: BatchCodec | None
    optional_value: bool = False
    """The type allows None: a null value is a value and not an error."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """`name` is the user's where the step owns something durable, else made from the kind and a number. `where` is
    the user's file:line of the call, for messages."""

    name: str
    inputs: tuple[Node, ...]
    key_type: Any = None
    """None: not keyed."""
    value_type: Any = UNKNOWN
    where: str = ""

    @property
    def kind(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, eq=False, kw_only=True)
class Source(Node):
    topic: TopicSpec
    start: StartMs = "earliest"
    on_error: OnError = field(default_factory=Stop)


@dataclass(frozen=True, eq=False, kw_only=True)
class Map(Node):
    f: Callable[[Any], Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class MapItems(Node):
    f: Callable[[Any, Any], Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Filter(Node):
    f: Callable[[Any], bool]


@dataclass(frozen=True, eq=False, kw_only=True)
class Only(Node):
    of: type[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class FlatMap(Node):
    f: Callable[[Any], Iterable[Any]]


@dataclass(frozen=True, eq=False, kw_only=True)
class MapBatch(Node):
    f: Callable[[Sequence[Any]], Sequence[Any]]
    most: int = 512


@dataclass(frozen=True, eq=False, kw_only=True)
class Records(Node):
    """Values become Record objects. No KeyBy lies between it and its Source: topic, offset and headers are the
    message's own."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Merge(Node):
    """The union of its inputs, unkeyed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class KeyBy(Node):
    """A shuffle: its outputs are the next stage's inputs. Owns the internal topic JOB.shuffle.NAME.

    `f` takes the value; its result must be a Key (checked where the key is encoded)."""

    f: Callable[[Any], Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Aggregate(Node):
    """Emits, once an epoch, each changed key's result. `accumulator` is the accumulator's type where known."""

    zero: Callable[[], Any]
    add: Callable[[Any, Any], Any]
    result: Callable[[Any], Any]
    accumulator: Any = UNKNOWN


@dataclass(frozen=True, eq=False, kw_only=True)
class Process(Node):
    state: type[Any]
    """A subclass of api.State; its `__schema__` is a state.schema.StateSchema."""
    on_event: Callable[[Any, Any, Any], Iterable[Any] | None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Dedupe(Node):
    by: Callable[[Any], Any]
    keep_ms: int
    too_old: OnError


@dataclass(frozen=True, eq=False, kw_only=True)
class Sink(Node):
    topic: TopicSpec


STATEFUL: Final = (Aggregate, Process, Dedupe)


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field of a State class: a Value, or (with `map_key`) a Map."""

    name: str
    type: Any
    default: Any = None
    optional: bool = False
    map_key: Any = None
    ttl_ms: int | None = None


@dataclass(frozen=True, slots=True)
class StateSchema:
    name: str
    version: int
    fields: tuple[FieldSpec, ...]
    upgrades: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
    """From version n to n + 1."""
    ttl_ms: int | None = None
