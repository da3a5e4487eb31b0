"""The commit: one transaction a worker, and the transaction is the decision.

    1 close    tables emit; what is left of the outputs is produced; each touched task sends its journal frame
    2 flush    every message is acknowledged, so the journal's end is known
    3 offsets  of all inputs of every touched task, each with the same metadata, within the present assignment,
               under a membership fetched just now
    4 decide   commit
    5 apply    overlay to RocksDB, in one batch with (lineage, epoch, nonce, journal position)

What can go wrong, and what follows: an error before 4 aborts (law 5: overlay and outputs dropped, inputs sought back).
At 4 an unknown answer is never followed by an abort (law 3): a fresh producer's init settles the transaction, and the
metadata's nonce says which way. A fenced producer looks the same whether it timed out or was replaced (law 6): the
group's members tell. In at-least-once mode 3 and 4 are one offset commit by the consumer.

All of this runs on the processing thread, outside poll() or inside its `revoked`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streamcore import limits
from streamcore.clock import Clock, Entropy
from streamcore.errors import (
    MembershipChanged,
    OutcomeUnknown,
    ProducerFenced,
    RebuildError,
    RetryError,
    SlotTaken,
    TransactionAborted,
)
from streamcore.log import metadata
from streamcore.log.port import Admin, Consumer, Membership, OffsetCommit, Receipt
from streamcore.observe.metrics import Metrics
from streamcore.runtime.points import Probe
from streamcore.runtime.producers import Producers
from streamcore.runtime.task import Task, TaskState
from streamcore.state.frames import Frame
from streamcore.state.frames import encode as encode_frame
from streamcore.state.store import Delta, EpochMark
from streamcore.topology.plan import Plan
from streamcore.types import Offset, Slot, TopicPartition

logger = logging.getLogger(__name__)

EO = "eo"
ALO = "alo"


def silent(tasks: Sequence[Task], nonce: str) -> Sequence[tuple[TopicPartition, bytes]]:
    """For jobs without barriers."""
    return ()


@dataclass(slots=True)
class Prepared:
    """One task's part of the transaction."""

    task: Task
    frame: Frame
    receipts: list[Receipt]
    size_bytes: int
    """Of the journal frame."""
    mark: EpochMark | None = None


