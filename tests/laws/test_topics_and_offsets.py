"""What a job refuses to start on, or to go on with: by name, with the remedy, before it reads a record."""

from __future__ import annotations

from typing import Any

import pytest

from streamcore import Job, Topic, agg
from streamcore.errors import LogUnavailable, OffsetsLost, StateMismatch, StopError, TopicError
from streamcore.log.local.broker import Broker
from streamcore.log.local.partition import Fetched
from streamcore.log.port import OffsetCommit
from streamcore.runtime.recover import plan_recovery, recover
from streamcore.testing.clock import ManualClock
from streamcore.types import Offset, Partition, TopicPartition
from tests.laws import checks
from tests.laws.harness import Cluster
from tests.laws.jobs import SENT, counts, lines, word_count


def at_rest(sent: list[str] = SENT[:2]) -> Cluster:
    """A job that has run and is stopped; its members' sessions are over."""
    cluster = Cluster(word_count())
    cluster.start(0)
    cluster.send(lines, *sent)
    cluster.settle()
    stop(cluster)
    return cluster


def stop(cluster: Cluster) -> None:
    cluster.processes.pop(0).worker.close()
    cluster.pass_time(30)
    cluster.admin.members("wc")


def refused(cluster: Cluster, kind: type[StopError]) -> str:
    with pytest.raises(kind) as error:
        cluster.start(0)
        cluster.run(20)
    assert error.value.remedy, "an error without a remedy"
    return str(error.value)


def test_a_missing_topic_is_named_with_the_command_that_creates_it() -> None:
    cluster = Cluster(word_count())
    cluster.partitions = None  # type: ignore[assignment]
    told = refused(cluster, TopicError)
    assert "lines" in told and "counts" in told
    assert "streamcore topics create lines --partitions N --kafka HOST:PORT" in told


def test_a_source_topic_that_was_made_anew_stops_the_job() -> None:
    cluster = at_rest()
    cluster.admin.delete(["lines"])
    cluster.admin.create("lines", 2, {})
    assert "deleted and created again" in refused(cluster, TopicError)


def test_a_source_topic_with_another_partition_count_stops_the_job() -> None:
    cluster = at_rest()
    cluster.admin.delete(["lines"])
    cluster.admin.create("lines", 1, {})
    told = refused(cluster, TopicError)
    assert "wc.journal.lines has 2 partitions and must have 1" in told


def test_an_internal_topic_with_foreign_settings_is_refused() -> None:
    cluster = Cluster(word_count())
    cluster.admin.create("wc.journal.lines", 2, {"cleanup.policy": "compact"})
    told = refused(cluster, TopicError)
    assert "cleanup.policy=compact (must be delete)" in told


def test_offsets_that_were_deleted_while_a_journal_stands_stop_the_job() -> None:
    cluster = at_rest()
    cluster.admin.delete_group("wc")
    told = refused(cluster, OffsetsLost)
    assert "streamcore recover JOB" in told


