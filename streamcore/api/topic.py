"""Topics: a name, and the types of what they carry."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final, Generic, Protocol, TypeVar, cast, overload
from uuid import UUID

from streamcore.api.graph import refuse
from streamcore.api.record import Key
from streamcore.codecs import kinds
from streamcore.codecs.wire import codec_for, json_codec
from streamcore.topology.nodes import UNKNOWN, TopicSpec
from streamcore.topology.plan import TOPIC_NAME_LENGTH

K = TypeVar("K", bound=Key)
KN = TypeVar("KN", bound=Key | None)
T = TypeVar("T")
V = TypeVar("V")
W = TypeVar("W")

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_KEY_CLASSES: Final[tuple[Any, ...]] = (str, int, bytes, UUID, datetime, tuple)


class Codec(Protocol[T]):
    """A format of your own. Whole lists, so that a call costs little; as many out as in."""

    def encode(self, values: list[T]) -> list[bytes]: ...
    def decode(self, payloads: list[bytes]) -> list[T]: ...


def json(*types: type[T]) -> Codec[T]:
    """JSON of a type, or of a union of types: json(Created, Deleted). NoneType among them allows null values."""
    return cast(Codec[T], json_codec(*types))


class Topic(Generic[KN, V]):
    """A Kafka topic. Without `key` its records have no key that the job could use."""

    @overload
    def __init__(self: Topic[None, W], name: str, value: type[W] | Codec[W]) -> None: ...
    @overload
    def __init__(self: Topic[K, W], name: str, value: type[W] | Codec[W], *, key: type[K] | Codec[K]) -> None: ...
    def __init__(self, name: str, value: Any, *, key: Any = None) -> None:
        if not _NAME.fullmatch(name) or name in (".", "..") or len(name) > TOPIC_NAME_LENGTH:
            raise refuse(
                f"no topic can be named {name!r}",
                f"use 1 to {TOPIC_NAME_LENGTH} letters, digits, '.', '_' and '-', as Kafka does",
            )
        if key is not None and not hasattr(key, "encode") and not is_key_type(key):
            raise refuse(
                f"topic {name!r} cannot be keyed by {kinds.name_of(key)}",
                "a key is a str, int, bytes, UUID, datetime, or a tuple of these",
            )
        codec = codec_for(value)
        key_codec = None if key is None else codec_for(key)
        optional = codec.type is not UNKNOWN and kinds.allows_none(codec.type)
        self.name: Final = name
        self.spec: Final = TopicSpec(name, codec, key_codec, optional)

    def __repr__(self) -> str:
        key = self.spec.key
        keyed = "" if key is None else f", key={kinds.name_of(key.type)}"
        return f"Topic({self.name!r}, {kinds.name_of(self.spec.value.type)}{keyed})"


def is_key_type(of: Any) -> bool:
    """Whether values of this type can be keys, as far as the type tells."""
    if of is UNKNOWN:
        return True
    found = kinds.classes(of)
    return found is not None and all(issubclass(c, _KEY_CLASSES) and c is not bool for c in found)
