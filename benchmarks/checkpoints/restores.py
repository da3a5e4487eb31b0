"""Restores of a task's newest checkpoint, from a directory and from an S3-compatible server, beside `cp -r` and
`sha256sum` of the same bytes."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from statistics import median

from benchmarks.checkpoints.table import Line
from streamcore.checkpoint.directory import DirectoryStore
from streamcore.checkpoint.manifest import Layout, Manifest, load, parsed
from streamcore.checkpoint.restore import Restorer
from streamcore.checkpoint.store import CheckpointStore
from streamcore.clock import SystemClock, SystemEntropy
from tests.checkpoint.s3 import S3Server

ROUNDS = 3


def newest(store: CheckpointStore, job: str) -> Manifest:
    keys = [stat.key for stat in store.list(Layout(job).manifests) if parsed(stat.key)]
    return max((load(store, key) for key in keys), key=lambda manifest: manifest.epoch)


def lines(job: str, root: Path, scratch: Path) -> list[Line]:
    """`root`: of the directory store."""
    store = DirectoryStore(root)
    manifest = newest(store, job)
    plain = _only_these(root, manifest, scratch / "plain")
    with_cp, hashing, from_directory, from_s3 = list[float](), list[float](), list[float](), list[float]()
    for _ in range(ROUNDS):
        copied, hashed = _copied(plain, scratch / "copy")
        with_cp.append(copied + hashed)
        hashing.append(hashed)
        from_directory.append(_restored(store, manifest, scratch / "restored"))
    server = S3Server()
    try:
        s3 = server.store(server.bucket("bench"), "prefix")
        for key in (manifest.key, *{Layout(job).object(file.object) for file in manifest.files}):
            s3.put_once(key, b"".join(store.get(key)))
        for _ in range(ROUNDS):
            from_s3.append(_restored(s3, manifest, scratch / "restored"))
    finally:
        server.close()
    base, size = median(with_cp), f"{manifest.size_bytes / 1e6:.0f} MB in {len(manifest.files)} files"
    return [
        Line(
            "restore from a directory / cp -r and sha256sum",
            median(from_directory) / base,
            2,
            f"{median(from_directory):.2f} s / {base:.2f} s (sha256sum {median(hashing):.2f}), {size}, in the cache",
        ),
        Line(
            "restore from the S3 server beside it (moto) / the same",
            median(from_s3) / base,
            None,
            f"{median(from_s3):.2f} s / {base:.2f} s",
        ),
    ]


def _only_these(root: Path, manifest: Manifest, into: Path) -> Path:
    """The manifest's files and no other, by their names."""
    into.mkdir()
    for file in manifest.files:
        shutil.copyfile(root / Layout(manifest.job).object(file.object), into / file.name)
    return into


def _copied(plain: Path, copy: Path) -> tuple[float, float]:
    """Seconds of `cp -r`, and of `sha256sum`."""
    begun = time.perf_counter()
    subprocess.run(["cp", "-r", plain, copy], check=True)
    copied = time.perf_counter()
    subprocess.run(["sha256sum", *sorted(copy.iterdir())], check=True, stdout=subprocess.DEVNULL)
    hashed = time.perf_counter()
    shutil.rmtree(copy)
    return copied - begun, hashed - copied


def _restored(store: CheckpointStore, manifest: Manifest, target: Path) -> float:
    begun = time.perf_counter()
    found = Restorer(store, SystemClock(), SystemEntropy()).restore(
        manifest.job, manifest.task, manifest.lineage, manifest.epoch, target
    )
    taken = time.perf_counter() - begun
    if found.manifest is None or found.rejected:
        raise SystemExit(f"{manifest.key} was not restored: {found.rejected}")
    shutil.rmtree(target)
    return taken
