"""The journal: one frame a task and epoch, cut into messages.

Wire format of a message: `scj`, one byte format (1), then a msgpack array

    lineage · epoch · nonce · part · parts · a slice of the frame's body

The body is the msgpack array of `Frame`, in the order of its fields. The parts of a frame stand in order in the
journal's partition, and every part says by itself whose it is. In exactly-once mode a read_committed reader sees whole
frames only, one after the other. In at-least-once mode frames of failed commits stand there too, whole or in part, and
those of a paused writer in between: `previous` chains the frames that were committed.

Decoding is typed and bounded; nothing is evaluated. What does not belong in a journal stops the job by name.
"""

from __future__ import annotations

from typing import Final, NamedTuple, NoReturn

import msgspec

from streamcore import limits
from streamcore.errors import OffsetsLost, RecordTooLarge, StateMismatch, invariant, shown
from streamcore.log.metadata import Metadata
from streamcore.state.store import UNREADABLE, Delta
from streamcore.types import Epoch, Offset, Partition, Slot

Origin = dict[str, tuple[str, int, str | int]]
"""Facts of genesis: for each input its topic id, its partition count, its start position."""

_MAGIC: Final = b"scj"
_FORMAT: Final = 1
_PREFIX: Final = _MAGIC + bytes((_FORMAT,))
_HEAD_BYTES: Final = 512
"""Room for a message's own fields."""
_OPEN_FRAMES: Final = 8
"""Unfinished frames kept while reading an at-least-once journal: writers that overlapped."""


