"""What a run found, as lines with their aims, and as a table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Line:
    what: str
    found: float
    aim: float | None
    """None: it is told, and nothing is wanted of it."""
    raw: str
    unit: str = ""
    least: bool = False
    """The aim is a lower bound."""

    @property
    def met(self) -> str:
        if self.aim is None:
            return ""
        return "yes" if (self.found >= self.aim if self.least else self.found <= self.aim) else "**no**"

    def cells(self) -> list[str]:
        form = "{:.0f}" if self.unit == "ms" else "{:.2f}"
        sign = "≥" if self.least else "≤"
        aim = "" if self.aim is None else f"{sign} {self.aim:g}{' ' + self.unit if self.unit else ''}"
        return [self.what, f"{form.format(self.found)} {self.unit}".strip(), aim, self.met, self.raw]


HEADER = ["", "found", "aim", "met", "raw"]


def markdown(lines: Sequence[Line]) -> list[str]:
    rows = [HEADER, ["---"] * len(HEADER), *(line.cells() for line in lines)]
    return ["| " + " | ".join(row) + " |" for row in rows]


def p99(values: Sequence[float]) -> float:
    """Of fewer than a hundred: the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


def spread(values: Sequence[float], scale: float = 1.0, form: str = "{:.0f}") -> str:
    """Median and largest."""
    largest, middle = form.format(max(values) * scale), form.format(median(values) * scale)
    return f"median {middle}, largest {largest} of {len(values)}"
