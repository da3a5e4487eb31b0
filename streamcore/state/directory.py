"""The directory of a task's local state: whose it is, and how it goes out of the way.

    DIR/streamcore.json   {"format": 1, "job": ..., "stage": ..., "partition": ...}, written before anything else
    DIR/damaged           why this state must not be used again; written when reading or writing it failed
    DIR.damaged-N         set aside, the newest one only

Processing thread only.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Final

import msgspec

from streamcore.errors import StateDamaged, StateDirError
from streamcore.state.store import UNREADABLE
from streamcore.types import TaskId

logger = logging.getLogger(__name__)

FORMAT: Final = 1
FORMAT_FILE: Final = "streamcore.json"
DAMAGED_FILE: Final = "damaged"


class Format(msgspec.Struct, frozen=True):
    format: int
    job: str
    stage: str
    partition: int


def read_format(path: Path) -> Format:
    """Raises StateDamaged (missing or unreadable), StateDirError (a newer version's)."""
    file = path / FORMAT_FILE
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise StateDamaged(f"the state directory {path} has no {FORMAT_FILE}") from error
    except OSError as error:
        raise unusable(path, "reading", error.strerror or str(error)) from error
    try:
        found = msgspec.json.decode(data, type=Format)
    except UNREADABLE as error:
        raise StateDamaged(f"{file} cannot be read: {error}") from error
    if found.format > FORMAT:
        raise StateDirError(
            f"the state directory {path} has format {found.format}, newer than this streamcore's {FORMAT}",
            "run the version of streamcore that wrote it, or give another directory with --state-dir",
        )
    return found


def claim(path: Path, job: str, task: TaskId) -> None:
    """The directory is this task's, or becomes it. Raises StateDamaged for one that was condemned."""
    wanted = Format(FORMAT, job, task.stage, task.partition)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not any(path.iterdir()):
            fresh = path / f"{FORMAT_FILE}.new"
            fresh.write_bytes(msgspec.json.encode(wanted))
            fresh.rename(path / FORMAT_FILE)
        condemned = path / DAMAGED_FILE
        if condemned.exists():
            raise StateDamaged(condemned.read_text(errors="replace"))
    except OSError as error:
        raise unusable(path, "creating", error.strerror or str(error)) from error
    found = read_format(path)
    if found != wanted:
        raise StateDirError(
            f"the state directory {path} belongs to job {found.job}, task {found.stage}[{found.partition}], "
            f"not to job {job}, task {task}",
            "give each job a directory of its own with --state-dir",
        )


def condemn(path: Path, why: str) -> None:
    """For good: a database with a bad block opens, and fails again at the same record, in this process or the next."""
    try:
        (path / DAMAGED_FILE).write_text(why)
    except OSError as error:
        logger.warning("%s is damaged and cannot be marked so: %s", path, error)


def set_aside(path: Path, why: str) -> None:
    """For a look at it later. Only the newest such copy is kept; a missing directory is no error."""
    older = sorted(path.parent.glob(f"{path.name}.damaged-*"), key=_number)
    aside = path.with_name(f"{path.name}.damaged-{_number(older[-1]) + 1 if older else 1}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unusable(path, "setting aside", error.strerror or str(error)) from error
    logger.warning("local state %s is set aside as %s and rebuilt from the journal: %s", path, aside.name, why)
    for old in older:
        shutil.rmtree(old, ignore_errors=True)


def remove(path: Path) -> None:
    """With all that is in it; what is missing already is no error."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        if path.exists():  # something in it went by itself
            remove(path)
    except OSError as error:
        raise unusable(path, "deleting", error.strerror or str(error)) from error


def _number(path: Path) -> int:
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else 0


# --- what the system says ----------------------------------------------------------------------------------------
_ENVIRONMENT: Final = {
    "No space left on device": "free some disk, or give a larger one with --state-dir",
    "File too large": "raise the limit of file sizes (ulimit -f)",
    "Disk quota exceeded": "free some disk, or raise the quota",
    "Permission denied": "give a directory that this user may write with --state-dir",
    "Operation not permitted": "give a directory that this user may write with --state-dir",
    "Read-only file system": "give a directory on a writable disk with --state-dir",
    "Too many open files": "raise the limit of open files (ulimit -n)",
    "Input/output error": "the disk fails: give another one with --state-dir; the state is rebuilt from the journal",
}


def is_environment(text: str) -> bool:
    """The system's doing, and nothing wrong with the state itself."""
    return any(sign in text for sign in _ENVIRONMENT)


def unusable(path: Path, doing: str, text: str) -> StateDirError:
    remedy = next((remedy for sign, remedy in _ENVIRONMENT.items() if sign in text), "see the system's message")
    return StateDirError(f"{doing} the state directory {path} failed: {text}", remedy)
