"""The port of a checkpoint store: objects of bytes by key, each created once and never changed.

Invariants, for every implementation (one conformance suite holds them to these):

- `put_once` creates or does not: no reader ever sees a part of an object, of two that race one creates.
- An object's bytes are those of its creation until it is deleted.
- `list` may lag behind creations and deletions (object stores of old did); `get` and `stat` do not.
- Times are the store's own: only they are compared when something is deleted.

Keys are segments of letters, digits and `._=+-` with `/` between them; none starts with a dot. Threads: any, several
at a time. Errors: CheckpointStoreUnavailable (call again later; a put may have happened), CheckpointStoreError (a
person must act), CheckpointDamaged (what is asked for is not there).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from streamcore import limits
from streamcore.errors import CheckpointDamaged, invariant

_SEGMENT: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._=+-]+")
_KEY_CHARACTERS: Final = 900


class Stat(NamedTuple):
    key: str
    size: int
    modified_ms: int
    """By the store's clock."""


class CheckpointStore(Protocol):
    @property
    def place(self) -> str:
        """For messages: `file:///DIR` or `s3://BUCKET/PREFIX`; no credentials in it."""
        ...

    def put_once(self, key: str, data: bytes) -> bool:
        """Whether this call created the object; False leaves what stands there as it is. It is durable on return."""
        ...

    def get(self, key: str) -> Iterator[bytes]:
        """In pieces of about a megabyte. Raises CheckpointDamaged when there is no such object."""
        ...

    def stat(self, key: str) -> Stat | None: ...

    def list(self, prefix: str) -> list[Stat]:
        """All whose key starts with `prefix` (ends in `/`, or is empty), in order of keys."""
        ...

    def delete(self, key: str) -> None:
        """What is not there is no error."""
        ...


def is_key(key: str) -> bool:
    return (
        len(key) <= _KEY_CHARACTERS
        and not key.startswith(".")
        and all(_SEGMENT.fullmatch(part) for part in key.split("/"))
    )


def checked(key: str) -> str:
    """A key that leaves its store (`..`, an absolute path) is a bug of the caller's."""
    invariant(is_key(key), f"{key!r} is no key of a checkpoint store")
    return key


def checked_prefix(prefix: str) -> str:
    invariant(not prefix or (prefix.endswith("/") and is_key(prefix[:-1])), f"{prefix!r} is no prefix of keys")
    return prefix


def read(store: CheckpointStore, key: str, most: int = limits.CHECKPOINT_MANIFEST_BYTES) -> bytes:
    """A small object, whole. Raises CheckpointDamaged: not there, or larger than `most`."""
    data = bytearray()
    for chunk in store.get(key):
        data += chunk
        if len(data) > most:
            raise CheckpointDamaged(f"{key} in {store.place} is larger than {most} bytes")
    return bytes(data)


def missing(key: str, place: str) -> CheckpointDamaged:
    return CheckpointDamaged(f"{key} is missing in the checkpoint store {place}")
