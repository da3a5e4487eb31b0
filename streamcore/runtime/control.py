"""What is said on a job's control topic (`JOB.control`, one partition), and in the markers of its shuffles.

Format of a message: `scc`, one byte format (1), then a msgpack array: the kind's letter and its fields in order.

    s Start      barrier number, topology version, stage → partitions, time in ms, savepoint's name or nil, whether the
                 job stops there
    c Cut        barrier, stage, partition, lineage, epoch, nonce, input topic → offset: in the task's own transaction
    r Resume     barrier, shuffle's stage: in the transaction that holds its markers
    t Stored     barrier or nil, stage, partition, epoch, manifest's key: in the commit that names it
    f Failed     barrier, stage, partition, why its checkpoint is not stored
    d Complete   barrier, time in ms
    a Abandon    barrier, why
    q Request    what a person asks for, or a worker before its time: a token of its own, a savepoint's name or nil for
                 a checkpoint, whether to stop
    b Recovery   stage, partition, bytes of its newest checkpoint, mean bytes of an epoch in its journal, RPO and RTO in
                 ms (0: none), bytes a second restored and replayed (0: not measured): with its cuts and Stored

Everything but a person's Request is written inside the transaction of a worker, with offsets, so that a zombie's words
are never read. Decoding is typed; an unknown kind of the same format is passed over, a newer format stops the job by
name.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streamcore.errors import StateMismatch, broken
from streamcore.types import Epoch, Partition, TaskId

_MAGIC: Final = b"scc"
_FORMAT: Final = 1
_PREFIX: Final = _MAGIC + bytes((_FORMAT,))


class Request(msgspec.Struct, array_like=True, frozen=True, tag="q"):
    token: str
    savepoint: str | None = None
    stops: bool = False


class Start(msgspec.Struct, array_like=True, frozen=True, tag="s"):
    barrier: int
    topology: str
    stages: dict[str, int]
    time_ms: int
    savepoint: str | None = None
    stops: bool = False
    """Every task stays where it has cut, and the workers end when the barrier is complete."""

    def serves(self, request: Request) -> bool:
        """Who asked before it was said has what he asked for in this barrier: a mere checkpoint in any."""
        return request.savepoint is None or (request.savepoint, request.stops) == (self.savepoint, self.stops)


class Cut(msgspec.Struct, array_like=True, frozen=True, tag="c"):
    barrier: int
    stage: str
    partition: Partition
    lineage: str
    epoch: Epoch
    nonce: str
    offsets: dict[str, int]

    @property
    def task(self) -> TaskId:
        return TaskId(self.stage, self.partition)


class Resume(msgspec.Struct, array_like=True, frozen=True, tag="r"):
    barrier: int
    shuffle: str


class Stored(msgspec.Struct, array_like=True, frozen=True, tag="t"):
    barrier: int | None
    stage: str
    partition: Partition
    epoch: Epoch
    manifest: str

    @property
    def task(self) -> TaskId:
        return TaskId(self.stage, self.partition)


class Failed(msgspec.Struct, array_like=True, frozen=True, tag="f"):
    barrier: int
    stage: str
    partition: Partition
    why: str

    @property
    def task(self) -> TaskId:
        return TaskId(self.stage, self.partition)


class Complete(msgspec.Struct, array_like=True, frozen=True, tag="d"):
    barrier: int
    time_ms: int


class Abandon(msgspec.Struct, array_like=True, frozen=True, tag="a"):
    barrier: int
    why: str


class Recovery(msgspec.Struct, array_like=True, frozen=True, tag="b"):
    stage: str
    partition: Partition
    state_bytes: int
    epoch_bytes: int
    rpo_ms: int
    rto_ms: int
    restore_bytes_s: float
    replay_bytes_s: float

    @property
    def task(self) -> TaskId:
        return TaskId(self.stage, self.partition)


Said = Start | Cut | Resume | Stored | Failed | Complete | Abandon | Request | Recovery

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Said).decode


def encode(said: Said) -> bytes:
    return _PREFIX + _encode(said)


def decode(data: bytes, where: str) -> Said | None:
    """None for a kind that this version does not know. Raises StateMismatch for a newer format, InvariantBroken for
    what no streamcore wrote; `where` names the message."""
    if not data.startswith(_MAGIC):
        broken(f"{where} holds something that is no control message")
    if not data.startswith(_PREFIX):
        raise StateMismatch(
            f"{where} holds a control message of format {data[3:4].hex()}, newer than this streamcore's {_FORMAT}",
            "run the version of streamcore that wrote it, or a newer one",
        )
    try:
        return _decode(data[len(_PREFIX) :])
    except msgspec.ValidationError:
        return None
    except msgspec.DecodeError as error:
        broken(f"{where} holds a control message that cannot be read: {error}")
