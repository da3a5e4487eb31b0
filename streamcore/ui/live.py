"""How a running job is watched: one live line in a terminal, log lines elsewhere.

A `View` is called between a worker's turns, on that thread, as often as the loop comes round; it does something a few
times a second. What `--show` prints goes through it, so that it does not run into the live line.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.text import Text

from streamcore.clock import Clock
from streamcore.observe import logs
from streamcore.runtime.supervisor import Link, Told

logger = logging.getLogger(__name__)

REFRESH_S: Final = 0.25
LOG_EVERY_S: Final = 10.0
RATE_OVER_S: Final = 3.0
BAR_WIDTH: Final = 30


class View(Protocol):
    def update(self, told: Told) -> None: ...

    def show(self, lines: list[str]) -> None: ...

    def close(self) -> None: ...


class Rates:
    """Records a second, over the last few seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int, int]] = deque()

    def of(self, told: Told) -> tuple[float, float]:
        now = self._clock.monotonic_s()
        self._seen.append((now, told.records_in, told.records_out))
        while len(self._seen) > 2 and now - self._seen[1][0] >= RATE_OVER_S:
            self._seen.popleft()
        then, records_in, records_out = self._seen[0]
        passed = now - then
        if passed <= 0:
            return 0.0, 0.0
        return max(0.0, (told.records_in - records_in) / passed), max(0.0, (told.records_out - records_out) / passed)


def summary(job: str, told: Told, rates: tuple[float, float]) -> str:
    if told.restoring_bytes:
        return f"{job}  restoring  {bar(told.restored_bytes, told.restoring_bytes)}"
    p99 = "–" if told.commit_p99_s is None else f"{told.commit_p99_s * 1000:.1f} ms"
    return (
        f"{job}  in {rates[0]:,.0f}/s  out {rates[1]:,.0f}/s  lag {told.lag:,}  commit p99 {p99}  "
        f"tasks {told.tasks}  total in {told.records_in:,}"
    )


def bar(done_bytes: int, total_bytes: int) -> str:
    """As `━━━━━━──────  50 % of 1,200 MB`."""
    part = min(1.0, done_bytes / total_bytes)
    full = round(part * BAR_WIDTH)
    return f"{'━' * full}{'─' * (BAR_WIDTH - full)}  {part:.0%} of {total_bytes / 1e6:,.1f} MB"


class LiveView:
    """The last line of the terminal, with warnings and shown records above it."""

    def __init__(self, job: str, clock: Clock, level: str) -> None:
        self._job = job
        self._clock = clock
        self._rates = Rates(clock)
        self._due_s = 0.0
        self._console = Console()
        self._live = Live(Text(f"{job}  starting"), console=self._console, auto_refresh=False, transient=True)
        handler = RichHandler(console=self._console, show_path=False, markup=False)
        self._handler = logs.attach(handler, level)
        self._live.start(refresh=True)

    def update(self, told: Told) -> None:
        now = self._clock.monotonic_s()
        if now >= self._due_s:
            self._due_s = now + REFRESH_S
            line = summary(self._job, told, self._rates.of(told))
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def show(self, lines: list[str]) -> None:
        if lines:
            self._console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()
        logs.remove(self._handler)


class LogView:
    """Log lines on stderr; shown records, and nothing else, on stdout."""

    def __init__(self, job: str, clock: Clock, level: str, slot: int | None = None) -> None:
        self._job = job
        self._clock = clock
        self._rates = Rates(clock)
        self._due_s = clock.monotonic_s() + LOG_EVERY_S
        always = {"job": job} if slot is None else {"job": job, "slot": slot}
        self._handler = logs.configure(level, sys.stderr, always)

    def update(self, told: Told) -> None:
        now = self._clock.monotonic_s()
        if now >= self._due_s:
            self._due_s = now + LOG_EVERY_S
            logger.info("%s", summary(self._job, told, self._rates.of(told)))

    def show(self, lines: list[str]) -> None:
        if lines:
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()

    def close(self) -> None:
        logs.remove(self._handler)


class LinkedView(LogView):
    """A supervised worker's: it tells its supervisor, which has the live line."""

    def __init__(self, job: str, clock: Clock, level: str, slot: int, link: Link) -> None:
        super().__init__(job, clock, level, slot)
        self._link = link
        self._tell_s = 0.0

    def update(self, told: Told) -> None:
        now = self._clock.monotonic_s()
        if now >= self._tell_s:
            self._tell_s = now + REFRESH_S
            self._link.tell(told)
