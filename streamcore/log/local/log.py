"""LocalLog: the port on the model of the broker, in memory or in a directory.

One object is one process's connection; `connect` makes another to the same broker, with a wire of its own, so that a
test or simulator can suspend, kill or fence one of several.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random

from streamcore import limits
from streamcore.clock import Clock
from streamcore.log.local.admin import LocalAdmin
from streamcore.log.local.broker import Broker
from streamcore.log.local.consumer import LocalConsumer
from streamcore.log.local.producer import LocalProducer
from streamcore.log.local.reader import LocalReader
from streamcore.log.local.rocks import RocksFollower, RocksStorage
from streamcore.log.local.storage import MemoryStorage
from streamcore.log.local.wire import DirectWire, Wire
from streamcore.types import Offset, TopicPartition

DEFAULT_PARTITIONS = 4


class LocalLog:
    def __init__(self, broker: Broker, clock: Clock, wire: Wire, random: Random) -> None:
        """For `memory`, `open` and `connect`."""
        self.broker = broker
        self._clock = clock
        self._wire = wire
        self._random = random

    @classmethod
    def memory(
        cls,
        clock: Clock,
        *,
        seed: int = 0,
        auto_create_partitions: int | None = DEFAULT_PARTITIONS,
        session_timeout_ms: int = limits.SESSION_TIMEOUT_MS,
    ) -> LocalLog:
        """Gone with the object. `auto_create_partitions`: what a topic that appears by being used gets; None: none
        appears."""
        broker = Broker(
            MemoryStorage(),
            clock,
            log_id=f"memory-{seed}",
            auto_create_partitions=auto_create_partitions,
            session_timeout_ms=session_timeout_ms,
        )
        return cls(broker, clock, DirectWire(), Random(seed))

    @classmethod
    def open(
        cls,
        path: Path,
        clock: Clock,
        *,
        read_only: bool = False,
        auto_create_partitions: int | None = DEFAULT_PARTITIONS,
        session_timeout_ms: int = limits.SESSION_TIMEOUT_MS,
    ) -> LocalLog:
        """The log in the directory `path`, made when missing; read-only: beside the process that has it open. Raises
        StateDirError."""
        storage = RocksFollower(path) if read_only else RocksStorage(path, clock)
        broker = Broker(
            storage,
            clock,
            log_id=f"{path}-{clock.wall_ms()}",
            auto_create_partitions=auto_create_partitions,
            session_timeout_ms=session_timeout_ms,
            read_only=read_only,
        )
        return cls(broker, clock, DirectWire(), Random(0))

    def connect(self, wire: Wire | None = None) -> LocalLog:
        """Another process at the same broker."""
        return LocalLog(self.broker, self._clock, wire or DirectWire(), Random(self._random.getrandbits(64)))

    def suspend(self) -> None:
        """This process stops (or dies): it sends no heartbeats until `wake`."""
        self._set_suspended(True)

    def wake(self) -> None:
        self._set_suspended(False)

    def _set_suspended(self, suspended: bool) -> None:
        self.broker.tick()
        if isinstance(self._wire, DirectWire):
            self._wire.suspended = suspended

    # --- the port -------------------------------------------------------------------------------------------

    def consumer(self, group: str, instance_id: str, *, headers: bool = False) -> LocalConsumer:
        return LocalConsumer(self.broker, self._wire, self._clock, group, instance_id, headers=headers)

    def producer(self, transactional_id: str | None) -> LocalProducer:
        first = self._random.randrange(1 << 16)
        return LocalProducer(self.broker, self._wire, self._clock, transactional_id, first)

    def reader(
        self, starts: Mapping[TopicPartition, Offset], *, headers: bool = False, committed: bool = True
    ) -> LocalReader:
        return LocalReader(self.broker, self._wire, self._clock, starts, headers=headers, committed=committed)

    def admin(self) -> LocalAdmin:
        return LocalAdmin(self.broker, self._wire, self._clock)

    def close(self) -> None:
        """Of the first handle; others of the same broker need none."""
        self.broker.close()
