"""From a schedule that fails to a shorter one that fails: what a person has to read.

Faults are left out by halves, then quarters, down to single ones, as long as what is left still fails (delta
debugging, Zeller 1999). A run with fewer faults takes another course, so that this is a search and no proof: the
result is a schedule that was seen to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from streamcore.testing.simulated.faults import Injection

RUNS: Final = 150
"""At most."""


def shrunk(
    schedule: Sequence[Injection], fails: Callable[[Sequence[Injection]], bool], runs: int = RUNS
) -> list[Injection]:
    """`fails`: runs with a schedule, and says whether it still goes wrong. The schedule itself is not tried."""
    kept = list(schedule)
    size = max(1, len(kept) // 2)
    while kept:
        begin, shorter = 0, False
        while begin < len(kept) and runs > 0:
            runs -= 1
            without = kept[:begin] + kept[begin + size :]
            if fails(without):
                kept, shorter = without, True
            else:
                begin += size
        if runs <= 0 or (size == 1 and not shorter):
            break
        size = size if shorter and size == 1 else max(1, size // 2)
    return kept
