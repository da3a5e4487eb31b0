"""A resume that is interrupted anywhere: no worker begins the job empty meanwhile, and the same resume goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamcore.checkpoint import manifest, owner
from streamcore.checkpoint import savepoint as savepoints
from streamcore.cli.main import app
from streamcore.errors import CheckpointDamaged, CheckpointStoreTaken, OffsetsLost, StopError, TopicError
from streamcore.runtime import reset as resetting
from streamcore.runtime import resume as resumed
from streamcore.runtime.mapping import Changes, StagePlan, plan_resume
from streamcore.runtime.reset import ResetPlan
from streamcore.runtime.resume import Resuming
from streamcore.topology.plan import Plan
from streamcore.types import Partition, TopicPartition
from tests.unit.test_cli_checkpoints import COUNT
from tests.unit.test_savepoint_changes import embedded
from tests.unit.test_savepoints import LINES, Cluster, expected, word_count
from tests.unit.test_savepoints import cluster as cluster
from tests.unit.test_savepoints import stopped as stopped

CLEARING = ("reset", "prepare", "owner.claim", "_genesis")
STEPS = ("_tasks", *CLEARING)


class Died(Exception):
    pass


def dies(*_: object, **__: object) -> None:
    raise Died


def resume(cluster: Cluster, plan: Plan, name: str = "s1", changes: Changes = Changes()) -> None:  # noqa: B008
    """As the command does it: what the job has goes, unless it went on."""
    saved = savepoints.load(cluster.store, "wc", name)

    def still() -> None:
        if plan.job == saved.job and (again := resumed.ran_on(cluster.admin, saved)):
            raise StopError(f"the job went on: {again}", "")

    cleared = resetting.found(cluster.admin, plan.job, cluster.path / "none")
    Resuming(
        plan, cluster.log, cluster.admin, cluster.store, cluster.store, cluster.path / "scratch", cluster.clock,
        cluster.entropy,
    ).begin(plan_resume(plan, saved, changes), None if cleared.empty else cleared, still)  # fmt: skip


def interrupted(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, step: str, plan: Plan) -> None:
    """At the beginning of a step; in the middle of `reset`, as its topics are to go."""
    with monkeypatch.context() as patch:
        if step.startswith("_"):
            patch.setattr(Resuming, step, dies)
        elif step == "owner.claim":
            patch.setattr(owner, "claim", dies)
        elif step == "reset":
            patch.setattr(cluster.admin, "delete", dies)
        else:
            patch.setattr(resumed, step, dies)
        with pytest.raises(Died):
            resume(cluster, plan)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["wc", "copy"])
def test_the_same_resume_goes_on_wherever_it_was_interrupted(
    stopped: Cluster, monkeypatch: pytest.MonkeyPatch, name: str, step: str
) -> None:
    plan = word_count(name)
    if name == "copy":  # it has begun once, so that there is something to be cleared
        resume(stopped, plan)
    for _ in range(2):
        interrupted(stopped, monkeypatch, step, plan)
    resume(stopped, plan, changes=Changes(partitions=3))
    worker = stopped.worker(plan)
    stopped.send(*LINES[40:])
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_what_a_job_has_stays_until_all_is_built(stopped: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(stopped, monkeypatch, "_tasks", word_count())
    worker = stopped.worker(word_count())
    stopped.send(*LINES[40:])
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_a_savepoint_with_a_wrong_byte_takes_nothing_from_the_job(stopped: Cluster) -> None:
    """Of its size, so that only who reads it sees it."""
    saved = savepoints.load(stopped.store, "wc", "s1")
    file = max(manifest.load(stopped.store, saved.manifests[-1]).files, key=lambda each: each.size)
    kept = stopped.store._objects[manifest.Layout("wc").object(file.object)]  # pyright: ignore[reportPrivateUsage]
    middle = len(kept.data) // 2
    kept.data = kept.data[:middle] + bytes((kept.data[middle] ^ 1,)) + kept.data[middle + 1 :]
    before = stopped.admin.topics()
    with pytest.raises(CheckpointDamaged, match=file.object):
        resume(stopped, word_count())
    assert stopped.admin.topics() == before
    worker = stopped.worker(word_count())
    stopped.send(*LINES[40:])
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_a_job_that_goes_on_while_its_state_is_built_keeps_what_it_has(
    stopped: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def goes_on() -> None:
        worker = stopped.worker(word_count())
        stopped.send(*LINES[40:])
        stopped.run(worker, 300)
        stopped.gone(worker)

    while_building(monkeypatch, goes_on)
    before = stopped.admin.topics()
    with pytest.raises(StopError, match="went on"):
        resume(stopped, word_count())
    assert stopped.admin.topics() == before
    assert stopped.latest() == expected(LINES)


def while_building(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    built = Resuming._tasks

    def builds(self: Resuming, each: StagePlan) -> Iterator[object]:
        yield from built(self, each)
        if each.stage.is_shuffle:
            happens()

    monkeypatch.setattr(Resuming, "_tasks", builds)


def test_no_worker_begins_a_job_empty_of_which_a_directory_is_left(
    stopped: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begins() -> None:
        worker = stopped.worker(word_count("copy"))
        with pytest.raises(OffsetsLost, match="is to begin from a savepoint"):
            stopped.run(worker)
        stopped.gone(worker)

    while_building(monkeypatch, begins)
    left = stopped.path / "left"
    left.mkdir()
    saved = savepoints.load(stopped.store, "wc", "s1")
    Resuming(
        word_count("copy"), stopped.log, stopped.admin, stopped.store, stopped.store, stopped.path / "scratch",
        stopped.clock, stopped.entropy,
    ).begin(plan_resume(word_count("copy"), saved, Changes()), ResetPlan("copy", False, (), left))  # fmt: skip
    worker = stopped.worker(word_count("copy"))
    stopped.send(*LINES[40:])
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_what_was_deleted_while_the_state_was_built_takes_nothing_from_the_job(
    stopped: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [TopicPartition("lines", Partition(p)) for p in (0, 1)]

    def trimmed() -> None:
        stopped.send(*LINES[40:])
        stopped.admin.delete_records(stopped.admin.ends(inputs))

    while_building(monkeypatch, trimmed)
    before = stopped.admin.topics(), stopped.admin.committed("wc", inputs, 1.0)
    with pytest.raises(OffsetsLost, match="the savepoint goes on at offset"):
        resume(stopped, word_count())
    assert (stopped.admin.topics(), stopped.admin.committed("wc", inputs, 1.0)) == before


@pytest.mark.parametrize("step", CLEARING)
def test_no_worker_begins_the_job_meanwhile(stopped: Cluster, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    interrupted(stopped, monkeypatch, step, word_count())
    before = stopped.latest()
    worker = stopped.worker(word_count())
    stopped.send(*LINES[40:])
    with pytest.raises(OffsetsLost, match="is to begin from a savepoint"):
        stopped.run(worker)
    stopped.gone(worker)
    assert stopped.latest() == before
    resume(stopped, word_count())
    worker = stopped.worker(word_count())
    stopped.run(worker, 300)
    assert stopped.latest() == expected(LINES)
    worker.close()


def test_between_the_offsets_and_what_takes_their_place_a_worker_stops_at_its_journal(
    stopped: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one call in which nothing says that the job is to begin."""
    with monkeypatch.context() as patch:
        patch.setattr(Resuming, "_announce", dies)
        with pytest.raises(Died):
            resume(stopped, word_count())
    worker = stopped.worker(word_count())
    with pytest.raises(OffsetsLost):
        stopped.run(worker)
    stopped.gone(worker)


