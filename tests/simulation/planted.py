"""Bugs to be found: each a mutation of the real code, put in for one run and taken out again.

Each stands for a mistake that a person could make, or undo by making something simpler. Where the engine has a second
line of defence that would hide it, that is taken away as well, and the docstring says so. Nothing in the engine knows
of any of this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from streamcore.errors import (
    OutcomeUnknown,
    ProducerFenced,
    RecordTooLarge,
    StreamcoreError,
    TopicError,
    TransactionAborted,
)
from streamcore.inbox.inbox import Inbox
from streamcore.log.local.admin import LocalAdmin
from streamcore.log.local.log import LocalLog
from streamcore.log.local.producer import LocalProducer
from streamcore.log.port import Membership
from streamcore.operators import states
from streamcore.operators.errors import StepFailed
from streamcore.runtime import slices
from streamcore.runtime.commit import Committer
from streamcore.runtime.opening import Opening
from streamcore.runtime.producers import Producers
from streamcore.runtime.replay import Replay, Verdict, mark_of
from streamcore.runtime.slices import SliceRunner
from streamcore.runtime.takeover import Takeover
from streamcore.runtime.task import Task
from streamcore.runtime.worker import Worker
from streamcore.sink.shuffle import decode_frame
from streamcore.source.decode import DecodeFailed
from streamcore.state.memory import DEFAULT, MemoryStore
from streamcore.state.overlay import Overlay
from streamcore.state.store import MARK_KEY, EpochMark
from streamcore.testing.simulated import disk
from streamcore.testing.simulated.disk import _PortStore
from streamcore.testing.simulated.simulation import Simulation

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Bug:
    plant: Patch
    topologies: tuple[str, ...]
    """Where it can show."""

    @property
    def name(self) -> str:
        return self.plant.__name__

    @property
    def story(self) -> str:
        return " ".join((self.plant.__doc__ or "").split())


# --- takeover -------------------------------------------------------------------------------------------------------


def offsets_read_before_the_fence(patch: pytest.MonkeyPatch) -> None:
    """One read serves both: the offsets by which the last writers are found and fenced are those the takeover goes on
    with. A transaction of theirs that is decided between the two is missed. (The second look at the offsets, which a
    worker that slept takes, is that same first read.)"""
    fence = Takeover._fence

    def read_then_fence(self: Any) -> None:
        self.before = self._admin.committed(self._plan.job, self._inputs, 10.0, stable=False)
        fence(self)

    patch.setattr(Takeover, "_fence", read_then_fence)
    patch.setattr(Takeover, "_read_again", lambda self: self.before)


def offsets_read_uncommitted(patch: pytest.MonkeyPatch) -> None:
    """committed() does not wait for a transaction that holds offsets and is not decided yet."""
    committed = LocalAdmin.committed

    def unstable(self: Any, group: str, tps: Any, timeout_s: float, *, stable: bool = True) -> Any:
        return committed(self, group, tps, timeout_s, stable=False)

    patch.setattr(LocalAdmin, "committed", unstable)


def local_state_judged_by_its_epoch_number(patch: pytest.MonkeyPatch) -> None:
    """Local state is used when its epoch is not after the commit's: neither lineage nor nonce is looked at."""
    opened = Opening._opened

    def by_number(self: Any, taking: Any) -> Any:
        told = taking.metadata
        store, why = opened(self, taking)
        if store is not None and told is not None and why.startswith("it is of lineage"):
            mark = store.mark()
            return store, "" if mark is not None and mark.epoch <= told.epoch else why
        return store, why

    _confirm_by(patch, lambda local, found: local.epoch == found.epoch)
    patch.setattr(Opening, "_opened", by_number)


def local_state_reused_without_its_nonce(patch: pytest.MonkeyPatch) -> None:
    """Local state is used when lineage and epoch are the journal's: of which commit is not asked."""
    _confirm_by(patch, lambda local, found: (local.lineage, local.epoch) == (found.lineage, found.epoch))


def _confirm_by(patch: pytest.MonkeyPatch, same: Callable[[EpochMark, EpochMark], bool]) -> None:
    def confirm(self: Any, placed: Any) -> None:
        if self._mark is None or not same(self._mark, mark_of(placed)):
            self.verdict = Verdict.FOREIGN
            return
        self._mark = mark_of(placed)
        self._confirmed = True
        self._judge()

    patch.setattr(Replay, "_confirm", confirm)


