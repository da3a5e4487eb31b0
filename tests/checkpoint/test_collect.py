"""Law 8: nothing that is named is deleted; who collects may be late, twice, or long dead."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from streamcore import limits
from streamcore.checkpoint import holds
from streamcore.checkpoint.collect import Retention, Sweeper
from streamcore.checkpoint.manifest import load
from streamcore.checkpoint.memory import Kind
from streamcore.checkpoint.store import read
from streamcore.errors import (
    CheckpointDamaged,
    CheckpointStoreError,
    CheckpointStoreUnavailable,
    InvariantBroken,
    StateMismatch,
    StreamcoreError,
)
from streamcore.types import Epoch
from tests.checkpoint.kit import JOB, LAYOUT, LINE, TASK, Fault, Kit, key

GRACE_S = limits.CHECKPOINT_GRACE_S


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path, "memory")


def tick(kit: Kit, seconds: float) -> None:
    """The store's clock is what its listing shows: something new has to be there."""
    kit.advance(seconds)
    kit.objects.put_once(f"{LAYOUT.of_lineage(TASK, LINE)}tick-{kit.clock.wall_ms()}", b"")


def object_of(data: bytes) -> str:
    return LAYOUT.object(hashlib.sha256(data).hexdigest())


def swept(kit: Kit, hours: int = 2) -> set[str]:
    """Long enough for whatever may go."""
    gone: set[str] = set()
    for _ in range(hours + 1):
        gone |= set(kit.sweeper.sweep().deleted)
        tick(kit, GRACE_S)
    return gone | set(kit.sweeper.sweep().deleted)


# --- manifests ----------------------------------------------------------------------------------------------------


def test_the_newest_ones_are_kept_by_count(kit: Kit) -> None:
    for epoch in (1, 2, 9, 10, 11):
        kit.checkpoint(epoch)
    found = kit.retire(named=11, count=3)
    assert found.kept == (9, 10, 11)
    assert found.deleted == (key(1), key(2))
    assert kit.manifests() == [key(10), key(11), key(9)]


def test_young_ones_are_kept_by_age(kit: Kit) -> None:
    for epoch in (1, 2, 3, 4):
        kit.checkpoint(epoch)
        kit.advance(100)
    assert kit.retire(named=4, count=1, age_s=250).kept == (2, 3, 4)


def test_what_is_newer_than_the_named_one_is_not_judged(kit: Kit) -> None:
    """The upload of a checkpoint that no commit names yet; or a newer owner's, in the eyes of one that is dead."""
    for epoch in (1, 2, 3, 4):
        kit.checkpoint(epoch)
    found = kit.retire(named=2, count=1)
    assert found.kept == (2, 3, 4)
    assert kit.manifests() == [key(2), key(3), key(4)]


def test_the_named_one_is_never_deleted(kit: Kit) -> None:
    for epoch in (1, 2, 3):
        kit.checkpoint(epoch)
        kit.retire(named=epoch, count=1)
        assert key(epoch) in kit.manifests()
    with pytest.raises(InvariantBroken, match="keeps nothing"):
        Retention(count=0)


def test_a_listing_that_does_not_show_the_named_one_deletes_nothing(kit: Kit) -> None:
    kit.checkpoint(1)
    kit.checkpoint(2)
    kit.script.plan("put_once", "manifests", Fault("late", 60))
    kit.checkpoint(3)
    found = kit.retire(named=3, count=1)
    assert (found.kept, found.deleted) == ((1, 2), ())
    kit.advance(61)
    assert kit.retire(named=3, count=1).deleted == (key(1), key(2))


def test_what_a_savepoint_holds_is_kept_until_it_is_dropped(kit: Kit) -> None:
    for epoch in (1, 2, 3):
        kit.checkpoint(epoch)
    holds.put(kit.objects, JOB, "before", [key(1)])
    assert kit.retire(named=3, count=1).kept == (1, 3)
    assert swept(kit) & kit.named() == set()
    assert kit.verify(key(1)).whole
    holds.drop(kit.objects, JOB, "before")
    assert kit.retire(named=3, count=1).kept == (3,)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"{", CheckpointDamaged), (b'{"format":2,"job":"j","name":"n","manifests":[]}', StateMismatch)],
)
def test_who_cannot_read_a_hold_deletes_nothing(kit: Kit, data: bytes, error: type[StreamcoreError]) -> None:
    kit.checkpoint(1)
    kit.checkpoint(2)
    kit.objects.put_once(LAYOUT.hold("x"), data)
    with pytest.raises(error):
        kit.retire(named=2, count=1)
    assert kit.manifests() == [key(1), key(2)]


def test_retiring_again_is_retiring_once(kit: Kit) -> None:
    for epoch in (1, 2, 3):
        kit.checkpoint(epoch)
    kit.script.plan("delete", "", Fault("answer lost"))
    with pytest.raises(CheckpointStoreUnavailable):
        kit.retire(named=3)
    assert kit.retire(named=3).kept == kit.retire(named=3).kept == (3,)


