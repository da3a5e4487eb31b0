"""What a Job writes down while its program runs: the nodes, in the order they are made.

The streams of one job share one Graph. Nothing here runs a user's function.
"""

from __future__ import annotations

import sys
import typing
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any, TypeVar

from streamcore.codecs import kinds
from streamcore.errors import TopologyError
from streamcore.topology.nodes import UNKNOWN, Node, OnError
from streamcore.topology.plan import at, check_name

N = TypeVar("N", bound=Node)


class Graph:
    def __init__(self, job: str, on_error: OnError) -> None:
        self.job = job
        self.on_error = on_error
        self.nodes: list[Node] = []
        self._made: Counter[str] = Counter()

    def add(self, node: N) -> N:
        self.nodes.append(node)
        return node

    def name(self, kind: str, given: str = "") -> str:
        """The user's name, or one made of the kind and a number, which no user's can be."""
        if given:
            check_name(f"a {kind} step", given, where())
            return given
        self._made[kind] += 1
        return f"{kind}#{self._made[kind]}"


def where() -> str:
    """file:line of the user's call: the first frame outside this package."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_globals.get("__name__", "").startswith("streamcore.api"):
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def refuse(what: str, remedy: str) -> TopologyError:
    """The error for what the user's line asks."""
    return TopologyError(f"{at(where())}{what}", remedy)


def returned(f: Callable[..., Any]) -> Any:
    """The type that `f` says it returns; a class returns itself; UNKNOWN where nothing tells."""
    if isinstance(f, type):
        return f
    of = kinds.hints(f).get("return", UNKNOWN)
    return UNKNOWN if of is UNKNOWN or _is_open(of) else of


def items_returned(f: Callable[..., Any]) -> Any:
    """The type of the items in what `f` says it returns: of Iterator[Order] | None, Order."""
    of = returned(f)
    if of is UNKNOWN:
        return UNKNOWN
    of = kinds.bare(kinds.without_none(of))
    origin, args = typing.get_origin(of), typing.get_args(of)
    if not isinstance(origin, type) or not issubclass(origin, Iterable) or issubclass(origin, AsyncIterable | dict):
        return UNKNOWN
    if origin is tuple:
        return args[0] if len(args) == 2 and args[1] is ... else UNKNOWN
    return args[0] if args and not _is_open(args[0]) else UNKNOWN


def _is_open(of: Any) -> bool:
    """Holds a type variable, or allows anything."""
    return isinstance(of, typing.TypeVar) or of in (Any, object) or any(map(_is_open, typing.get_args(of)))