class Leaders:
    """The journals' leaders are new: a fetch ends at an old end, and who asks for the end is refused (KIP-207)."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.new = True
        fetch, ends = Broker.fetch, Broker.stable_ends

        def fetches(broker: Any, positions: Any, max_records: int, committed: bool) -> list[Fetched]:
            found = fetch(broker, positions, max_records, committed)
            pairs = zip(positions.items(), found, strict=True)
            return [Fetched([], at, at) if self._hides(tp) else whole for (tp, at), whole in pairs]

        def tells(broker: Any, tps: Any) -> Any:
            asked = list(tps)
            if any(map(self._hides, asked)):
                raise LogUnavailable("the leader does not know its end yet", "try again")
            return ends(broker, asked)

        patch.setattr(Broker, "fetch", fetches)
        patch.setattr(Broker, "stable_ends", tells)

    def _hides(self, tp: TopicPartition) -> bool:
        return self.new and ".journal." in tp.topic


def test_offsets_that_are_gone_and_a_journal_that_shows_an_old_end_are_no_new_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = at_rest()
    cluster.disks[0].lose_disk()
    cluster.admin.delete_group("wc")
    before = cluster.ends()
    leaders = Leaders(monkeypatch)
    cluster.start(0)
    cluster.run(60)
    leaders.new = False
    assert cluster.ends() == before
    with pytest.raises(OffsetsLost, match="streamcore recover JOB"):
        cluster.run(400)
    assert cluster.ends() == before


def test_recover_does_not_rewrite_offsets_from_an_old_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = at_rest()
    offsets = cluster.committed()
    cluster.admin.delete_group("wc")
    leaders = Leaders(monkeypatch)
    with pytest.raises(LogUnavailable):
        plan_recovery(cluster.log, cluster.admin, "wc", cluster.clock)
    leaders.new = False
    recover(cluster.admin, "wc", plan_recovery(cluster.log, cluster.admin, "wc", cluster.clock))
    assert cluster.committed() == offsets


def test_offsets_reset_by_another_tool_stop_the_job() -> None:
    cluster = at_rest()
    cluster.admin.set_committed("wc", [OffsetCommit(TopicPartition("lines", Partition(0)), Offset(0), "")])
    assert "carries no streamcore metadata" in refused(cluster, OffsetsLost)


def test_a_newer_metadata_format_is_named() -> None:
    cluster = at_rest()
    cluster.admin.set_committed("wc", [OffsetCommit(TopicPartition("lines", Partition(0)), Offset(0), "sc9;x")])
    assert "newer than this streamcore" in refused(cluster, StateMismatch)


def test_offsets_set_back_to_an_older_commit_stop_the_job() -> None:
    cluster = Cluster(word_count())
    cluster.start(0)
    cluster.send(lines, *SENT[:1])
    cluster.settle()
    older = cluster.admin.committed("wc", [TopicPartition("lines", Partition(p)) for p in (0, 1)], 1.0)
    cluster.send(lines, *SENT)
    cluster.settle()
    stop(cluster)
    cluster.admin.set_committed("wc", [OffsetCommit(tp, at.offset, at.metadata) for tp, at in older.items()])
    cluster.disks[0].lose_disk()
    assert "reset or expired" in refused(cluster, OffsetsLost)


def test_a_journal_that_another_tool_trimmed_stops_the_job() -> None:
    cluster = at_rest()
    cluster.disks[0].lose_disk()
    ends = cluster.admin.stable_ends([TopicPartition("wc.journal.by-word", Partition(p)) for p in (0, 1)])
    cluster.admin.delete_records({tp: Offset(2) for tp in ends})
    assert "frames are missing" in refused(cluster, OffsetsLost)


def renamed() -> Job:
    job = Job("wc")
    job.stream(lines).flat_map(str.split).key_by("by-word", str.lower).aggregate("tally", agg.count()).to(counts)
    return job


def test_a_renamed_step_with_state_is_named_with_what_to_do() -> None:
    cluster = at_rest()
    cluster.plan = renamed().plan()
    told = refused(cluster, StateMismatch)
    assert "'count'" in told and "'tally'" in told and "old name" in told


def test_a_renamed_step_is_refused_on_another_machine_too() -> None:
    """Without local state it is the journal's frames that name the step."""
    cluster = at_rest()
    cluster.disks[0].lose_disk()
    cluster.plan = renamed().plan()
    told = refused(cluster, StateMismatch)
    assert "'count'" in told and "'tally'" in told


def test_a_renamed_key_by_is_refused_and_its_state_not_forgotten() -> None:
    cluster = at_rest()
    job = Job("wc")
    job.stream(lines).flat_map(str.split).key_by("words", str.lower).aggregate("count", agg.count()).to(counts)
    cluster.plan = job.plan()
    told = refused(cluster, StateMismatch)
    assert "'by-word'" in told and "old name" in told and "wc.journal.by-word" in told


def test_a_clock_that_goes_back_loses_and_repeats_nothing() -> None:
    from datetime import timedelta

    cluster = Cluster(word_count())
    cluster.start(0)
    cluster.send(lines, *SENT[:3])
    cluster.settle()
    assert isinstance(cluster.clock, ManualClock)
    cluster.clock.set_back(timedelta(hours=2))
    cluster.send(lines, *SENT[3:])
    cluster.settle()
    cluster.kill(0)
    cluster.start(0)
    cluster.settle()
    checks.all_of_it(cluster, SENT)


late = Topic("lines", str)


@pytest.mark.parametrize("start", ["earliest", "latest"])
def test_a_streams_start_counts_at_genesis_only(start: str) -> None:
    job = Job("starts")
    job.stream(lines, start=start).to(Topic("copied", str))  # type: ignore[arg-type]
    cluster = Cluster(job)
    cluster.admin.create("lines", 2, {})
    cluster.send(lines, "before")
    cluster.start(0)
    cluster.settle()
    cluster.send(lines, "after")
    cluster.settle()
    cluster.kill(0)
    cluster.start(0)
    cluster.send(lines, "later")
    cluster.settle()
    found = sorted(value for _, value in cluster.read(Topic("copied", str)))
    assert found == (["after", "before", "later"] if start == "earliest" else ["after", "later"])
