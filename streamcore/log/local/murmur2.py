"""The default partitioner of Kafka's Java client: the positive murmur2 of the key, modulo the partitions.

The same bytes go to the same partition whichever client wrote them, so that topics of one partition count written by
different clients can be joined without a shuffle.
"""

from __future__ import annotations

from functools import lru_cache

from streamcore import limits

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """As org.apache.kafka.common.utils.Utils.murmur2, unsigned."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if length > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=limits.KEY_CACHE_ENTRIES)
def positive(key: bytes) -> int:
    """Cached: keys repeat, and the hash of one takes about a microsecond."""
    return murmur2(key) & 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    return positive(key) % partitions
