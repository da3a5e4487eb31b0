"""Two hundred lines of Shakespeare, and a plain count of their words."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from typing import Final

LINES: Final = "lines"
COUNTS: Final = "counts"


def text_lines() -> list[str]:
    return (files("streamcore.cli.demo") / "text.txt").read_text(encoding="utf-8").splitlines()


def plain_count() -> Counter[str]:
    """What the job must come to, without streamcore."""
    return Counter(word.lower() for line in text_lines() for word in line.split())
