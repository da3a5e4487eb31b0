"""Runs to batches: what is refused, and which record is named."""

from __future__ import annotations

from typing import Any

import pytest

from streamcore.codecs.dynamic import Registry
from streamcore.codecs.wire import codec_for
from streamcore.errors import InvariantBroken, StateMismatch
from streamcore.log.port import Headers, Run
from streamcore.sink.shuffle import FORMAT, NATIVE_KEYS, encode_chunks, encode_frame
from streamcore.source.decode import DecodeFailed, decode, decode_shuffle, slice_of
from streamcore.topology.nodes import TopicSpec
from streamcore.types import Partition, TopicPartition

NUMBERS = TopicSpec("numbers", codec_for(int), codec_for(str))
MAYBE = TopicSpec("maybe", codec_for(int), None, optional_value=True)
CODEC = Registry().codec(int)


def run_of(values: list[bytes | None], keys: list[bytes | None] | None = None, headers: Any = None) -> Run:
    n = len(values)
    return Run(
        TopicPartition("numbers", Partition(3)),
        list(range(10, 10 + n)),
        keys or [b"k"] * n,
        values,
        list(range(n)),
        headers,
    )


def test_a_run_becomes_a_batch_of_one_length() -> None:
    batch = decode(run_of([b"1", b"2"]), NUMBERS)
    assert (batch.values, batch.keys, batch.times, batch.offsets) == ([1, 2], ["k", "k"], [0, 1], [10, 11])
    assert batch.origins is None and batch.positions is None


@pytest.mark.parametrize(
    ("values", "keys", "index", "what"),
    [
        ([b"1", b"x", b"y"], None, 1, "value"),
        ([b"1", b"2", None], None, 2, "value"),
        ([b"1", b"x", None], None, 1, "value"),
        ([b"1", b"2"], [b"a", None], 1, "key"),
        ([b"1", b"2", b"3"], [b"a", b"\xff", None], 1, "key"),
    ],
)
def test_the_first_bad_record_is_named(values: Any, keys: Any, index: int, what: str) -> None:
    with pytest.raises(DecodeFailed) as caught:
        decode(run_of(values, keys), NUMBERS)
    assert (caught.value.index, caught.value.what) == (index, what)


def test_what_stands_before_and_behind_a_bad_record_decodes() -> None:
    run = run_of([b"1", b"x", b"3"])
    assert decode(slice_of(run, 0, 1), NUMBERS).values == [1]
    assert decode(slice_of(run, 2, 3), NUMBERS).values == [3]
    assert slice_of(run, 2, 3).offsets == [12]


def test_null_is_a_value_where_the_type_says_so() -> None:
    assert decode(run_of([None, b"1", None]), MAYBE).values == [None, 1, None]
    assert decode(run_of([None]), MAYBE).values == [None]
    with pytest.raises(DecodeFailed) as caught:
        decode(run_of([None, b"1", b"x"]), MAYBE)
    assert caught.value.index == 2


def test_an_unkeyed_topic_takes_no_notice_of_keys() -> None:
    assert decode(run_of([b"1"], [b"\xff"]), MAYBE).keys is None


def test_origins_come_from_the_header_or_from_the_place() -> None:
    headers: list[Headers | None] = [None, [("x", b"y"), ("correlation-id", b"order-7")], [("correlation-id", b"")]]
    batch = decode(run_of([b"1", b"2", b"3"], headers=headers), NUMBERS, origins=True, positions=True)
    assert batch.origins == ["numbers-3-10", "order-7", "numbers-3-12"]
    assert batch.positions == [(10, headers[0]), (11, headers[1]), (12, headers[2])]
    assert decode(run_of([b"1"]), NUMBERS, origins=True).origins == ["numbers-3-10"]


def test_several_frames_become_one_batch_whose_offsets_name_the_frame() -> None:
    def frame(*values: int, origins: list[str] | None = None) -> bytes:
        keys = [f"k{v}" for v in values]
        chunks = encode_chunks(keys, NATIVE_KEYS, list(values), list(values), origins, CODEC)
        return encode_frame("events", 0, "l", 4, 0, chunks)

    batch = decode_shuffle(run_of([frame(1, 2), frame(3, origins=["o"])]), CODEC, origins=True)
    assert batch is not None
    assert (batch.values, batch.keys, batch.times) == ([1, 2, 3], ["k1", "k2", "k3"], [1, 2, 3])
    assert batch.offsets == [10, 10, 11]
    assert batch.origins == ["numbers-3-10", "numbers-3-10", "o"]
    assert decode_shuffle(run_of([frame()]), CODEC) is None


def test_a_frame_of_a_newer_format_stops_the_job_and_nonsense_is_a_broken_law() -> None:
    newer = bytearray(encode_frame("events", 0, "l", 4, 0, []))
    assert newer[1] == FORMAT
    newer[1] = FORMAT + 1
    with pytest.raises(StateMismatch, match="newer"):
        decode_shuffle(run_of([bytes(newer)]), CODEC)
    for data in (b"", b"text", b"\x91\x01", None):
        with pytest.raises(InvariantBroken):
            decode_shuffle(run_of([data]), CODEC)
