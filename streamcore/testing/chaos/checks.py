"""What a chaos run is asked for: the history of a run, and checks that tell what is wrong in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

from streamcore.api import Key, Topic
from streamcore.errors import TopologyError
from streamcore.testing import history as recorded
from streamcore.testing import judge
from streamcore.topology.nodes import Aggregate, Node
from streamcore.topology.plan import Plan

K = TypeVar("K", bound=Key)
V = TypeVar("V")


class History:
    """What happened in one run: for checks of your own."""

    def __init__(self, run: recorded.History, quiet: recorded.History | None, plan: Plan) -> None:
        self.run = run
        """Everything that was recorded; see streamcore.testing.history."""
        self.quiet = quiet
        """The same events once, in order, with no fault."""
        self.plan = plan

    def sent(self, topic: Topic[Any, V]) -> list[V]:
        """What stands in an input topic: duplicates too, partition by partition."""
        return [value for _, value in _items(topic, self.run.inputs[topic.spec.name])]

    def read(self, topic: Topic[Any, V]) -> list[V]:
        """What a read_committed reader finds in an output topic, partition by partition."""
        return [value for _, value in _items(topic, self.run.outputs[topic.spec.name])]

    def read_items(self, topic: Topic[K, V]) -> list[tuple[K, V]]:
        """As `read`, with keys."""
        return _items(topic, self.run.outputs[topic.spec.name])


def _items(topic: Any, records: Sequence[recorded.Record]) -> list[tuple[Any, Any]]:
    spec = topic.spec
    return [
        (
            None if r.key is None or spec.key is None else spec.key.decode([r.key])[0],
            None if r.value is None else spec.value.decode([r.value])[0],
        )
        for r in records
    ]


Check: TypeAlias = Callable[[History], str | None]
"""Says what is wrong; None: nothing."""


def same_as_quiet_run(topic: Topic[Any, Any], *, order: Literal["per-key", "any"] = "per-key") -> Check:
    """The topic holds what a run of the same events, once, in order and without a fault gives. A Table's topic: the
    same last value of each key. `per-key`: each key's records in the same order (a key that is fed from several
    partitions has no order of its own: say "any")."""
    name = topic.spec.name

    def check(history: History) -> str | None:
        quiet = history.quiet
        if quiet is None:
            return f"{name}: there is no quiet run to compare with"
        if name not in quiet.outputs:
            wrote = ", ".join(quiet.outputs) or "none"
            raise TopologyError(f"job {history.plan.job} does not write the topic {name!r}", f"it writes {wrote}")
        wanted = judge.pairs(quiet.outputs[name])

        def expected(_: recorded.History) -> judge.Pairs:
            return wanted

        if is_table(history.plan, name):
            if topic.spec.key is None:
                return f"{name}: a Table's values without a key cannot be told apart: give a check of your own"
            last = dict(wanted)
            verdict = judge.last_values(name, lambda _: list(last.items()))(history.run)
        else:
            verdict = judge.outputs_equal(name, expected)(history.run)
            if verdict.holds is True and order == "per-key":
                verdict = judge.order_per_key(name, expected)(history.run)
        return None if verdict.holds else str(verdict)

    return check


def no_gaps_or_repeats() -> Check:
    """The engine's own promises: epochs without gaps, offsets, journal and outputs of one piece, state that is the fold
    of the journal, nobody who commits what is not his, buffers within their bounds; with barriers, tasks that are cut
    along one line, and checkpoints that are whole."""

    def check(history: History) -> str | None:
        checkers = (*judge.ALWAYS, *judge.WITH_BARRIERS) if history.run.decisions is not None else judge.ALWAYS
        wrong = judge.failed(judge.judge(history.run, checkers))
        return "; ".join(map(str, wrong)) or None

    return check


def at_rest(history: History) -> str | None:
    verdict = judge.at_rest(history.run)
    return None if verdict.holds else str(verdict)


def is_table(plan: Plan, topic: str) -> bool:
    """Whether a topic gets a Table's values, one an epoch and key, and not one an event."""

    def from_table(node: Node) -> bool:
        return isinstance(node, Aggregate) or any(map(from_table, node.inputs))

    return any(from_table(sink) for stage in plan.stages for sink in stage.sinks if sink.topic.name == topic)
