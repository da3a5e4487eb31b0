from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoint.kit import Kit


@pytest.fixture(params=["rocks", "memory"])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def rocks(tmp_path: Path) -> Iterator[Kit]:
    made = Kit(tmp_path, "rocks")
    yield made
    made.close()
