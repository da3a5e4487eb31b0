"""What a step says when a record cannot pass it. Internal: the policy of the stage decides what becomes of it."""

from __future__ import annotations

from typing import Any, NoReturn

from streamcore.errors import RecordTooLarge, StreamcoreError
from streamcore.topology.nodes import OnError


class StepFailed(Exception):
    """Step `step` refused a batch because of `cause`, which a user's function raised or a value was guilty of.

    Everything the slice has written is to be undone. Raised for a batch of many, the culprit is found by running the
    records one by one; for a batch of one it is that record. Errors of streamcore itself (StreamcoreError: the store
    is damaged, the disk full) are never wrapped: no policy may skip those.

    `policy` is the step's own where it has one (a dedupe's `too_old`); otherwise the stage's holds.
    """

    def __init__(self, step: str, cause: Exception, policy: OnError | None = None) -> None:
        super().__init__(f"step {step!r}: {type(cause).__name__}: {cause}")
        self.step = step
        self.cause = cause
        self.policy = policy


def none_returned(what: str, got: Any) -> TypeError:
    return TypeError(f"{what} returned {type(got).__name__}: return an iterable of values, as a list or by yield")


def refuse(step: str, error: Exception) -> NoReturn:
    """Raise StepFailed for what came out of a user's function, a codec, or a value over a limit; errors that no
    record is guilty of pass as they are."""
    ours = isinstance(error, StepFailed | StreamcoreError) and not isinstance(error, RecordTooLarge)
    if ours:
        raise error
    raise StepFailed(step, error) from error
