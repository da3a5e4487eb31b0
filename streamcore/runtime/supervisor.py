"""`--workers N`: one process a slot, kept running by their parent.

    STARTING ──▶ RUNNING ──exit 0 after stop──▶ OVER
       ▲            ├──exit "retry", "rebuild", hung, killed──▶ WAITING (backoff, jitter) ──▶ STARTING
       └────────────├──exit "step aside"──▶ ASIDE: somebody newer has the slot; left alone
                    └──exit "stop"──▶ all are stopped, and that exit code is ours

A slot that lived for RESTART_HEALTHY_S begins its backoff anew. Stopping is SIGTERM to each (they commit and exit 0),
SIGKILL for what is left after STOP_GRACE_S; losing a worker at any point costs nothing but its open epoch.

Parent and child share a socket (its number in STREAMCORE_LINK). The child writes its progress to it, a JSON object a
message; its end-of-file, on the parent's death of whatever kind, stops the child: none is left behind.

`step` is called by the command's loop, a few times a second, on one thread; no signal handler does more than `stop`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Final, Protocol

from streamcore import limits
from streamcore.clock import Clock, Entropy
from streamcore.errors import (
    EXIT_AT_SAVEPOINT,
    EXIT_DONE,
    EXIT_HUNG,
    EXIT_REBUILD,
    EXIT_RETRY,
    EXIT_STEP_ASIDE,
    EXIT_STOP,
)
from streamcore.types import Slot

logger = logging.getLogger(__name__)

LINK_VARIABLE: Final = "STREAMCORE_LINK"
EXIT_USAGE: Final = 2
MESSAGE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Told:
    """What a worker tells its supervisor, and a command its live line."""

    records_in: int = 0
    records_out: int = 0
    lag: int = 0
    tasks: int = 0
    commit_p99_s: float | None = None
    restored_bytes: int = 0
    restoring_bytes: int = 0
    """All that is to be restored now; 0: nothing is."""


class Child(Protocol):
    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """The exit code once it has ended; negative: the signal that ended it."""
        ...

    def signal(self, number: int) -> None: ...

    def told(self) -> Told | None:
        """The latest since the last call."""
        ...

    def close(self) -> None: ...


class SlotState(Enum):
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting to start again"
    ASIDE = "stepped aside"
    OVER = "over"


@dataclass
class _Place:
    slot: Slot
    state: SlotState = SlotState.STARTING
    child: Child | None = None
    begun_s: float = 0.0
    restart_s: float = 0.0
    delay_s: float = limits.RESTART_BASE_S
    told: Told = field(default_factory=Told)
    before: Told = field(default_factory=Told)
    """What its earlier processes came to."""


class Supervisor:
    def __init__(self, slots: Sequence[Slot], spawn: Callable[[Slot], Child], clock: Clock, entropy: Entropy) -> None:
        self._spawn = spawn
        self._clock = clock
        self._jitter = entropy.random()
        self._places = [_Place(slot) for slot in slots]
        self._exit_code: int | None = None
        self._stopping = False
        self._kill_s: float | None = None

    # --- for the command's loop -----------------------------------------------------------------------------------

    def step(self) -> int | None:
        """Start what is due, take note of what ended. The exit code once everything is over."""
        if self._stopping:
            self._end_all()
        for place in self._places:
            self._advance(place)
        states = {place.state for place in self._places}
        if states <= {SlotState.ASIDE, SlotState.OVER}:
            if self._exit_code is None:
                self._exit_code = EXIT_STEP_ASIDE if states == {SlotState.ASIDE} else EXIT_DONE
            return self._exit_code
        return None

    def stop(self) -> None:
        """Safe in a signal handler: `step` does the rest."""
        self._stopping = True

    def close(self) -> None:
        """Nothing is left running, whatever happened in the loop above."""
        for place in self._places:
            if place.child is not None:
                if place.child.poll() is None:
                    place.child.signal(signal.SIGKILL)
                place.child.close()
                place.child = None

    def told(self) -> Told:
        """Of the job on this machine, all slots together."""
        now = [place.told for place in self._places]
        all_in = now + [place.before for place in self._places]
        slowest = [told.commit_p99_s for told in now if told.commit_p99_s is not None]
        return Told(
            records_in=sum(told.records_in for told in all_in),
            records_out=sum(told.records_out for told in all_in),
            lag=sum(told.lag for told in now),
            tasks=sum(told.tasks for told in now),
            commit_p99_s=max(slowest, default=None),
            restored_bytes=sum(told.restored_bytes for told in now),
            restoring_bytes=sum(told.restoring_bytes for told in now),
        )

    def pids(self) -> dict[Slot, int]:
        return {place.slot: place.child.pid for place in self._places if place.child is not None}

    # --- one slot -----------------------------------------------------------------------------------------------

    def _advance(self, place: _Place) -> None:
        now = self._clock.monotonic_s()
        if place.state is SlotState.WAITING and now >= place.restart_s:
            place.state = SlotState.STARTING
        if place.state is SlotState.STARTING:
            place.child = self._spawn(place.slot)
            place.begun_s = now
            place.state = SlotState.RUNNING
            logger.info("slot %d: process %d", place.slot, place.child.pid)
        elif place.child is not None:
            place.told = place.child.told() or place.told
            code = place.child.poll()
            if code is not None:
                self._ended(place, code)

    def _ended(self, place: _Place, code: int) -> None:
        if place.child is not None:
            place.child.close()
            place.child = None
        before, last = place.before, place.told
        place.before = Told(before.records_in + last.records_in, before.records_out + last.records_out)
        place.told = Told()
        if code in (EXIT_STOP, EXIT_USAGE):
            logger.error("slot %d stopped (%s): all are stopped", place.slot, meaning(code))
            self._exit_code = code if self._exit_code is None else self._exit_code
            self._stopping = True
            place.state = SlotState.OVER
        elif code == EXIT_AT_SAVEPOINT:
            logger.info("slot %d ended at a savepoint that stops the job: all end", place.slot)
            self._stopping = True
            place.state = SlotState.OVER
        elif code == EXIT_STEP_ASIDE:
            logger.warning("slot %d stepped aside for a newer worker and is left alone", place.slot)
            place.state = SlotState.ASIDE
        elif self._stopping:
            place.state = SlotState.OVER
        else:
            self._restart_later(place, code)

    def _restart_later(self, place: _Place, code: int) -> None:
        now = self._clock.monotonic_s()
        if now - place.begun_s >= limits.RESTART_HEALTHY_S:
            place.delay_s = limits.RESTART_BASE_S
        delay = place.delay_s * (0.5 + self._jitter.random())
        logger.warning("slot %d ended (%s), starts again in %.1f s", place.slot, meaning(code), delay)
        place.restart_s = now + delay
        place.delay_s = min(place.delay_s * 2, limits.RESTART_CAP_S)
        place.state = SlotState.WAITING

    # --- stopping -----------------------------------------------------------------------------------------------

    def _end_all(self) -> None:
        now = self._clock.monotonic_s()
        first = self._kill_s is None
        if self._kill_s is None:
            self._kill_s = now + limits.STOP_GRACE_S
        for place in self._places:
            if place.state in (SlotState.WAITING, SlotState.STARTING):
                place.state = SlotState.OVER
            elif place.child is not None and first:
                place.child.signal(signal.SIGTERM)
            elif place.child is not None and now >= self._kill_s:
                logger.warning("slot %d does not stop and is killed; its open epoch is undone", place.slot)
                place.child.signal(signal.SIGKILL)


def meaning(code: int) -> str:
    names = {
        EXIT_DONE: "done",
        EXIT_USAGE: "usage",
        EXIT_STOP: "a person must act",
        EXIT_STEP_ASIDE: "stepped aside",
        EXIT_REBUILD: "rebuild",
        EXIT_RETRY: "retry",
        EXIT_HUNG: "hung",
        EXIT_AT_SAVEPOINT: "at a savepoint",
    }
    if code < 0:
        return f"signal {-code}"
    return f"exit {code}, {names.get(code, 'an error that is no error of streamcore')}"


# --- processes --------------------------------------------------------------------------------------------------


class ProcessChild:
    """A worker's process, seen from the parent."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Python's arguments. -P: a file in the working directory must not stand in for a library's."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, LINK_VARIABLE: str(theirs.fileno())},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def told(self) -> Told | None:
        last = b""
        while message := self._received():
            last = message
        return Told(**json.loads(last)) if last else None

    def _received(self) -> bytes:
        try:
            return self._socket.recv(MESSAGE_BYTES)
        except (BlockingIOError, ConnectionError):
            return b""

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


