"""The outbox: nothing of an open slice leaves, everything kept does, frames stay in bounds."""

from __future__ import annotations

from typing import Any

import pytest

from streamcore import limits
from streamcore.codecs.dynamic import Registry
from streamcore.errors import InvariantBroken, RecordTooLarge
from streamcore.operators.endpoints import Partitions, key_column
from streamcore.sink.outbox import Outbox
from streamcore.sink.shuffle import (
    ENCODED_KEYS,
    NATIVE_KEYS,
    cut,
    decode_frame,
    encode_chunks,
    encode_frame,
    records_in,
)
from streamcore.state.keys import encode_key, key_group
from streamcore.types import Epoch, Partition, TaskId
from tests.unit.stages import Taken

CODEC = Registry().codec(str)


def outbox(**limits_: int) -> Outbox:
    box = Outbox(TaskId("events", Partition(2)), limits_)
    box.open_epoch("line", Epoch(7))
    return box


def release(box: Outbox, final: bool) -> Taken:
    taken = Taken()
    box.release(taken, final)  # pyright: ignore[reportArgumentType]
    return taken


def chunk(*values: str) -> list[bytes]:
    return encode_chunks(list(values), NATIVE_KEYS, list(values), [1] * len(values), None, CODEC)


def test_only_what_is_kept_is_released_in_order() -> None:
    box = outbox()
    box.write("t", [b"1"], [b"k"], [5])
    box.keep()
    box.write("t", [b"lost"], [b"k"], [5])
    box.discard()
    box.write("t", [b"2", None], None, [6, 7], [None, [("h", b"v")]])
    assert box.waiting
    with pytest.raises(InvariantBroken):
        release(box, False)
    box.keep()
    assert release(box, False).columns == [
        ("t", None, [b"1"], [b"k"], [5], None),
        ("t", None, [b"2", None], None, [6, 7], [None, [("h", b"v")]]),
    ]
    assert not box.waiting
    assert release(box, True).columns == []


def test_a_dropped_epoch_leaves_nothing_behind() -> None:
    box = outbox()
    box.write("t", [b"1"], None, [5])
    box.regroup("s", 0, chunk("a"))
    box.keep()
    box.write("t", [b"2"], None, [5])
    box.drop()
    assert release(box, True).columns == []
    assert box.epoch_bytes == 0


def test_bytes_count_for_the_epoch_even_when_released() -> None:
    box = outbox()
    box.write("t", [b"12345"], [b"67"], [5])
    assert box.epoch_bytes == 0
    box.keep()
    release(box, False)
    assert box.epoch_bytes == 7
    box.open_epoch("line", Epoch(8))
    assert box.epoch_bytes == 0


def test_a_record_over_its_topics_limit_is_named() -> None:
    box = outbox(t=1_000)
    box.write("t", [b"x" * 500] * 5, [b"k"] * 5, [0] * 5)
    for values, keys, headers in (
        ([b"x", b"x" * 990], [b"k1", b"k2"], None),
        ([b"x", b"x"], [b"k1", b"k2" * 500], None),
        ([b"x", None], None, [None, [("h", b"x" * 1_000)]]),
    ):
        with pytest.raises(RecordTooLarge, match="'t'"):
            box.write("t", values, keys, [0, 0], headers)  # pyright: ignore[reportArgumentType]


def test_frames_say_whose_they_are_and_are_cut_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FRAME_BYTES", 4_000)
    box = outbox()
    for n in range(40):
        box.regroup("s", n % 2, chunk(*[f"{n}-{i:>90}" for i in range(10)]))
        box.keep()
    early = release(box, False)
    late = release(box, True)
    assert early.columns and late.columns
    seen: dict[int, list[str]] = {0: [], 1: []}
    sequences: list[int] = []
    for _, partition, frames, *_ in early.columns + late.columns:
        for data in frames:
            assert len(data) <= limits.FRAME_BYTES
            frame = decode_frame(data, "here")
            assert (frame.stage, frame.partition, frame.lineage, frame.epoch) == ("events", 2, "line", 7)
            sequences.append(frame.sequence)
            for one in frame.chunks:
                seen[partition] += CODEC.decode_column(one.values)
    assert sequences == list(range(len(sequences)))
    for partition, values in seen.items():
        assert values == [f"{n}-{i:>90}" for n in range(partition, 40, 2) for i in range(10)]


def test_a_chunk_too_large_for_a_frame_is_split_and_a_record_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FRAME_BYTES", 4_000)
    values = [f"{i:>400}" for i in range(33)]
    chunks = encode_chunks(values, NATIVE_KEYS, values, [0] * 33, ["o"] * 33, CODEC)
    assert len(chunks) > 1 and max(map(len, chunks)) < limits.FRAME_BYTES
    with pytest.raises(RecordTooLarge, match="'big'"):
        encode_chunks(["a", "big"], NATIVE_KEYS, ["a", "x" * 5_000], [0, 0], None, CODEC)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["a", "é"], NATIVE_KEYS),
        ([1, -5], NATIVE_KEYS),
        ([b"a"], NATIVE_KEYS),
        ([1, 1 << 70], ENCODED_KEYS),
        ([1, True], ENCODED_KEYS),
        (["a", 1], ENCODED_KEYS),
        ([("a", 1)], ENCODED_KEYS),
    ],
)
def test_keys_travel_as_they_are_or_encoded(keys: list[Any], kind: int) -> None:
    column, found = key_column(keys)
    assert found == kind
    assert column == (keys if kind == NATIVE_KEYS else [encode_key(key) for key in keys])


def test_a_key_goes_to_its_groups_partition_however_full_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEY_CACHE_ENTRIES", 4)
    partitions = Partitions(7)
    for key in [f"k{i}" for i in range(20)] * 2:
        assert partitions[key] == key_group(encode_key(key)) % 7
        assert len(partitions) <= 4


def test_a_frame_holds_no_more_records_than_one_turn_may_take() -> None:
    codec = Registry().codec(int)
    sizes = [1, 127, 128, 255, 256, 4_000, 5_000, 70, limits.FRAME_RECORDS, limits.FRAME_RECORDS * 2 + 1]
    chunks = [
        chunk
        for n in sizes
        for chunk in encode_chunks(list(range(n)), NATIVE_KEYS, list(range(n)), [0] * n, None, codec)
    ]
    groups = cut(chunks)
    assert [chunk for group in groups for chunk in group] == chunks
    counts = [[records_in(chunk) for chunk in group] for group in groups]
    assert sum(map(sum, counts)) == sum(sizes)
    assert max(map(sum, counts)) <= limits.FRAME_RECORDS
    for group in groups:
        frame = decode_frame(encode_frame("s", 0, "l", 0, 0, group), "here")
        assert [chunk.records for chunk in frame.chunks] == list(map(records_in, group))
