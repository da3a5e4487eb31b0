"""What a task's state is, whatever keeps it: ordered bytes a step, moved from one epoch to the next in one piece.

Invariants, for every implementation (one conformance suite holds them to these):

- A store changes by `apply` only, whole epochs only: all of an epoch's deltas and its mark, or nothing.
- The mark stands in every column. Columns that disagree are no state at all: StateDamaged.
- A store holds nothing that is not committed to the log first; it may lag, and then the journal is replayed into it.
- First bytes of keys: 0x00–0xEF the key groups (two bytes, below 61440) or an inbox's buckets, 0xF0–0xFE a step's own
  bookkeeping, 0xFF the store's. Scans and ranges never reach 0xFF.

Threads: a store belongs to the thread that opened it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from streamcore.errors import StateDamaged, StateMismatch, invariant
from streamcore.types import Epoch, Offset

RESERVED: Final = b"\xff"
"""Where the store's own keys begin: the end of every scan."""
MARK_KEY: Final = b"\xff\xffmark"

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError)
"""What msgspec raises for bytes that are not what they should be."""


class EpochMark(msgspec.Struct, frozen=True, array_like=True):
    """The commit a store stands at: nonce and lineage say which, the offsets where its journal frame lies."""

    lineage: str
    epoch: Epoch
    nonce: str
    journal: Offset
    """Of the first message of the epoch's frame."""
    journal_end: Offset
    """Just after its last message: where a replay goes on."""

    def encode(self) -> bytes:
        return _MARK_FORMAT + msgspec.msgpack.encode(self)

    @staticmethod
    def decode(data: bytes | None, where: str) -> EpochMark | None:
        """None of None. Raises StateDamaged; `where` names the column for it."""
        if data is None:
            return None
        if data[:1] != _MARK_FORMAT:
            raise StateDamaged(f"{where} holds an epoch mark of unknown format {data[:1]!r}")
        try:
            return _decode_mark(data[1:])
        except UNREADABLE as error:
            raise StateDamaged(f"{where} holds an unreadable epoch mark: {error}") from error


_MARK_FORMAT: Final = b"\x01"
_decode_mark = msgspec.msgpack.Decoder(EpochMark).decode


class Delta(msgspec.Struct, array_like=True):
    """One step's changes of one epoch: `ranges` (start, stop exclusive) are deleted first, then `values` written."""

    keys: list[bytes]
    values: list[bytes | None]
    """Parallel to `keys`; None deletes."""
    ranges: list[tuple[bytes, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self.keys or self.ranges)

    @property
    def size_bytes(self) -> int:
        """Payload only: what the journal and the disk carry, roughly."""
        values = sum(len(value) for value in self.values if value is not None)
        return sum(map(len, self.keys)) + values + sum(len(start) + len(stop) for start, stop in self.ranges)

    def check(self, step: str) -> None:
        """What `apply` rests on. Raises InvariantBroken."""
        invariant(len(self.keys) == len(self.values), f"step {step!r}: keys and values of different lengths")
        invariant(not self.keys or max(self.keys) < RESERVED, f"step {step!r} writes a key that is the store's own")
        invariant(
            all(start <= stop <= RESERVED for start, stop in self.ranges), f"step {step!r}: range into the store's keys"
        )


class Column(Protocol):
    """One step's bytes. Reads only; sees what was applied."""

    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """One call into the store, answers in the order of `keys`; the same key may stand there twice."""
        ...

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries with start <= key < stop, in order of bytes. What is applied while it runs may or may not show."""
        ...


class Store(Protocol):
    @property
    def steps(self) -> frozenset[str]: ...

    def column(self, step: str) -> Column:
        """The same object each time; an unknown step is InvariantBroken."""
        ...

    def mark(self) -> EpochMark | None:
        """None in a new store. Checks every column: StateDamaged when two disagree."""
        ...

    def apply(self, deltas: Mapping[str, Delta], mark: EpochMark) -> None:
        """The epoch, in one write. Raises StateDirError (disk full, unwritable), StateDamaged."""
        ...

    def flush(self, wait: bool) -> None:
        """What is in memory goes to files; without `wait` in the background: the next snapshot finds little left."""
        ...

    def snapshot(self, path: Path) -> None:
        """All of it at the last epoch, as files in a new directory `path` on the same disk. Raises StateDirError,
        StateDamaged."""
        ...

    def close(self) -> None:
        """May be called twice; nothing else may be called after it."""
        ...

    def destroy(self) -> None:
        """Close, and leave nothing behind."""
        ...


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with `prefix`: the stop of its scan."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else RESERVED


def agreed(marks: Mapping[str, EpochMark | None], where: str) -> EpochMark | None:
    """The one mark of all columns. Raises StateDamaged, naming those that differ."""
    first = next(iter(marks.values()), None)
    if any(mark != first for mark in marks.values()):
        told = ", ".join(f"{name}: {_told(mark)}" for name, mark in marks.items())
        raise StateDamaged(f"the columns of {where} stand at different commits ({told})")
    return first


def _told(mark: Any) -> str:
    return "none" if mark is None else f"epoch {mark.epoch} {mark.nonce}"


def refuse_dropped(saved: Iterable[str], steps: frozenset[str], where: str) -> None:
    """Saved state that no step of the code owns is never dropped silently. Raises StateMismatch."""
    dropped = sorted(set(saved) - steps)
    if dropped:
        raise StateMismatch(
            f"{where} holds the state of {', '.join(map(repr, dropped))}, and the code has no such step "
            f"(it has {', '.join(map(repr, sorted(steps))) or 'none with state'})",
            "give the step its old name back; or, if its state may go, start over with `streamcore reset JOB`",
        )
