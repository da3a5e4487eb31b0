"""From settings to a log and a checkpoint store.

Kafka where a bootstrap server is set, else the embedded log under the state directory. The checkpoint store that is
set, else a directory under the state directory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Final, TypeVar

from streamcore import limits
from streamcore.checkpoint.opening import open_store
from streamcore.checkpoint.store import CheckpointStore
from streamcore.clock import Clock, Entropy
from streamcore.config import Settings
from streamcore.errors import RetryError, SettingsError, TopicError
from streamcore.log.kafka import KafkaLog
from streamcore.log.local import LocalLog
from streamcore.log.port import Admin, Log
from streamcore.topology.plan import Plan

logger = logging.getLogger(__name__)

T = TypeVar("T")
EMBEDDED: Final = "log.local"
CHECKPOINTS: Final = "checkpoints.local"
"""Beside the jobs' directories in the state directory; no job can have these names."""
NO_CHECKPOINTS: Final = "none"


@contextmanager
def opened(settings: Settings, clock: Clock, *, read_only: bool = False) -> Generator[Log]:
    """`read_only` works on the embedded log beside a running job."""
    log = _open(settings, clock, read_only)
    try:
        yield log
    finally:
        log.close()


def _open(settings: Settings, clock: Clock, read_only: bool) -> Log:
    if settings.kafka.bootstrap is not None:
        kafka = settings.kafka
        timeout_ms = settings.worker.session_timeout
        return KafkaLog(settings.kafka.bootstrap, kafka.client(), session_timeout_ms=timeout_ms, clock=clock)
    path = settings.worker.state_dir / EMBEDDED
    if read_only and not path.exists():
        raise TopicError(
            f"there is no embedded log in {settings.worker.state_dir}",
            "give --kafka HOST:PORT, or the --state-dir that the job ran with",
        )
    return LocalLog.open(path, clock, read_only=read_only, auto_create_partitions=settings.topics.partitions)


def checkpoint_store(settings: Settings) -> CheckpointStore | None:
    """None where the job has none. Asks nothing of the store yet. Raises SettingsError."""
    where = settings.checkpoints.store
    if where == NO_CHECKPOINTS:
        return None
    return open_store(where or (settings.worker.state_dir.resolve() / CHECKPOINTS).as_uri())


def required_store(settings: Settings) -> CheckpointStore:
    """For commands that are about checkpoints. Raises SettingsError."""
    store = checkpoint_store(settings)
    if store is None:
        raise SettingsError(
            "there are no checkpoints: they are turned off (checkpoints.store is `none`)",
            "give --checkpoints file:///DIR or --checkpoints s3://BUCKET/PREFIX",
        )
    return store


@contextmanager
def administered(log: Log) -> Generator[Admin]:
    admin = log.admin()
    try:
        yield admin
    finally:
        admin.close()


def ensure_topics(settings: Settings, admin: Admin, names: Iterable[str]) -> None:
    """User topics: made on the embedded log; on Kafka they must be there. Raises TopicError, naming all missing."""
    wanted = list(dict.fromkeys(names))
    found = admin.topics(wanted)
    missing = [name for name in wanted if name not in found]
    if settings.kafka.bootstrap is None:
        for name in missing:
            admin.create(name, settings.topics.partitions, {})
    elif missing:
        how = f"--partitions {settings.topics.partitions} --kafka {settings.kafka.bootstrap}"
        commands = "\n    ".join(f"streamcore topics create {name} {how}" for name in missing)
        raise TopicError(
            f"there {'is no topic' if len(missing) == 1 else 'are no topics'} {', '.join(missing)}",
            f"user topics are not created by a job; create them, with the partitions you want:\n    {commands}",
        )


def user_topics(plan: Plan) -> tuple[str, ...]:
    return (*plan.source_topics, *plan.sink_topics, *plan.dead_letter_topics)


def patiently(call: Callable[[], T], what: str, clock: Clock, entropy: Entropy) -> T:
    """At start the broker may be away: with backoff, up to STARTUP_RETRY_S. Then the last error, which names it."""
    jitter = entropy.random()
    deadline_s = clock.monotonic_s() + limits.STARTUP_RETRY_S
    delay_s = limits.RETRY_BASE_S
    while True:
        try:
            return call()
        except RetryError as error:
            if clock.monotonic_s() + delay_s >= deadline_s:
                raise
            logger.warning("%s: %s; trying again", what, error.what)
            clock.sleep_s(delay_s * (0.5 + jitter.random()))
            delay_s = min(delay_s * 2, limits.RETRY_CAP_S)