def replay_stops_at_the_end_of_the_partition(patch: pytest.MonkeyPatch) -> None:
    """A journal that is read to the end that fetching shows counts as whole, with or without the metadata's frame."""
    patch.setattr(Replay, "ended", lambda self, position: True)


def replay_reads_uncommitted(patch: pytest.MonkeyPatch) -> None:
    """Frames of transactions that were aborted, or are not decided, are applied too."""
    reader = LocalLog.reader

    def uncommitted(self: Any, starts: Any, *, committed: bool = True) -> Any:
        return reader(self, starts, committed=False)

    patch.setattr(LocalLog, "reader", uncommitted)


# --- the commit -----------------------------------------------------------------------------------------------------


def offsets_that_did_not_move_are_left_out(patch: pytest.MonkeyPatch) -> None:
    """The empty offset list: what did not move since the last commit seems not to need a commit, and a genesis epoch
    sends no offset at all."""
    send = LocalProducer.send_offsets

    def fewer(self: Any, offsets: Any, membership: Membership, timeout_s: float) -> None:
        moved: dict[Any, int] = self.__dict__.setdefault("moved", {})
        kept = [commit for commit in offsets if moved.get(commit.tp, 0) != commit.offset]
        moved.update((commit.tp, commit.offset) for commit in offsets)
        send(self, kept, membership, timeout_s)

    patch.setattr(LocalProducer, "send_offsets", fewer)


def group_metadata_is_cached(patch: pytest.MonkeyPatch) -> None:
    """The group's metadata is fetched once, at the worker's first commit, and sent with every later one."""
    checked = Committer._checked_membership

    def once(self: Any, offsets: Any) -> Membership:
        if not hasattr(self, "cached"):
            self.cached = checked(self, offsets)
        return self.cached

    patch.setattr(Committer, "_checked_membership", once)


def generation_minus_one_is_accepted(patch: pytest.MonkeyPatch) -> None:
    """Offsets are committed under the metadata of a consumer that never joined, which the broker takes from anyone."""

    def unjoined(self: Any, offsets: Any) -> Membership:
        return Membership(-1, "", None, raw=self._consumer.membership().raw)

    patch.setattr(Committer, "_checked_membership", unjoined)


def a_revoked_partition_is_included(patch: pytest.MonkeyPatch) -> None:
    """REVOKED: the open epoch is kept for later instead of finished, its tasks are not let go, and the next commit
    holds what belongs to others by then. (Offsets are not compared with the assignment.)"""

    def revoked(self: Any, tps: Any) -> None:
        self._owned.drop_takeover()

    def unchecked(self: Any, offsets: Any) -> Membership:
        return self._consumer.membership()

    patch.setattr(Worker, "revoked", revoked)
    patch.setattr(Committer, "_checked_membership", unchecked)


def commit_after_lost(patch: pytest.MonkeyPatch) -> None:
    """LOST is treated like REVOKED: the epoch is finished first. (The broker knows the member no more and would refuse
    its offsets: they go out as those of a consumer that never joined.)"""

    def unchecked(self: Any, offsets: Any) -> Membership:
        held = self._consumer.membership()
        return Membership(-1, "", None, raw=held.raw) if self.lost else held

    def lost(self: Any, tps: Any) -> None:
        self._committer.lost = True
        try:
            self.revoked(tps)
        finally:
            self._committer.lost = False

    patch.setattr(Committer, "lost", False, raising=False)
    patch.setattr(Committer, "_checked_membership", unchecked)
    patch.setattr(Worker, "lost", lost)


def abort_after_a_timeout(patch: pytest.MonkeyPatch) -> None:
    """A commit without an answer is taken for one that did not happen: the epoch is aborted and done again."""

    def ask(self: Any, prepared: Any, nonce: str, why: Exception) -> Sequence[Any]:
        self.undo([part.task for part in prepared], why)
        return ()

    patch.setattr(Committer, "_ask", ask)


