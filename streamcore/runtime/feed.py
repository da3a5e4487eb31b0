"""Lines of a file or of standard input into a topic: `--feed` and `topics produce`.

A line is a record, its bytes as they stand: text for a topic of str, one JSON value for any other, and whatever the
job's error policy should see for neither. With keys, `key<TAB>value`. The feed has a producer of its own, outside any
transaction, and keeps no position: started again, it begins again.

Never blocks for input: `step` takes what is there and waits until the log has it. One thread, that of the caller.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from dataclasses import dataclass
from typing import Final

from streamcore import limits
from streamcore.errors import LogUnavailable, SettingsError, shown
from streamcore.log.port import Log

logger = logging.getLogger(__name__)

CHUNK_BYTES: Final = 256 << 10
FLUSH_S: Final = 1.0
"""A worker's turns wait this long at most while the log is away."""


@dataclass(frozen=True, slots=True)
class FeedSpec:
    topic: str
    path: str
    """`-` is standard input."""
    keyed: bool = False
    skip_blank: bool = False
    """An empty line is no record: for topics of JSON."""

    @staticmethod
    def parse(text: str, keyed: bool) -> FeedSpec:
        topic, equals, path = text.partition("=")
        if not (topic and equals and path):
            raise SettingsError(f"--feed {text!r} is not understood", "write --feed TOPIC=FILE, or TOPIC=- for stdin")
        return FeedSpec(topic, path, keyed)

    @property
    def where(self) -> str:
        return "standard input" if self.path == "-" else self.path


class Feed:
    """Raises SettingsError when the file cannot be read."""

    def __init__(self, log: Log, spec: FeedSpec) -> None:
        self._spec = spec
        self._fd = sys.stdin.fileno() if spec.path == "-" else _opened(spec)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._rest = b""
        self._line = 0
        self.records = 0
        self.done = False
        self._read_all = False
        self._unacknowledged = False
        self._failures = 0
        self._producer = log.producer(None)
        self._producer.init(limits.CALL_TIMEOUT_S)

    def step(self, timeout_s: float = 0.0) -> bool:
        """Sends what can be read now, a chunk at most. True once all is read and acknowledged. While the log is away
        nothing more is read; raises LogUnavailable when that lasts."""
        if not self._unacknowledged and not self._read_all and self._poll.poll(timeout_s * 1000):
            self._take(os.read(self._fd, CHUNK_BYTES))
        if self._unacknowledged:
            self._flush()
        self.done = self._read_all and not self._unacknowledged
        return self.done

    def _take(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if not chunk and self._rest:
            lines, self._rest = [self._rest], b""
        self._read_all = not chunk
        self._send(lines)

    def _flush(self) -> None:
        try:
            self._producer.flush(FLUSH_S)
        except LogUnavailable as error:
            self._failures += 1
            if self._failures * FLUSH_S >= limits.STARTUP_RETRY_S:
                raise
            logger.warning("--feed: the log does not answer, trying again: %s", error.what)
            return
        self._unacknowledged = False
        self._failures = 0

    def close(self) -> None:
        if self._spec.path != "-":
            os.close(self._fd)
        self._producer.close()

    def _send(self, lines: list[bytes]) -> None:
        if len(self._rest) > limits.MESSAGE_BYTES:
            number = self._line + len(lines) + 1
            raise SettingsError(
                f"--feed: line {number} of {self._spec.where} is over {limits.MESSAGE_BYTES} bytes",
                "a line is one record: is this the right file?",
            )
        keys: list[bytes | None] = []
        values: list[bytes | None] = []
        for line in lines:
            self._line += 1
            text = line.removesuffix(b"\r")
            if self._spec.skip_blank and not text.strip():
                continue
            key, value = self._split(text) if self._spec.keyed else (None, text)
            keys.append(key)
            values.append(value)
        if values:
            self._producer.produce(self._spec.topic, None, values, keys if self._spec.keyed else None)
            self._unacknowledged = True
            self.records += len(values)

    def _split(self, line: bytes) -> tuple[bytes, bytes]:
        key, tab, value = line.partition(b"\t")
        if not tab:
            raise SettingsError(
                f"--feed: line {self._line} of {self._spec.where} has no tab: {shown(line.decode(errors='replace'))}",
                "with --feed-key each line is key<TAB>value",
            )
        return key, value


def _opened(spec: FeedSpec) -> int:
    try:
        return os.open(spec.path, os.O_RDONLY)
    except OSError as error:
        raise SettingsError(
            f"--feed: {spec.path} cannot be read ({error.strerror})", "give a file, or - for stdin"
        ) from error
