from __future__ import annotations

from typing import Any


class Registry:
    def __init__(self, types: Any, functions: Any) -> None:
        self.types = types
