from __future__ import annotations

import io
import logging

from streamcore.observe import logs


def test_an_entry_is_one_line_that_can_be_split_again() -> None:
    out = io.StringIO()
    handler = logs.configure("info", out, {"slot": 2})
    try:
        logging.getLogger("streamcore.runtime.commit").warning('two "lines"\nand a=b')
        logging.getLogger("streamcore.runtime.commit").debug("not shown")
    finally:
        logs.remove(handler)
    (entry,) = out.getvalue().splitlines()
    assert ' level=warning slot=2 at=runtime.commit what="two \\"lines\\"\\nand a=b"' in entry
    assert entry.startswith("time=") and entry.split(" ")[0].endswith("Z")


def test_an_exception_stays_on_its_line() -> None:
    out = io.StringIO()
    handler = logs.configure("info", out)
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("streamcore").exception("failed")
    finally:
        logs.remove(handler)
    (entry,) = out.getvalue().splitlines()
    assert "ValueError: no" in entry


def test_other_libraries_logs_are_left_alone() -> None:
    before = list(logging.getLogger().handlers)
    handler = logs.configure("debug", io.StringIO())
    logs.remove(handler)
    assert logging.getLogger().handlers == before
    assert logging.getLogger("streamcore").propagate
