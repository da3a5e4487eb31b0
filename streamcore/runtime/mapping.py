"""A savepoint's stages and steps onto a plan's: what each begins with, and what does not fit.

Both `resume`, before it writes anything, and `check --against`, which tells all of it beforehand, ask `fitted`: the one
stops at the first refusal, the other shows every one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from streamcore import limits
from streamcore.checkpoint.savepoint import SavedStage, SavedStep, Savepoint
from streamcore.errors import StateMismatch, StopError, TopicError
from streamcore.runtime.saved import key_type, saved_step
from streamcore.state.rows import refuse_version
from streamcore.topology.nodes import Node, Process
from streamcore.topology.plan import Plan, Stage
from streamcore.types import UNKNOWN


@dataclass(frozen=True)
class Changes:
    """What a person says of the topology's changes."""

    dropped: frozenset[str] = frozenset()
    """Stages and steps of the savepoint whose state may go."""
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    """Old name of a stage or step to the new one."""
    partitions: int | None = None
    """Of every shuffled stage; None: as many as the savepoint's."""


@dataclass(frozen=True)
class StagePlan:
    """Where one stage of the plan comes from."""

    stage: Stage
    saved: SavedStage | None
    """None: it is new, and begins as any new stage does."""
    partitions: int
    """0 for a new shuffle: as many as any new one has."""
    steps: Mapping[str, str]
    """Step of the plan to step of the savepoint; one that is missing begins empty."""


class Line(NamedTuple):
    what: str
    alters: bool = False
    """The job is another than the one that was saved."""


@dataclass(frozen=True)
class ResumePlan:
    savepoint: Savepoint
    stages: tuple[StagePlan, ...]
    gone: tuple[str, ...] = ()
    """Stages and steps of the savepoint that nothing of the plan takes over."""

    def lines(self) -> list[str]:
        return [line.what for line in self.told()]

    def told(self) -> Iterator[Line]:
        for each in self.stages:
            yield _stage_line(each)
            if each.saved is not None:
                for node in each.stage.stateful:
                    yield _step_line(node, each.steps.get(node.name), each.saved)
        for name in self.gone:
            yield Line(f"{name}: dropped", True)


@dataclass(frozen=True)
class Fitted:
    resume: ResumePlan
    refused: tuple[StopError, ...]
    """Nothing in it: the savepoint fits the plan."""


def plan_resume(plan: Plan, savepoint: Savepoint, changes: Changes) -> ResumePlan:
    """Raises StateMismatch for what does not fit, naming it and what to say; TopicError for a count that cannot be."""
    found = fitted(plan, savepoint, changes)
    for error in found.refused:
        raise error
    return found.resume


def fitted(plan: Plan, savepoint: Savepoint, changes: Changes) -> Fitted:
    """Asks neither log nor store: of the rows' own versions it knows nothing (see `runtime.gathering`)."""
    refused: list[StopError] = []
    if changes.partitions is not None:
        try:
            refuse_count(plan, changes.partitions)
        except TopicError as error:
            refused.append(error)
    names = _Names(changes)
    stages: list[StagePlan] = []
    for stage in plan.stages:
        old = names.before(stage.name)
        saved = savepoint.stages.get(old) if old else None
        stages.append(_stage_plan(stage, saved, names, changes.partitions))
        if saved is not None:
            refused += _refusals(stages[-1], savepoint)
    refused += _unknown_names(stages, savepoint, changes)
    gone: list[str] = []
    for name, stage_name, what in _left(stages, savepoint):
        gone.append(what)
        if name not in changes.dropped and stage_name not in changes.dropped:
            refused.append(
                StateMismatch(
                    f"savepoint {savepoint.name!r} has a {what}, and the job does not",
                    f"say what became of it: --drop {name}, or --rename {name}=NEW",
                )
            )
    return Fitted(ResumePlan(savepoint, tuple(stages), tuple(gone)), tuple(refused))


def refuse_count(plan: Plan, count: int) -> None:
    """Raises TopicError for a count that no shuffle can have."""
    if not 1 <= count <= limits.PARTITIONS:
        raise TopicError(
            f"job {plan.job} cannot have shuffles of {count} partitions", f"allowed are 1 to {limits.PARTITIONS}"
        )


class _Names:
    def __init__(self, changes: Changes) -> None:
        self._renamed = changes.renamed
        self._back = {new: old for old, new in changes.renamed.items()}

    def before(self, name: str) -> str | None:
        """None: what had this name has another one now, so that this is new."""
        return self._back.get(name) or (None if name in self._renamed else name)


def _stage_plan(stage: Stage, saved: SavedStage | None, names: _Names, count: int | None) -> StagePlan:
    if saved is None:
        return StagePlan(stage, None, (count or 0) if stage.is_shuffle else 0, {})
    befores = {node.name: names.before(node.name) for node in stage.stateful}
    steps = {name: old for name, old in befores.items() if old in saved.steps}
    return StagePlan(stage, saved, saved.partitions if count is None or not saved.shuffle else count, steps)


