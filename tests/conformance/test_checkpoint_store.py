"""What every checkpoint store keeps to: a directory, an S3-compatible server, memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamcore.checkpoint.directory import DirectoryStore
from streamcore.checkpoint.memory import MemoryObjects
from streamcore.checkpoint.store import CheckpointStore, Stat, read
from streamcore.clock import SystemClock
from streamcore.errors import CheckpointDamaged, InvariantBroken

Open = Callable[[], CheckpointStore]
SOON_MS = 10 * 60_000


@pytest.fixture(params=["directory", "s3", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """The same store each time; a client of its own each time where there are clients."""
    if request.param == "directory":
        return lambda: DirectoryStore(tmp_path / "store")
    if request.param == "memory":
        memory = MemoryObjects(SystemClock())
        return lambda: memory
    server = request.getfixturevalue("s3_server")
    bucket = server.bucket("b" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:50])
    return lambda: server.store(bucket, "some/prefix")


@pytest.fixture
def store(opened: Open) -> CheckpointStore:
    return opened()


def keys(found: list[Stat]) -> list[str]:
    return [stat.key for stat in found]


def test_what_is_put_is_there_for_every_client(opened: Open) -> None:
    assert opened().put_once("job/objects/a", b"bytes") is True
    assert read(opened(), "job/objects/a") == b"bytes"


def test_an_object_is_created_once_and_never_changed(store: CheckpointStore) -> None:
    assert store.put_once("job/a", b"first") is True
    assert store.put_once("job/a", b"second, and longer") is False
    assert store.put_once("job/a", b"first") is False
    assert read(store, "job/a") == b"first"


def test_of_eight_that_race_one_creates(opened: Open) -> None:
    def put(n: int) -> bool:
        return opened().put_once("job/raced", b"%d" % n)

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(put, range(8)))
    assert created.count(True) == 1
    assert read(opened(), "job/raced") == b"%d" % created.index(True)


def test_an_empty_object_is_one(store: CheckpointStore) -> None:
    assert store.put_once("job/empty", b"") is True
    assert store.put_once("job/empty", b"x") is False
    found = store.stat("job/empty")
    assert found is not None
    assert found.size == 0
    assert list(store.get("job/empty")) == []


def test_a_large_object_comes_in_pieces_and_whole(store: CheckpointStore) -> None:
    data = bytes(range(256)) * (5 << 12) + b"end"
    assert store.put_once("job/large", data)
    chunks = list(store.get("job/large"))
    assert len(chunks) > 1
    assert b"".join(chunks) == data


def test_what_is_not_there_is_named(store: CheckpointStore) -> None:
    assert store.stat("job/none") is None
    with pytest.raises(CheckpointDamaged, match="job/none is missing in the checkpoint store"):
        read(store, "job/none")


def test_a_listing_is_in_order_with_sizes_and_only_of_its_prefix(store: CheckpointStore) -> None:
    for key in ("job/b/2.json", "job/b/10.json", "job/a", "job/bc", "jobs/x"):
        store.put_once(key, key.encode())
    assert keys(store.list("job/b/")) == ["job/b/10.json", "job/b/2.json"]
    assert keys(store.list("job/")) == ["job/a", "job/b/10.json", "job/b/2.json", "job/bc"]
    assert keys(store.list("")) == ["job/a", "job/b/10.json", "job/b/2.json", "job/bc", "jobs/x"]
    assert store.list("nobody/") == []
    assert [stat.size for stat in store.list("job/b/")] == [len("job/b/10.json"), len("job/b/2.json")]


def test_times_are_the_stores_and_those_of_creation(store: CheckpointStore) -> None:
    store.put_once("job/a", b"1")
    first = store.stat("job/a")
    store.put_once("job/a", b"2")
    store.put_once("job/b", b"2")
    assert first is not None
    assert store.stat("job/a") == first
    (a, b) = store.list("job/")
    assert a == first
    assert b.modified_ms >= a.modified_ms
    assert abs(a.modified_ms - SystemClock().wall_ms()) < SOON_MS


def test_deleted_is_gone_and_may_be_created_again(store: CheckpointStore) -> None:
    store.put_once("job/a", b"1")
    store.delete("job/a")
    store.delete("job/a")
    store.delete("job/never")
    assert store.stat("job/a") is None
    assert store.list("") == []
    assert store.put_once("job/a", b"2") is True
    assert read(store, "job/a") == b"2"


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/../b", "../a", "a/.", ".new/a", "a b", "a\0", "é", "a" * 1000])
def test_a_key_that_leaves_its_store_or_means_two_things_is_refused(store: CheckpointStore, key: str) -> None:
    with pytest.raises(InvariantBroken, match="no key of a checkpoint store"):
        store.put_once(key, b"")
    with pytest.raises(InvariantBroken):
        list(store.get(key))
    with pytest.raises(InvariantBroken):
        store.delete(key)


def test_names_of_streamcore_are_keys_as_they_are(store: CheckpointStore) -> None:
    odd = "j-o_b/manifests/.topic..with.dots/0/0123abcd/12.json"
    assert store.put_once(odd, b"1")
    assert keys(store.list("j-o_b/manifests/.topic..with.dots/")) == [odd]


def test_a_larger_object_than_expected_is_not_read_into_memory(store: CheckpointStore) -> None:
    store.put_once("job/large", bytes(3 << 20))
    with pytest.raises(CheckpointDamaged, match="larger than 100 bytes"):
        read(store, "job/large", 100)


def test_its_place_and_repr_say_where_and_no_secret(store: CheckpointStore) -> None:
    from tests.checkpoint.s3 import KEY_ID, SECRET

    for text in (store.place, repr(store)):
        assert KEY_ID not in text
        assert SECRET not in text
