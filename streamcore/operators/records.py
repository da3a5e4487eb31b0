"""records(): values become Records, with what the message they came in tells."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import repeat
from types import MappingProxyType
from typing import Final

from streamcore.api.record import Record
from streamcore.errors import broken
from streamcore.log.port import Headers
from streamcore.operators.batch import Batch
from streamcore.operators.stateless import Run

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NONE: Final[Mapping[str, bytes]] = MappingProxyType({})


def records_step(then: Run) -> Run:
    def run(batch: Batch) -> None:
        positions, origins = batch.positions, batch.origins
        if positions is None or origins is None:
            broken("a batch reached records() without positions or origins")
        topic, partition = batch.tp
        keys = batch.keys if batch.keys is not None else repeat(None)
        then(
            batch.with_values(
                [
                    Record(
                        key,
                        value,
                        _EPOCH + timedelta(milliseconds=time),
                        _mapping(headers),
                        topic,
                        partition,
                        offset,
                        origin,
                    )
                    for key, value, time, (offset, headers), origin in zip(  # noqa: B905 - keys may be endless
                        keys, batch.values, batch.times, positions, origins
                    )
                ]
            )
        )

    return run


def _mapping(headers: Headers | None) -> Mapping[str, bytes]:
    """Of several headers with one name the last counts."""
    return MappingProxyType(dict(headers)) if headers else _NONE