def test_a_lineage_that_ended_goes_after_the_grace_and_not_before(kit: Kit) -> None:
    kit.checkpoint(1)
    kit.advance(10)
    other = "fedcba9876543210"
    kit.commit(1, other, a=b"1")
    kit.upload()
    assert kit.retire(named=1, line=other).deleted == ()
    kit.advance(GRACE_S + 1)
    kit.commit(2, other, a=b"2")
    kit.upload()
    assert kit.retire(named=2, line=other, count=2).deleted == (key(1),)
    assert kit.manifests() == [key(1, other), key(2, other)]


def test_an_owner_of_an_ended_lineage_deletes_nothing_of_the_new_one(kit: Kit) -> None:
    kit.checkpoint(1)
    kit.advance(10)
    other = "fedcba9876543210"
    kit.commit(1, other, a=b"1")
    kit.upload()
    tick(kit, 10 * GRACE_S)
    assert kit.retire(named=1, line=LINE).deleted == ()


# --- objects ------------------------------------------------------------------------------------------------------


def test_objects_go_once_no_manifest_names_them_and_named_ones_never(kit: Kit) -> None:
    for epoch in (1, 2, 3):
        kit.checkpoint(epoch)
    kit.retire(named=3, count=2)
    gone = swept(kit)
    assert len(gone) == 1
    assert kit.stored() == kit.named()
    assert all(kit.verify(at).whole for at in kit.manifests() if at.endswith(".json"))


def test_nothing_goes_before_its_grace_is_over(kit: Kit) -> None:
    kit.checkpoint(1)
    kit.checkpoint(2)
    kit.retire(named=2, count=1)
    kit.sweeper.sweep()
    tick(kit, GRACE_S - 1)
    found = kit.sweeper.sweep()
    assert (found.deleted, found.waiting) == ((), 1)
    tick(kit, 1)
    found = kit.sweeper.sweep()
    assert (len(found.deleted), found.waiting) == (1, 0)
    assert found.bytes_deleted > 0


def test_an_old_object_that_was_just_let_go_waits_for_a_grace_of_its_own(kit: Kit) -> None:
    kit.checkpoint(1)
    kit.checkpoint(2)
    kit.sweeper.sweep()
    tick(kit, 5 * GRACE_S)
    kit.retire(named=2, count=1)
    assert kit.sweeper.sweep().deleted == ()


def test_a_new_sweeper_begins_anew(kit: Kit) -> None:
    kit.checkpoint(1)
    kit.checkpoint(2)
    kit.retire(named=2, count=1)
    kit.sweeper.sweep()
    tick(kit, GRACE_S)
    assert Sweeper(kit.objects, JOB).sweep().deleted == ()


def test_a_worker_whose_clock_is_years_ahead_deletes_no_more(kit: Kit) -> None:
    """No worker's clock is asked: time passes in the store only when something is created."""
    kit.checkpoint(1)
    kit.checkpoint(2)
    kit.retire(named=2, count=1)
    kit.sweeper.sweep()
    kit.advance(1_000 * GRACE_S)
    assert kit.sweeper.sweep().deleted == ()


def test_an_upload_in_flight_loses_nothing(kit: Kit) -> None:
    """All of its objects stand there, unnamed, for as long as an upload may take; sweeps go on meanwhile."""
    kit.checkpoint(1)
    kit.commit(2, a=b"2")

    def during(call: str, at: str) -> None:
        if call == "put_once" and at == key(2):
            kit.sweeper.sweep()
            tick(kit, limits.CHECKPOINT_UPLOAD_S - 1)
            assert kit.sweeper.sweep().deleted == ()

    kit.objects.faults = during
    kit.upload()
    assert kit.verify(key(2)).whole


def test_a_sweeper_that_slept_between_looking_and_deleting_breaks_no_newer_checkpoint(kit: Kit) -> None:
    """Its candidate is content that comes again just then, in a new owner's upload."""
    kit.extra = {"000001.sst": b"comes again"}
    kit.checkpoint(1)
    kit.extra = {}
    kit.checkpoint(2)
    kit.retire(named=2, count=1)
    kit.sweeper.sweep()
    tick(kit, GRACE_S)

    def sleeps(call: str, at: str) -> None:
        if (call, at) == ("delete", object_of(b"comes again")):
            kit.objects.faults = None
            kit.extra = {"000001.sst": b"comes again"}
            kit.uploader = kit.another_uploader()
            kit.checkpoint(3)

    kit.objects.faults = sleeps
    assert object_of(b"comes again") in kit.sweeper.sweep().deleted
    assert kit.verify(key(3)).whole


