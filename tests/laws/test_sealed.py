"""Laws 9 and 10 as a reading of the source: nothing received is evaluated, only clock.py touches time and chance."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import streamcore

PACKAGE = Path(streamcore.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

EVALUATES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml"}
EVALUATES_CALLS = {"eval", "exec", "compile", "__import__"}
CHANCE = {"time", "secrets"}
CHANCE_CALLS = {
    ("random", "random"), ("random", "randint"), ("random", "choice"), ("random", "shuffle"), ("os", "urandom"),
    ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"),
    ("uuid", "uuid4"), ("uuid", "uuid1"),
}  # fmt: skip
"""Calls of a module's or class's own function; a Random object's methods are what injection is for."""
MAY_TOUCH_TIME = {"clock.py", "logs.py"}
"""logs.py only writes out the time that the logging module took."""


def evaluating(tree: ast.AST) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in EVALUATES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in EVALUATES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EVALUATES_CALLS:
            found.append(f"{node.func.id}() at line {node.lineno}")
    return found


def chancy(tree: ast.AST) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name in CHANCE]
        elif isinstance(node, ast.ImportFrom) and node.module in CHANCE:
            found.append(node.module or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and (owner.id, node.func.attr) in CHANCE_CALLS:
                found.append(f"{owner.id}.{node.func.attr}() at line {node.lineno}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(PACKAGE)) for p in SOURCES])
def test_law_9_nothing_in_the_package_evaluates_what_it_receives(path: Path) -> None:
    assert evaluating(ast.parse(path.read_text())) == []


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(PACKAGE)) for p in SOURCES])
def test_law_10_time_and_chance_are_injected(path: Path) -> None:
    found = chancy(ast.parse(path.read_text()))
    assert found == [] or path.name in MAY_TOUCH_TIME


@pytest.mark.parametrize("source", ["import pickle", "from yaml import load", "eval(x)", "exec(record)"])
def test_the_reading_finds_what_evaluates(source: str) -> None:
    assert evaluating(ast.parse(source))


@pytest.mark.parametrize("source", ["import time", "datetime.now(UTC)", "random.random()", "os.urandom(8)"])
def test_the_reading_finds_time_and_chance(source: str) -> None:
    assert chancy(ast.parse(source))