class Link:
    """The child's end. `orphaned` is called, on a thread of its own, when the parent is gone."""

    def __init__(self, fd: int, orphaned: Callable[[], None]) -> None:
        self._socket = socket.socket(fileno=fd)
        self._orphaned = orphaned
        threading.Thread(target=self._watch, name="streamcore-parent", daemon=True).start()

    @staticmethod
    def from_environment(orphaned: Callable[[], None]) -> Link | None:
        """None in a process that no supervisor started. Takes the variable out: grandchildren have no link."""
        fd = os.environ.pop(LINK_VARIABLE, None)
        return None if fd is None else Link(int(fd), orphaned)

    def tell(self, told: Told) -> None:
        try:
            self._socket.send(json.dumps(asdict(told)).encode(), socket.MSG_DONTWAIT)
        except BlockingIOError:
            logger.debug("the supervisor does not read; it gets the next one")
        except ConnectionError:
            logger.debug("the supervisor is gone")

    def _watch(self) -> None:
        try:
            while self._socket.recv(MESSAGE_BYTES):
                continue
        except OSError as error:
            logger.debug("the link to the supervisor broke: %s", error)
        logger.warning("the supervisor is gone: stopping")
        self._orphaned()
        threading.Event().wait(limits.STOP_GRACE_S)
        os._exit(EXIT_HUNG)
