"""One step's values over its column: read in batches, changed in place, undone by slices, encoded once an epoch.

    slice   what is changed between open() and close()     undo()   takes it back, keep() makes it the epoch's
    epoch   entries of `values` that are `_dirty`          drop()   forgets them, committed() makes them cache
    cache   the rest of `values`, and `_older`             bounded, turned over by committed()
    column  what is committed and applied

Invariants: outside of open() and close() a value here is immutable, or it is `Packed` (bytes), so that nobody can
change it from outside and the log of what was before needs no copies; a dirty entry is never evicted; the cache holds
nothing that differs from the committed state.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress, repeat
from operator import is_not
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
    def __init__(self, step: str, column: Column, packer: Packer, stays: Callable[[list[Any]], bool]) -> None:
        """`stays`: whether all of these values may be kept as they are (immutable, of the right type)."""
        self._step = step
        self._column = column
        self._packer = packer
        self._stays = stays
        self._half = limits.CACHE_ENTRIES // 2
        self.values: dict[Any, Any] = {}
        """By key. A step reads and writes those it has opened, until it closes them."""
        self._older: dict[Any, Any] = {}
        self._paths: dict[Any, bytes] = {}
        """State keys, which take longer to make than to find."""
        self._dirty: dict[Any, None] = {}
        self._log: list[tuple[list[Any], Any]] = []
        """What the open slice has opened: keys, and what they held."""
        self._changed: list[list[Any]] = []
        """Keys that the open slice has changed."""
        self._packed_bytes = 0

    # --- a slice ----------------------------------------------------------------------------------------------

    def open(self, keys: list[Any]) -> list[Any]:
        """The values of distinct keys, now to be changed in place in `values`; ABSENT where there is none (to be
        replaced). Raises what the column raises, StateMismatch, and for what is no key TypeError or ValueError."""
        found = self._found(keys)
        self._log.append((keys, self._before(found)))
        return self._unpacked(keys, found)

    def close(self) -> None:
        """What was opened last is changed. Raises TypeError, ValueError for a value that cannot be kept,
        RecordTooLarge: then undo() must follow."""
        self._changed.append(self._settled(*self._log[-1]))

    def keep(self) -> None:
        """The slice stands."""
        for keys in self._changed:
            self._dirty.update(dict.fromkeys(keys))
        self._log, self._changed = [], []

    def undo(self) -> None:
        """The slice failed: as if it had never run."""
        for keys, before in reversed(self._log):
            self._restore(keys, before)
        self._log, self._changed = [], []

    def read(self, keys: list[Any]) -> list[Any]:
        """Values to look at, not to change."""
        found = self._found(keys)
        return self._decode_packed(found) if Packed in set(map(type, found)) else found

    # --- the epoch --------------------------------------------------------------------------------------------

    def drain(self) -> Delta:
        """The epoch's changes, encoded. Raises RecordFailed for a value that has no bytes, RecordTooLarge."""
        self.keep()
        keys = list(self._dirty)
        values = list(map(self.values.__getitem__, keys))
        if Packed not in set(map(type, values)):
            return Delta(self._at(keys), list(self._encode(keys, values)))
        plain = [type(value) is not Packed for value in values]
        encoded = iter(self._encode(list(compress(keys, plain)), list(compress(values, plain))))
        return Delta(self._at(keys), [v.data if type(v) is Packed else next(encoded) for v in values])

    def committed(self) -> None:
        """The epoch is decided and applied."""
        invariant(not self._log, f"step {self._step!r}: a slice is open at a commit")
        self._dirty = {}
        self._packed_bytes = 0
        if len(self.values) > self._half:
            self._older, self.values, self._paths = self.values, {}, {}

    def drop(self) -> None:
        """The epoch is undone: back to what the column says."""
        self.undo()
        for key in self._dirty:
            del self.values[key]
        self._dirty, self._packed_bytes = {}, 0

    @property
    def size_bytes(self) -> int:
        """Of the epoch's changes, as an estimate."""
        return len(self._dirty) * ENTRY_BYTES + self._packed_bytes

    # --- what a slice finds and leaves; another kind of value overrides these four ---------------------------------

    def _before(self, found: list[Any]) -> Any:
        """What `_restore` needs."""
        return found

    def _restore(self, keys: list[Any], before: Any) -> None:
        self.values.update(zip(keys, before, strict=True))

    def _unpacked(self, keys: list[Any], found: list[Any]) -> list[Any]:
        """Values as a step works on them."""
        if Packed not in set(map(type, found)):
            return found
        values = self._decode_packed(found)
        self.values.update(zip(keys, values, strict=True))
        return values

    def _settled(self, keys: list[Any], before: Any) -> list[Any]:
        """The keys whose values differ from before, after all have been checked."""
        values = list(map(self.values.__getitem__, keys))
        if self._stays(values):
            return list(compress(keys, map(is_not, values, before)))
        there = [value is not ABSENT for value in values]
        payloads = self._packer.encode(list(compress(values, there)))
        changed: list[Any] = []
        olds: list[Any] = list(compress(before, there))
        for key, data, old in zip(compress(keys, there), payloads, olds, strict=True):
            same = type(old) is Packed and old.data == data
            if not same:
                self._refuse_large(key, data)
                self._packed_bytes += len(data)
                changed.append(key)
            self.values[key] = old if same else Packed(data)
        return changed

    # --- inside -----------------------------------------------------------------------------------------------

    def _found(self, keys: list[Any]) -> list[Any]:
        found = list(map(self.values.get, keys, repeat(_UNREAD)))
        if _UNREAD in found:
            self._fetch([key for key, value in zip(keys, found, strict=True) if value is _UNREAD])
            found = list(map(self.values.__getitem__, keys))
        return found

    def _fetch(self, keys: list[Any]) -> None:
        """Into `values`: from the cache's older half, else from the column."""
        values, older = self.values, self._older
        if older:
            values.update((key, older.pop(key)) for key in keys if key in older)
            keys = [key for key in keys if key not in values]
        if not keys:
            return
        data = self._column.get_many(self._at(keys))
        values.update(zip(keys, repeat(ABSENT)))
        stored = [one for one in data if one is not None]
        if stored:
            present = [key for key, one in zip(keys, data, strict=True) if one is not None]
            decoded = self._decode(stored)
            kept = decoded if self._stays(decoded) else list(map(Packed, stored))
            values.update(zip(present, kept, strict=True))

    def _at(self, keys: list[Any]) -> list[bytes]:
        """Where the column has them."""
        found = list(map(self._paths.get, keys))
        if None in found:
            missing = [key for key, path in zip(keys, found, strict=True) if path is None]
            self._paths.update(zip(missing, state_keys(encode_keys(missing)), strict=True))
        return list(map(self._paths.__getitem__, keys))

    def _decode_packed(self, found: list[Any]) -> list[Any]:
        decoded = iter(self._decode([value.data for value in found if type(value) is Packed]))
        return [next(decoded) if type(value) is Packed else value for value in found]

    def _decode(self, payloads: list[bytes]) -> list[Any]:
        try:
            return self._packer.decode(payloads)
        except ValueError as error:
            raise StateMismatch(
                f"step {self._step!r}: its saved state is not of the type that the code has now: {error}",
                "go back to the type it was saved with, or raise the State's version and write an upgrade; "
                "if the state may go, give the step another name",
            ) from error

    def _encode(self, keys: list[Any], values: list[Any]) -> list[bytes]:
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
