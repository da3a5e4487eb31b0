"""Shuffles are emptied behind the commit: what every later takeover starts after is of no use to anybody.

Law 8: only offsets that committed metadata has passed are deleted, by the owner, after the commit. Deleting twice or
late is harmless, so a failure is told and the next round tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from streamcore import limits
from streamcore.clock import Clock
from streamcore.errors import AccessDenied, RetryError
from streamcore.log.port import Admin
from streamcore.runtime.task import Task
from streamcore.types import Offset, TopicPartition

logger = logging.getLogger(__name__)


class Trim:
    def __init__(self, admin: Admin, clock: Clock) -> None:
        self._admin = admin
        self._clock = clock
        self._last_s = clock.monotonic_s()
        self._done: dict[TopicPartition, Offset] = {}

    def after_commit(self, tasks: Iterable[Task]) -> None:
        """Called after each commit; does something every TRIM_INTERVAL_S."""
        now = self._clock.monotonic_s()
        if now - self._last_s < limits.TRIM_INTERVAL_S:
            return
        self._last_s = now
        committed = {tp: at for task in tasks if task.stage.is_shuffle for tp, at in task.committed.items()}
        before = {tp: at for tp, at in committed.items() if at > self._done.get(tp, 0)}
        if not before:
            return
        try:
            self._admin.delete_records(before)
            self._done.update(before)
        except (RetryError, AccessDenied) as error:
            logger.warning("shuffles are not trimmed this time, and grow: %s", error)
