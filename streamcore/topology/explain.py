"""The topology drawn: as lines of text, or as a Mermaid flowchart.

    word-count · 2 stages · a record that fails: stops the job

    lines                             topic of str, 4 partitions, from earliest
    └─ flat_map#1                     flat_map
       └─ by-word                     key_by ⇒ word-count.shuffle.by-word, 4 partitions
                                      journal word-count.journal.lines

    by-word                           shuffle of word-count.shuffle.by-word, 4 partitions, from lines
    └─ count                          aggregate, state: one value a key → int
       └─ to#1                        → counts: str → int, 4 partitions
                                      journal word-count.journal.by-word

Partition counts are shown where the caller knows them: the log does, a program alone does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count

from streamcore.codecs.kinds import name_of
from streamcore.topology.nodes import (
    STATEFUL,
    UNKNOWN,
    DeadLetter,
    Dedupe,
    KeyBy,
    Merge,
    Node,
    OnError,
    Process,
    Sink,
    Skip,
    Source,
    TopicSpec,
)
from streamcore.topology.plan import Plan, Stage, journal_topic, shuffle_topic

COLUMN = 34
"""Where the facts begin, unless a name reaches further."""


Line = tuple[tuple[str, str], ...]
"""Pieces of text, each with the style (in rich's words) that a terminal with colours gives it."""


def explain(plan: Plan, partitions: Mapping[str, int] | None = None, mermaid: bool = False) -> str:
    """`partitions`: the count of each topic, the user's and the job's own, as far as known."""
    if mermaid:
        return "\n".join(_flowchart(plan, partitions or {})) + "\n"
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines(plan, partitions)) + "\n"


def lines(plan: Plan, partitions: Mapping[str, int] | None = None) -> Iterator[Line]:
    known = partitions or {}
    stages = f"{len(plan.stages)} stage{'s' if len(plan.stages) > 1 else ''}"
    yield (plan.job, "bold"), (f" · {stages} · a record that fails: {_policy(plan.on_error)}", "")
    for stage in plan.stages:
        yield ()
        yield _line("", stage.name, "bold cyan", _input(plan, stage, known))
        yield from _branches(plan, stage, stage.input, "", known)
        yield _line("", "", "", f"journal {journal_topic(plan.job, stage.name)}", "dim")


# --- text -------------------------------------------------------------------------------------------------------


def _branches(plan: Plan, stage: Stage, node: Node, indent: str, partitions: Mapping[str, int]) -> Iterator[Line]:
    children = stage.children[node]
    for i, child in enumerate(children):
        last = i == len(children) - 1
        yield _line(indent + ("└─ " if last else "├─ "), child.name, _style(child), _facts(plan, child, partitions))
        yield from _branches(plan, stage, child, indent + ("   " if last else "│  "), partitions)


def _line(indent: str, name: str, style: str, facts: str, facts_style: str = "") -> Line:
    gap = " " * max(2, COLUMN - len(indent) - len(name))
    return (indent, ""), (name, style), (gap, ""), (facts, facts_style)


def _style(node: Node) -> str:
    if isinstance(node, KeyBy):
        return "bold magenta"
    return "bold yellow" if isinstance(node, STATEFUL) else "green" if isinstance(node, Sink) else ""


def _input(plan: Plan, stage: Stage, partitions: Mapping[str, int]) -> str:
    counted = _counted(stage.topic, partitions)
    if isinstance(stage.input, KeyBy):
        upstream = next(s.upstream for s in plan.shuffles if s.name == stage.name)
        return f"shuffle of {stage.topic}{counted}, from {', '.join(upstream)}"
    policy = "" if stage.on_error == plan.on_error else f", a record that fails: {_policy(stage.on_error)}"
    return f"topic of {_carried(stage.input.topic)}{counted}, from {_start(stage.input)}{policy}"


def _facts(plan: Plan, node: Node, partitions: Mapping[str, int]) -> str:
    if isinstance(node, KeyBy):
        topic = shuffle_topic(plan.job, node.name)
        return f"key_by{_of(node.key_type)} ⇒ {topic}{_counted(topic, partitions)}"
    if isinstance(node, Sink):
        return f"→ {node.topic.name}: {_carried(node.topic)}{_counted(node.topic.name, partitions)}"
    gives = "" if node.value_type is UNKNOWN else f" → {name_of(node.value_type)}"
    return f"{_verb(node)}{_state(node)}{gives}"