def test_nothing_goes_when_the_prefix_is_another_jobs(stopped: Cluster) -> None:
    resume(stopped, word_count("copy"))
    owner.release(stopped.store, "copy")
    owner.claim(stopped.store, "copy", "another cluster's", "l")
    before = stopped.admin.topics()
    with pytest.raises(CheckpointStoreTaken, match="another cluster's"):
        resume(stopped, word_count("copy"))
    assert stopped.admin.topics() == before


def test_nothing_goes_when_a_source_has_other_partitions_than_the_savepoint(stopped: Cluster) -> None:
    stopped.admin.delete(["lines"])
    stopped.admin.create("lines", 3, {})
    before = stopped.admin.topics()
    with pytest.raises(TopicError, match="topic lines has 3 partitions, and the savepoint needs 2"):
        resume(stopped, word_count())
    assert stopped.admin.topics() == before


def test_nothing_goes_when_a_topic_of_the_users_is_missing(stopped: Cluster) -> None:
    stopped.admin.delete(["counts"])
    before = stopped.admin.topics()
    with pytest.raises(TopicError, match="no such topic: counts"):
        resume(stopped, word_count())
    assert stopped.admin.topics() == before


def test_a_job_with_a_member_is_not_begun(stopped: Cluster) -> None:
    worker = stopped.worker(word_count())
    stopped.run(worker, 20)
    before = stopped.admin.topics()
    with pytest.raises(StopError, match="has members"):
        resume(stopped, word_count())
    assert stopped.admin.topics() == before
    worker.close()


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMCORE_TOPICS__PARTITIONS", "2")
    monkeypatch.setenv("STREAMCORE_CHECKPOINTS__STORE", f"file://{tmp_path}/kept")
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    if "copy_job" not in modules:
        sys.modules.pop("copy_job", None)


@pytest.mark.usefixtures("_elsewhere")
def test_the_command_under_another_name_is_given_again_after_its_claim(
    stopped: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stat in stopped.store.list(""):
        path = Path("kept") / stat.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(stopped.store.get(stat.key)))
    Path(".streamcore").mkdir()
    embedded(2, records=20)
    Path("copy_job.py").write_text(COUNT.replace('"words"', '"copy"'))
    command = ["resume", "copy_job.py:job", "--of", "wc", "--from", "s1", "--yes"]
    with monkeypatch.context() as patch:
        patch.setattr(Resuming, "_genesis", dies)
        assert isinstance(CliRunner().invoke(app, command).exception, Died)
    assert (Path("kept") / owner.key_of("copy")).exists(), "it was claimed"
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert "job copy begins from savepoint s1" in again.output
    ran = CliRunner().invoke(app, ["run", "copy_job.py:job", "--until-idle"])
    assert ran.exit_code == 0, ran.output
