"""A savepoint in one file, to be copied anywhere: an uncompressed tar (POSIX ustar), in this order:

    streamcore-savepoint   `1` and a newline: the format; a higher number is another version's
    savepoint.json         as checkpoint.savepoint has it, seal and all
    manifests/N.json       for each manifest that the savepoint names, in its order: as checkpoint.manifest has it
    objects/NAME           every object that those manifests name, each once; its SHA-256 stands in the manifests

Nothing is extracted to a path that the file names: members are read in order, checked, and put under keys of our own.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from streamcore import limits
from streamcore.checkpoint import savepoint as savepoints
from streamcore.checkpoint.manifest import Layout, Manifest, decode, load
from streamcore.checkpoint.savepoint import Savepoint
from streamcore.checkpoint.store import CheckpointStore
from streamcore.errors import CheckpointDamaged, SettingsError, StateDirError, StateMismatch

FORMAT: Final = 1
MAGIC: Final = "streamcore-savepoint"


def export(store: CheckpointStore, savepoint: Savepoint, file: Path) -> int:
    """Bytes written. Raises CheckpointDamaged for what the savepoint names and is missing or wrong, StateDirError."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            _write(tar, store, savepoint)
        os.link(partial, file)
        return file.stat().st_size
    except FileExistsError as error:
        raise SettingsError(f"{file} exists already", "give the name of a new file") from error
    except OSError as error:
        what = f"{file} cannot be written ({error.strerror})"
        raise StateDirError(what, "free some disk, or name another place") from error
    finally:
        partial.unlink(missing_ok=True)


def _write(tar: tarfile.TarFile, store: CheckpointStore, savepoint: Savepoint) -> None:
    _add(tar, MAGIC, f"{FORMAT}\n".encode())
    _add(tar, "savepoint.json", savepoint.encode())
    manifests = [load(store, key) for key in savepoint.manifests]
    for number, manifest in enumerate(manifests):
        _add(tar, f"manifests/{number}.json", manifest.encode())
    layout = Layout(savepoint.job)
    for name, sha in _objects(manifests):
        data = b"".join(store.get(layout.object(name)))
        _check(name, sha, data)
        _add(tar, f"objects/{name}", data)


def unpack(store: CheckpointStore, file: Path) -> Savepoint:
    """Into a store: objects first, manifests next, the savepoint last. Raises CheckpointDamaged, StateMismatch,
    SettingsError (there is one of this name), tarfile.TarError."""
    with tarfile.open(file, "r:") as tar:
        members = _members(tar)
        name, data = next(members, ("", b""))
        if name != MAGIC:
            raise CheckpointDamaged(f"{file} is no exported savepoint: it begins with {name!r}")
        if data.strip() != str(FORMAT).encode():
            raise StateMismatch(
                f"{file} is of format {data.strip()!r}, this streamcore knows {FORMAT}",
                "run the version of streamcore that wrote it, or a newer one",
            )
        _, data = next(members, ("", b""))
        savepoint = savepoints.decode(data, str(file))
        if store.stat(savepoints.key_of(savepoint.job, savepoint.name)) is not None:
            raise _there(store, savepoint)
        layout, keys = Layout(savepoint.job), list(savepoint.manifests)
        manifests = [decode(next(members, ("", b""))[1], key) for key in keys]
        wanted = dict(_objects(manifests))
        for name, data in members:
            object_ = name.removeprefix("objects/")
            if object_ not in wanted:
                raise CheckpointDamaged(f"{file} holds {name!r}, which the savepoint does not name")
            _check(object_, wanted.pop(object_), data)
            store.put_once(layout.object(object_), data)
    if wanted:
        raise CheckpointDamaged(f"{file} is cut short: {len(wanted)} objects are missing, as {next(iter(wanted))}")
    for manifest in manifests:
        store.put_once(manifest.key, manifest.encode())
    if not savepoints.write(store, savepoint):
        raise _there(store, savepoint)
    return savepoint


def _there(store: CheckpointStore, savepoint: Savepoint) -> SettingsError:
    return SettingsError(
        f"there is a savepoint {savepoint.name!r} of job {savepoint.job} in {store.place} already",
        f"`streamcore savepoint drop {savepoint.job} {savepoint.name}` first, or another --checkpoints",
    )


def _objects(manifests: list[Manifest]) -> Iterator[tuple[str, str]]:
    """(name, SHA-256), each once."""
    return iter({file.object: file.sha256 for manifest in manifests for file in manifest.files}.items())


def _check(name: str, sha: str, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != sha:
        raise CheckpointDamaged(f"object {name} is not what its name says: its SHA-256 differs")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        content = tar.extractfile(member) if member.isreg() else None
        if content is None or member.size > limits.CHECKPOINT_OBJECT_BYTES:
            raise CheckpointDamaged(f"{tar.name!r} holds {member.name!r}, which is no plain file of a savepoint")
        yield member.name, content.read()
