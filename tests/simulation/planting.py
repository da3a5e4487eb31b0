"""Bugs that are put into the real code for one run, and the seeds that show them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import pytest

from streamcore.testing.judge import Verdict

Planted = tuple[Callable[[pytest.MonkeyPatch], None], tuple[str, ...]]
"""What puts it in, and the topologies that can show it."""


class Judged(Protocol):
    @property
    def wrong(self) -> Sequence[Verdict]: ...


def named(*bugs: Planted) -> dict[str, Planted]:
    return {bug.__name__: (bug, topologies) for bug, topologies in bugs}


@contextlib.contextmanager
def planted(bugs: Mapping[str, Planted], name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        bugs[name][0](patch)
        yield


def hunt(
    bugs: Mapping[str, Planted], name: str, run: Callable[[str, int], Judged], most: int = 2_000
) -> tuple[str, int, str] | None:
    """Topology, seed, checker; None when no seed shows it."""
    topologies = bugs[name][1]
    for seed in range(most):
        topology = topologies[seed % len(topologies)]
        with planted(bugs, name):
            judged = run(topology, seed)
        wrong = [verdict for verdict in judged.wrong if verdict.holds is False]
        if wrong:
            return topology, seed, wrong[0].checker
    return None
