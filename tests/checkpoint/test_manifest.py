"""The manifest's format, byte by byte, and everything that is not one; whose a prefix is; holds."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from streamcore.checkpoint import holds, owner
from streamcore.checkpoint.manifest import File, Layout, Manifest, decode, parsed
from streamcore.checkpoint.memory import MemoryObjects
from streamcore.errors import CheckpointDamaged, CheckpointStoreError, SettingsError, StateMismatch
from streamcore.testing.clock import ManualClock
from streamcore.types import Epoch, Offset, Partition, TaskId
from tests.checkpoint.kit import Fault, Script

SHA = "ab" * 32
MANIFEST = Manifest(
    job="job",
    stage="lines",
    partition=Partition(3),
    lineage="line",
    epoch=Epoch(7),
    nonce="nonce",
    journal=Offset(70),
    journal_end=Offset(72),
    topology="topology",
    steps={"count": 2, "old": None},
    files=(File("000001.sst", SHA, 5, SHA), File("CURRENT", SHA, 16, f"{SHA}.0f")),
    created_ms=1_767_225_600_000,
    barrier=4,
    previous=Epoch(6),
)
KEY = "job/manifests/lines/3/line/7.json"


def sealed(changed: dict[str, object]) -> bytes:
    """As `encode` does, of anything."""
    members = {**json.loads(MANIFEST.encode()), **changed}
    members.pop("seal")
    body = json.dumps(members, separators=(",", ":")).encode()[:-1]
    return body + b',"seal":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def test_the_format_is_this_byte_for_byte() -> None:
    body = (
        b'{"format":1,"job":"job","stage":"lines","partition":3,"lineage":"line","epoch":7,"nonce":"nonce","journal":70,'
        b'"journal_end":72,"topology":"topology","steps":{"count":2,"old":null},"files":['
        b'{"name":"000001.sst","sha256":"' + SHA.encode() + b'","size":5,"object":"' + SHA.encode() + b'"},'
        b'{"name":"CURRENT","sha256":"' + SHA.encode() + b'","size":16,"object":"' + SHA.encode() + b'.0f"}],'
        b'"created_ms":1767225600000,"barrier":4,"previous":6,"digest":null'
    )
    assert MANIFEST.encode() == body + b',"seal":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'
    assert sealed({}) == MANIFEST.encode()


def test_it_reads_back_as_it_was_written() -> None:
    found = decode(MANIFEST.encode(), KEY)
    assert msgspec.structs.replace(found, seal="") == MANIFEST
    assert found.key == KEY
    assert found.task == TaskId("lines", Partition(3))
    assert found.size_bytes == 21
    assert (found.mark.epoch, found.mark.nonce, found.mark.journal_end) == (7, "nonce", 72)


def test_one_from_a_newer_version_is_named_whatever_else_it_holds() -> None:
    for data in (sealed({"format": 2, "what": "else"}), b'{"format":3}'):
        with pytest.raises(
            StateMismatch, match=r"7\.json has format [23], newer than this streamcore's 1(.|\n)*run the"
        ):
            decode(data, KEY)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"epoch":7', b'"epoch":8'), (b'"size":5', b'"size":6'), (b'"steps":{', b'"steps": {'), (b"}\n", b"}\n\n")],
)
def test_one_that_was_edited_by_hand_is_named(old: bytes, new: bytes) -> None:
    data = MANIFEST.encode()
    assert old in data
    with pytest.raises(CheckpointDamaged, match="was changed after it was written: its seal does not fit"):
        decode(data.replace(old, new), KEY)


def test_one_that_was_half_copied_is_named_wherever_it_ends() -> None:
    data = MANIFEST.encode()
    for length in range(len(data)):
        with pytest.raises(CheckpointDamaged, match=r"7\.json (cannot be read|was changed)"):
            decode(data[:length], KEY)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"null", b"[]", b"{}", b'{"format":"1"}', b'{"format":1}', b"[" * 999]
)
def test_what_is_no_manifest_is_named(data: bytes) -> None:
    with pytest.raises(CheckpointDamaged, match=r"7\.json cannot be read"):
        decode(data, KEY)


@pytest.mark.parametrize(
    "key",
    ["other/manifests/lines/3/line/7.json", "job/manifests/lines/4/line/7.json", "job/manifests/lines/3/line/8.json"],
)
def test_one_of_another_job_task_or_epoch_is_named(key: str) -> None:
    with pytest.raises(CheckpointDamaged, match=r"is another checkpoint's: job/manifests/lines/3/line/7\.json"):
        decode(MANIFEST.encode(), key)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "a b", ".hidden"])
def test_a_file_name_that_leaves_its_directory_is_refused_under_a_good_seal(name: str) -> None:
    with pytest.raises(CheckpointDamaged, match="names a file that cannot be"):
        decode(sealed({"files": [{"name": name, "sha256": SHA, "size": 1, "object": SHA}]}), KEY)


@pytest.mark.parametrize("name", ["", "../owner.json", "a" * 64 + "/x", "g" * 64, SHA + ".", SHA + ".xyz"])
def test_an_object_name_that_is_none_is_refused_under_a_good_seal(name: str) -> None:
    with pytest.raises(CheckpointDamaged, match="names an object that cannot be"):
        decode(sealed({"files": [{"name": "a", "sha256": SHA, "size": 1, "object": name}]}), KEY)


def test_other_things_beside_manifests_are_no_manifests() -> None:
    assert parsed(KEY) == ("line", 7)
    assert parsed("job/manifests/lines/3/line/README.md") is None
    assert parsed("job/manifests/lines/3/line/-7.json") is None


# --- owner ------------------------------------------------------------------------------------------------------


def memory() -> MemoryObjects:
    return MemoryObjects(ManualClock(), Script())


def test_a_prefix_is_the_first_jobs_that_came() -> None:
    store = memory()
    first = owner.claim(store, "job", "topic-1", "line")
    assert owner.claim(store, "job", "topic-1", "later") == first
    assert owner.look(store, "job") == first
    assert owner.claim(store, "another", "topic-2", "line").job == "another"


def test_two_jobs_of_one_name_do_not_share_a_prefix() -> None:
    store = memory()
    owner.claim(store, "job", "topic-1", "line")
    with pytest.raises(CheckpointStoreError) as caught:
        owner.claim(store, "job", "topic-2", "other")
    assert caught.value.what == (
        "the checkpoints in memory/job/ belong to another job job, whose control topic has the id topic-1 "
        "(its first lineage: line); this one's has topic-2"
    )
    assert "a prefix of its own" in caught.value.remedy


def test_of_two_that_claim_at_once_the_slower_learns_it() -> None:
    store = memory()
    owner.claim(store, "job", "topic-1", "line")
    listing = store.stat

    def not_yet(key: str) -> None:
        store.stat = listing

    store.stat = not_yet
    with pytest.raises(CheckpointStoreError, match="topic-1"):
        owner.claim(store, "job", "topic-2", "other")


def test_a_store_that_cannot_be_written_is_found_out_at_the_claim() -> None:
    script = Script()
    script.plan("put_once", "owner", Fault("denied"))
    with pytest.raises(CheckpointStoreError, match="is denied"):
        owner.claim(MemoryObjects(ManualClock(), script), "job", "topic", "line")


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"{", CheckpointStoreError), (b'{"format":9,"job":"j","identity":"c","lineage":"l"}', StateMismatch)],
)
def test_an_owner_that_cannot_be_read_is_nobody_to_overwrite(data: bytes, error: type[Exception]) -> None:
    store = memory()
    store.put_once("job/owner.json", data)
    with pytest.raises(error, match=r"job/owner\.json in memory"):
        owner.claim(store, "job", "topic", "line")


# --- holds ------------------------------------------------------------------------------------------------------


def test_a_hold_keeps_its_manifests_until_it_is_dropped() -> None:
    store = memory()
    assert holds.put(store, "job", "before-upgrade", ["b", "a"]) is True
    assert holds.put(store, "job", "before-upgrade", ["c"]) is False
    assert holds.put(store, "job", "other", ["c"]) is True
    assert holds.held(store, "job") == {"a", "b", "c"}
    holds.drop(store, "job", "other")
    assert [(hold.name, hold.manifests) for hold in holds.all_of(store, "job")] == [("before-upgrade", ["a", "b"])]
    with pytest.raises(SettingsError, match="cannot be called"):
        holds.put(store, "job", "../x", [])


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"{}", CheckpointDamaged), (b'{"format":2,"job":"j","name":"n","manifests":[]}', StateMismatch)],
)
def test_a_hold_that_cannot_be_read_is_not_no_hold(data: bytes, error: type[Exception]) -> None:
    store = memory()
    store.put_once(Layout("job").hold("x"), data)
    with pytest.raises(error, match=r"the hold job/holds/x\.json in memory"):
        holds.held(store, "job")
