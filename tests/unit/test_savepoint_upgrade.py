"""`savepoint upgrade`: a new savepoint whose rows are all of the code's State versions; the old one is as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamcore import Context, Job, Map, State, Topic, Value
from streamcore.checkpoint import holds
from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.manifest import load
from streamcore.checkpoint.memory import MemoryObjects
from streamcore.checkpoint.verify import Verifier
from streamcore.cli.main import app
from streamcore.clock import SeededEntropy
from streamcore.errors import (
    EXIT_STOP,
    CheckpointDamaged,
    CheckpointStoreError,
    SettingsError,
    StateDirError,
    StateMismatch,
    StreamcoreError,
)
from streamcore.runtime.gathering import Fetched, all_keys, chunks, own
from streamcore.runtime.mapping import Changes, plan_resume
from streamcore.runtime.upgrade import Upgraded, Upgrading
from streamcore.state.keys import decode_at
from streamcore.state.rows import VERSIONS_KEY
from streamcore.topology.plan import Plan
from streamcore.types import Offset, Partition, TopicPartition
from tests.unit.test_savepoints import Cluster
from tests.unit.test_savepoints import cluster as cluster

lines = Topic("lines", str)
counts = Topic("counts", int, key=str)
EARLY, LATE = ["ann", "bob", "cid", "dan"], ["eve", "fay", "gus", "ann"]
Fields = dict[str, Any]


class Seen1(State):
    n = Value(int, default=0)
    by_length = Map(int, int)


class Seen2(State, version=2, upgrades={1: lambda old: {"count": old["n"]}}):
    count = Value(int, default=0)
    by_length = Map(int, int)


def to_3(old: Fields) -> Fields:
    return {"total": old["count"] * 10}


class Seen3(State, version=3, upgrades={1: lambda old: {"count": old["n"]}, 2: to_3}):
    total = Value(int, default=0)
    by_length = Map(int, int)


class Late3(State, version=3, upgrades={2: to_3}):
    total = Value(int, default=0)
    by_length = Map(int, int)


def broken(old: Fields) -> Fields:
    return {"total": 100 // (old["count"] - 2)}


class Broken3(State, version=3, upgrades={1: lambda old: {"count": old["n"]}, 2: broken}):
    total = Value(int, default=0)
    by_length = Map(int, int)


class Unfit3(State, version=3, upgrades={1: lambda old: {"count": old["n"]}, 2: lambda old: {"total": "many"}}):
    total = Value(int, default=0)
    by_length = Map(int, int)


class Mapless3(State, version=3, upgrades={1: lambda old: {"count": old["n"]}, 2: to_3}):
    total = Value(int, default=0)


def job(state: type[Any], field: str, *, name: str = "wc", step: str = "seen") -> Plan:
    def on_event(value: str, state: Any, ctx: Context[str]) -> Iterable[int]:
        setattr(state, field, getattr(state, field) + 1)
        if hasattr(state, "by_length"):
            state.by_length[len(value)] = getattr(state, field)
        yield getattr(state, field)

    job = Job(name)
    job.stream(lines).key_by("by-word", str.lower).process(step, state, on_event).to(counts)
    return job.plan()


@pytest.fixture
def mixed(cluster: Cluster) -> Cluster:
    """Stopped at `s2`, by code of version 2: some of its rows were last written by version 1."""
    worker = cluster.worker(job(Seen1, "n"))
    cluster.send(*EARLY, *EARLY)
    cluster.run(worker)
    cluster.gone(worker)
    worker = cluster.worker(job(Seen2, "count"), fresh_disk=False)
    cluster.send(*LATE)
    cluster.run(worker)
    cluster.ask("wc", "s2", stops=True)
    cluster.run(worker, 400)
    assert worker.stopping
    cluster.gone(worker)
    return cluster


def upgraded(cluster: Cluster, plan: Plan, to: str = "s3", changes: Changes = Changes()) -> Upgraded:  # noqa: B008
    resuming = plan_resume(plan, savepoints.load(cluster.store, "wc", "s2"), changes)
    scratch = cluster.path / "upgrading"
    return Upgrading(plan, cluster.store, scratch, cluster.clock, SeededEntropy(5)).write(resuming, to)


def versions(cluster: Cluster, name: str) -> dict[tuple[Any, bool], int]:
    """Of each row, and each entry of a Map."""
    found: dict[tuple[Any, bool], int] = {}
    for task in savepoints.load(cluster.store, "wc", name).stages["by-word"].tasks:
        scratch = cluster.path / "looked-at"
        with Fetched(cluster.store, task.manifest, scratch, cluster.clock, SeededEntropy(6)) as state:
            for delta in chunks(state, "seen", all_keys):
                for key, value in zip(delta.keys, delta.values, strict=True):
                    name_, end = decode_at(key, 2)
                    found[name_, end == len(key)] = int.from_bytes((value or b"")[:2])
    return found


def everything(store: MemoryObjects) -> dict[str, bytes]:
    return {stat.key: b"".join(store.get(stat.key)) for stat in store.list("")}


def test_all_rows_and_entries_are_of_the_codes_version(mixed: Cluster) -> None:
    before = versions(mixed, "s2")
    assert set(before.values()) == {1, 2}
    done = upgraded(mixed, job(Seen3, "total"))
    after = versions(mixed, "s3")
    assert after.keys() == before.keys() and set(after.values()) == {3}
    assert done.rows == len(before)
    saved = savepoints.load(mixed.store, "wc", "s3")
    assert saved.stages["by-word"].steps["seen"].version == 3
    assert saved.stages["lines"] == savepoints.load(mixed.store, "wc", "s2").stages["lines"], "nothing to be upgraded"


def test_the_column_says_that_nothing_older_is_in_it(mixed: Cluster) -> None:
    upgraded(mixed, job(Seen3, "total"))
    for task in savepoints.load(mixed.store, "wc", "s3").stages["by-word"].tasks:
        with Fetched(mixed.store, task.manifest, mixed.path / "at", mixed.clock, SeededEntropy(6)) as state:
            assert state.column("seen").get(VERSIONS_KEY) == b"\0\3\0\3"


def test_the_old_savepoint_and_its_checkpoints_are_as_they_were(mixed: Cluster) -> None:
    before = everything(mixed.store)
    upgraded(mixed, job(Seen3, "total"))
    after = everything(mixed.store)
    assert {key: after.get(key) for key in before} == before
    assert savepoints.names(mixed.store, "wc") == ["s2", "s3"]


def test_what_it_names_is_held_whole_and_digested(mixed: Cluster) -> None:
    new = upgraded(mixed, job(Seen3, "total")).savepoint
    assert {hold.name for hold in holds.all_of(mixed.store, "wc")} == {"savepoint-s2", "savepoint-s3"}
    assert holds.held(mixed.store, "wc") >= set(new.manifests)
    verifier = Verifier(mixed.store, mixed.clock, SeededEntropy(7), threads=0)
    for task in new.stages["by-word"].tasks:
        verdict = verifier.verify(task.manifest, mixed.path / "verify")
        assert verdict.whole and verdict.digest is not None
        assert load(mixed.store, task.manifest).digest == verdict.digest


def test_a_job_begun_from_it_goes_on_from_the_upgraded_rows_and_needs_no_old_upgrade(mixed: Cluster) -> None:
    upgraded(mixed, job(Seen3, "total"))
    plan = job(Late3, "total", name="copy")
    mixed.resume(plan, "s3")
    worker = mixed.worker(plan)
    mixed.send(*EARLY, *LATE)
    mixed.run(worker, 300)
    assert latest(mixed) == {"ann": 32, "bob": 21, "cid": 21, "dan": 21, "eve": 11, "fay": 11, "gus": 11}
    worker.close()


def test_a_savepoint_that_needs_nothing_is_written_with_the_same_checkpoints(mixed: Cluster) -> None:
    upgraded(mixed, job(Seen3, "total"))
    resuming = plan_resume(job(Seen3, "total"), savepoints.load(mixed.store, "wc", "s3"), Changes())
    again = Upgrading(job(Seen3, "total"), mixed.store, mixed.path / "x", mixed.clock, SeededEntropy(8))
    done = again.write(resuming, "s4")
    assert (done.rows, done.tasks) == (0, 0)
    assert done.savepoint.manifests == resuming.savepoint.manifests


def test_a_renamed_step_is_upgraded_under_the_name_that_the_savepoint_has(mixed: Cluster) -> None:
    renamed = job(Seen3, "total", step="met")
    upgraded(mixed, renamed, changes=Changes(renamed={"seen": "met"}))
    assert set(versions(mixed, "s3").values()) == {3}
    mixed.reset("wc")
    mixed.resume(renamed, "s3", Changes(renamed={"seen": "met"}))


@pytest.mark.parametrize(
    ("state", "told", "remedy"),
    [
        (Broken3, r"step 'seen', key '\w+'.* version \d of Broken3 does not become 3: .*ZeroDivisionError", "correct"),
        (Unfit3, r"step 'seen', key '\w+'.* version \d of Unfit3 does not become 3: .*does not fit", "correct"),
        (Mapless3, r"step 'seen', key '\w+', Map 'by_length': version \d of Mapless3 does not", "give it back"),
    ],
)
def test_an_upgrade_that_fails_names_the_row_and_leaves_nothing(
    mixed: Cluster, state: type[Any], told: str, remedy: str
) -> None:
    def named() -> set[str]:
        return {key for key in everything(mixed.store) if "/objects/" not in key}

    before = named()
    with pytest.raises(StateMismatch, match=r"savepoint 's2', task by-word\[\d\]: " + told) as raised:
        upgraded(mixed, job(state, "total"))
    assert remedy in raised.value.remedy and "'s2' is as it was" in raised.value.remedy
    assert named() == before
    assert not (mixed.path / "upgrading").exists()


def test_rows_older_than_every_upgrade_are_refused_though_the_savepoints_version_is_not(mixed: Cluster) -> None:
    with pytest.raises(StateMismatch, match="there is no upgrade from version 1"):
        upgraded(mixed, job(Late3, "total"))
    with pytest.raises(StateMismatch, match="there is no upgrade from version 1"):
        mixed.resume(job(Late3, "total", name="copy"), "s2")


def fails_at(store: MemoryObjects, monkeypatch: pytest.MonkeyPatch, fails: Callable[[str], bool]) -> None:
    put = store.put_once

    def put_once(key: str, data: bytes) -> bool:
        if fails(key):
            raise CheckpointStoreError("the store is full", "")
        return put(key, data)

    monkeypatch.setattr(store, "put_once", put_once)


@pytest.mark.parametrize("at", ["wc/manifests/by-word/1/", "wc/holds/savepoint-s3", "wc/savepoints/s3"])
def test_a_store_that_fails_in_the_middle_leaves_no_savepoint_and_no_checkpoints(
    mixed: Cluster, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    manifests = {stat.key for stat in mixed.store.list("wc/manifests/")}
    with monkeypatch.context() as patch:
        fails_at(mixed.store, patch, lambda key: key.startswith(at))
        with pytest.raises(StreamcoreError, match="full"):
            upgraded(mixed, job(Seen3, "total"))
    assert savepoints.names(mixed.store, "wc") == ["s2"]
    assert {stat.key for stat in mixed.store.list("wc/manifests/")} == manifests
    upgraded(mixed, job(Seen3, "total"))
    assert set(versions(mixed, "s3").values()) == {3}


def test_while_it_is_written_everything_it_will_name_is_held(mixed: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection may come at any time."""
    unheld: list[str] = []

    def look(key: str) -> bool:
        if "/manifests/" in key and key not in holds.held(mixed.store, "wc"):
            unheld.append(key)
        return False

    fails_at(mixed.store, monkeypatch, look)
    done = upgraded(mixed, job(Seen3, "total"))
    assert done.tasks == 2 and unheld == []


