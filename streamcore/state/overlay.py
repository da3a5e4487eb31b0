"""One step's values over its column: read in batches, undone by slices, encoded once an epoch.

    slice   what the open slice has written            undo()      forgets it, keep() moves it down
    epoch   entries of `_known` that are `_dirty`      drop()      forgets them, committed() makes them cache
    cache   the rest of `_known`, and `_older`         bounded, turned over by committed()
    column  what is committed and applied

Invariants: a value here is immutable, or it is `Packed` (bytes), so whoever reads a mutable one gets a copy of its
own and changes nothing by changing it; a dirty entry is never evicted; `_dirty` is in the order of first change; the
cache holds nothing that differs from the committed state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from typing import Any, Final, Protocol

from streamcore import limits
from streamcore.errors import RecordFailed, RecordTooLarge, StateMismatch, StreamcoreError, invariant, shown
from streamcore.state.keys import encode_keys, state_keys
from streamcore.state.store import Column, Delta

ENTRY_BYTES: Final = 128
"""What a dirty entry takes in frame and write batch, roughly, when its value is a number or so."""


class Packer(Protocol):
    """Values to bytes and back, in batches. encode raises TypeError or ValueError for a value that is not of its type
    (and would not come back as it is), decode ValueError."""

    def encode(self, values: list[Any]) -> list[bytes]: ...
    def decode(self, payloads: list[bytes]) -> list[Any]: ...


class Packed:
    """A mutable value, as bytes."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final[Any] = _Absent()
_UNREAD: Final[Any] = _Absent()


