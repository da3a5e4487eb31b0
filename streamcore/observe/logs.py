"""Log lines for machines: one line an entry, key=value, on stderr.

    time=2031-05-04T12:00:00.123Z level=warning slot=2 at=runtime.commit what="epoch of 3 tasks undone: …"

Values with spaces, quotes, '=' or control characters are written as JSON strings, so that a line is always one entry
and can be split again. Settings and messages mask secrets before they come here (see config). A client whose
broker is down says so a hundred times a second: of the log's entries that differ in numbers only, one in REPEAT_S is
written.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Final, TextIO

PACKAGE: Final = "streamcore"
REPEAT_S: Final = 10.0
REPEATS_KEPT: Final = 256
_PLAIN = re.compile(r"""[^\s"'=\\\x00-\x1f]+""")

_NUMBER = re.compile(r"\d+")


class KeyValueFormatter(logging.Formatter):
    """`always`: pairs that every line carries, as the slot."""

    def __init__(self, always: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._always = dict(always or {})

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        pairs: dict[str, object] = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            **self._always,
            "at": record.name.removeprefix(f"{PACKAGE}."),
            "what": record.getMessage(),
        }
        if record.exc_info:
            pairs["trace"] = self.formatException(record.exc_info)
        return line(pairs)


class Repeats(logging.Filter):
    """Lets the first of alike entries through, and after REPEAT_S the next, with how many there were in between."""

    def __init__(self) -> None:
        super().__init__()
        self._of = f"{PACKAGE}.log."
        self._seen: dict[tuple[str, str], list[float]] = {}
        """By kind: when one was let through, and how many were not since."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._of):
            return True
        kind = (record.name, _NUMBER.sub("#", record.getMessage()))
        seen = self._seen.get(kind)
        if seen is not None and 0 <= record.created - seen[0] < REPEAT_S:
            seen[1] += 1
            return False
        self._seen.pop(kind, None)
        if len(self._seen) >= REPEATS_KEPT:
            del self._seen[next(iter(self._seen))]
        self._seen[kind] = [record.created, 0]
        if seen is not None and seen[1]:
            record.msg, record.args = f"{record.getMessage()} (and {seen[1]:.0f} more like it)", ()
        return True


def line(pairs: Mapping[str, object]) -> str:
    return " ".join(f"{key}={_written(value)}" for key, value in pairs.items())


def _written(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def configure(level: str, stream: TextIO, always: Mapping[str, object] | None = None) -> logging.Handler:
    """The package's own logger, and no other, writes to `stream`. Returns the handler, for `remove`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(KeyValueFormatter(always))
    return attach(handler, level)


def attach(handler: logging.Handler, level: str) -> logging.Handler:
    handler.addFilter(Repeats())
    package = logging.getLogger(PACKAGE)
    package.setLevel(level.upper())
    package.propagate = False
    package.addHandler(handler)
    return handler


def remove(handler: logging.Handler) -> None:
    """Back to how a library behaves: whoever embeds us decides."""
    package = logging.getLogger(PACKAGE)
    package.removeHandler(handler)
    package.propagate = True
    package.setLevel(logging.NOTSET)
