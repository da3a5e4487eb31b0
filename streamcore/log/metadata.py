"""What a committed offset's metadata says: the decision's own record of itself.

Format (ASCII, under 3,500 bytes): `sc1;` and then eleven fields joined by `;`, each percent-escaped where it holds
one of `;`, `%` or a non-printing character:

    lineage · epoch · nonce · journal end · checkpoint · watermark · cut · slot · topology version · mode · chain

An empty field is None. `journal end` is the offset just after the epoch's last frame message. All inputs of a task
carry the same string, written in the same transaction as the frame that holds the same facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from streamcore import limits
from streamcore.errors import OffsetsLost, StateMismatch, invariant
from streamcore.types import Epoch, Offset, Slot

PREFIX: Final = "sc1;"
_SAFE: Final = " !#$&'()*+,/:=?@[]^`{|}<>\\\""


@dataclass(frozen=True, slots=True)
class Metadata:
    lineage: str
    epoch: Epoch
    nonce: str
    journal_end: Offset
    checkpoint: str | None
    watermark_ms: int | None
    cut: int | None
    slot: Slot
    topology: str
    mode: str
    """"eo" or "alo": what the frame up to here was written under."""
    previous: Offset | None
    """Where the previous committed epoch's first frame message stands; None at genesis."""

    def encode(self) -> str:
        fields = (
            self.lineage,
            self.epoch,
            self.nonce,
            self.journal_end,
            self.checkpoint,
            self.watermark_ms,
            self.cut,
            self.slot,
            self.topology,
            self.mode,
            self.previous,
        )
        text = PREFIX + ";".join("" if f is None else _quoted(str(f)) for f in fields)
        invariant(len(text) < limits.METADATA_BYTES, f"offset metadata of {len(text)} bytes is over the limit")
        return text


def _quoted(field: str) -> str:
    return field if field.isalnum() and field.isascii() else quote(field, safe=_SAFE)


RESUMING: Final = "resuming"
"""Stands where a job is about to begin from a savepoint: so that it does not begin empty when that is interrupted."""


def decode(text: str, where: str) -> Metadata:
    """`where` names the offset for the message. Raises OffsetsLost for what streamcore did not write (another tool
    reset the offsets), StateMismatch for a newer format."""
    if text.startswith("sc") and not text.startswith(PREFIX):
        raise StateMismatch(
            f"the committed offset of {where} was written in format {text.split(';')[0]!r}, "
            "newer than this streamcore's 'sc1'",
            "run the version of streamcore that wrote it, or a newer one",
        )
    if text == RESUMING:
        raise OffsetsLost(
            f"the job with the offset of {where} is to begin from a savepoint: that is under way, or was interrupted "
            "before it began",
            "wait for `streamcore resume`, or give it again, as it was (after a rescale: from the savepoint that "
            "`streamcore savepoint list` shows)",
        )
    fields = text.removeprefix(PREFIX).split(";")
    if not text.startswith(PREFIX) or len(fields) != 11:
        raise OffsetsLost(
            f"the committed offset of {where} carries no streamcore metadata ({text[:60]!r}): another tool has set it",
            "`streamcore recover JOB` rewrites offsets from the journal; `streamcore reset JOB` starts over",
        )
    lineage, epoch, nonce, end, checkpoint, watermark, cut, slot, topology, mode, previous = (
        map(unquote, fields) if "%" in text else fields
    )
    return Metadata(
        lineage=lineage,
        epoch=Epoch(int(epoch)),
        nonce=nonce,
        journal_end=Offset(int(end)),
        checkpoint=checkpoint or None,
        watermark_ms=int(watermark) if watermark else None,
        cut=int(cut) if cut else None,
        slot=Slot(int(slot)),
        topology=topology,
        mode=mode,
        previous=Offset(int(previous)) if previous else None,
    )
