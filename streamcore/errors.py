"""Every error that streamcore raises, named by its remedy.

    StreamcoreError
    ├── RetryError            transient: the same call may succeed later; the caller retries within a bound
    │   ├── LogUnavailable        no broker answers, or not in time; nothing was decided
    │   ├── OutcomeUnknown        a commit or send_offsets whose answer did not come: it may have happened
    │   └── CheckpointStoreUnavailable  the checkpoint store does not answer, or not in time
    ├── RebuildError          something of ours is spoilt; throw it away, build it anew, go on
    │   ├── TransactionAborted    this transaction cannot commit: abort, seek back, drop the overlay
    │   ├── ProducerFenced        the transactional producer is dead: a new one; membership decides what then
    │   ├── MembershipChanged     generation or member id is not the one the tasks were assigned under
    │   ├── StateDamaged          local state cannot be read or does not agree with itself
    │   └── CheckpointDamaged     a manifest or an object of a checkpoint is missing, or not what its hash says
    ├── StepAsideError        somebody newer has our place: leave without touching anything; not restarted
    │   └── SlotTaken             another member joined with this slot
    └── StopError             a person must act; the message says how
        ├── SettingsError         a setting or a topology is wrong (found before anything runs)
        ├── TopologyError         ... the topology
        ├── TopicError            a topic is missing, changed, or not as it must be
        ├── AccessDenied          the broker refused: credentials or ACLs
        ├── RecordFailed          a record that cannot be processed, under the policy Stop
        ├── RecordTooLarge        a record, or a state value, over a limit
        ├── OffsetsLost           offsets and journal contradict each other
        ├── StateMismatch         saved state and the code do not fit
        ├── StateDirError         the state directory is in use, unwritable, full, another job's, a newer version's
        ├── CheckpointStoreError  the checkpoint store refuses: credentials, no bucket, read-only, full
        │   └── CheckpointStoreTaken  ... the checkpoints under its prefix are another job's
        ├── JournalTooLong        no checkpoint succeeds, and a journal has grown past its bound
        └── InvariantBroken       a law does not hold: a bug in streamcore, and never something to go on from

Exit codes follow the remedy: 0 done, 2 usage (typer's), 10 stop, 11 step aside, 12 rebuild (restart), 13 retry
(restart), 14 the worker hung past its transaction timeout (restart). A `replay` that came to a verdict ends with it:
0 equal, 20 different, 21 unknown.
"""

from __future__ import annotations

from typing import ClassVar, NoReturn

EXIT_DONE = 0
EXIT_STOP = 10
EXIT_STEP_ASIDE = 11
EXIT_REBUILD = 12
EXIT_RETRY = 13
EXIT_HUNG = 14
EXIT_AT_SAVEPOINT = 15
"""Of a supervised worker: the job has stopped at a savepoint, as it was asked to."""
EXIT_DIFFERENT = 20
EXIT_UNKNOWN = 21


class StreamcoreError(Exception):
    """`what` happened, and `remedy`: what to do about it, as a sentence for a person."""

    exit_code: ClassVar[int] = EXIT_STOP

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n  what to do: {self.remedy}" if self.remedy else self.what


class RetryError(StreamcoreError):
    exit_code = EXIT_RETRY


class LogUnavailable(RetryError): ...


class OutcomeUnknown(RetryError): ...


class CheckpointStoreUnavailable(RetryError): ...


class RebuildError(StreamcoreError):
    exit_code = EXIT_REBUILD


class TransactionAborted(RebuildError): ...


class ProducerFenced(RebuildError): ...


class MembershipChanged(RebuildError): ...


class StateDamaged(RebuildError): ...


class CheckpointDamaged(RebuildError): ...


class StepAsideError(StreamcoreError):
    exit_code = EXIT_STEP_ASIDE


class SlotTaken(StepAsideError): ...


class StopError(StreamcoreError):
    exit_code = EXIT_STOP


class SettingsError(StopError): ...


class TopologyError(StopError): ...


class TopicError(StopError): ...


class AccessDenied(StopError): ...


class RecordFailed(StopError): ...


class RecordTooLarge(StopError): ...


class OffsetsLost(StopError): ...


class StateMismatch(StopError): ...


class StateDirError(StopError): ...


class CheckpointStoreError(StopError): ...


class CheckpointStoreTaken(CheckpointStoreError): ...


class JournalTooLong(StopError): ...


class InvariantBroken(StopError): ...


def broken(what: str) -> NoReturn:
    raise InvariantBroken(what, "this is a bug in streamcore: stop the job, keep its topics and logs, report it")


def invariant(holds: bool, what: str) -> None:
    """An assertion that `python -O` does not strip."""
    if not holds:
        broken(what)


VALUE_SHOWN = 200


def shown(value: object) -> str:
    """A value for a message: its repr, cut to 200 characters."""
    text = repr(value)
    return text if len(text) <= VALUE_SHOWN else f"{text[:VALUE_SHOWN]}… ({len(text)} characters)"
