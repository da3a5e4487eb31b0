"""What a savepoint says of a job: its stages, their steps, and where each task's cut and checkpoint are."""

from __future__ import annotations

from streamcore.checkpoint.savepoint import SavedStage, SavedStep, SavedTask, Savepoint
from streamcore.runtime.barriers import Barrier
from streamcore.topology.nodes import Node, Process
from streamcore.topology.plan import Plan, Stage


def savepoint_of(plan: Plan, barrier: Barrier, now_ms: int) -> Savepoint:
    """Of a barrier all of whose tasks have cut and stored."""
    stages: dict[str, SavedStage] = {}
    for stage in plan.stages:
        count = barrier.start.stages[stage.name]
        cuts = [(barrier.cuts[task], barrier.stored[task]) for task in barrier.tasks if task.stage == stage.name]
        stages[stage.name] = SavedStage(
            stage.is_shuffle,
            key_type(stage),
            count,
            {node.name: saved_step(node) for node in stage.stateful},
            tuple(
                SavedTask(cut.partition, cut.lineage, cut.epoch, cut.nonce, cut.offsets, stored.manifest)
                for cut, stored in cuts
            ),
        )
    return Savepoint(
        job=plan.job,
        name=barrier.start.savepoint or "",
        barrier=barrier.number,
        topology=plan.version,
        created_ms=now_ms,
        stages=stages,
    )


def key_type(stage: Stage) -> str:
    of = stage.input.key_type
    return of.__qualname__ if isinstance(of, type) else str(of)


def saved_step(node: Node) -> SavedStep:
    version = node.state.__schema__.version if isinstance(node, Process) else None
    return SavedStep(type(node).__name__.lower(), version)
