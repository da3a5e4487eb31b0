"""The client's opaque group metadata, read.

    CGMDv2:  generation int32 little-endian  group NUL  member NUL  flag byte  instance NUL

The client offers no other way to learn generation and member id together, and the broker accepts an unjoined
consumer's metadata, so a commit has to look.
"""

from __future__ import annotations

from typing import Any, Final

from streamcore.errors import broken
from streamcore.log.port import Membership

_MAGIC: Final = b"CGMDv2:"
_GENERATION: Final = slice(7, 11)


def parse(raw: Any) -> Membership:
    """Raises InvariantBroken for bytes of another format: a client library that streamcore does not know."""
    if not isinstance(raw, bytes) or not raw.startswith(_MAGIC) or len(raw) < 14:
        broken(f"the Kafka client's group metadata has an unknown format: {raw!r}")
    generation = int.from_bytes(raw[_GENERATION], "little", signed=True)
    group, _, rest = raw[11:].partition(b"\0")
    member, _, rest = rest.partition(b"\0")
    if not group or not rest:
        broken(f"the Kafka client's group metadata is cut short: {raw!r}")
    instance = rest[1:].partition(b"\0")[0]
    return Membership(generation, member.decode(), instance.decode() or None, raw)
