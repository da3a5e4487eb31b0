"""idle, status, recover, reset, check: judged on a log that a worker's commits were written into by hand."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamcore import Context, Job, State, Topic, Value, agg, limits
from streamcore.errors import OffsetsLost, StateDirError, StopError, TopicError
from streamcore.log import metadata
from streamcore.log.local import LocalLog
from streamcore.log.port import OffsetCommit
from streamcore.runtime.check import check
from streamcore.runtime.idle import IdleCheck
from streamcore.runtime.recover import plan_recovery, recover
from streamcore.runtime.reset import plan_reset, reset
from streamcore.runtime.status import status
from streamcore.runtime.topics import JOURNAL_CONFIG, SHUFFLE_CONFIG
from streamcore.state.frames import Frame, encode
from streamcore.state.rows import VERSIONS_KEY
from streamcore.state.store import Delta
from streamcore.testing.clock import ManualClock
from streamcore.topology.plan import Plan
from streamcore.types import Epoch, Offset, Partition, Slot, TopicPartition

LINES, BY_WORD = "lines", "words.shuffle.by-word"
P0 = Partition(0)


def counting(step: str = "count") -> Plan:
    job = Job("words")
    words = job.stream(Topic("lines", str)).flat_map(str.split).key_by("by-word", str.lower)
    words.aggregate(step, agg.count()).to(Topic("counts", int, key=str))
    return job.plan()


class Hand:
    """Commits epochs as a worker's transaction does: frame, offsets, metadata."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.plan = counting()
        self.log = LocalLog.memory(self.clock)
        self.admin = self.log.admin()
        for name in (LINES, "counts"):
            self.admin.create(name, 1, {})
        self.admin.create(BY_WORD, 1, SHUFFLE_CONFIG)
        for stage in ("lines", "by-word"):
            self.admin.create(f"words.journal.{stage}", 1, JOURNAL_CONFIG)
        self.producer = self.log.producer("words.0")
        self.producer.init(1.0)
        self.epochs: dict[str, tuple[int, Offset | None]] = {"lines": (-1, None), "by-word": (-1, None)}

    def feed(self, *lines: bytes, topic: str = LINES) -> None:
        producer = self.log.producer(None)
        producer.init(1.0)
        producer.produce(topic, P0, list(lines))
        producer.flush(1.0)

    def write(
        self,
        stage: str,
        offset: int,
        out: bytes | None = None,
        mode: str = "eo",
        deltas: dict[str, Delta] | None = None,
    ) -> OffsetCommit:
        """The epoch's messages, in the open transaction."""
        topic = LINES if stage == "lines" else BY_WORD
        epoch, previous = self.epochs[stage]
        frame = Frame(
            job="words",
            stage=stage,
            partition=P0,
            lineage="line",
            epoch=Epoch(epoch + 1),
            nonce=f"{stage}{epoch + 1}",
            previous=previous,
            offsets={topic: Offset(offset)},
            slot=Slot(0),
            mode=mode,
            topology=self.plan.version,
            checkpoint=None,
            watermark_ms=None,
            cut=None,
            genesis={topic: (self.admin.topics([topic])[topic].topic_id, 1, "earliest")},
            deltas=deltas or {},
        )
        if out is not None:
            self.producer.produce(BY_WORD, P0, [out])
        receipts = [self.producer.send(TopicPartition(f"words.journal.{stage}", P0), part) for part in encode(frame)]
        self.producer.flush(1.0)
        assert receipts[-1].offset is not None
        self.epochs[stage] = (epoch + 1, receipts[0].offset)
        told = frame.metadata(Offset(receipts[-1].offset + 1)).encode()
        return OffsetCommit(TopicPartition(topic, P0), Offset(offset), told)

    def commit(self, stage: str, offset: int, out: bytes | None = None, **more: dict[str, Delta]) -> None:
        self.producer.begin()
        commit = self.write(stage, offset, out, **more)  # type: ignore[arg-type]
        self.producer.commit(1.0)
        self.admin.set_committed("words", [commit])

    def idle(self) -> bool:
        return IdleCheck(self.plan, self.log, self.admin, self.clock).idle()


@pytest.fixture
def hand() -> Iterator[Hand]:
    hand = Hand()
    yield hand
    hand.log.close()


# --- idle ---------------------------------------------------------------------------------------------------------


def test_a_job_whose_tasks_have_not_begun_is_not_idle(hand: Hand) -> None:
    assert not hand.idle()
    hand.commit("lines", 0)
    assert not hand.idle()
    hand.commit("by-word", 0)
    assert hand.idle()


def test_a_job_is_idle_once_sources_and_shuffles_are_used_up(hand: Hand) -> None:
    hand.commit("lines", 0)
    hand.commit("by-word", 0)
    hand.feed(b"a b", b"c")
    assert not hand.idle()
    hand.commit("lines", 2, out=b"frame")
    assert not hand.idle(), "the shuffle holds a record that nobody has read"
    hand.commit("by-word", 1)
    assert hand.idle(), "markers after the last record are no records"


