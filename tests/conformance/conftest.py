from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.logs import Backend, KafkaBackend, LocalBackend


@pytest.fixture(params=["kafka", "memory", "rocks"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made: Backend
    if request.param == "kafka":
        made = KafkaBackend(request.getfixturevalue("bootstrap"))
    else:
        made = LocalBackend(tmp_path / "log" if request.param == "rocks" else None)
    yield made
    made.close()
