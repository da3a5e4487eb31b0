from __future__ import annotations

from collections.abc import Mapping

from streamcore.topology.plan import Plan


def explain(plan: Plan, partitions: Mapping[str, int] | None = None, mermaid: bool = False) -> str:
    return plan.job
