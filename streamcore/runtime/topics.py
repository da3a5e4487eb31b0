"""The topics a job needs: its own are made, with the settings the protocol rests on; the user's must be there.

JOB.shuffle.STEP, JOB.journal.STAGE and JOB.control are created at the first start and refused when they exist
otherwise. A shuffle's partition count is pinned by the topic itself: the largest count of the job's sources at genesis.

A journal whose stage the code does not have is refused: its state, and what waits in its shuffle, would be forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from streamcore import limits
from streamcore.errors import StateMismatch, TopicError
from streamcore.log.port import Admin, TopicInfo
from streamcore.topology.plan import Plan, control_topic, journal_topic

logger = logging.getLogger(__name__)

JOURNAL_CONFIG: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
}
SHUFFLE_CONFIG: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
}
CONTROL_CONFIG: Final = SHUFFLE_CONFIG


def prepare(
    plan: Plan,
    admin: Admin,
    replication: int | None,
    auto_partitions: int | None = None,
    *,
    control: bool = False,
    shuffled: Mapping[str, int] | None = None,
) -> dict[str, TopicInfo]:
    """All topics of the job, existing and checked; the user's are made too where `auto_partitions` says with how many
    partitions. With `control` the job has barriers. `shuffled`: partitions of new shuffles, by stage, where
    not the default. Raises TopicError, StateMismatch."""
    found = admin.topics()
    for stage in lost_stages(plan, found):
        raise StateMismatch(*lost_stage(plan, stage))
    wanted = dict.fromkeys([*plan.source_topics, *plan.sink_topics, *plan.dead_letter_topics])
    missing = [name for name in wanted if name not in found]
    if auto_partitions is None:
        refuse_missing(plan, found)
    for name in missing:
        found[name] = admin.create(name, auto_partitions or 1, {})
    counts = [found[name].partitions for name in plan.source_topics]
    most = max(counts)
    if most > limits.PARTITIONS:
        raise TopicError(f"job {plan.job}: {most} partitions; a shuffle has at most {limits.PARTITIONS}", "")
    for stage in plan.stages:
        if stage.is_shuffle:
            count = (shuffled or {}).get(stage.name) or most
            _ensure(plan, admin, found, stage.topic, count, SHUFFLE_CONFIG, replication, pinned=True)
        count = found[stage.topic].partitions
        journal = plan.journal_topic(stage.name)
        _ensure(plan, admin, found, journal, count, JOURNAL_CONFIG, replication, pinned=False)
    if control:
        _ensure(plan, admin, found, control_topic(plan.job), 1, CONTROL_CONFIG, replication, pinned=False)
    return found


def lost_stages(plan: Plan, found: Iterable[str]) -> list[str]:
    """Stages that have a journal, and are not in the code."""
    prefix = journal_topic(plan.job, "")
    known = {plan.journal_topic(stage.name) for stage in plan.stages}
    return sorted(name.removeprefix(prefix) for name in found if name.startswith(prefix) and name not in known)


def lost_stage(plan: Plan, stage: str) -> tuple[str, str]:
    """What is wrong, and the remedy."""
    return (
        f"job {plan.job}: there is saved state of stage {stage!r}, and the code has no such stage",
        "give the source topic or key_by step its old name back; if its state, and what waits in its shuffle, may go, "
        f"delete the topic {journal_topic(plan.job, stage)} with your Kafka tools; or start over with "
        f"`streamcore reset {plan.job}`",
    )


def refuse_missing(plan: Plan, found: Iterable[str]) -> None:
    """Raises TopicError when a user's topic is not there."""
    missing = sorted({*plan.source_topics, *plan.sink_topics, *plan.dead_letter_topics} - set(found))
    if missing:
        commands = "; ".join(f"streamcore topics create {name} --partitions N --kafka HOST:PORT" for name in missing)
        raise TopicError(f"job {plan.job}: no such topic: {', '.join(missing)}", f"create what is missing: {commands}")


def _ensure(
    plan: Plan,
    admin: Admin,
    found: dict[str, TopicInfo],
    name: str,
    partitions: int,
    config: Mapping[str, str],
    replication: int | None,
    *,
    pinned: bool,
) -> None:
    if name not in found:
        found[name] = admin.create(name, partitions, config, replication)
        logger.info("created topic %s with %d partitions", name, partitions)
    if not pinned and found[name].partitions != partitions:
        raise TopicError(
            f"job {plan.job}: its internal topic {name} has {found[name].partitions} partitions "
            f"and must have {partitions}",
            "the input topic's partition count was changed, or the topic is not this job's: `streamcore reset JOB` "
            "starts over",
        )
    actual = admin.config(name)
    foreign = {key: actual.get(key) for key, value in config.items() if actual.get(key) != value}
    if foreign:
        told = ", ".join(f"{key}={value} (must be {config[key]})" for key, value in foreign.items())
        raise TopicError(
            f"job {plan.job}: its internal topic {name} has foreign settings: {told}",
            "set them back with your Kafka tools (kafka-configs --alter), or choose another job name",
        )


def size_limits(plan: Plan, admin: Admin) -> dict[str, int]:
    """max.message.bytes of every topic that the job writes plain records to."""
    names = dict.fromkeys([*plan.sink_topics, *plan.dead_letter_topics])
    return {name: int(admin.config(name)["max.message.bytes"]) for name in names}
