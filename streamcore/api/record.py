"""What a user's function is given beside a value: keys, whole records, a step's context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Generic, Protocol, TypeAlias, TypeVar
from uuid import UUID

Key: TypeAlias = str | int | bytes | UUID | datetime | tuple["str | int | bytes | UUID | datetime", ...]
"""What records can be kept and regrouped by."""

K_co = TypeVar("K_co", bound=Key, covariant=True)
V_co = TypeVar("V_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Record(Generic[K_co, V_co]):
    """A value with all that Kafka tells of it."""

    key: K_co
    value: V_co
    timestamp: datetime
    headers: Mapping[str, bytes]
    topic: str
    partition: int
    offset: int
    correlation_id: str


class Context(Protocol[K_co]):
    """What a `process` function may know. The same record processed again, after a crash, sees the same key and event
    time; `now`, `random` and `uuid()` are new, and are safe to use: what was not committed never happened."""

    @property
    def key(self) -> K_co: ...
    @property
    def event_time(self) -> datetime:
        """The record's timestamp, UTC."""
        ...

    @property
    def now(self) -> datetime:
        """The clock, UTC; it stands still while a slice of records runs."""
        ...

    @property
    def random(self) -> Random: ...
    @property
    def correlation_id(self) -> str:
        """Taken over from the input's header, else topic-partition-offset of the record that began the chain."""
        ...

    def uuid(self) -> UUID:
        """A random one, from `random`."""
        ...
