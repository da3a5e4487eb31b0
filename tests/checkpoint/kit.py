"""A task with its state, and a checkpoint store whose clock and faults are the test's."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec

from streamcore.checkpoint import snapshot
from streamcore.checkpoint.collect import Retention, Retired, Sweeper, retire
from streamcore.checkpoint.manifest import Layout, Manifest, load
from streamcore.checkpoint.memory import Fault, MemoryObjects
from streamcore.checkpoint.restore import Restored, Restorer
from streamcore.checkpoint.snapshot import Form, Snapshot, Snapshottable
from streamcore.checkpoint.store import read
from streamcore.checkpoint.upload import Facts, Uploaded, Uploader
from streamcore.checkpoint.verify import Verdict, Verifier
from streamcore.clock import SeededEntropy
from streamcore.state.memory import MemoryStore, Tables
from streamcore.state.rocks import RocksStore
from streamcore.state.store import RESERVED, Delta, EpochMark, Store
from streamcore.testing.clock import ManualClock
from streamcore.types import Epoch, Offset, Partition, TaskId

JOB = "job"
TASK = TaskId("lines", Partition(3))
LINE = "0123456789abcdef"
LAYOUT = Layout(JOB)
FACTS = Facts("topology", {"count": 2})
FORMS: dict[str, Form] = {"rocks": snapshot.rocks, "memory": snapshot.memory}


class Script:
    """Faults in the order they are planned, each for the first call that fits; and every call there was."""

    def __init__(self) -> None:
        self.planned: list[tuple[str, str, Fault]] = []
        self.calls: list[tuple[str, str]] = []

    def plan(self, call: str, part: str, fault: Fault, times: int = 1) -> None:
        self.planned += [(call, part, fault)] * times

    def __call__(self, call: str, key: str) -> Fault | None:
        self.calls.append((call, key))
        for at, (planned, part, fault) in enumerate(self.planned):
            if call == planned and part in key:
                del self.planned[at]
                return fault
        return None

    def puts(self) -> list[str]:
        return [key for call, key in self.calls if call == "put_once"]


def mark(epoch: int, line: str = LINE, nonce: str = "") -> EpochMark:
    return EpochMark(line, Epoch(epoch), nonce or f"n{epoch}", Offset(epoch * 10), Offset(epoch * 10 + 2))


class Kit:
    def __init__(self, path: Path, form: str, seed: int = 1) -> None:
        self.path = path
        self.form = form
        self.clock = ManualClock()
        self.entropy = SeededEntropy(seed)
        self.script = Script()
        self.objects = MemoryObjects(self.clock, self.script)
        self.tables: Tables = {}
        self.extra: dict[str, bytes] = {}
        """More files for each snapshot: contents that come again, as SSTs do."""
        self.store = self.open(path / "task")
        self.uploader = self.another_uploader()
        self.sweeper = Sweeper(self.objects, JOB)

    def open(self, path: Path) -> Snapshottable:
        if self.form == "memory":
            return MemoryStore(["count", "seen"], self.tables)
        return RocksStore.open(path, ["count", "seen"], job=JOB, task=TASK)

    def close(self) -> None:
        self.store.close()

    def another_uploader(self) -> Uploader:
        return Uploader(self.objects, JOB, TASK, self.clock, self.entropy, FORMS[self.form])

    def advance(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    def commit(self, epoch: int, line: str = LINE, **values: bytes) -> None:
        self.store.apply({"count": Delta([key.encode() for key in values], list(values.values()))}, mark(epoch, line))

    def snapshot(self) -> Snapshot:
        taken = snapshot.take(self.store, self.path / f"task{snapshot.SUFFIX}")
        for name, data in self.extra.items():
            (taken.path / "db" / name).write_bytes(data)
        return taken

    def upload(self, facts: Facts = FACTS) -> Uploaded:
        return self.uploader.upload(self.snapshot(), facts)

    def checkpoint(self, epoch: int, **values: bytes) -> Uploaded:
        self.commit(epoch, **(values or {f"k{epoch}": b"v%d" % epoch}))
        return self.upload()

    def restorer(self) -> Restorer:
        return Restorer(self.objects, self.clock, self.entropy, form=FORMS[self.form], threads=0)

    def restore(self, committed: int, line: str = LINE) -> Restored:
        return self.restorer().restore(JOB, TASK, line, Epoch(committed), self.path / "restored")

    def restored(self) -> dict[bytes, bytes]:
        return self.contents(FORMS[self.form](self.path / "restored"))

    def contents(self, store: Store) -> dict[bytes, bytes]:
        found = dict(store.column("count").scan(b"", RESERVED))
        store.close()
        return found

    def verify(self, key: str) -> Verdict:
        verifier = Verifier(self.objects, self.clock, self.entropy, form=FORMS[self.form], threads=0)
        return verifier.verify(key, self.path / "drill")

    def retire(self, named: int, count: int = 1, age_s: int = 0, line: str = LINE) -> Retired:
        return retire(self.objects, JOB, TASK, line, Epoch(named), Retention(count, age_s))

    # --- what is in the store ------------------------------------------------------------------------------------
    def manifests(self) -> list[str]:
        return [stat.key for stat in self.objects.list(LAYOUT.manifests) if stat.key.endswith(".json")]

    def manifest(self, epoch: int) -> Manifest:
        return load(self.objects, key(epoch))

    def stored(self) -> set[str]:
        return {stat.key for stat in self.objects.list(LAYOUT.objects)}

    def named(self) -> set[str]:
        return {LAYOUT.object(file.object) for key in self.manifests() for file in load(self.objects, key).files}

    def rewrite(self, epoch: int, **changes: object) -> None:
        """A manifest under a good seal, and false."""
        changed: Manifest = msgspec.structs.replace(self.manifest(epoch), **changes)
        self.objects.replace(key(epoch), changed.encode())

    def edit(self, epoch: int, old: bytes, new: bytes) -> None:
        data = read(self.objects, key(epoch))
        assert old in data
        self.objects.replace(key(epoch), data.replace(old, new, 1))


def key(epoch: int, line: str = LINE) -> str:
    return LAYOUT.manifest(TASK, line, Epoch(epoch))


__all__ = ["FACTS", "FORMS", "JOB", "LAYOUT", "LINE", "TASK", "Fault", "Kit", "Script", "key", "mark"]
