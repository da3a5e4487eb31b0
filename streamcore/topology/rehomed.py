"""A plan under another job's name, its outputs to other topics: the same steps on the same inputs, and nothing that it
writes is read by anybody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from streamcore.topology.nodes import DeadLetter, Dedupe, Node, OnError, Sink, Source
from streamcore.topology.plan import Plan, build


def rehomed(plan: Plan, job: str, moved: Callable[[str], str]) -> Plan:
    """`moved` gives each topic that is written to, dead letters too, its other name. Raises TopologyError."""
    made: dict[Node, Node] = {}
    for node in plan.nodes:
        inputs = tuple(made[each] for each in node.inputs)
        match node:
            case Sink():
                topic = replace(node.topic, name=moved(node.topic.name))
                made[node] = replace(node, inputs=inputs, topic=topic)
            case Source():
                made[node] = replace(node, inputs=inputs, on_error=_policy(node.on_error, moved))
            case Dedupe():
                made[node] = replace(node, inputs=inputs, too_old=_policy(node.too_old, moved))
            case _:
                made[node] = replace(node, inputs=inputs)
    policy = _policy(plan.on_error, moved)
    return build(job, list(made.values()), policy, correlation_ids=plan.correlation_ids)


def _policy(policy: OnError, moved: Callable[[str], str]) -> OnError:
    return DeadLetter(moved(policy.topic)) if isinstance(policy, DeadLetter) else policy
