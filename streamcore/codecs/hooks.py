"""Pydantic models inside what msgspec encodes, and in streamcore's own topics: as their JSON text, by pydantic.

Writing raises TypeError for what is no model, ValueError for a model that does not fit its own fields.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from pydantic import TypeAdapter

from streamcore.codecs import kinds


@cache
def adapter(of: Any) -> TypeAdapter[Any]:
    """One adapter a type: making one costs a millisecond."""
    return TypeAdapter[Any](of)


def to_json(value: Any) -> msgspec.Raw:
    return msgspec.Raw(adapter(_model(type(value))).dump_json(value, by_alias=True, warnings="error"))


def from_json(of: type[Any], value: Any) -> Any:
    """`value` is what msgspec read: pydantic judges it as JSON, where a strict model takes a date as text."""
    return adapter(_model(of)).validate_json(msgspec.json.encode(value))


def model_bytes(of: Any, value: Any) -> bytes:
    """For streamcore's own topics and state: by field names, nothing computed, nothing that aliases could lose."""
    return adapter(of).dump_json(value, by_alias=False, round_trip=True, warnings="error")


def model_from_bytes(of: Any, payload: bytes) -> Any:
    return adapter(of).validate_json(payload, by_alias=False, by_name=True)


def _model(of: Any) -> Any:
    if not kinds.is_model(of):
        raise TypeError(f"values of type {kinds.name_of(of)} have no wire form")
    return of
