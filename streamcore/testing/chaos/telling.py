"""What is told of a failure: the faults it needs, the first wrong record, and the epochs that it went through."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from streamcore.testing import history as recorded
from streamcore.testing import judge, trace
from streamcore.testing.simulated.faults import Injection


@dataclass(frozen=True)
class Failure:
    """Of one seed, and all that is needed to tell of it."""

    seed: int
    problems: tuple[str, ...]
    faults: tuple[Injection, ...]
    """As short as they could be made."""
    history: recorded.History
    quiet: recorded.History | None
    tables: frozenset[str]
    """Topics that get a Table's values."""
    feed: str
    """What was done to the events."""


def explained(failure: Failure, runs: int) -> Iterator[str]:
    yield f"seed {failure.seed} failed, after {runs - 1} that did not{_code_version()}"
    yield from (f"  {problem}" for problem in failure.problems)
    yield f"the faults that are needed ({len(failure.faults)}):" if failure.faults else "no fault is needed for it"
    if failure.feed:
        yield f"  the feed: {failure.feed}"
    yield from (f"  {fault}" for fault in failure.faults)
    wrong = first_wrong(failure)
    if wrong:
        yield "the first wrong record:"
        yield from (f"  {line}" for line in wrong)
    yield f"again: seeds=[{failure.seed}], or `streamcore chaos FILE.py --seed {failure.seed}`"


def first_wrong(failure: Failure) -> list[str]:
    """The first output that the quiet run does not have, or else the first that it has and this one has not."""
    history, quiet = failure.history, failure.quiet
    if quiet is None:
        return []
    for topic, records in history.outputs.items():
        if topic in failure.tables:
            if wrong := _wrong_in_table(history, quiet, topic):
                return wrong
            continue
        missing = judge.pairs(quiet.outputs.get(topic, []))
        for record in records:
            if (record.key, record.value) in missing:
                missing.remove((record.key, record.value))
            else:
                return trace.path_of_output(history, record)
        for key, value in missing[:1]:
            origin = trace.origin_of(quiet, topic, key, value)
            here = trace.same_input(quiet, history, origin) if origin else ""
            told = trace.path_of_input(history, here) if here else []
            return [*told, f"output  {topic}: {key!r} = {value!r} is missing"]
    return []


def _wrong_in_table(history: recorded.History, quiet: recorded.History, topic: str) -> list[str]:
    """The last record of the first key that ends wrongly."""
    last = {record.key: record for record in history.outputs.get(topic, ())}
    for key, value in dict(judge.pairs(quiet.outputs.get(topic, []))).items():
        record = last.get(key)
        if record is None:
            return [f"output  {topic}: {key!r} = {value!r} is missing"]
        if record.value != value:
            return [*trace.path_of_output(history, record), f"should be {value!r}"]
    return []


def _code_version() -> str:
    """The commit of the code that was run, where there is one."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return f" (commit {found.stdout.strip()})" if found.returncode == 0 else ""