@pytest.mark.parametrize("to", ["s2", "s 3"])
def test_the_new_ones_name_is_its_own(mixed: Cluster, to: str) -> None:
    with pytest.raises(SettingsError):
        upgraded(mixed, job(Seen3, "total"), to)


def latest(cluster: Cluster) -> dict[str, int]:
    starts = {TopicPartition("counts", Partition(p)): Offset(0) for p in range(4)}
    reader, found = cluster.log.reader(starts), dict[str, int]()
    while len(reader.ended()) < len(starts):
        for run in reader.poll(10_000, 0.0):
            found.update({(k or b"").decode(): int(v or b"0") for k, v in zip(run.keys, run.values, strict=True)})
    return found


def test_one_that_is_not_whole_is_not_made_another_of(mixed: Cluster) -> None:
    """Not even where a task that needs nothing misses something."""
    (task, _) = savepoints.load(mixed.store, "wc", "s2").stages["lines"].tasks
    mixed.store.lose(task.manifest)
    with pytest.raises(CheckpointDamaged, match=f"not whole: {task.manifest}"):
        upgraded(mixed, job(Seen3, "total"))
    assert savepoints.names(mixed.store, "wc") == ["s2"]


def test_two_commands_do_not_work_in_one_place(mixed: Cluster) -> None:
    with own(mixed.path / "upgrading"), pytest.raises(StateDirError, match="another command works in"):
        upgraded(mixed, job(Seen3, "total"))
    upgraded(mixed, job(Seen3, "total"))
    assert not (mixed.path / "upgrading").exists()


