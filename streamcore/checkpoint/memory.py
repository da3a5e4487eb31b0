"""A checkpoint store in memory, for tests and the simulator: its clock and its faults are injected.

`faults` is asked before each call, with the call's name and key, and answers what goes wrong this time. What a fault
does to the bytes stays: a torn or corrupt object is there under its key, as a bad store would have it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from streamcore import limits
from streamcore.checkpoint.store import Stat, checked, checked_prefix, missing
from streamcore.clock import Clock
from streamcore.errors import CheckpointStoreError, CheckpointStoreUnavailable

Kind = Literal["fail", "answer lost", "denied", "slow", "torn", "corrupt", "late"]
KINDS: Final[tuple[Kind, ...]] = ("fail", "answer lost", "denied", "slow", "torn", "corrupt", "late")


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    """fail: nothing happens, and no answer. answer lost: it happens, and no answer. denied: a person must act.
    slow: `seconds` pass first. torn: half of the object is stored, and no answer. corrupt: a byte of it is stored
    wrong, and all seems well. late: created, and unlisted for `seconds`."""
    seconds: float = 0.0


Faults = Callable[[str, str], Fault | None]
"""(put_once, get, stat, list or delete; key or prefix) -> what goes wrong."""


class _Object:
    def __init__(self, data: bytes, modified_ms: int, listed_from_ms: int) -> None:
        self.data = data
        self.modified_ms = modified_ms
        self.listed_from_ms = listed_from_ms


class MemoryObjects:
    def __init__(self, clock: Clock, faults: Faults | None = None) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[str, _Object] = {}
        self.faults: Faults | None = faults

    @property
    def place(self) -> str:
        return "memory"

    def put_once(self, key: str, data: bytes) -> bool:
        fault = self._before("put_once", checked(key))
        kind = fault.kind if fault else ""
        if kind == "torn":
            data = data[: len(data) // 2]
        elif kind == "corrupt":
            data = _spoilt(data)
        with self._lock:
            created = key not in self._objects
            if created:
                now = self._clock.wall_ms()
                late = round(fault.seconds * 1000) if fault and kind == "late" else 0
                self._objects[key] = _Object(bytes(data), now, now + late)
        if kind in ("torn", "answer lost"):
            raise self._unavailable("put_once", key)
        return created

    def get(self, key: str) -> Iterator[bytes]:
        fault = self._before("get", checked(key))
        found = self._objects.get(key)
        if found is None:
            raise missing(key, self.place)
        data = _spoilt(found.data) if fault and fault.kind == "corrupt" else found.data
        stop = len(data) // 2 if fault and fault.kind in ("torn", "answer lost") else len(data)
        for at in range(0, stop, limits.CHECKPOINT_CHUNK_BYTES):
            yield data[at : min(stop, at + limits.CHECKPOINT_CHUNK_BYTES)]
        if stop < len(data):
            raise self._unavailable("get", key)

    def stat(self, key: str) -> Stat | None:
        self._before("stat", checked(key))
        found = self._objects.get(key)
        return Stat(key, len(found.data), found.modified_ms) if found else None

    def list(self, prefix: str) -> list[Stat]:
        self._before("list", checked_prefix(prefix))
        now = self._clock.wall_ms()
        with self._lock:
            return [
                Stat(key, len(found.data), found.modified_ms)
                for key, found in sorted(self._objects.items())
                if key.startswith(prefix) and found.listed_from_ms <= now
            ]

    def delete(self, key: str) -> None:
        fault = self._before("delete", checked(key))
        with self._lock:
            self._objects.pop(key, None)
        if fault and fault.kind == "answer lost":
            raise self._unavailable("delete", key)

    # --- what a test or the simulator does to it behind everybody's back -----------------------------------------
    def corrupt(self, key: str) -> None:
        self._objects[key].data = _spoilt(self._objects[key].data)

    def replace(self, key: str, data: bytes) -> None:
        self._objects[key].data = data

    def lose(self, key: str) -> None:
        del self._objects[key]

    def _before(self, call: str, key: str) -> Fault | None:
        fault = self.faults(call, key) if self.faults else None
        if fault is None:
            return None
        if fault.kind == "slow":
            self._clock.sleep_s(fault.seconds)
        if fault.kind == "denied":
            raise CheckpointStoreError(f"checkpoint store memory: {call} {key} is denied", "lift the fault")
        if fault.kind == "fail":
            raise self._unavailable(call, key)
        return fault

    def _unavailable(self, call: str, key: str) -> CheckpointStoreUnavailable:
        return CheckpointStoreUnavailable(f"checkpoint store memory: no answer to {call} {key}", "it is tried again")


def _spoilt(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes((data[middle] ^ 1,)) + data[middle + 1 :] if data else b"\0"