def _state(node: Node) -> str:
    if isinstance(node, Process):
        schema = node.state.__schema__
        return f", state {schema.name} version {schema.version} ({', '.join(field.name for field in schema.fields)})"
    if isinstance(node, Dedupe):
        return f", state: ids of {_duration(node.keep_ms)}, older ones: {_policy(node.too_old)}"
    return ", state: one value a key" if isinstance(node, STATEFUL) else ""


def _verb(node: Node) -> str:
    """The method that a user called: MapItems is map_items."""
    if isinstance(node, Merge):
        return "merge of " + ", ".join(i.name for i in node.inputs)
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in node.kind).lstrip("_")


def _carried(topic: TopicSpec) -> str:
    value = name_of(topic.value.type)
    return value if topic.key is None else f"{name_of(topic.key.type)} → {value}"


def _of(of: object) -> str:
    return "" if of is UNKNOWN else f" {name_of(of)}"


def _counted(topic: str, partitions: Mapping[str, int]) -> str:
    n = partitions.get(topic)
    return "" if n is None else f", {n} partition{'s' if n != 1 else ''}"


def _start(source: Source) -> str:
    return source.start if isinstance(source.start, str) else f"{source.start} ms"


def _policy(policy: OnError) -> str:
    if isinstance(policy, DeadLetter):
        return f"to {policy.topic}"
    return "skipped" if isinstance(policy, Skip) else "stops the job"


def _duration(ms: int) -> str:
    for unit, size in (("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000), ("seconds", 1_000)):
        if ms % size == 0 and ms >= size:
            return f"{ms // size} {unit if ms > size else unit[:-1]}"
    return f"{ms} ms"


# --- Mermaid ----------------------------------------------------------------------------------------------------


def _flowchart(plan: Plan, partitions: Mapping[str, int]) -> Iterator[str]:
    """Each node once, in the first stage that reaches it: a merged branch is not drawn twice."""
    ids = _Ids()
    drawn: set[Node] = set()
    yield "flowchart LR"
    for stage in plan.stages:
        yield f'  subgraph {ids.of(stage)}["{_escaped(f"stage {stage.name}{_counted(stage.topic, partitions)}")}"]'
        for node in stage.nodes:
            if not isinstance(node, KeyBy | Sink) and node not in drawn:
                drawn.add(node)
                opened, closed = ("[(", ")]") if isinstance(node, STATEFUL) else ("[", "]")
                yield f'    {ids.of(node)}{opened}"{_escaped(f"{node.name}: {_verb(node)}")}"{closed}'
        if isinstance(stage.input, KeyBy):
            yield f'    {ids.of(stage.input)}{{{{"{_escaped(stage.topic)}"}}}}'
        yield "  end"
    topics = dict.fromkeys(n.topic.name for n in plan.nodes if isinstance(n, Source | Sink))
    for topic in (*topics, *plan.dead_letter_topics):
        yield f'  {ids.of(topic)}(["{_escaped(f"{topic}{_counted(topic, partitions)}")}"])'
    for node in plan.nodes:
        for before in node.inputs:
            start = before.topic.name if isinstance(before, Source) else before
            end = node.topic.name if isinstance(node, Sink) else node
            arrow = "==>" if isinstance(node, KeyBy) else "-->"
            yield f"  {ids.of(start)} {arrow} {ids.of(end)}"
    for stage in plan.stages:
        if isinstance(stage.on_error, DeadLetter):
            yield f"  {ids.of(stage)} -.-> {ids.of(stage.on_error.topic)}"


class _Ids(dict[object, str]):
    """Mermaid's identifiers: user's names may be its keywords."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(1)

    def of(self, what: object) -> str:
        return self.setdefault(what, f"n{next(self._numbers)}") if what not in self else self[what]


def _escaped(text: str) -> str:
    """Mermaid's own entities: #quot; is a quote, #35; is a #."""
    return text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace("&", "#amp;")
