"""Whether a checkpoint is whole, and a digest that says whether two states are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from streamcore.checkpoint.upload import Facts
from streamcore.checkpoint.verify import state_digest
from streamcore.errors import CheckpointStoreError
from streamcore.state.memory import MemoryStore
from streamcore.state.store import Delta, Store
from tests.checkpoint.kit import LAYOUT, Fault, Kit, key, mark


def test_a_whole_one_is_whole_and_leaves_nothing_behind(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    found = kit.verify(key(1))
    assert found.whole
    assert found.digest == state_digest(kit.store)
    assert found.manifest is not None
    assert found.manifest.epoch == 1
    assert not (kit.path / "drill").exists()


SPOILS: dict[str, Callable[[Kit, str], None]] = {
    "is missing": lambda kit, at: kit.objects.lose(at),
    "SHA-256 differs": lambda kit, at: kit.objects.corrupt(at),
    "bytes that its manifest says": lambda kit, at: kit.objects.replace(at, b""),
    "its files stand at": lambda kit, at: kit.rewrite(1, nonce="another"),
    "seal does not fit": lambda kit, at: kit.edit(1, b'"epoch":1', b'"epoch":2'),
    "newer than this": lambda kit, at: kit.edit(1, b'"format":1', b'"format":2'),
    "and its task recorded": lambda kit, at: kit.rewrite(1, digest="0" * 64),
    "its files hold the steps": lambda kit, at: kit.rewrite(1, steps={"count": 2}),
}


@pytest.mark.parametrize("why", SPOILS)
def test_what_is_wrong_with_one_is_told(kit: Kit, why: str) -> None:
    kit.checkpoint(1, a=b"1")
    bad = max(kit.manifest(1).files, key=lambda file: file.size)
    SPOILS[why](kit, LAYOUT.object(bad.object))
    found = kit.verify(key(1))
    assert not found.whole
    assert why in found.wrong[0]
    assert found.objects <= {bad.object}
    assert not (kit.path / "drill").exists()


def test_every_spoilt_object_of_one_is_told_at_once(rocks: Kit) -> None:
    rocks.checkpoint(1, a=b"1")
    names = {file.object for file in rocks.manifest(1).files}
    for name in names:
        rocks.objects.lose(LAYOUT.object(name))
    assert rocks.verify(key(1)).objects == names


def test_a_manifest_that_is_not_there_is_told(kit: Kit) -> None:
    found = kit.verify(key(1))
    assert found.manifest is None
    assert "is missing" in found.wrong[0]


def test_a_store_that_refuses_says_nothing_about_a_checkpoint(kit: Kit) -> None:
    kit.checkpoint(1, a=b"1")
    kit.script.plan("get", "objects", Fault("denied"))
    with pytest.raises(CheckpointStoreError):
        kit.verify(key(1))


def test_the_digest_that_the_task_recorded_is_compared(kit: Kit) -> None:
    kit.commit(1, a=b"1", b=b"2")
    kit.upload(Facts("topology", digest=state_digest(kit.store)))
    assert kit.verify(key(1)).whole


def test_the_same_state_has_one_digest_on_disk_and_in_memory(tmp_path: Path) -> None:
    digests: set[str] = set()
    for form in ("rocks", "memory"):
        kit = Kit(tmp_path / form, form)
        for epoch in range(3):
            kit.commit(epoch, **{f"k{n * (epoch + 1)}": b"%d" % n for n in range(2_000)})
        digests.add(state_digest(kit.store))
        kit.close()
    assert len(digests) == 1


def test_states_that_differ_anywhere_have_different_digests() -> None:
    def state(count: dict[bytes, bytes], seen: dict[bytes, bytes], epoch: int = 1) -> Store:
        store = MemoryStore(["count", "seen"])
        deltas = {"count": Delta(list(count), list(count.values())), "seen": Delta(list(seen), list(seen.values()))}
        store.apply(deltas, mark(epoch))
        return store

    states = [
        state({}, {}),
        state({b"a": b"b"}, {}),
        state({}, {b"a": b"b"}),
        state({b"ab": b""}, {}),
        state({b"a": b"c"}, {}),
        state({b"a": b"", b"b": b""}, {}),
    ]
    assert len(set(map(state_digest, states))) == len(states)
    assert state_digest(state({b"a": b"b"}, {}, 1)) == state_digest(state({b"a": b"b"}, {}, 2))
