"""The journal's frames: whole, in parts, foreign, newer, and interleaved as an at-least-once journal has them."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcore import limits
from streamcore.errors import OffsetsLost, RecordTooLarge, StateMismatch
from streamcore.log import metadata
from streamcore.state.frames import Frame, FrameAssembler, encode
from streamcore.state.store import Delta
from streamcore.types import Epoch, Offset, Partition, Slot


def frame(nonce: str = "n", epoch: int = 4, deltas: dict[str, Delta] | None = None, **changes: Any) -> Frame:
    made = Frame(
        job="counts",
        stage="lines",
        partition=Partition(2),
        lineage="l",
        epoch=Epoch(epoch),
        nonce=nonce,
        previous=Offset(7),
        offsets={"lines": Offset(1200)},
        slot=Slot(1),
        mode="eo",
        topology="abc",
        checkpoint=None,
        watermark_ms=-5,
        cut=None,
        genesis={"lines": ("id", 4, "earliest")},
        deltas={"count": Delta([b"k"], [b"v"])} if deltas is None else deltas,
    )
    return msgspec.structs.replace(made, **changes)


def large(nonce: str = "n") -> Frame:
    noise = Random(nonce)
    return frame(nonce, deltas={"count": Delta([b"%d" % n for n in range(5)], [noise.randbytes(500_000)] * 5)})


def feed(assembler: FrameAssembler, messages: list[bytes], first: int = 0) -> list[tuple[Frame, int, int]]:
    return [done for at, message in enumerate(messages, first) if (done := assembler.feed(at, message)) is not None]


deltas = st.builds(
    lambda entries, ranges: Delta([k for k, _ in entries], [v for _, v in entries], ranges),
    st.lists(st.tuples(st.binary(max_size=6), st.none() | st.binary(max_size=6)), max_size=5),
    st.lists(st.tuples(st.binary(max_size=4), st.binary(max_size=4)), max_size=2),
)


@given(st.dictionaries(st.text(max_size=5), deltas, max_size=3))
def test_a_frame_comes_back_as_it_was(changes: dict[str, Delta]) -> None:
    sent = frame(deltas=changes)
    assert feed(FrameAssembler("j[2]"), encode(sent), first=9) == [(sent, 9, 10)]


def test_an_empty_epoch_has_a_frame_of_one_small_message() -> None:
    messages = encode(frame(deltas={}))
    assert len(messages) == 1
    assert len(messages[0]) < 200


def test_a_large_frame_is_cut_into_bounded_messages_and_joined_again() -> None:
    sent = large()
    messages = encode(sent)
    assert len(messages) == 4
    assert max(map(len, messages)) <= limits.FRAME_BYTES
    assembler = FrameAssembler("j[2]")
    assert feed(assembler, [*messages, *encode(frame("m", 5))], first=3) == [(sent, 3, 7), (frame("m", 5), 7, 8)]
    assert not assembler.unfinished


def test_an_epoch_over_the_journals_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOURNAL_PARTS", 3)
    with pytest.raises(RecordTooLarge, match=r"task lines\[2\], epoch 4: state changes of 2500\d\d\d bytes"):
        encode(large())


def test_the_metadata_of_a_frame_says_the_same() -> None:
    made = frame().metadata(Offset(44))
    assert metadata.decode(made.encode(), "lines[2]") == made
    assert (made.epoch, made.nonce, made.journal_end, made.previous, made.watermark_ms) == (4, "n", 44, 7, -5)


@given(st.binary(max_size=30) | st.binary(max_size=30).map(lambda tail: b"scj\x01" + tail))
def test_garbage_stops_with_topic_partition_and_offset(data: bytes) -> None:
    with pytest.raises(OffsetsLost, match=r"the journal job\.journal\.lines\[2\] holds at offset 17 "):
        FrameAssembler("job.journal.lines[2]").feed(17, data)


@given(st.integers(0, 2_000), st.integers(0, 255))
def test_a_flipped_byte_is_an_error_or_another_valid_frame(at: int, value: int) -> None:
    message = bytearray(encode(frame())[0])
    message[at % len(message)] = value
    try:
        FrameAssembler("j").feed(0, bytes(message))
    except (OffsetsLost, StateMismatch):
        return


def test_a_newer_format_says_which_version_to_run() -> None:
    newer = b"scj\x02" + encode(frame())[0][4:]
    with pytest.raises(StateMismatch, match=r"j\[2\], offset 5, has format 2, newer than this streamcore's 1"):
        FrameAssembler("j[2]").feed(5, newer)


@pytest.mark.parametrize(
    ("order", "why"),
    [
        ([1, 2, 3], "part 1 of 4 of epoch 4 without those before it"),
        ([0, 2, 3], "part 2 of 4"),
        ([0, 1, 0], "begins while another's last part is missing"),
        ([0, 1, 1], "part 1 of 4"),
    ],
)
def test_a_gap_in_an_exactly_once_journal_stops(order: list[int], why: str) -> None:
    messages = encode(large())
    with pytest.raises(OffsetsLost, match=why):
        feed(FrameAssembler("j[2]"), [messages[n] for n in order])


def test_an_at_least_once_journal_is_read_past_unfinished_and_interleaved_frames() -> None:
    lost, zombie, kept = encode(large("lost")), encode(large("zombie")), encode(large("kept"))
    journal = [
        *zombie[2:],  # reading began in the middle of it
        *lost[:2],
        kept[0], zombie[0], kept[1], zombie[1], kept[2], kept[3], zombie[2], zombie[3],
        *encode(frame("last")),
    ]  # fmt: skip
    found = feed(FrameAssembler("j", chained=True), journal)
    places = [(made.nonce, first, end) for made, first, end in found]
    assert places == [("kept", 4, 10), ("zombie", 5, 12), ("last", 12, 13)]
    assert found[0][0] == large("kept")


def test_unfinished_frames_are_bounded() -> None:
    assembler = FrameAssembler("j", chained=True)
    writers = [encode(large(f"w{n}")) for n in range(12)]
    assert feed(assembler, [parts[0] for parts in writers]) == []
    found = feed(assembler, [part for parts in writers for part in parts[1:]], first=12)
    assert [made.nonce for made, _, _ in found] == [f"w{n}" for n in range(4, 12)]
