"""`check`: would this code run here? Types, topics, partitions, and the saved state against the code; nothing is run.

Findings are the errors that a start would raise, all of them at once instead of the first, and what is worth knowing.
Reads the log only; a journal is read as a whole only when the saved topology is another one than the code's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from streamcore import limits
from streamcore.clock import Clock
from streamcore.codecs.kinds import name_of
from streamcore.errors import StateMismatch, StopError
from streamcore.log import metadata
from streamcore.log.metadata import Metadata
from streamcore.log.port import Admin, Log, TopicInfo
from streamcore.runtime.show import partitions_of
from streamcore.runtime.status import JobTopics, job_topics
from streamcore.runtime.topics import CONTROL_CONFIG, JOURNAL_CONFIG, SHUFFLE_CONFIG, lost_stage, lost_stages
from streamcore.state.frames import FrameAssembler
from streamcore.state.rows import VERSIONS_KEY, refuse_version
from streamcore.state.store import Delta
from streamcore.topology.nodes import Process, Sink, Source, TopicSpec
from streamcore.topology.plan import Plan, Stage, control_topic
from streamcore.types import UNKNOWN, TopicPartition


@dataclass(frozen=True, slots=True)
class Finding:
    level: Literal["good", "note", "bad"]
    what: str
    remedy: str = ""


def check(plan: Plan, log: Log, admin: Admin, clock: Clock, *, auto_create: bool) -> list[Finding]:
    """`auto_create`: missing user topics appear by themselves (the embedded log)."""
    found = admin.topics()
    own = job_topics(admin, plan.job)
    findings = [*types(plan), *user_topics(plan, found, auto_create), *_internal(plan, admin, found)]
    saved = _saved(plan, admin, found, findings)
    findings += _state(plan, log, own, saved, clock)
    return findings


# --- types ------------------------------------------------------------------------------------------------------


def types(plan: Plan) -> Iterator[Finding]:
    for node in plan.nodes:
        if isinstance(node, Source | Sink):
            verb = "reads" if isinstance(node, Source) else "writes"
            yield Finding("good", f"{verb} {node.topic.name}: {topic_type(node.topic)}")
    for node in plan.nodes:
        if node.value_type is UNKNOWN and not isinstance(node, Sink):
            yield Finding(
                "note", f"step {node.name!r} ({node.kind}): the type of its values is not known before it runs"
            )


def topic_type(spec: TopicSpec) -> str:
    value = name_of(spec.value.type)
    return value if spec.key is None else f"{name_of(spec.key.type)} → {value}"


# --- topics -----------------------------------------------------------------------------------------------------


def user_topics(plan: Plan, found: Mapping[str, TopicInfo], auto_create: bool) -> Iterator[Finding]:
    for name in dict.fromkeys([*plan.source_topics, *plan.sink_topics, *plan.dead_letter_topics]):
        info = found.get(name)
        if info is not None:
            yield Finding("good", f"topic {name}: {info.partitions} partitions")
        elif auto_create:
            yield Finding("note", f"topic {name} does not exist yet; the embedded log makes it")
        else:
            yield Finding(
                "bad", f"topic {name} does not exist", f"streamcore topics create {name} --partitions N --kafka …"
            )


def _internal(plan: Plan, admin: Admin, found: Mapping[str, TopicInfo]) -> Iterator[Finding]:
    for stage in plan.stages:
        if stage.is_shuffle and stage.topic in found:
            yield from _settings(admin, stage.topic, SHUFFLE_CONFIG)
        journal = plan.journal_topic(stage.name)
        if journal in found:
            yield from _settings(admin, journal, JOURNAL_CONFIG)
            count = found[stage.topic].partitions if stage.topic in found else None
            if count is not None and found[journal].partitions != count:
                yield Finding(
                    "bad",
                    f"topic {stage.topic} has {count} partitions, its journal {journal} {found[journal].partitions}",
                    f"the input's partition count was changed: `streamcore reset {plan.job}` starts over",
                )

    control = control_topic(plan.job)
    if control in found:
        yield from _settings(admin, control, CONTROL_CONFIG)
        if found[control].partitions != 1:
            yield Finding(
                "bad",
                f"internal topic {control} has {found[control].partitions} partitions, and must have 1",
                f"it is not this job's: delete it with your Kafka tools, or `streamcore reset {plan.job}`",
            )


def _settings(admin: Admin, topic: str, wanted: Mapping[str, str]) -> Iterator[Finding]:
    actual = admin.config(topic)
    for key, value in wanted.items():
        if actual.get(key) != value:
            yield Finding(
                "bad",
                f"internal topic {topic} has {key}={actual.get(key)}, and must have {value}",
                "set it back with your Kafka tools (kafka-configs --alter), or choose another job name",
            )


# --- saved state ------------------------------------------------------------------------------------------------


def _saved(
    plan: Plan, admin: Admin, found: Mapping[str, TopicInfo], findings: list[Finding]
) -> dict[TopicPartition, Metadata]:
    topics = [stage.topic for stage in plan.stages if stage.topic in found]
    committed = admin.committed(plan.job, partitions_of(admin, topics), limits.CALL_TIMEOUT_S, stable=False)
    saved: dict[TopicPartition, Metadata] = {}
    for tp, at in committed.items():
        try:
            saved[tp] = metadata.decode(at.metadata, str(tp))
        except StopError as error:
            findings.append(Finding("bad", error.what, error.remedy))
    return saved


def _state(
    plan: Plan, log: Log, own: JobTopics, saved: Mapping[TopicPartition, Metadata], clock: Clock
) -> Iterator[Finding]:
    known = {stage.name: stage for stage in plan.stages}
    for name in lost_stages(plan, (info.name for info in own.journals.values())):
        yield Finding("bad", *lost_stage(plan, name))
    if own.journals and not saved:
        yield Finding(
            "bad",
            f"job {plan.job} has journals, and its group no offsets: they were reset or expired",
            f"`streamcore recover {plan.job}` rewrites them, `streamcore reset {plan.job}` starts over",
        )
    if not own.journals:
        yield Finding("good", "no saved state: the job begins anew")
    elif all(told.topology == plan.version for told in saved.values()):
        yield Finding("good", f"saved state of {len(saved)} tasks fits the code (topology {plan.version})")
    else:
        yield from _changed(plan, log, own, known, clock)


def _changed(plan: Plan, log: Log, own: JobTopics, known: Mapping[str, Stage], clock: Clock) -> Iterator[Finding]:
    yield Finding("note", f"the saved state was written by another version of the topology than {plan.version}")
    for stage, steps in _steps_in_journals(log, own, clock).items():
        if stage not in known:
            continue
        present = {node.name: node for node in known[stage].stateful}
        for step in sorted(steps.keys() - present.keys()):
            yield Finding(
                "bad",
                f"stage {stage!r} holds state of step {step!r}, and the code has no such step",
                f"give the step its old name back, or `streamcore reset {plan.job}` and start over",
            )
        for step in sorted(present.keys() - steps.keys()):
            yield Finding("note", f"step {step!r} of stage {stage!r} has no saved state: it begins empty")
        for name in sorted(present.keys() & steps.keys()):
            yield from _versions(name, present[name], steps[name])


def _versions(name: str, node: object, saved: set[int]) -> Iterator[Finding]:
    if isinstance(node, Process):
        for version in sorted(saved):
            try:
                refuse_version(node.state.__schema__, version, name)
            except StateMismatch as error:
                yield Finding("bad", error.what, error.remedy)


def _steps_in_journals(log: Log, own: JobTopics, clock: Clock) -> dict[str, dict[str, set[int]]]:
    """Stateful steps that ever wrote, by stage, with the versions of the State that they wrote."""
    admin = log.admin()
    try:
        tps = partitions_of(admin, [info.name for info in own.journals.values()])
        first = admin.first_offsets(tps)
    finally:
        admin.close()
    stage_of = {info.name: stage for stage, info in own.journals.items()}
    assemblers = {tp: FrameAssembler(str(tp), chained=True) for tp in tps}
    steps: dict[str, dict[str, set[int]]] = {stage: {} for stage in own.journals}
    quiet_since = clock.monotonic_s()
    reader = log.reader(first)
    try:
        while not reader.ended() >= first.keys() and clock.monotonic_s() - quiet_since < limits.CALL_TIMEOUT_S:
            for run in reader.poll(limits.POLL_RECORDS, 0.1):
                quiet_since = clock.monotonic_s()
                for offset, value in zip(run.offsets, run.values, strict=True):
                    complete = assemblers[run.tp].feed(offset, value or b"")
                    if complete is not None:
                        for step, delta in complete.frame.deltas.items():
                            if delta:
                                steps[stage_of[run.tp.topic]].setdefault(step, set()).update(_written(delta))
    finally:
        reader.close()
    return steps


def _written(delta: Delta) -> Iterator[int]:
    """The versions that a delta names: the lowest and the highest in its column."""
    for key, value in zip(delta.keys, delta.values, strict=True):
        if key == VERSIONS_KEY and value is not None:
            yield int.from_bytes(value[:2])
            yield int.from_bytes(value[2:])
