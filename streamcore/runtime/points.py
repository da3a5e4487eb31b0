"""The named points of commit and takeover at which a test, a simulator or a demo may step in.

A worker calls its probe at each of them, in this order; the default does nothing. A probe that raises `Crash` (or ends
the process) stands for a death at that point. Called on the processing thread, a few times an epoch, never per record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

Point = Literal[
    "takeover-before-fence",
    "takeover-after-fence",
    "takeover-after-read",
    "takeover-after-replay",
    "takeover-started",
    "before-slice",
    "after-slice",
    "before-epoch",
    "before-flush",
    "after-flush",
    "after-send-offsets",
    "before-commit",
    "after-commit",
    "after-apply",
    "before-abort",
    "after-abort",
]

POINTS: Final[tuple[str, ...]] = Point.__args__  # type: ignore[attr-defined]
COMMIT_POINTS: Final[tuple[str, ...]] = POINTS[POINTS.index("before-epoch") : POINTS.index("before-abort")]

Probe = Callable[[str], None]


class Crash(BaseException):
    """Raised by a probe: the worker dies here. No handler of the engine may catch it."""


def quiet(point: str) -> None:
    """The default probe."""
