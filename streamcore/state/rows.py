"""A State's fields as bytes, with the version of the class that wrote them.

A step's column holds, below one state key (see `state.keys`):

    state key                              the row: 2 bytes version, then a msgpack map {field: value}
    state key + field name + entry's key   one entry of a Map: 2 bytes version, then the value
    0xF0 "rows"                            the lowest and the highest version that wrote here, 2 bytes each

Names and entry keys are encoded as keys are; how a value lies is told in `state.forms`. A row of an older version
passes, as a plain dict, through the class's upgrades one by one. A field that the row does not have takes its default;
one that the class does not have is an error: it would be lost. Nothing is evaluated.
"""

from __future__ import annotations

from copy import deepcopy
from operator import itemgetter
from typing import Any, Final

import msgspec
from msgspec import UNSET

from streamcore.codecs import kinds
from streamcore.codecs.dynamic import Registry
from streamcore.errors import StateDamaged, StateMismatch, TopologyError, shown
from streamcore.state.forms import Form, Typed, form_of, plain
from streamcore.state.keys import encode_key, encode_keys
from streamcore.state.store import UNREADABLE, Column
from streamcore.topology.nodes import FieldSpec, StateSchema

VERSIONS_KEY: Final = b"\xf0rows"
VERSION_MAX: Final = 0xFFFF

_UNFIT: Final = (*UNREADABLE, ValueError, RecursionError)
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_plain: Final = msgspec.msgpack.Decoder(dict[str, Any]).decode


class Rows:
    """A packer (see `state.overlay`): a row is the list of a State's Value fields, in the schema's order.

    Made and used by one thread."""

    def __init__(self, schema: StateSchema, registry: Registry, step: str) -> None:
        """Raises TopologyError for a field that cannot be saved, a version out of bounds, upgrades with a hole."""
        _check_upgrades(schema, step)
        self._schema = schema
        self._step = step
        self._registry = registry
        self.fields: Final = tuple(field for field in schema.fields if field.map_key is None)
        self._forms = [_form(field, registry, step) for field in self.fields]
        self._prefix = schema.version.to_bytes(2)
        self._row = self._struct()
        self._decode = msgspec.msgpack.Decoder(self._row).decode
        self._verify = any(form.verify for form in self._forms)
        self._read = [(i, form) for i, form in enumerate(self._forms) if not isinstance(form, Typed)]

    def _struct(self) -> Any:
        """One that msgspec reads and writes by field names, none of them required."""
        slots = [(f"f{i}", kinds.union((form.lies_as, msgspec.UnsetType)), UNSET) for i, form in enumerate(self._forms)]
        names = {f"f{i}": field.name for i, field in enumerate(self.fields)}
        return msgspec.defstruct(self._schema.name, slots, rename=names, forbid_unknown_fields=True)

    def defaults(self) -> list[Any]:
        """A new key's row; mutable defaults are copies."""
        return [deepcopy(field.default) for field in self.fields]

    # --- to bytes ---------------------------------------------------------------------------------------------

    def encode(self, values: list[Any]) -> list[bytes]:
        """Raises TypeError or ValueError for a row that would not come back as it is."""
        columns = [form.write(list(map(itemgetter(i), values))) for i, form in enumerate(self._forms)]
        rows = map(self._row, *columns) if columns else [self._row()] * len(values)
        try:
            payloads = list(map(_encode, rows))
            if self._verify:
                list(map(self._decode, payloads))
        except (*UNREADABLE, OverflowError, RecursionError) as error:
            raise TypeError(f"a field of {self._schema.name} has not its declared type: {error}") from error
        return [self._prefix + payload for payload in payloads]

    # --- from bytes -------------------------------------------------------------------------------------------

    def decode(self, payloads: list[bytes]) -> list[Any]:
        """Raises StateMismatch (a newer version, an upgrade missing or failing), ValueError (not of the types)."""
        return list(map(self._one, payloads))

    def _one(self, payload: bytes) -> list[Any]:
        same = payload[:2] == self._prefix
        try:
            row = list(msgspec.structs.astuple(self._decode(memoryview(payload)[2:] if same else self._new(payload))))
            for i, form in self._read:
                if row[i] is not UNSET:
                    row[i] = form.read(row[i])
        except _UNFIT as error:
            raise ValueError(f"a saved {self._schema.name} does not fit the class: {error}") from error
        if UNSET in row:
            row = [deepcopy(f.default) if v is UNSET else v for f, v in zip(self.fields, row, strict=True)]
        return row

    def _new(self, payload: bytes) -> bytes:
        """An older row as this version would have written it."""
        version = int.from_bytes(payload[:2])
        refuse_version(self._schema, version, self._step)
        fields = {name: plain(value, self._registry) for name, value in _decode_plain(memoryview(payload)[2:]).items()}
        for at in range(version, self._schema.version):
            fields = self._upgrade(at, fields)
        forms = {field.name: form for field, form in zip(self.fields, self._forms, strict=True)}
        return _encode({name: forms[name].again(v) if name in forms else v for name, v in fields.items()})

    def _upgrade(self, at: int, fields: dict[str, Any]) -> dict[str, Any]:
        told = f"step {self._step!r}: the upgrade of {self._schema.name} from version {at}"
        try:
            new: Any = self._schema.upgrades[at](fields)
        except Exception as error:
            raise StateMismatch(
                f"{told} failed on {shown(fields)}: {type(error).__name__}: {error}",
                "correct the upgrade; the saved state is as it was",
            ) from error
        if not isinstance(new, dict):
            raise StateMismatch(f"{told} returned {shown(new)}", "an upgrade takes a dict of fields and returns one")
        return new  # pyright: ignore[reportUnknownVariableType]