def misfits(resume: ResumePlan, partitions: Mapping[str, int]) -> Iterator[TopicError]:
    """Topics that there are, by name, and that have other counts than the savepoint's tasks need."""
    for each in resume.stages:
        found = partitions.get(each.stage.topic)
        if each.saved is None or found is None or found == each.partitions:
            continue
        shuffle = each.stage.is_shuffle
        yield TopicError(
            f"stage {each.stage.name}: topic {each.stage.topic} has {found} partitions, and "
            f"{'the job' if shuffle else 'the savepoint'} needs {each.partitions}",
            "`streamcore reset JOB` deletes the old shuffle first"
            if shuffle
            else "a stage that follows its source's partitions cannot be rescaled: its producers decide where a key "
            "lies",
        )


# --- what is refused ------------------------------------------------------------------------------------------------


def _refusals(each: StagePlan, savepoint: Savepoint) -> Iterator[StopError]:
    saved, stage = each.saved, each.stage
    assert saved is not None
    if saved.shuffle != stage.is_shuffle or not _alike(saved.key, key_type(stage)):
        yield StateMismatch(
            f"stage {stage.name!r} is {_shape(stage.is_shuffle, key_type(stage))} in the code and "
            f"{_shape(saved.shuffle, saved.key)} in savepoint {savepoint.name!r}",
            "a changed key is other state: give the step another name, and --drop the old one",
        )
    for node in stage.stateful:
        if node.name in each.steps:
            yield from _step_refusals(node, each.steps[node.name], saved.steps[each.steps[node.name]], savepoint)


def _step_refusals(node: Node, old: str, was: SavedStep, savepoint: Savepoint) -> Iterator[StopError]:
    now = saved_step(node)
    if was.kind != now.kind:
        yield StateMismatch(
            f"step {node.name!r} is of kind {now.kind} in the code and {was.kind} in savepoint {savepoint.name!r}",
            f"give it another name, and --drop {old}",
        )
    elif isinstance(node, Process) and was.version is not None:
        try:
            refuse_version(node.state.__schema__, was.version, node.name)
        except StateMismatch as error:
            yield error


def _left(stages: list[StagePlan], savepoint: Savepoint) -> Iterator[tuple[str, str, str]]:
    """What nobody takes over: (name, its stage's name, what it is). A stage's steps stand for the stage."""
    for name, saved in savepoint.stages.items():
        takers = [each for each in stages if each.saved is saved]
        taken = {old for each in takers for old in each.steps.values()}
        for step in saved.steps:
            if step not in taken:
                yield step, name, f"step {step!r} with state"
        if not takers and not saved.steps:
            yield name, name, f"stage {name!r}"


def _unknown_names(stages: list[StagePlan], savepoint: Savepoint, changes: Changes) -> Iterator[StopError]:
    """A name that is misspelt must not pass for one that was meant."""
    there = {name for stage, saved in savepoint.stages.items() for name in (stage, *saved.steps)}
    code = {name for each in stages for name in (each.stage.name, *(node.name for node in each.stage.stateful))}
    for old in sorted(changes.dropped | changes.renamed.keys()):
        if old not in there:
            yield StateMismatch(
                f"savepoint {savepoint.name!r} has no stage and no step {old!r}", f"it has {', '.join(sorted(there))}"
            )
    for old, new in changes.renamed.items():
        if new not in code:
            yield StateMismatch(
                f"the job has no stage and no step with state {new!r}, which {old!r} is to be",
                f"it has {', '.join(sorted(code))}",
            )
    kept = {old for each in stages if each.saved is not None for old in each.steps.values()}
    kept |= {name for name, saved in savepoint.stages.items() if any(each.saved is saved for each in stages)}
    left = {name for name, _, _ in _left(stages, savepoint)}
    for name in sorted(changes.dropped & kept - left):
        yield StateMismatch(
            f"{name!r} is to be dropped, and the job has it: it would keep its state",
            "leave --drop out; or, for it to begin empty, give it another name in the code",
        )


def _alike(saved: str, now: str) -> bool:
    """A type that no annotation tells may be any."""
    return saved == now or repr(UNKNOWN) in (saved, now)


def _shape(shuffle: bool, key: str) -> str:
    return f"{'regrouped' if shuffle else 'read from its topic'} by {key}"


# --- what is told ---------------------------------------------------------------------------------------------------


def _stage_line(each: StagePlan) -> Line:
    name, saved = each.stage.name, each.saved
    if saved is None:
        return Line(f"stage {name}: new, begins empty", True)
    if not saved.shuffle:
        return Line(f"stage {name}: resumes, as its topic with {saved.partitions} partitions")
    if saved.partitions != each.partitions:
        return Line(f"stage {name}: resumes, {saved.partitions} partitions become {each.partitions}", True)
    return Line(f"stage {name}: resumes with {saved.partitions} partitions; --partitions can move it")


def _step_line(node: Node, old: str | None, saved: SavedStage) -> Line:
    if old is None:
        return Line(f"  step {node.name}: new, begins empty", True)
    told = "kept" if old == node.name else f"was {old}"
    was, now = saved.steps[old].version, saved_step(node).version
    if was is not None and now is not None and was < now:
        applies = f"the upgrade from {was} applies" if now == was + 1 else f"the upgrades from {was} to {now} apply"
        return Line(f"  step {node.name}: {told}, State version {was} becomes {now}: {applies} to each row", True)
    return Line(f"  step {node.name}: {told}", old != node.name)
