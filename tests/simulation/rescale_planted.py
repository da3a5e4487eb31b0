"""The bugs that are planted in savepoints and in what resumes from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest

from streamcore.operators import endpoints
from streamcore.runtime import checkpoints, gathering
from streamcore.runtime import resume as resumed
from streamcore.state.store import Delta
from tests.simulation.planting import named
from tests.simulation.rescale import SOURCES


def savepoint_that_misses_one_partition(patch: pytest.MonkeyPatch) -> None:
    """The savepoint names all checkpoints of a stage but the last partition's."""
    savepoint_of = checkpoints.savepoint_of

    def misses(*args: Any) -> Any:
        saved = savepoint_of(*args)
        stages = {name: msgspec.structs.replace(s, tasks=s.tasks[:-1]) for name, s in saved.stages.items() if s.shuffle}
        return msgspec.structs.replace(saved, stages={**saved.stages, **stages})

    patch.setattr(checkpoints, "savepoint_of", misses)


def a_key_group_is_sent_to_two_tasks(patch: pytest.MonkeyPatch) -> None:
    """State: every seventh key group is gathered by its own task and by the next one."""

    def keeps(partition: int, count: int) -> Callable[[bytes], bool]:
        def keep(key: bytes) -> bool:
            group = int.from_bytes(key[:2], "big")
            return group % count == partition or (group % 7 == 0 and (group + 1) % count == partition)

        return keep

    patch.setattr(gathering, "_of", keeps)


def records_of_a_key_group_are_sent_to_two_tasks(patch: pytest.MonkeyPatch) -> None:
    """Routing: a key that is met for the first time in a life goes by the count that there was before. (A worker that
    forgets what keys it has met sends it elsewhere later.)"""
    missing = endpoints.Partitions.__missing__

    def before(self: Any, key: Any) -> int:
        found = missing(self, key)
        return self.setdefault(key, found) if len(self) % 5 else found % SOURCES

    patch.setattr(endpoints.Partitions, "__missing__", before)


def a_row_is_lost_at_a_boundary(patch: pytest.MonkeyPatch) -> None:
    """Rows are gathered in pieces, and the first of each piece but the first is taken for the last of the one before.
    (Pieces of three rows, so that there are several.)"""
    pieces = gathering.chunks

    def chunks(*args: Any) -> Iterator[Any]:
        for i, delta in enumerate(pieces(*args)):
            yield Delta(delta.keys[i > 0 :], delta.values[i > 0 :])

    patch.setattr(gathering, "CHUNK_ENTRIES", 3)
    patch.setattr(gathering, "chunks", chunks)


def an_inbox_is_split_by_key_group(patch: pytest.MonkeyPatch) -> None:
    """Own: dedupe's ids move by what seems to be their key group, and is the beginning of a time."""
    patch.setattr(gathering, "Dedupe", int)


def resumed_though_the_job_went_on(patch: pytest.MonkeyPatch) -> None:
    """Own: nobody looks whether a worker that was started again has committed behind the savepoint."""
    patch.setattr(resumed, "ran_on", lambda admin, saved: "")  # pyright: ignore[reportUnknownLambdaType]


def genesis_from_the_beginning(patch: pytest.MonkeyPatch) -> None:
    """Own: the first task of each source begins where its topic does, and not where it was cut."""
    task = resumed.Resuming._task

    def forgetful(self: Any, each: Any, of: Any) -> Any:
        made = task(self, each, of)
        return dataclasses.replace(made, offsets={}) if of.partition == 0 else made

    patch.setattr(resumed.Resuming, "_task", forgetful)


BUGS: Final = named(
    (savepoint_that_misses_one_partition, ("words", "payments", "regions")),
    (a_key_group_is_sent_to_two_tasks, ("words", "payments", "regions")),
    (records_of_a_key_group_are_sent_to_two_tasks, ("words", "payments")),
    (a_row_is_lost_at_a_boundary, ("words", "payments")),
    (an_inbox_is_split_by_key_group, ("payments",)),
    (resumed_though_the_job_went_on, ("words", "payments")),
    (genesis_from_the_beginning, ("words", "payments")),
)