def unknown_outcome_taken_for_committed(patch: pytest.MonkeyPatch) -> None:
    """Own: a commit without an answer is taken for one that happened."""

    def ask(self: Any, prepared: Any, nonce: str, why: Exception) -> Sequence[Any]:
        self._producers.fence()
        return prepared

    patch.setattr(Committer, "_ask", ask)


def slow_calls_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """Law 4 for failed calls only: a send_offsets or commit that took long leaves its producer in use."""

    def timed(self: Any, call: Callable[[], None]) -> None:
        try:
            call()
        except StreamcoreError:
            self._tainted = True
            raise

    patch.setattr(Producers, "timed", timed)


def no_seek_after_an_abort(patch: pytest.MonkeyPatch) -> None:
    """After an abort the tasks stand at their last commit, and the consumer goes on where it was."""

    def roll_back(self: Any, tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.forget_epoch()

    patch.setattr(Committer, "_roll_back", roll_back)


def overlay_applied_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """Local state takes the epoch once all is flushed and its offsets are sent, just before the decision."""
    decide = Committer._decide

    def early(self: Any, prepared: Any, nonce: str) -> Sequence[Any]:
        for part in prepared:
            part.task.store.apply(part.frame.deltas, part.mark)
        return decide(self, prepared, nonce)

    patch.setattr(Committer, "_decide", early)


def delivery_reports_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """A record that the broker refuses is forgotten, and the transaction goes on without it."""

    def send_queue(self: Any) -> None:
        queue, self._queue = self._queue, []
        self._queued_bytes = 0
        for tp, columns, receipt in queue:
            with contextlib.suppress(TransactionAborted, RecordTooLarge, TopicError, ProducerFenced):
                offset = self._append(tp, columns)
                if receipt is not None:
                    receipt.landed(offset)

    patch.setattr(LocalProducer, "_send_queue", send_queue)


def an_error_of_send_offsets_is_swallowed(patch: pytest.MonkeyPatch) -> None:
    """send_offsets gets no answer, and the commit follows all the same."""
    send = LocalProducer.send_offsets

    def swallowed(self: Any, offsets: Any, membership: Membership, timeout_s: float) -> None:
        with contextlib.suppress(OutcomeUnknown):
            send(self, offsets, membership, timeout_s)

    patch.setattr(LocalProducer, "send_offsets", swallowed)


def overlay_kept_after_an_abort(patch: pytest.MonkeyPatch) -> None:
    """Own: an undone epoch's inputs are read again, and what it did to the state is still there."""
    drop = SliceRunner.drop

    def outputs_only(self: Any) -> None:
        kept, self._program = self._program, _Nothing()
        drop(self)
        self._program = kept
        kept.undo()

    patch.setattr(SliceRunner, "drop", outputs_only)


class _Nothing:
    def drop(self) -> None:
        pass


def outputs_kept_after_an_abort(patch: pytest.MonkeyPatch) -> None:
    """Own: an undone epoch's outputs that wait for the producer are sent with the next one."""

    def state_only(self: Any) -> None:
        self._program.drop()

    patch.setattr(SliceRunner, "drop", state_only)


# --- state ----------------------------------------------------------------------------------------------------------


def the_epoch_key_goes_into_another_batch(patch: pytest.MonkeyPatch) -> None:
    """The store's mark is written by itself, before the rows: a worker that dies between stands at an epoch whose rows
    it has not."""

    def apply(self: Any, deltas: Any, mark: EpochMark) -> None:
        self._port("Apply")
        self._store.apply({}, mark)
        self._port("Apply")
        self._store.apply(deltas, mark)
        self._applied(self._task, mark)

    patch.setattr(_PortStore, "apply", apply)


def no_write_ahead_log_and_one_family_flushed(patch: pytest.MonkeyPatch) -> None:
    """Without a write-ahead log a dead worker's disk holds what was flushed: one column family is at the last epoch,
    the others where they were. (The mark stands in every family to tell; only the flushed one's is asked.)"""

    def mark(self: MemoryStore) -> EpochMark | None:
        return EpochMark.decode(self._tables.get(DEFAULT, {}).get(MARK_KEY), DEFAULT)

    def dies(self: Any, process: Any, fault: Any) -> None:
        for files in process.disk._files.values():
            flushed = files.tables.get(DEFAULT, {})
            files.tables = {**disk._copied(files.synced), DEFAULT: dict(flushed)}
        kill(self, process, fault)

    kill = Simulation.kill
    patch.setattr(MemoryStore, "mark", mark)
    patch.setattr(Simulation, "kill", dies)


def a_dedupe_entry_outside_of_the_epoch(patch: pytest.MonkeyPatch) -> None:
    """The inbox knows an id from the moment it came: when the epoch is undone and its records come again, they are
    taken for repeats."""
    patch.setattr(Inbox, "drop", Inbox.mark)


def a_state_value_changed_in_place(patch: pytest.MonkeyPatch) -> None:
    """Values that can be changed in place are kept decoded, as others are: a slice that fails has changed them."""

    class Kept(Overlay):
        def __init__(self, step: str, column: Any, packer: Any, stays: Any) -> None:
            super().__init__(step, column, packer, lambda values: True)

    patch.setattr(states, "Overlay", Kept)


def a_dead_letter_leaves_half_its_state(patch: pytest.MonkeyPatch) -> None:
    """A record that fails goes to the dead letters, and what it had done to the state before stays."""

    def alone(self: Any, record: Any, through: Any) -> None:
        self._program.mark()
        try:
            batch = self._decode(record) if isinstance(record, slices.Run) else record
            if batch is not None:
                through(batch)
        except (DecodeFailed, StepFailed, RecordTooLarge) as error:
            self._outbox.discard()
            self._failures.settle(record, error)
        self._outbox.keep()

    patch.setattr(SliceRunner, "_alone", alone)


def half_of_the_inputs(patch: pytest.MonkeyPatch) -> None:
    """No task of this engine has two inputs that could be owned apart. The nearest thing: the task behind a shuffle
    takes the frames of every source task but the last one."""
    decode = slices.decode_shuffle

    def first_sources_only(run: Any, codec: Any, **how: Any) -> Any:
        value = run.values[0]
        return (
            None if value is not None and decode_frame(value, "a frame").partition == 1 else decode(run, codec, **how)
        )

    patch.setattr(slices, "decode_shuffle", first_sources_only)


# --- all ------------------------------------------------------------------------------------------------------------

_ALL: Final = ("words", "accounts", "carts", "regions", "sensors")
_STATE: Final = ("words", "accounts", "carts", "regions")
_SHUFFLED: Final = ("words", "regions")

BUGS: Final = {
    bug.name: bug
    for bug in (
        Bug(offsets_read_before_the_fence, _ALL),
        Bug(offsets_read_uncommitted, _ALL),
        Bug(offsets_that_did_not_move_are_left_out, _ALL),
        Bug(group_metadata_is_cached, _ALL),
        Bug(generation_minus_one_is_accepted, _ALL),
        Bug(a_revoked_partition_is_included, _ALL),
        Bug(commit_after_lost, _ALL),
        Bug(abort_after_a_timeout, _ALL),
        Bug(slow_calls_are_ignored, _ALL),
        Bug(local_state_judged_by_its_epoch_number, _STATE),
        Bug(no_seek_after_an_abort, _ALL),
        Bug(overlay_applied_before_the_commit, _ALL),
        Bug(the_epoch_key_goes_into_another_batch, _STATE),
        Bug(no_write_ahead_log_and_one_family_flushed, _STATE),
        Bug(local_state_reused_without_its_nonce, _STATE),
        Bug(replay_stops_at_the_end_of_the_partition, _ALL),
        Bug(replay_reads_uncommitted, _ALL),
        Bug(delivery_reports_are_ignored, _ALL),
        Bug(an_error_of_send_offsets_is_swallowed, _ALL),
        Bug(a_dedupe_entry_outside_of_the_epoch, ("accounts",)),
        Bug(a_state_value_changed_in_place, ("carts",)),
        Bug(a_dead_letter_leaves_half_its_state, ("carts",)),
        Bug(half_of_the_inputs, _SHUFFLED),
        Bug(unknown_outcome_taken_for_committed, _ALL),
        Bug(overlay_kept_after_an_abort, _STATE),
        Bug(outputs_kept_after_an_abort, _ALL),
    )
}
"""In the order of the table in docs/proof.md; what begins with "Own" is not of the list that was given."""


@contextlib.contextmanager
def planted(bug: Bug) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        bug.plant(patch)
        yield