class Frame(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One epoch of one task: what the offset metadata says, and what the epoch changed."""

    job: str
    stage: str
    partition: Partition
    lineage: str
    epoch: Epoch
    nonce: str
    previous: Offset | None
    """The first message of the previous committed epoch's frame; None at genesis."""
    offsets: dict[str, Offset]
    """Where each input is read on, by topic (the partition is the task's)."""
    slot: Slot
    mode: str
    topology: str
    checkpoint: str | None
    watermark_ms: int | None
    cut: int | None
    genesis: Origin | None
    deltas: dict[str, Delta]

    def metadata(self, journal_end: Offset) -> Metadata:
        """What the offsets of this epoch carry."""
        return Metadata(
            lineage=self.lineage,
            epoch=self.epoch,
            nonce=self.nonce,
            journal_end=journal_end,
            checkpoint=self.checkpoint,
            watermark_ms=self.watermark_ms,
            cut=self.cut,
            slot=self.slot,
            topology=self.topology,
            mode=self.mode,
            previous=self.previous,
        )


class _Part(msgspec.Struct, array_like=True, frozen=True):
    lineage: str
    epoch: Epoch
    nonce: str
    part: int
    parts: int
    body: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_part: Final = msgspec.msgpack.Decoder(_Part).decode
_decode_frame: Final = msgspec.msgpack.Decoder(Frame).decode


def encode(frame: Frame) -> list[bytes]:
    """The frame's messages, each at most FRAME_BYTES. Raises RecordTooLarge when the epoch changed too much."""
    body = memoryview(_encode(frame))
    room = limits.FRAME_BYTES - _HEAD_BYTES
    parts = max(1, -(-len(body) // room))
    if parts > limits.JOURNAL_PARTS:
        raise RecordTooLarge(
            f"task {frame.stage}[{frame.partition}], epoch {frame.epoch}: state changes of {len(body)} bytes are over "
            f"the journal's limit of {limits.JOURNAL_PARTS * room}",
            "commit more often, or keep less in one state value",
        )
    head = (frame.lineage, frame.epoch, frame.nonce)
    slices = [body[part * room : (part + 1) * room] for part in range(parts)]
    messages = [_PREFIX + _encode((*head, part, parts, piece)) for part, piece in enumerate(slices)]
    invariant(max(map(len, messages)) <= limits.FRAME_BYTES, "a journal message is over its bound")
    return messages


class Assembled(NamedTuple):
    frame: Frame
    first: Offset
    end: Offset
    """Just after the frame's last message."""


class _Open:
    """A frame of which some parts have been read."""

    __slots__ = ("bodies", "first", "parts")

    def __init__(self, first: Offset, parts: int) -> None:
        self.first = first
        self.parts = parts
        self.bodies: list[bytes] = []


class FrameAssembler:
    """Frames out of one journal partition's messages, fed in offset order from the first message of a frame on.

    `chained` (at-least-once): unfinished frames are passed over. Otherwise a gap is an error.
    """

    def __init__(self, where: str, chained: bool = False) -> None:
        self._where = where
        self._chained = chained
        self._open: dict[str, _Open] = {}
        """By nonce, the oldest first."""

    @property
    def unfinished(self) -> bool:
        """A frame has begun whose last part has not been seen."""
        return bool(self._open)

    def feed(self, offset: int, data: bytes) -> Assembled | None:
        """A frame, once its last part is there. Raises StateMismatch (a newer format), OffsetsLost (garbage, gaps)."""
        part = self._part(offset, data)
        pending = self._place(Offset(offset), part)
        if pending is None:
            return None
        pending.bodies.append(part.body)
        if len(pending.bodies) < pending.parts:
            return None
        del self._open[part.nonce]
        return Assembled(self._frame(offset, part, pending), pending.first, Offset(offset + 1))

    def _part(self, offset: int, data: bytes) -> _Part:
        if data[:3] != _MAGIC or len(data) < 5:
            self._garbage(offset, f"{shown(data[:60])} is no journal frame")
        if data[3] > _FORMAT:
            raise StateMismatch(
                f"the journal {self._where}, offset {offset}, has format {data[3]}, "
                f"newer than this streamcore's {_FORMAT}",
                "run the version of streamcore that wrote it, or a newer one",
            )
        if data[3] != _FORMAT or len(data) > limits.MESSAGE_BYTES:
            self._garbage(offset, f"a frame of format {data[3]} and {len(data)} bytes")
        try:
            part = _decode_part(memoryview(data)[4:])
        except UNREADABLE as error:
            self._garbage(offset, f"a frame that cannot be read ({error})")
        if not 0 <= part.part < part.parts <= limits.JOURNAL_PARTS:
            self._garbage(offset, f"part {part.part} of {part.parts}")
        return part

    def _place(self, offset: Offset, part: _Part) -> _Open | None:
        """The open frame that the part continues or begins; None to pass over it."""
        if part.part == 0:
            if self._open and not self._chained:
                self._garbage(offset, "a frame begins while another's last part is missing")
            if len(self._open) >= _OPEN_FRAMES:
                del self._open[next(iter(self._open))]
            self._open.pop(part.nonce, None)
            self._open[part.nonce] = pending = _Open(offset, part.parts)
            return pending
        pending = self._open.get(part.nonce)
        if pending is not None and (len(pending.bodies), pending.parts) == (part.part, part.parts):
            return pending
        if not self._chained:
            self._garbage(offset, f"part {part.part} of {part.parts} of epoch {part.epoch} without those before it")
        return None

    def _frame(self, offset: int, part: _Part, pending: _Open) -> Frame:
        try:
            frame = _decode_frame(b"".join(pending.bodies))
        except UNREADABLE as error:
            self._garbage(offset, f"a frame whose content cannot be read ({error})")
        if (frame.lineage, frame.epoch, frame.nonce) != (part.lineage, part.epoch, part.nonce):
            self._garbage(offset, "a frame that contradicts its own parts")
        return frame

    def _garbage(self, offset: int, what: str) -> NoReturn:
        raise OffsetsLost(
            f"the journal {self._where} holds at offset {offset} what the job did not write there: {what}",
            "let nothing but the job write, trim or compact its journals (ACLs); `streamcore reset JOB` starts over",
        )
