"""The job under test: words, deduplicated by id, regrouped by word, counted with an output for every word.

Every output is unique: the n-th occurrence of a word is emitted once, with the id of the record that made it. CHAOS_RUN
names the job and its topics. A record that cannot be read or counted becomes a dead letter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

import msgspec

from streamcore import Context, DeadLetter, Job, State, Topic, Value

POISON = "poison"
"""A word that the counting step fails on, after it has counted it."""


class Word(msgspec.Struct, frozen=True):
    id: str
    user: str
    word: str


class Counted(msgspec.Struct, frozen=True):
    word: str
    count: int
    id: str


class Tally(State):
    count = Value(int, default=0)


def tally(word: Word, state: Tally, ctx: Context[str]) -> Iterator[Counted]:
    state.count += 1
    if word.word == POISON:
        raise ValueError(f"{word.id} cannot be counted")
    yield Counted(word=ctx.key, count=state.count, id=word.id)


def named(run: str) -> Job:
    job = Job(run, on_error=DeadLetter(f"{run}.dead"))
    (
        job.stream(Topic(f"{run}.words", Word, key=str))
        .dedupe("seen", by=lambda word: word.id, keep=timedelta(days=1))
        .key_by("by-word", lambda word: word.word)
        .process("tally", Tally, tally)
        .to(Topic(f"{run}.counts", Counted, key=str))
    )
    return job


job = named(os.environ.get("CHAOS_RUN", "chaos"))
