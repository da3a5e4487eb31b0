"""A State's rows and entries as today's class writes them: all at once, instead of one by one as they are read.

What stands there at the class's version stays byte for byte; the rest goes through `state.rows`, as in a running job.
A row or entry that cannot is named with its key, and nothing else is decided here.
"""

from __future__ import annotations

from typing import Final

from streamcore.codecs.dynamic import Registry
from streamcore.errors import StateMismatch, StreamcoreError, shown
from streamcore.state.keys import decode_at
from streamcore.state.rows import VERSIONS_KEY, Entries, Rows, check_versions
from streamcore.state.store import Column
from streamcore.topology.nodes import StateSchema

GROUP_BYTES: Final = 2


class Rewriting:
    """One step's. Made and used by one thread."""

    def __init__(self, schema: StateSchema, registry: Registry, step: str) -> None:
        """Raises TopologyError as `Rows` does."""
        self._schema = schema
        self._step = step
        self._rows = Rows(schema, registry, step)
        maps = [field for field in schema.fields if field.map_key is not None]
        self._entries = {field.name: Entries(schema, field, registry, step) for field in maps}
        self.version: Final = schema.version
        self._prefix = schema.version.to_bytes(2)

    def wanted(self, column: Column) -> bool:
        """Whether anything older may lie there. Raises StateMismatch for what this class cannot read, StateDamaged."""
        check_versions(column, self._schema, self._step)
        return column.get(VERSIONS_KEY) not in (None, self.versions)

    @property
    def versions(self) -> bytes:
        """What stands under VERSIONS_KEY afterwards."""
        return self._prefix * 2

    def value(self, key: bytes, value: bytes) -> bytes:
        """Raises StateMismatch, naming the key and the versions; StateDamaged for a key that is none."""
        if value[:2] == self._prefix:
            return value
        record, end = decode_at(key, GROUP_BYTES)
        where = f"key {shown(record)}"
        try:
            if end == len(key):
                return self._rows.encode(self._rows.decode([value]))[0]
            name, _ = decode_at(key, end)
            where += f", Map {name!r}"
            return self._entry(str(name), value)
        except (StreamcoreError, ValueError, TypeError) as error:
            raise self._refused(where, int.from_bytes(value[:2]), error) from error

    def _entry(self, name: str, value: bytes) -> bytes:
        entries = self._entries.get(name)
        if entries is None:
            raise StateMismatch(
                f"{self._schema.name} has no Map {name!r}, and its entries would be lost", "give it back to the class"
            )
        return entries.encode(entries.decode([value]))[0]

    def _refused(self, where: str, version: int, error: Exception) -> StateMismatch:
        why, remedy = (error.what, error.remedy) if isinstance(error, StreamcoreError) else (str(error), "")
        return StateMismatch(
            f"step {self._step!r}, {where}: version {version} of {self._schema.name} does not become {self.version}: "
            f"{why}",
            remedy or f"correct the upgrade of {self._schema.name}: what it returns must fit the class's fields",
        )