def test_an_undecided_record_in_a_shuffle_is_waited_for(hand: Hand) -> None:
    hand.commit("lines", 0)
    hand.commit("by-word", 0)
    hand.feed(b"a b")
    hand.producer.begin()
    commit = hand.write("lines", 1, out=b"frame")
    hand.admin.set_committed("words", [commit])
    assert not hand.idle(), "offsets may show before the records that were written with them"
    hand.producer.commit(1.0)
    assert not hand.idle()
    hand.commit("by-word", 1)
    assert hand.idle()


def test_an_aborted_shuffle_record_is_not_waited_for(hand: Hand) -> None:
    hand.commit("lines", 0)
    hand.commit("by-word", 0)
    hand.producer.begin()
    hand.producer.produce(BY_WORD, P0, [b"frame"])
    hand.producer.flush(1.0)
    hand.producer.abort(1.0)
    assert hand.idle()


def test_somebody_elses_open_transaction_on_a_source_is_not_waited_for(hand: Hand) -> None:
    hand.commit("lines", 0)
    hand.commit("by-word", 0)
    other = hand.log.producer("other")
    other.init(1.0)
    other.begin()
    other.produce(LINES, P0, [b"later"])
    other.flush(1.0)
    assert hand.idle()
    other.commit(1.0)
    assert not hand.idle()


# --- status -------------------------------------------------------------------------------------------------------


def test_status_tells_epoch_lag_in_records_and_the_last_commit(hand: Hand) -> None:
    hand.commit("lines", 0)
    hand.commit("by-word", 0)
    hand.feed(b"a", b"b", b"c")
    hand.commit("lines", 1, out=b"frame")
    found = {task.task.stage: task for task in status(hand.log, hand.admin, "words", hand.clock).tasks}
    assert (found["lines"].epoch, found["lines"].lag, found["lines"].offset) == (1, 2, 1)
    assert (found["by-word"].epoch, found["by-word"].lag) == (0, 1)
    assert found["lines"].owner == "nobody (was slot 0)"
    assert found["lines"].committed_ms == hand.clock.wall_ms()


def test_status_shows_offsets_that_another_tool_set(hand: Hand) -> None:
    hand.commit("lines", 0)
    hand.admin.set_committed("words", [OffsetCommit(TopicPartition(LINES, P0), Offset(0), "")])
    task = next(t for t in status(hand.log, hand.admin, "words", hand.clock).tasks if t.task.stage == "lines")
    assert "another tool has set it" in task.trouble


def test_a_job_that_never_was_is_told_with_those_that_are(hand: Hand) -> None:
    with pytest.raises(TopicError, match="'wrods'") as caught:
        status(hand.log, hand.admin, "wrods", hand.clock)
    assert "words" in caught.value.remedy


# --- recover ------------------------------------------------------------------------------------------------------


def test_recover_writes_what_the_last_commit_said(hand: Hand) -> None:
    hand.feed(b"a", b"b", b"c")
    for offset in (0, 1, 3):
        hand.commit("lines", offset)
    hand.commit("by-word", 0)
    lines = TopicPartition(LINES, P0)
    before = hand.admin.committed("words", [lines], 1.0)[lines]
    hand.admin.set_committed("words", [OffsetCommit(lines, Offset(1), "")])
    found = plan_recovery(hand.log, hand.admin, "words", hand.clock)
    assert [recovery.changes for recovery in found if recovery.task.stage == "by-word"] == [False]
    (changing,) = (recovery for recovery in found if recovery.changes)
    assert changing.lines() == ["lines[0]: lines[0] from offset 1 to offset 3, epoch 2"]
    recover(hand.admin, "words", found)
    assert hand.admin.committed("words", [lines], 1.0)[lines] == before
    assert metadata.decode(before.metadata, "").nonce == "lines2"


def test_recover_never_takes_a_frame_of_an_aborted_or_undecided_commit(hand: Hand) -> None:
    """One that is undecided may be committed yet: it is waited for until it is, or its time is over."""
    hand.commit("lines", 0)
    for end in ("abort", "leave open"):
        kept = dict(hand.epochs)
        hand.producer.begin()
        hand.write("lines", 3)
        if end == "abort":
            hand.producer.abort(1.0)
        hand.epochs = kept
        before_s = hand.clock.monotonic_s()
        (found,) = plan_recovery(hand.log, hand.admin, "words", hand.clock)
        assert found.epoch == 0 and not found.changes
        waited_s = hand.clock.monotonic_s() - before_s
        assert (waited_s >= limits.TRANSACTION_TIMEOUT_MS / 1000) == (end == "leave open")


def test_recover_takes_the_last_whole_chain_of_an_at_least_once_journal(hand: Hand) -> None:
    hand.producer = hand.log.producer(None)
    hand.producer.init(1.0)
    hand.write("lines", 0, mode="alo")
    hand.write("lines", 1, mode="alo")
    good = dict(hand.epochs)
    hand.epochs["lines"] = (1, Offset(77))
    hand.write("lines", 9, mode="alo")
    hand.epochs = good
    found = plan_recovery(hand.log, hand.admin, "words", hand.clock)
    assert [recovery.epoch for recovery in found] == [1]


