"""The whole way, over a real S3-compatible server: upload, lose the machine, restore, corrupt, verify."""

from __future__ import annotations

from pathlib import Path

from streamcore.checkpoint import owner
from streamcore.checkpoint.collect import Retention, Sweeper, retire
from streamcore.checkpoint.restore import Restorer
from streamcore.checkpoint.store import read
from streamcore.checkpoint.upload import Uploader
from streamcore.checkpoint.verify import Verifier
from streamcore.clock import SystemClock, SystemEntropy
from streamcore.state.rocks import RocksStore
from streamcore.types import Epoch
from tests.checkpoint.kit import FACTS, JOB, LAYOUT, LINE, TASK, Kit, key
from tests.checkpoint.s3 import S3Server


def test_a_lost_machine_comes_back_from_a_bucket(rocks: Kit, tmp_path: Path, s3_server: S3Server) -> None:
    bucket = s3_server.bucket("lost-machine")
    clock, entropy = SystemClock(), SystemEntropy()
    store = s3_server.store(bucket, "prefix")
    owner.claim(store, JOB, "cluster", LINE)
    uploader = Uploader(store, JOB, TASK, clock, entropy)
    rocks.commit(1, **{f"k{n:05d}": bytes(100) for n in range(5_000)})
    first = uploader.upload(rocks.snapshot(), FACTS)
    rocks.commit(2, one=b"more")
    second = uploader.upload(rocks.snapshot(), FACTS)
    assert second.bytes_new < first.bytes_new

    other = s3_server.store(bucket, "prefix")
    target = tmp_path / "other machine"
    found = Restorer(other, clock, entropy).restore(JOB, TASK, LINE, Epoch(2), target)
    assert found.manifest is not None
    assert found.manifest.epoch == 2
    assert rocks.contents(RocksStore.open(target, ["count", "seen"], job=JOB, task=TASK)) == rocks.contents(rocks.store)


def test_a_bucket_with_a_spoilt_object_gives_the_older_one(rocks: Kit, tmp_path: Path, s3_server: S3Server) -> None:
    clock, entropy = SystemClock(), SystemEntropy()
    store = s3_server.store(s3_server.bucket("spoilt"))
    uploader = Uploader(store, JOB, TASK, clock, entropy)
    for epoch in (1, 2):
        rocks.commit(epoch, a=b"%d" % epoch)
        uploader.upload(rocks.snapshot(), FACTS)
    older = {file.object for file in Verifier(store, clock, entropy).verify(key(1), tmp_path / "d").manifest.files}
    newest = Verifier(store, clock, entropy).verify(key(2), tmp_path / "d")
    assert newest.whole
    bad = next(file for file in newest.manifest.files if file.object not in older and file.name.endswith(".sst"))
    data = read(store, LAYOUT.object(bad.object))
    store.delete(LAYOUT.object(bad.object))
    store.put_once(LAYOUT.object(bad.object), data[:-1] + b"x")

    found = Restorer(store, clock, entropy).restore(JOB, TASK, LINE, Epoch(2), tmp_path / "restored")
    assert found.manifest is not None
    assert found.manifest.epoch == 1
    assert found.rejected[0].objects == {bad.object}
    assert not Verifier(store, clock, entropy).verify(key(2), tmp_path / "d").whole


def test_collecting_in_a_bucket_keeps_what_is_named(rocks: Kit, tmp_path: Path, s3_server: S3Server) -> None:
    clock, entropy = SystemClock(), SystemEntropy()
    store = s3_server.store(s3_server.bucket("collecting"))
    uploader = Uploader(store, JOB, TASK, clock, entropy)
    for epoch in (1, 2, 3):
        rocks.commit(epoch, a=b"%d" % epoch)
        uploader.upload(rocks.snapshot(), FACTS)
    assert retire(store, JOB, TASK, LINE, Epoch(3), Retention(1)).deleted == (key(1), key(2))
    swept = Sweeper(store, JOB).sweep()
    assert swept.deleted == ()
    assert swept.waiting > 0
    assert Verifier(store, clock, entropy).verify(key(3), tmp_path / "d").whole
