"""Whether a checkpoint is whole: what a restore would find, without a restore.

    Verifier(store, …).verify(key, scratch) -> Verdict

Every object is there, with its size and hash; the files open; the mark is the manifest's; and the digest of the state
is the one that the manifest tells, where it tells one. Whoever asks may do more with the state while it stands there
(`then`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamcore.checkpoint.manifest import Manifest, load
from streamcore.checkpoint.restore import Progress, Restorer
from streamcore.checkpoint.snapshot import Form, rocks
from streamcore.checkpoint.store import CheckpointStore
from streamcore.clock import Clock, Entropy
from streamcore.errors import CheckpointDamaged, StateDamaged, StateMismatch
from streamcore.state.store import RESERVED, Store


@dataclass(frozen=True, slots=True)
class Verdict:
    key: str
    manifest: Manifest | None
    """None: the manifest itself cannot be read."""
    wrong: tuple[str, ...]
    """Nothing in it: it is whole."""
    objects: frozenset[str]
    """Names of those that are missing or wrong."""
    digest: str | None
    seconds: float

    @property
    def whole(self) -> bool:
        return not self.wrong


class Verifier:
    def __init__(
        self, store: CheckpointStore, clock: Clock, entropy: Entropy, *, form: Form = rocks, threads: int = 2
    ) -> None:
        self._store = store
        self._clock = clock
        self._form = form
        self._restorer = Restorer(store, clock, entropy, form=form, threads=threads)

    def verify(
        self,
        key: str,
        scratch: Path,
        *,
        digest: bool = True,
        progress: Progress = lambda size: None,
        then: Callable[[Manifest, Path], Sequence[str]] = lambda manifest, path: (),
    ) -> Verdict:
        """`scratch` is made and deleted; as large as the state. Without `digest` only one that the manifest tells is
        computed. `then` is called with a state that is whole, may change it, and says what else is wrong. Raises
        CheckpointStoreUnavailable, CheckpointStoreError, StateDirError: then nothing is known."""
        began_s = self._clock.monotonic_s()
        manifest: Manifest | None = None
        bad, found = dict[str, str](), None
        wrong: list[str] = []
        try:
            manifest = load(self._store, key)
            with self._restorer.fetched(manifest, scratch, progress) as bad:
                if not bad:
                    self._restorer.open(manifest, scratch)
                    found = self._digest(scratch) if digest or manifest.digest is not None else None
                    if manifest.digest not in (None, found) and found is not None:
                        wrong.append(f"its state's digest is {found}, and its task recorded {manifest.digest}")
                    else:
                        wrong += then(manifest, scratch)
        except (CheckpointDamaged, StateDamaged, StateMismatch) as error:
            wrong.append(error.what)
        wrong += bad.values()
        return Verdict(key, manifest, tuple(wrong), frozenset(bad), found, self._clock.monotonic_s() - began_s)

    def _digest(self, path: Path) -> str:
        store = self._form(path)
        try:
            return state_digest(store)
        finally:
            store.close()


def state_digest(store: Store, steps: Iterable[str] | None = None) -> str:
    """SHA-256 over all that `steps` hold (None: all): for each in order of names its name, then keys and values in
    order of keys, each piece behind its length in 4 bytes, big-endian; FF FF FF FF ends a step. Marks are not in it."""
    digest = hashlib.sha256()
    for data in _pieces(store, steps):
        digest.update(data)
    return digest.hexdigest()


def digest_within(store: Store, over: Callable[[], bool]) -> str | None:
    """As `state_digest`; None where `over` said, while it ran, that it takes too long."""
    digest = hashlib.sha256()
    for data in _pieces(store, None):
        if over():
            return None
        digest.update(data)
    return digest.hexdigest()


def _pieces(store: Store, steps: Iterable[str] | None) -> Iterator[bytes]:
    for step in sorted(store.steps if steps is None else steps):
        pieces = [_piece(step.encode())]
        for key, value in store.column(step).scan(b"", RESERVED):
            pieces += (_piece(key), _piece(value))
            if len(pieces) >= _AT_ONCE:
                yield b"".join(pieces)
                pieces.clear()
        yield b"".join(pieces) + b"\xff\xff\xff\xff"


_AT_ONCE: Final = 4_096


def _piece(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
