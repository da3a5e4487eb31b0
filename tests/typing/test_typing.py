"""What a type-checker says of users' programs, under pyright's strict rules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
EXPECTED = re.compile(r"  # \d+ ")


@pytest.fixture(scope="module")
def reported() -> dict[str, list[dict[str, Any]]]:
    """What pyright reports of each file, as {file: diagnostics}; one run for all."""
    paths = [ROOT / "examples", HERE / "mistakes.py", HERE / "inference.py"]
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *map(str, paths)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    answer = json.loads(ran.stdout)
    assert answer["summary"]["filesAnalyzed"] > 4
    by_file: dict[str, list[dict[str, Any]]] = {}
    for found in answer["generalDiagnostics"]:
        by_file.setdefault(str(Path(found["file"]).relative_to(ROOT)), []).append(found)
    return by_file


def told(found: list[dict[str, Any]]) -> Iterator[str]:
    return (f"{d['range']['start']['line'] + 1}: {d['message']}" for d in found)


def test_the_examples_are_strictly_typed_and_types_are_inferred(reported: dict[str, list[dict[str, Any]]]) -> None:
    others = {name: list(told(found)) for name, found in reported.items() if name != "tests/typing/mistakes.py"}
    assert others == {}


def test_every_mistake_is_reported_and_nothing_else(reported: dict[str, list[dict[str, Any]]]) -> None:
    lines = (HERE / "mistakes.py").read_text().splitlines()
    wanted = {number for number, line in enumerate(lines, 1) if EXPECTED.search(line)}
    found = {d["range"]["start"]["line"] + 1 for d in reported["tests/typing/mistakes.py"]}
    assert len(wanted) == 21
    assert found == wanted