def test_recover_refuses_a_topic_that_was_made_anew(hand: Hand) -> None:
    hand.commit("lines", 0)
    hand.admin.delete([LINES])
    hand.admin.create(LINES, 1, {})
    with pytest.raises(TopicError, match="not the one the state was built from"):
        plan_recovery(hand.log, hand.admin, "words", hand.clock)


def test_recover_without_a_journal_says_so(hand: Hand) -> None:
    hand.admin.set_committed("other", [OffsetCommit(TopicPartition(LINES, P0), Offset(0), "")])
    with pytest.raises(OffsetsLost, match="no journal to recover from"):
        plan_recovery(hand.log, hand.admin, "other", hand.clock)


# --- reset --------------------------------------------------------------------------------------------------------


def test_reset_takes_offsets_internal_topics_and_local_state_and_nothing_else(hand: Hand, tmp_path: Path) -> None:
    hand.admin.create("words2.journal.lines", 1, {})
    hand.commit("lines", 0)
    (tmp_path / "words" / "slot-0").mkdir(parents=True)
    (tmp_path / "words" / "slot-0.lock").touch()
    (tmp_path / "words2").mkdir()
    plan = plan_reset(hand.admin, "words", tmp_path)
    assert plan.lines() == [
        "the committed offsets of group words",
        "topic words.journal.by-word with all its records",
        "topic words.journal.lines with all its records",
        "topic words.shuffle.by-word with all its records",
        f"local state in {tmp_path / 'words'}",
    ]
    reset(hand.admin, plan)
    assert sorted(hand.admin.topics()) == ["counts", "lines", "words2.journal.lines"]
    assert hand.admin.groups() == []
    assert [path.name for path in tmp_path.iterdir()] == ["words2"]
    with pytest.raises(StopError, match="nothing is known of a job named 'words'"):
        plan_reset(hand.admin, "words", tmp_path)


def test_reset_is_refused_while_a_slot_runs_here(hand: Hand, tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    with (tmp_path / "words" / "slot-3.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StateDirError, match="slot-3 is running on this machine"):
            plan_reset(hand.admin, "words", tmp_path)


# --- check --------------------------------------------------------------------------------------------------------


def bad(hand: Hand, plan: Plan, auto_create: bool = False) -> list[str]:
    findings = check(plan, hand.log, hand.admin, hand.clock, auto_create=auto_create)
    return [finding.what for finding in findings if finding.level == "bad"]


def test_a_job_that_would_run_has_nothing_bad(hand: Hand) -> None:
    assert bad(hand, hand.plan) != [], "journals without offsets"
    hand.commit("lines", 0)
    hand.commit("by-word", 0)
    assert bad(hand, hand.plan) == []


def test_a_step_with_state_that_was_renamed_is_named(hand: Hand) -> None:
    hand.commit("lines", 0)
    hand.commit("by-word", 0, deltas={"count": Delta([b"k"], [b"v"])})
    assert bad(hand, counting("tally")) == [
        "stage 'by-word' holds state of step 'count', and the code has no such step"
    ]


def test_missing_topics_are_all_named(hand: Hand) -> None:
    hand.commit("lines", 0)
    hand.admin.delete(["counts"])
    assert bad(hand, hand.plan) == ["topic counts does not exist"]
    assert bad(hand, hand.plan, auto_create=True) == []


def test_foreign_settings_of_an_internal_topic_are_named(hand: Hand) -> None:
    hand.commit("lines", 0)
    hand.admin.delete(["words.journal.by-word"])
    hand.admin.create("words.journal.by-word", 2, {**JOURNAL_CONFIG, "retention.ms": "1000"})
    found = bad(hand, hand.plan)
    assert "internal topic words.journal.by-word has retention.ms=1000, and must have -1" in found
    assert f"topic {BY_WORD} has 1 partitions, its journal words.journal.by-word 2" in found


def test_a_stage_that_the_code_does_not_have_is_named(hand: Hand) -> None:
    hand.commit("lines", 0)
    job = Job("words")
    job.stream(Topic("lines", str)).to(Topic("counts", str))
    assert "job words: there is saved state of stage 'by-word', and the code has no such stage" in bad(hand, job.plan())


def remembering(**settings: Any) -> Plan:
    class Seen(State, **settings):
        times = Value(int, default=0)

    def on_word(word: str, seen: Seen, ctx: Context[str]) -> Iterator[int]:
        seen.times += 1
        yield seen.times

    job = Job("words")
    words = job.stream(Topic("lines", str)).flat_map(str.split).key_by("by-word", str.lower)
    words.process("count", Seen, on_word).to(Topic("counts", int, key=str))
    return job.plan()


def same(old: dict[str, Any]) -> dict[str, Any]:
    return old


def test_state_of_a_newer_version_than_the_codes_is_named_before_a_start(hand: Hand) -> None:
    hand.commit("lines", 0)
    hand.commit("by-word", 0, deltas={"count": Delta([VERSIONS_KEY], [b"\0\1\0\2"])})
    assert bad(hand, remembering(version=2, upgrades={1: same})) == []
    assert bad(hand, remembering()) == [
        "step 'count': state was saved by version 2 of Seen, the code has version 1",
    ]
