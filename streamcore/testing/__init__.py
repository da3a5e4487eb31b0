"""For users' own tests: a job driven by hand on the in-memory log, with a clock of the test's own."""

from streamcore.testing.clock import ManualClock
from streamcore.testing.driver import Driver

__all__ = ["Driver", "ManualClock"]
