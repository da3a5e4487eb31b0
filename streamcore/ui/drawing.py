"""The topology in a terminal, with colours where it has them."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from streamcore.topology.explain import lines
from streamcore.topology.plan import Plan


def draw(plan: Plan, console: Console, partitions: Mapping[str, int] | None = None) -> None:
    for line in lines(plan, partitions):
        console.print(Text.assemble(*line), soft_wrap=True)
