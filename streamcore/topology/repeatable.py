"""What of a job's outputs comes out the same when the same input is run again, as far as its code tells.

    STREAM    the same records, each as often
    TABLE     each key's last value: which of the values between are emitted depends on where epochs end
    unknown   why nobody can say: a step reads the clock or draws lots; or it counts, filters or regroups what a table
              emits, and so sees where epochs ended

Read from code objects, nothing is called: a step that hides such a thing (in a C extension, behind getattr, in a file
or service that it asks) is taken for repeatable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from random import Random
from types import CodeType, ModuleType
from typing import Any, Final

from streamcore.codecs import usercode
from streamcore.topology.nodes import (
    Aggregate,
    DeadLetter,
    Dedupe,
    Filter,
    FlatMap,
    KeyBy,
    Map,
    MapBatch,
    MapItems,
    Merge,
    Node,
    Process,
    Sink,
    Source,
)
from streamcore.topology.plan import Plan


class Shape(Enum):
    STREAM = "stream"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Fate:
    shape: Shape = Shape.STREAM
    unknown: str = ""
    ordered: bool = False
    """Records of one key come in one order, that of their source partition."""
    mixes: tuple[str, ...] = ()
    """Steps with state whose input comes of several partitions, in an order between them that no log keeps."""


_FUNCTIONS: Final = ("f", "on_event", "by", "zero", "add", "result")
_NAMES: Final = frozenset(
    ("now", "utcnow", "today", "random", "uuid", "uuid1", "uuid4", "urandom", "time_ns", "monotonic", "perf_counter")
)
"""Attributes: of the context, of datetime, of modules."""
_MODULES: Final = frozenset(("time", "random", "secrets"))
_ALIKE: Final = (Map, MapItems, MapBatch)
"""One value for each value: the last of a key stays the last."""


def fate(plan: Plan, topic: str) -> Fate:
    """Of what the job writes to `topic`, which is a sink or a dead letter topic of it."""
    ends = [node for node in plan.nodes if isinstance(node, Sink) and node.topic.name == topic]
    failing = _failing_into(plan, topic)
    upstream = _upstream([*ends, *failing])
    for node in upstream:
        if word := chance(node):
            return Fate(unknown=f"step {node.name!r} uses {word}, which is another in each run")
    tables = [end for end in ends if _table_behind(end) is not None]
    if len(tables) == 1 and not failing and len(ends) == 1:
        table = _table_behind(tables[0])
        assert table is not None
        behind = _upstream(list(table.inputs))
        if found := next((node for node in behind if isinstance(node, Aggregate)), None):
            return Fate(unknown=_seen(table, found))
        return Fate(Shape.TABLE, mixes=_mixes(plan, upstream))
    if found := next((node for node in upstream if isinstance(node, Aggregate)), None):
        after = next((node for node in (*ends, *failing) if node is not found), found)
        return Fate(unknown=_seen(_first_behind(found, upstream) or after, found))
    ordered = not failing and len(ends) == 1 and _one_keyed_source(upstream) and ends[0].topic.key is not None
    return Fate(Shape.STREAM, ordered=ordered, mixes=_mixes(plan, upstream))


def _seen(node: Node, table: Node) -> str:
    return (
        f"step {node.name!r} takes what table {table.name!r} emits once an epoch: what comes of it depends on where "
        "epochs ended"
    )


def _failing_into(plan: Plan, topic: str) -> list[Node]:
    """Nodes whose records may end there as dead letters."""
    found: list[Node] = [
        node for node in plan.nodes if isinstance(node, Dedupe) and _goes(node.too_old, topic)
    ]  # fmt: skip
    for stage in plan.stages:
        if _goes(stage.on_error, topic):
            found += [stage.input, *stage.nodes]
    return found


def _goes(policy: object, topic: str) -> bool:
    return isinstance(policy, DeadLetter) and policy.topic == topic


def _upstream(ends: Iterable[Node]) -> list[Node]:
    """With the ends, those nearest to them first, each once."""
    waiting, found = list(ends), dict[Node, None]()
    while waiting:
        node = waiting.pop(0)
        if node not in found:
            found[node] = None
            waiting += node.inputs
    return list(found)


def _table_behind(end: Node) -> Aggregate | None:
    (node,) = end.inputs
    while isinstance(node, _ALIKE):
        (node,) = node.inputs
    return node if isinstance(node, Aggregate) else None


def _first_behind(table: Node, nodes: Iterable[Node]) -> Node | None:
    """What takes the table's emissions and does not pass each of them on alike."""
    taking = [node for node in nodes if table in node.inputs and not isinstance(node, Sink)]
    odd = [node for node in taking if not isinstance(node, _ALIKE)]
    return odd[0] if odd else taking[0] if taking else None


def _one_keyed_source(nodes: Iterable[Node]) -> bool:
    sources = [node for node in nodes if isinstance(node, Source)]
    crossed = any(isinstance(node, KeyBy | Merge) for node in nodes)
    return len(sources) == 1 and sources[0].topic.key is not None and not crossed


def _mixes(plan: Plan, nodes: Iterable[Node]) -> tuple[str, ...]:
    behind = {node for stage in plan.stages if stage.is_shuffle for node in stage.stateful}
    return tuple(node.name for node in nodes if node in behind)


# --- clocks and lots ------------------------------------------------------------------------------------------------


def chance(node: Node) -> str:
    """What of a clock or of chance the node's own functions name; "" for nothing."""
    roots = [f for name in _FUNCTIONS if callable(f := getattr(node, name, None))]
    if not isinstance(node, Process | Map | MapItems | MapBatch | FlatMap | Filter | KeyBy | Aggregate | Dedupe):
        return ""
    return next(_named(roots), "")


def _named(roots: list[Callable[..., Any]]) -> Iterator[str]:
    for f in usercode.functions(roots):
        for code in _codes(f.__code__):
            yield from (f".{name}" for name in code.co_names if name in _NAMES)
        for value in usercode.referenced(f):
            if isinstance(value, ModuleType) and value.__name__ in _MODULES:
                yield f"the module {value.__name__}"
            elif isinstance(getattr(value, "__self__", None), Random) or (
                callable(value) and getattr(value, "__module__", None) in _MODULES
            ):
                yield f"{getattr(value, '__name__', value)}()"


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
