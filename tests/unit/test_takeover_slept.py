"""A worker that sleeps in the middle of a takeover finds a journal that goes on, or is trimmed, behind its back."""

from __future__ import annotations

from typing import Any

import pytest

from streamcore.errors import MembershipChanged, OffsetsLost
from streamcore.runtime.takeover import Step, Takeover


def taking(step: Step, moved: bool) -> Takeover:
    """At a step that finds journal and offsets in contradiction; `moved`: others have committed since."""
    takeover: Any = Takeover.__new__(Takeover)

    def lost() -> None:
        raise OffsetsLost("its state stands at journal offset 0, and the journal begins at 38")

    takeover.step, takeover._told = step, {"at": 1}
    takeover._advance = lost
    takeover._read_again = lambda: {"at": 1 + moved}
    return takeover


@pytest.mark.parametrize("step", [Step.RESTORE, Step.REPLAY])
def test_what_others_committed_meanwhile_is_no_contradiction(step: Step) -> None:
    with pytest.raises(MembershipChanged, match="others committed"):
        taking(step, moved=True).advance()


@pytest.mark.parametrize("step", [Step.RESTORE, Step.REPLAY])
def test_a_contradiction_that_nobody_explains_stops_the_job(step: Step) -> None:
    with pytest.raises(OffsetsLost):
        taking(step, moved=False).advance()
