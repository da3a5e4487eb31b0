"""The jobs of the checkpoint benchmarks, and their input. BENCH_RUN names the run.

`kept` keeps each key's last value: a task whose state is as large as one likes. `four` counts words, then their
counts' digits, and so on: four stages behind one another, each of the later ones with state.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from streamcore import Context, Job, State, Topic, Value

PAYLOAD = 70
"""Of a row of 100 bytes in RocksDB: key group 2, key 18, version and field 9, and RocksDB's own bytes not counted."""
WORDS = 20_000
RUN = os.environ.get("BENCH_RUN", "bench")


class Names:
    """The topics of a run."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.rows = f"{run}.rows"
        self.output = f"{run}.output"


def key_of(number: int) -> bytes:
    return b"user-%011d" % number


class Row(State):
    v = Value(bytes, default=b"")


def keep(value: bytes, state: Row, ctx: Context[str]) -> Iterable[bytes]:
    state.v = value
    return ()


class Tally(State):
    count = Value(int, default=0)


def tally(word: str, state: Tally, ctx: Context[str]) -> Iterable[str]:
    state.count += 1
    return (f"{word}.{state.count % 10}",)


names = Names(RUN)
kept = Job(RUN)
kept.stream(Topic(names.rows, bytes, key=str)).process("kept", Row, keep).to(Topic(names.output, bytes, key=str))

four = Job(RUN)
(
    four.stream(Topic(names.rows, str, key=str))
    .key_by("second", lambda word: word)
    .process("tally-second", Tally, tally)
    .key_by("third", lambda word: word)
    .process("tally-third", Tally, tally)
    .key_by("fourth", lambda word: word[::-1])
    .process("tally-fourth", Tally, tally)
    .to(Topic(names.output, str, key=str))
)
JOBS = {"kept": kept, "four": four}