class Overlay:
    def __init__(
        self,
        step: str,
        column: Column,
        packer: Packer,
        stays: Callable[[list[Any]], bool],
    ) -> None:
        """`stays`: whether all of these values may be kept as they are (immutable, of the right type)."""
        self._step = step
        self._column = column
        self._packer = packer
        self._stays = stays
        self._half = limits.CACHE_ENTRIES // 2
        self._known: dict[Any, Any] = {}
        self._older: dict[Any, Any] = {}
        self._dirty: dict[Any, None] = {}
        self._slice: dict[Any, Any] = {}
        self._packed_bytes = 0

    # --- a slice ----------------------------------------------------------------------------------------------

    def read(self, keys: Iterable[Any]) -> list[Any]:
        """The values of distinct keys, in their order; ABSENT where there is none. Mutable ones are the caller's own.
        Raises what the column and the packer raise."""
        wanted = list(keys)
        found = list(map(self._known.get, wanted, repeat(_UNREAD)))
        if self._slice:
            found = list(map(self._slice.get, wanted, found))
        if _UNREAD in found:
            self._fetch([key for key, value in zip(wanted, found, strict=True) if value is _UNREAD])
            known = self._known
            found = [known[k] if value is _UNREAD else value for k, value in zip(wanted, found, strict=True)]
        if Packed in set(map(type, found)):
            self._unpack(found)
        return found

    def write(self, values: Mapping[Any, Any]) -> None:
        """What the slice leaves behind, by key; ABSENT deletes. Raises TypeError, ValueError for a value that cannot
        be kept, RecordTooLarge."""
        if self._stays(list(values.values())):
            self._slice.update(values)
            return
        keys = [key for key, value in values.items() if value is not ABSENT]
        packed = self._packer.encode([values[key] for key in keys])
        for key, data in zip(keys, packed, strict=True):
            self._refuse_large(key, data)
        self._slice.update(values)
        self._slice.update(zip(keys, map(Packed, packed), strict=True))

    def keep(self) -> None:
        """The slice stands."""
        written = self._slice
        if not written:
            return
        if Packed in set(map(type, written.values())):
            self._packed_bytes += sum(map(_packed_size, written.values()))
            self._packed_bytes -= sum(_packed_size(self._known[key]) for key in written if key in self._dirty)
        self._known.update(written)
        self._dirty.update(dict.fromkeys(written))
        self._slice = {}

    def undo(self) -> None:
        """The slice failed: as if it had never run."""
        self._slice = {}

    # --- the epoch --------------------------------------------------------------------------------------------

    def drain(self) -> Delta:
        """The epoch's changes, encoded. Raises RecordFailed for a value that has no bytes, RecordTooLarge."""
        self.keep()
        keys = list(self._dirty)
        known = self._known
        plain = [k for k in keys if known[k] is not ABSENT and type(known[k]) is not Packed]
        encoded = dict(zip(plain, self._encode(plain), strict=True))
        values = [encoded[k] if k in encoded else getattr(known[k], "data", None) for k in keys]
        return Delta(state_keys(encode_keys(keys)), values)

    def committed(self) -> None:
        """The epoch is decided and applied."""
        invariant(not self._slice, f"step {self._step!r}: a slice is open at a commit")
        self._dirty = {}
        self._packed_bytes = 0
        if len(self._known) > self._half:
            self._older, self._known = self._known, {}

    def drop(self) -> None:
        """The epoch is undone: back to what the column says."""
        for key in self._dirty:
            del self._known[key]
        self._dirty, self._slice, self._packed_bytes = {}, {}, 0

    @property
    def size_bytes(self) -> int:
        """Of the epoch's changes, as an estimate."""
        return (len(self._dirty) + len(self._slice)) * ENTRY_BYTES + self._packed_bytes

    # --- inside -----------------------------------------------------------------------------------------------

    def _fetch(self, keys: list[Any]) -> None:
        """Into `_known`: from the cache's older half, else from the column."""
        known, older = self._known, self._older
        if older:
            for key in keys:
                if key in older:
                    known[key] = older.pop(key)
            keys = [key for key in keys if key not in known]
        if not keys:
            return
        data = self._column.get_many(state_keys(encode_keys(keys)))
        present = [i for i, one in enumerate(data) if one is not None]
        known.update(zip(keys, repeat(ABSENT)))
        if present:
            stored = [one for one in data if one is not None]
            values = self._decode(stored)
            kept = values if self._stays(values) else list(map(Packed, stored))
            known.update(zip([keys[i] for i in present], kept, strict=True))

    def _unpack(self, found: list[Any]) -> None:
        places = [i for i, value in enumerate(found) if type(value) is Packed]
        for i, value in zip(places, self._decode([found[i].data for i in places]), strict=True):
            found[i] = value

    def _decode(self, payloads: list[bytes]) -> list[Any]:
        try:
            return self._packer.decode(payloads)
        except ValueError as error:
            raise StateMismatch(
                f"step {self._step!r}: its saved state is not of the type that the code has now: {error}",
                "go back to the type it was saved with, or raise the State's version and write an upgrade; "
                "if the state may go, give the step another name",
            ) from error

    def _encode(self, keys: list[Any]) -> list[bytes]:
        values = [self._known[key] for key in keys]
        try:
            encoded = self._packer.encode(values)
        except StreamcoreError:
            raise
        except Exception as error:
            raise self._unencodable(keys, values, error) from error
        if encoded and max(map(len, encoded)) > limits.STATE_VALUE_BYTES:
            for key, data in zip(keys, encoded, strict=True):
                self._refuse_large(key, data)
        return encoded

    def _unencodable(self, keys: list[Any], values: list[Any], error: Exception) -> RecordFailed:
        for key, value in zip(keys, values, strict=True):
            try:
                self._packer.encode([value])
            except (TypeError, ValueError, OverflowError) as own:
                return RecordFailed(
                    f"step {self._step!r}: the state of key {shown(key)} cannot be saved ({own}): {shown(value)}",
                    "keep values of the declared type in state",
                )
        return RecordFailed(f"step {self._step!r}: state cannot be saved: {error}", "see the cause")

    def _refuse_large(self, key: Any, data: bytes) -> None:
        if len(data) > limits.STATE_VALUE_BYTES:
            raise RecordTooLarge(
                f"step {self._step!r}: the state of key {shown(key)} takes {len(data)} bytes, the limit is "
                f"{limits.STATE_VALUE_BYTES}",
                "keep less for one key: a Map holds each of its entries by itself",
            )


def _packed_size(value: Any) -> int:
    return len(value.data) if type(value) is Packed else 0
