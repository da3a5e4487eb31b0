"""What `run` does between a worker's turns: feed, show, watch, and see whether the job is idle.

All on the worker's own thread, each step bounded, so that nothing needs a lock. The supervisor's loop uses the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from streamcore.clock import Clock
from streamcore.log.port import Admin, Log
from streamcore.runtime.feed import Feed, FeedSpec
from streamcore.runtime.idle import IdleCheck
from streamcore.runtime.show import Show, as_text, partitions_of
from streamcore.runtime.supervisor import Told
from streamcore.topology.plan import Plan
from streamcore.ui.live import View

IDLE_EVERY_S: Final = 0.3


class Beside:
    """Close it after the worker, or the supervisor, has ended."""

    def __init__(
        self,
        plan: Plan,
        log: Log,
        admin: Admin,
        clock: Clock,
        view: View,
        feeds: Sequence[FeedSpec],
        shown: Sequence[str],
        until_idle: bool,
    ) -> None:
        self._clock = clock
        self._view = view
        self._feeds = [Feed(log, spec) for spec in feeds]
        self._show: Show | None = None
        if shown:
            ends = admin.stable_ends(partitions_of(admin, shown))
            self._show = Show(log, ends, lambda run: view.show(as_text(run)), clock)
        self._idle = IdleCheck(plan, log, admin, clock) if until_idle else None
        self._judge_s = 0.0
        self._records_in = -1

    def step(self, told: Told) -> bool:
        """True once the job is idle, if that was asked for: what is shown has been shown to its end."""
        for feed in self._feeds:
            feed.step()
        if self._show is not None:
            self._show.step()
        self._view.update(told)
        if self._idle is None or not self._fed() or not self._worth_judging(told) or not self._idle.idle():
            return False
        if self._show is not None:
            self._show.finish()
        return True

    def close(self) -> None:
        for feed in self._feeds:
            feed.close()
        if self._show is not None:
            self._show.close()

    def _fed(self) -> bool:
        return all(feed.done for feed in self._feeds)

    def _worth_judging(self, told: Told) -> bool:
        """Not while records come in: the question costs a few calls to the log."""
        now = self._clock.monotonic_s()
        if now < self._judge_s:
            return False
        self._judge_s = now + IDLE_EVERY_S
        quiet = told.records_in == self._records_in
        self._records_in = told.records_in
        return quiet