def test_a_manifest_that_is_listed_late_loses_nothing(kit: Kit) -> None:
    """Its base goes meanwhile: for a while no manifest that is listed names what both name."""
    kit.extra = {"000001.sst": b"in both"}
    kit.checkpoint(1)
    kit.advance(2 * GRACE_S)
    kit.script.plan("put_once", key(2), Fault("late", GRACE_S - 1))
    kit.checkpoint(2)
    kit.objects.delete(key(1))
    kit.sweeper.sweep()
    tick(kit, GRACE_S - 1)
    assert object_of(b"in both") not in kit.sweeper.sweep().deleted
    tick(kit, 1)
    kit.sweeper.sweep()
    assert kit.verify(key(2)).whole


def test_two_sweepers_at_once_do_what_one_does(kit: Kit) -> None:
    for epoch in (1, 2, 3):
        kit.checkpoint(epoch)
    kit.retire(named=3, count=1)
    other = Sweeper(kit.objects, JOB)
    kit.sweeper.sweep()
    other.sweep()
    tick(kit, GRACE_S)

    def meanwhile(call: str, at: str) -> None:
        if call == "delete":
            kit.objects.faults = None
            other.sweep()

    kit.objects.faults = meanwhile
    kit.sweeper.sweep()
    assert kit.stored() == kit.named()
    assert kit.verify(key(3)).whole


def test_a_manifest_that_cannot_be_read_stops_the_sweep_until_it_is_gone(kit: Kit) -> None:
    for epoch in (1, 2, 3):
        kit.checkpoint(epoch)
    kit.edit(1, b'"nonce"', b'"nonse"')
    with pytest.raises(CheckpointDamaged, match=r"1\.json"):
        Sweeper(kit.objects, JOB).sweep()
    kit.retire(named=3, count=2)
    kit.sweeper.sweep()


def test_a_manifest_of_a_newer_version_stops_the_sweep(kit: Kit) -> None:
    kit.checkpoint(1)
    kit.edit(1, b'"format":1', b'"format":2')
    with pytest.raises(StateMismatch):
        kit.sweeper.sweep()


def test_a_manifest_that_goes_while_it_is_read_is_gone(kit: Kit) -> None:
    kit.checkpoint(1)
    kit.checkpoint(2)

    def meanwhile(call: str, at: str) -> None:
        if (call, at) == ("get", key(1)):
            kit.objects.faults = None
            kit.objects.delete(key(1))

    kit.objects.faults = meanwhile
    assert kit.sweeper.sweep().waiting == 1


def test_a_manifest_is_read_once(kit: Kit) -> None:
    kit.checkpoint(1)
    kit.sweeper.sweep()
    before = len(kit.script.calls)
    kit.sweeper.sweep()
    assert [call for call, _ in kit.script.calls[before:]] == ["list", "list"]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_every_manifest_is_whole(tmp_path: Path, seed: int) -> None:
    """Two owners that believe in the task, each with its collectors; a store that fails, lists late and loses answers;
    contents that come again. After every step the named checkpoint is there, and each manifest that can be read names
    objects that are there and right."""
    random = Random(seed)
    kit = Kit(tmp_path, "memory", seed)
    uploaders = [kit.uploader, kit.another_uploader()]
    sweepers = [kit.sweeper, Sweeper(kit.objects, JOB)]
    named: list[Epoch | None] = [None, None]
    for epoch in range(150):
        who = random.randrange(2)
        kit.objects.faults = lambda call, at: chance(random, call)
        with suppress(CheckpointStoreUnavailable, CheckpointStoreError, CheckpointDamaged):
            match random.randrange(5):
                case 0 | 1:
                    kit.commit(epoch)
                    shared = random.sample(range(8), 4)
                    kit.extra = {f"{n:06d}.sst": b"shared %d" % n for n in shared}
                    kit.uploader = uploaders[who]
                    kit.upload()
                    if random.random() < 0.8:
                        named[who] = Epoch(epoch)
                case 2:
                    if (until := named[who]) is not None:
                        kit.retire(until, random.randint(1, 2), random.choice((0, 600)))
                case 3:
                    sweepers[who].sweep()
                case _:
                    kit.advance(random.choice((1, 100, 1_000, 4_000)))
        kit.objects.faults = None
        check(kit, max((epoch for epoch in named if epoch is not None), default=None))


def chance(random: Random, call: str) -> Fault | None:
    if random.random() > 0.1:
        return None
    kinds: tuple[Kind, ...] = ("fail", "slow", "denied")
    if call == "put_once":
        kinds = ("fail", "answer lost", "denied", "torn", "slow", "late")
    return Fault(random.choice(kinds), random.choice((1, 60, 600, 1_500)))


def check(kit: Kit, named: Epoch | None) -> None:
    assert named is None or kit.objects.stat(key(named)) is not None
    for at in kit.manifests():
        try:
            manifest = load(kit.objects, at)
        except CheckpointDamaged:
            continue  # torn when it was put: nobody was told that it counts
        for file in manifest.files:
            data = read(kit.objects, LAYOUT.object(file.object))
            assert hashlib.sha256(data).hexdigest() == file.sha256, at