class Committer:
    def __init__(
        self,
        plan: Plan,
        slot: Slot,
        instance_id: str,
        producers: Producers,
        consumer: Consumer,
        admin: Admin,
        clock: Clock,
        entropy: Entropy,
        metrics: Metrics,
        probe: Probe,
    ) -> None:
        self._plan = plan
        self._slot = slot
        self.instance_id = instance_id
        self.transactional = producers.transactional
        self._producers = producers
        self._consumer = consumer
        self._admin = admin
        self._clock = clock
        self._entropy = entropy
        self._metrics = metrics
        self._probe = probe
        self.words: Callable[[Sequence[Task], str], Sequence[tuple[TopicPartition, bytes]]] = silent
        """What else the transaction of these tasks' epochs says, given its nonce: on the control topic, in markers."""
        self.records_out = 0
        """Produced at the ends of epochs, those undone included."""
        self.member_id = ""
        """As seen when the present assignment came."""
        self.assignment: frozenset[TopicPartition] = frozenset()
        self._mode = EO if self.transactional else ALO
        self._offsets: list[OffsetCommit] = []

    # --- the phases -------------------------------------------------------------------------------------------

    def commit(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Those of the tasks whose epochs are decided and applied: the others' are undone, their inputs sought back.
        Raises StopError for a record a table's emission fails on, SlotTaken, StateDamaged; and RetryError when the log
        does not answer: then nothing is known of these epochs, and the tasks must be taken over anew."""
        begun = self._clock.monotonic_s()
        nonce = self._entropy.token()
        try:
            self._probe("before-epoch")
            prepared = self._close(tasks, nonce)
            self._probe("before-flush")
            self._producers.open().flush(limits.CALL_TIMEOUT_S)
            self._probe("after-flush")
            self._settle(prepared, nonce)
        except (TransactionAborted, MembershipChanged, RetryError) as error:
            self.undo(tasks, error)
            return ()
        except ProducerFenced as error:
            self._step_aside_if_replaced(error)
            self.undo(tasks, error)
            return ()
        decided = self._decide(prepared, nonce)
        if not decided:
            return ()
        self._probe("after-commit")
        records = sum(part.task.records for part in decided)
        for part in decided:
            self._apply(part)
        self._probe("after-apply")
        self._metrics.committed(tasks=len(decided), records=records, seconds=self._clock.monotonic_s() - begun)
        return [part.task for part in decided]

    def undo(self, tasks: Sequence[Task], why: Exception) -> None:
        """Law 5. The transaction ends (by abort, or by a fresh producer's init where the abort fails), and the tasks
        stand at their last commit again."""
        logger.warning("epoch of %d tasks undone: %s", len(tasks), why)
        self._metrics.undone()
        self._producers.taint()
        self._probe("before-abort")
        self.end_transaction()
        self._probe("after-abort")
        self._roll_back(tasks)

    # --- 1 close ----------------------------------------------------------------------------------------------

    def _close(self, tasks: Sequence[Task], nonce: str) -> list[Prepared]:
        producer = self._producers.open()
        prepared: list[Prepared] = []
        for task in tasks:
            self.records_out += task.runner.close_epoch(producer)
        for task in tasks:
            deltas = task.runner.drain()
            journal = TopicPartition(self._plan.journal_topic(task.stage.name), task.id.partition)
            frame = self._frame(task, nonce, deltas)
            messages = encode_frame(frame)
            size_bytes = sum(map(len, messages))
            self._metrics.journaled(size_bytes)
            receipts = [producer.send(journal, message) for message in messages]
            prepared.append(Prepared(task, frame, receipts, size_bytes))
        for tp, message in self.words(tasks, nonce):
            producer.send(tp, message)
        return prepared

    def _frame(self, task: Task, nonce: str, deltas: Mapping[str, Delta]) -> Frame:
        return Frame(
            job=self._plan.job,
            stage=task.stage.name,
            partition=task.id.partition,
            lineage=task.lineage,
            epoch=task.next_epoch,
            nonce=nonce,
            previous=task.mark.journal if task.mark else None,
            offsets={tp.topic: offset for tp, offset in task.position.items()},
            slot=self._slot,
            mode=self._mode,
            topology=self._plan.version,
            checkpoint=task.checkpoint,
            watermark_ms=None,
            cut=task.cut if task.cutting is None else task.cutting,
            genesis=task.origin,
            deltas=dict(deltas),
        )

    # --- 3 offsets --------------------------------------------------------------------------------------------

    def _settle(self, prepared: Sequence[Prepared], nonce: str) -> None:
        """Marks and metadata, now that the journal's end is known; in exactly-once mode, send_offsets."""
        offsets: list[OffsetCommit] = []
        for part in prepared:
            task = part.task
            first, last = part.receipts[0].offset, part.receipts[-1].offset
            if first is None or last is None:
                raise TransactionAborted(f"task {task.id}: the journal frame was not acknowledged")
            part.mark = EpochMark(task.lineage, task.next_epoch, nonce, first, Offset(last + 1))
            told = part.frame.metadata(part.mark.journal_end).encode()
            offsets += [OffsetCommit(tp, offset, told) for tp, offset in task.position.items()]
        self._offsets = offsets
        if self.transactional:
            membership = self._checked_membership(offsets)
            producer = self._producers.open()
            try:
                self._producers.timed(lambda: producer.send_offsets(offsets, membership, limits.CALL_TIMEOUT_S))
            except OutcomeUnknown as error:
                # The offsets alone decide nothing: without an EndTxn of ours the transaction can only abort.
                raise TransactionAborted(f"send_offsets got no answer: {error.what}") from error
            self._probe("after-send-offsets")

    def _checked_membership(self, offsets: Sequence[OffsetCommit]) -> Membership:
        """The broker accepts an unjoined consumer's metadata and does not check ownership: this does."""
        membership = self._consumer.membership()
        if membership.generation < 0 or membership.member_id != self.member_id:
            raise MembershipChanged(
                f"job {self._plan.job}: generation {membership.generation}, member {membership.member_id!r} is not "
                f"the membership {self.member_id!r} that the tasks were assigned under"
            )
        foreign = [str(commit.tp) for commit in offsets if commit.tp not in self.assignment]
        if foreign:
            raise MembershipChanged(f"job {self._plan.job}: no longer assigned: {', '.join(foreign)}")
        return membership

    # --- 4 decide ---------------------------------------------------------------------------------------------

    def _decide(self, prepared: Sequence[Prepared], nonce: str) -> Sequence[Prepared]:
        """Those whose epoch is decided; the others are undone. All or none in exactly-once mode."""
        self._probe("before-commit")
        try:
            if self.transactional:
                producer = self._producers.open()
                self._producers.timed(lambda: producer.commit(limits.TRANSACTION_TIMEOUT_MS / 1000))
                self._producers.ended()
            else:
                self._checked_membership(self._offsets)
                self._consumer.commit(self._offsets, limits.CALL_TIMEOUT_S)
        except (TransactionAborted, MembershipChanged) as error:
            self.undo([part.task for part in prepared], error)
            return ()
        except ProducerFenced as error:
            self._step_aside_if_replaced(error)
            return self._ask(prepared, nonce, error)
        except RetryError as error:
            return self._ask(prepared, nonce, error)
        return prepared

    def _ask(self, prepared: Sequence[Prepared], nonce: str, why: Exception) -> Sequence[Prepared]:
        """Law 3: the metadata's nonce says whether the commit happened.

        A transaction is decided whole, so one task's nonce tells of all; another owner may have committed some of
        them since. Where none carries ours, it did not happen, or all are others' by now: undone either way.
        """
        logger.warning("a commit's outcome is unknown, asking the log: %s", why)
        self._metrics.unknown()
        if self.transactional:
            self._producers.fence()
        tps = [tp for part in prepared for tp in part.task.inputs]
        found = self._admin.committed(self._plan.job, tps, limits.TAKEOVER_TIMEOUT_S)
        ours = {tp for tp, at in found.items() if metadata.decode(at.metadata, str(tp)).nonce == nonce}
        decided = [part for part in prepared if ours.issuperset(part.task.inputs)]
        if decided and self._mode == EO:
            decided = list(prepared)
        logger.info("of %d tasks' epochs %d had been committed", len(prepared), len(decided))
        self._roll_back([part.task for part in prepared if part not in decided])
        return decided

    # --- 5 apply ----------------------------------------------------------------------------------------------

    def _apply(self, part: Prepared) -> None:
        if part.mark is None:
            return
        part.task.store.apply(part.frame.deltas, part.mark)
        part.task.runner.committed()
        part.task.tail.wrote(part.size_bytes, part.task.records)
        part.task.committed_as(part.mark)

    # --- undoing ----------------------------------------------------------------------------------------------

    def end_transaction(self) -> None:
        """Abort what is open, so that no reader waits for its timeout."""
        if not self._producers.in_transaction:
            return
        producer = self._producers.open()
        try:
            self._producers.timed(lambda: producer.abort(limits.CALL_TIMEOUT_S))
            self._producers.ended()
        except (RetryError, RebuildError) as error:
            logger.warning("the abort failed, a fresh producer ends the transaction: %s", error)
            self._producers.abandon()

    def _roll_back(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.forget_epoch()
            if task.state is TaskState.RUNNING:
                for tp, offset in task.committed.items():
                    self._consumer.start(tp, offset)

    def _step_aside_if_replaced(self, error: ProducerFenced) -> None:
        """Law 6. Raises SlotTaken when another member holds our instance id; else our transaction merely timed out."""
        mine = self._consumer.membership().member_id
        for member in self._admin.members(self._plan.job):
            if member.instance_id == self.instance_id and member.member_id not in (mine, self.member_id):
                raise SlotTaken(
                    f"job {self._plan.job}: slot {self._slot} was taken by a newer worker on {member.host}",
                    "nothing, if it was meant; else give each machine its own --slot",
                ) from error
