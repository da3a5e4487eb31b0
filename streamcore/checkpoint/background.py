"""One piece of work at a time, beside the processing thread, which asks for its result when it comes by.

    work.submit(lambda: uploader.upload(snapshot, facts))   one in flight, never two
    match work.poll(): Done(value) | Failed(error) | None

`Beside` runs it on a thread; `Inline` at once, in `submit`, for tests and the simulator. What is no StreamcoreError is
a bug, and is raised by `poll`, in the processing thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from streamcore.errors import StreamcoreError, invariant

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class Failed:
    error: StreamcoreError


class Work(Protocol[T]):
    @property
    def busy(self) -> bool:
        """Something was submitted, and its result not yet picked up."""
        ...

    def submit(self, call: Callable[[], T]) -> None: ...

    def poll(self) -> Done[T] | Failed | None:
        """Never blocks. A result is given once."""
        ...

    def wait(self, seconds: float) -> None:
        """Until there is a result, but not longer: for a stop that lets an upload end."""
        ...


class _Ran(Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self.result: Done[T] | Failed | None = None
        self.bug: BaseException | None = None
        self.over = threading.Event()

    def run(self) -> None:
        try:
            self.result = Done(self._call())
        except StreamcoreError as error:
            self.result = Failed(error)
        except BaseException as error:  # a thread has nobody to raise to: poll does
            self.bug = error
        finally:
            self.over.set()


class Beside(Generic[T]):
    """The thread lives for one piece of work, and does not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ran: _Ran[T] | None = None

    @property
    def busy(self) -> bool:
        return self._ran is not None

    def submit(self, call: Callable[[], T]) -> None:
        invariant(self._ran is None, f"{self._name}: a second piece of work before the first one's result")
        self._ran = _Ran(call)
        self._start(self._ran.run)

    def poll(self) -> Done[T] | Failed | None:
        ran = self._ran
        if ran is None or not ran.over.is_set():
            return None
        self._ran = None
        if ran.bug is not None:
            raise ran.bug
        return ran.result

    def wait(self, seconds: float) -> None:
        if self._ran is not None:
            self._ran.over.wait(seconds)

    def _start(self, run: Callable[[], None]) -> None:
        threading.Thread(target=run, name=self._name, daemon=True).start()


class Inline(Beside[T]):
    def _start(self, run: Callable[[], None]) -> None:
        run()