CODE = """
from streamcore import Job, Map, State, Topic, Value

class Seen(State, version=3, upgrades={1: lambda old: {"count": old["n"]}, 2: lambda old: {"total": old["COUNT"]}}):
    total = Value(int, default=0)
    by_length = Map(int, int)

def on_event(value, state, ctx):
    yield state.total

job = Job("wc")
by_word = job.stream(Topic("lines", str)).key_by("by-word", str.lower)
by_word.process("seen", Seen, on_event).to(Topic("counts", int, key=str))
"""


def test_the_command_tells_what_it_wrote_and_what_it_could_not(
    mixed: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for stat in mixed.store.list(""):
        path = tmp_path / "kept" / stat.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(mixed.store.get(stat.key)))
    url = ["--checkpoints", (tmp_path / "kept").as_uri()]
    for name, field in (("seen_bad.py", "cuont"), ("seen_good.py", "count")):
        Path(name).write_text(CODE.replace("COUNT", field))
    bad = CliRunner().invoke(app, ["savepoint", "upgrade", "seen_bad.py:job", "s2", "--to", "s3", *url])
    assert bad.exit_code == EXIT_STOP and "KeyError: 'cuont'" in bad.output and "'s2' is as it was" in bad.output
    good = CliRunner().invoke(app, ["savepoint", "upgrade", "seen_good.py:job", "s2", "--to", "s3", *url])
    assert good.exit_code == 0, good.output
    assert "savepoint s3 of job wc stands: 14 rows upgraded, 2 of 4 tasks written anew; s2 is as it was" in good.output
    assert CliRunner().invoke(app, ["savepoint", "list", "wc", *url]).output.split() == ["s2", "s3"]
    told = CliRunner().invoke(app, ["check", "seen_good.py:job", "--against", "s3", *url])
    assert told.exit_code == 0 and "step seen: kept\n" in told.output, told.output
    again = CliRunner().invoke(app, ["savepoint", "upgrade", "seen_good.py:job", "s2", "--to", "s3", *url])
    assert again.exit_code == EXIT_STOP and "has a savepoint 's3' already" in again.output
