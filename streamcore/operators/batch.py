"""A batch: the records of a slice as parallel lists. What crosses every seam between steps."""

from __future__ import annotations

from typing import Any, Final

from streamcore.log.port import Headers
from streamcore.types import TopicPartition

CORRELATION_HEADER: Final = "correlation-id"
Position = tuple[int, Headers | None]
"""Offset and headers of the source record: what `records()` shows."""


class Batch:
    """Lists of one length, at least one. They are shared between steps and never changed in place."""

    __slots__ = ("keys", "offsets", "origins", "positions", "times", "tp", "values")

    def __init__(
        self,
        values: list[Any],
        keys: list[Any] | None,
        times: list[int],
        tp: TopicPartition,
        origins: list[str] | None = None,
        positions: list[Position] | None = None,
        offsets: list[int] | None = None,
    ) -> None:
        self.values = values
        self.keys = keys
        """None when the stream is unkeyed."""
        self.times = times
        """Event time, milliseconds since 1970."""
        self.tp = tp
        self.origins = origins
        """Correlation ids; None where the plan needs none."""
        self.positions = positions
        """None where no step of the stage shows them."""
        self.offsets = offsets
        """Where the source has each record (a shuffle's records share their frame's), as decoded; steps drop it."""

    def __len__(self) -> int:
        return len(self.values)

    def with_values(self, values: list[Any]) -> Batch:
        """The same records with other values, one for one."""
        return Batch(values, self.keys, self.times, self.tp, self.origins, self.positions)

    def part(self, i: int, j: int) -> Batch:
        """Records i to j - 1."""
        return Batch(
            self.values[i:j],
            None if self.keys is None else self.keys[i:j],
            self.times[i:j],
            self.tp,
            None if self.origins is None else self.origins[i:j],
            None if self.positions is None else self.positions[i:j],
            None if self.offsets is None else self.offsets[i:j],
        )
