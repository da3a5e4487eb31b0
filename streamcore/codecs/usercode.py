"""What a user's functions refer to, read from their code objects; nothing of theirs is called.

Followed from a function: its nested functions, the globals and closure cells that its code names, attributes of
modules named there, and (within the same top-level package) the functions found that way. Reading is done once, when
a plan is built.
"""

from __future__ import annotations

import builtins
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

MOST_FUNCTIONS: Final = 2_000
"""Where the walk ends: a bound on the time that building a plan may take."""


def functions(roots: Iterable[Callable[..., Any]]) -> Iterator[FunctionType]:
    """The Python functions behind `roots` and those of the same package that they refer to, each once."""
    waiting = [f for root in roots for f in _plain(root)]
    packages = {_package(f) for f in waiting}
    seen: set[FunctionType] = set()
    while waiting and len(seen) < MOST_FUNCTIONS:
        f = waiting.pop()
        if f in seen:
            continue
        seen.add(f)
        yield f
        for value in referenced(f):
            waiting += (g for g in _plain(value) if _package(g) in packages)


def referenced(f: FunctionType) -> Iterator[Any]:
    """The objects that the code of `f` names: globals, closure cells, attributes of the modules among them."""
    names = {name for code in _codes(f.__code__) for name in (*code.co_names, *code.co_freevars)}
    found = [f.__globals__[name] for name in names if name in f.__globals__]
    for cell in f.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    yield from found
    for module in found:
        if isinstance(module, ModuleType) and module is not builtins:
            yield from (vars(module)[name] for name in names if name in vars(module))


def owner(root: Callable[..., Any]) -> type[Any] | None:
    """The class that is `root`, or that `root` is a class method of."""
    bound = getattr(root, "__self__", None)
    return root if isinstance(root, type) else bound if isinstance(bound, type) else None


def mentions(root: Callable[..., Any], word: str) -> bool:
    """Whether the code behind `root` names an attribute (or holds a string) `word`."""
    return any(
        word in code.co_names or word in code.co_consts for f in functions([root]) for code in _codes(f.__code__)
    )


def _plain(value: Any) -> Iterator[FunctionType]:
    """The Python functions that a call of `value` may run, as far as its type tells. A class yields none: what it
    makes is known by its fields."""
    if isinstance(value, FunctionType):
        yield value
        wrapped = inspect.unwrap(value)
        if wrapped is not value:
            yield from _plain(wrapped)
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from _plain(part)
    elif isinstance(value, MethodType):
        yield from _plain(value.__func__)
        yield from _methods(value.__self__)
    elif callable(value) and not isinstance(value, type):
        yield from _methods(value)


def _methods(owner: object) -> Iterator[FunctionType]:
    return (f for base in type(owner).__mro__ for f in vars(base).values() if isinstance(f, FunctionType))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _package(f: FunctionType) -> str:
    return (f.__module__ or "").partition(".")[0]
