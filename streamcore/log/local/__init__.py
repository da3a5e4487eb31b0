"""The embedded log: one model of the broker's semantics, stored in memory or in RocksDB."""

from streamcore.log.local.log import LocalLog

__all__ = ["LocalLog"]
