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


def test_what_is_said_again_and_again_is_written_once_and_counted() -> None:
    out = io.StringIO()
    handler = logs.configure("info", out)
    logger = logging.getLogger("streamcore.log.kafka")
    try:
        for n in range(1000):
            logger.warning("connection %d refused", n)
        logger.warning("something else")
        later = logger.makeRecord(logger.name, logging.WARNING, "", 0, "connection %d refused", (7,), None)
        later.created += logs.REPEAT_S
        handler.handle(later)
        for n in range(logs.REPEATS_KEPT * 2):
            logger.warning("kind %s", chr(1000 + n))
    finally:
        logs.remove(handler)
    entries = out.getvalue().splitlines()
    assert len(entries) == 3 + logs.REPEATS_KEPT * 2
    assert "connection 0 refused" in entries[0] and "something else" in entries[1]
    assert "connection 7 refused (and 999 more like it)" in entries[2]


def test_the_engines_own_entries_are_all_written() -> None:
    out = io.StringIO()
    handler = logs.configure("info", out)
    try:
        for slot in range(5):
            logging.getLogger("streamcore.runtime.supervisor").warning("slot %d ended", slot)
    finally:
        logs.remove(handler)
    assert len(out.getvalue().splitlines()) == 5