class Entries:
    """A packer for one Map's values, and the keys of its entries. Made and used by one thread."""

    def __init__(self, schema: StateSchema, field: FieldSpec, registry: Registry, step: str) -> None:
        """Raises TopologyError for a type that cannot be saved."""
        self._schema = schema
        self._step = step
        self._name = f"{schema.name}.{field.name}"
        self._below = encode_key(field.name)
        self._form = _form(field, registry, step)
        self._prefix = schema.version.to_bytes(2)
        self._decode = msgspec.msgpack.Decoder(self._form.lies_as).decode

    def prefix(self, state_key: bytes) -> bytes:
        """What all entries below a state key begin with: scan from here to its `prefix_end`."""
        return state_key + self._below

    def keys(self, state_key: bytes, keys: list[Any]) -> list[bytes]:
        """Raises what `encode_keys` raises."""
        prefix = state_key + self._below
        return [prefix + key for key in encode_keys(keys)]

    def encode(self, values: list[Any]) -> list[bytes]:
        """Raises TypeError or ValueError for a value that would not come back as it is."""
        try:
            payloads = list(map(_encode, self._form.write(values)))
            if self._form.verify:
                list(map(self._decode, payloads))
        except (*UNREADABLE, OverflowError, RecursionError) as error:
            raise TypeError(f"a value of {self._name} has not its declared type: {error}") from error
        return [self._prefix + payload for payload in payloads]

    def decode(self, payloads: list[bytes]) -> list[Any]:
        """Upgrades change rows and not entries: an older entry must fit as it is. Raises StateMismatch, ValueError."""
        if {self._prefix}.issuperset([payload[:2] for payload in payloads]):
            return [self._one(payload) for payload in payloads]
        for payload in payloads:
            refuse_version(self._schema, int.from_bytes(payload[:2]), self._step)
        return [self._one(payload) for payload in payloads]

    def _one(self, payload: bytes) -> Any:
        try:
            return self._form.read(self._decode(memoryview(payload)[2:]))
        except _UNFIT as error:
            raise ValueError(f"a saved entry of {self._name} does not fit the class: {error}") from error


# --- versions --------------------------------------------------------------------------------------------------
def refuse_version(schema: StateSchema, version: int, step: str) -> None:
    """Raises StateMismatch for what cannot be read by this version of the class."""
    told = (
        f"step {step!r}: state was saved by version {version} of {schema.name}, the code has version {schema.version}"
    )
    if version > schema.version:
        raise StateMismatch(told, "run the newer code; or restore state from before it, or `streamcore reset JOB`")
    missing = [at for at in range(version, schema.version) if at not in schema.upgrades]
    if missing:
        raise StateMismatch(
            f"{told}, and there is no upgrade from version {', '.join(map(str, missing))}",
            f"write it: class {schema.name}(State, version={schema.version}, upgrades={{{missing[0]}: f}}), "
            "where f takes the old fields as a dict and returns the new ones",
        )


def check_versions(column: Column, schema: StateSchema, step: str) -> bytes | None:
    """Before a step runs: may all that lies in its column be read? Returns what the step writes under VERSIONS_KEY
    with its next delta; None where that stands already. Raises StateMismatch, StateDamaged."""
    saved = column.get(VERSIONS_KEY)
    lowest = highest = schema.version
    if saved is not None:
        if len(saved) != 4:
            raise StateDamaged(f"step {step!r}: its column's versions cannot be read ({saved!r})")
        lowest, highest = int.from_bytes(saved[:2]), int.from_bytes(saved[2:])
        for version in (highest, lowest):
            refuse_version(schema, version, step)
    entry = lowest.to_bytes(2) + max(highest, schema.version).to_bytes(2)
    return None if entry == saved else entry


def merged_versions(one: bytes, other: bytes) -> bytes:
    """Two columns' entries under VERSIONS_KEY, when their rows come into one."""
    return min(one[:2], other[:2]) + max(one[2:], other[2:])


def _check_upgrades(schema: StateSchema, step: str) -> None:
    """From the oldest on, each version has one."""
    told = f"step {step!r}: class {schema.name}, version {schema.version}"
    if not 1 <= schema.version <= VERSION_MAX:
        raise TopologyError(told, f"a version lies between 1 and {VERSION_MAX}")
    expected = set(range(min(schema.upgrades, default=schema.version), schema.version))
    if set(schema.upgrades) != expected:
        raise TopologyError(
            f"{told}, has upgrades from {sorted(schema.upgrades)}, expected {sorted(expected)}",
            "give one upgrade a version, without holes, up to the one before the class's own",
        )


def _form(field: FieldSpec, registry: Registry, step: str) -> Form:
    of = kinds.union((field.type, None)) if field.optional else field.type
    return form_of(of, registry, f"step {step!r}, field {field.name!r}")
