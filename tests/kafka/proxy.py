"""A TCP proxy in front of one broker, that cuts, delays and holds single requests.

The broker tells clients its own address, in a few kinds of answers; there the port after its host is replaced by the
proxy's (both are on hosts of one length: 127.0.0.1), so every connection comes back through here. Works with any broker
on this machine, PLAINTEXT.

    request  = length int32 · api key int16 · version int16 · correlation id int32 · ...
    response = length int32 · correlation id int32 · ...

One thread a direction and connection; the state they share is under one lock.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Mapping

PRODUCE = 0
FETCH = 1
METADATA = 3
FIND_COORDINATOR = 10
HEARTBEAT = 12
INIT_PRODUCER_ID = 22
ADD_PARTITIONS_TO_TXN = 24
ADD_OFFSETS_TO_TXN = 25
END_TXN = 26
TXN_OFFSET_COMMIT = 28
DESCRIBE_CLUSTER = 60

_WITH_ADDRESSES = (FETCH, METADATA, FIND_COORDINATOR, DESCRIBE_CLUSTER)
_HEADER = struct.Struct(">hhi")

Matches = Callable[[bytes], bool]


class Held:
    """One request caught on its way: the client waits in vain (or, with `cut`, loses its connection and tries again);
    the broker gets it with `deliver`, over a connection of its own."""

    def __init__(self, api: int, cut: bool, matches: Matches, upstream: tuple[str, int]) -> None:
        self.api = api
        self.cut = cut
        self.matches = matches
        self._upstream = upstream
        self._caught = threading.Event()
        self.frame = b""

    def caught(self, frame: bytes) -> None:
        self.frame = frame
        self._caught.set()

    @property
    def is_caught(self) -> bool:
        return self._caught.is_set()

    def wait(self, timeout_s: float = 10.0) -> None:
        if not self._caught.wait(timeout_s):
            raise TimeoutError(f"no request of api {self.api} came by within {timeout_s} s")

    def deliver(self) -> bytes:
        """The late request reaches the broker. Returns the answer's body, without its header."""
        with socket.create_connection(self._upstream, timeout=10) as broker:
            broker.sendall(struct.pack(">i", len(self.frame)) + self.frame)
            answer = _read_frame(broker)
        if answer is None:
            raise ConnectionError("the broker closed the connection on the late request")
        return answer[4:]


class Proxy:
    """`bootstrap` is where clients go. Made and used by one thread; end it with `close`."""

    def __init__(self, broker: str) -> None:
        host, _, port = broker.partition(":")
        self._upstream = (host, int(port))
        self._listener = socket.create_server((host, 0))
        self._port: int = self._listener.getsockname()[1]
        self.bootstrap = f"{host}:{self._port}"
        self._renamed = {_address(broker): _address(self.bootstrap)}
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._holds: list[Held] = []
        self._delays_s: dict[int, float] = {}
        self._slow_s = 0.0
        self._refusing = False
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = threading.Event()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def hold(self, api: int, *, cut: bool = False, matches: Matches = lambda frame: True) -> Held:
        """The next request of this kind."""
        held = Held(api, cut, matches, self._upstream)
        with self._lock:
            self._holds.append(held)
        return held

    def delay(self, api: int, seconds: float) -> None:
        """Every request of this kind, from now on; 0: none."""
        with self._lock:
            self._delays_s[api] = seconds

    def rename(self, others: Mapping[str, str]) -> None:
        """Of a cluster: the addresses of its other brokers, and those of their proxies. Before the first client."""
        self._renamed |= {_address(theirs): _address(ours) for theirs, ours in others.items()}

    def slow(self, seconds: float) -> None:
        """Every request and every answer, from now on; 0: none."""
        with self._lock:
            self._slow_s = seconds

    def stall(self) -> None:
        """Nothing passes, and nobody is told: as with a pulled cable. Until `restore`."""
        self._flowing.clear()

    def cut(self) -> None:
        """Ends every connection, and refuses new ones until `restore`."""
        with self._lock:
            self._refusing = True
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _end(*pair)

    def restore(self) -> None:
        with self._lock:
            self._refusing = False
        self._flowing.set()

    def close(self) -> None:
        self._closed.set()
        self._flowing.set()
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                refusing = self._refusing
            if refusing:
                client.close()
                continue
            try:
                broker = socket.create_connection(self._upstream, timeout=10)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            for each in (client, broker):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs = [pair for pair in self._pairs if pair[0].fileno() >= 0]
                self._pairs.append((client, broker))
            kinds: dict[int, int] = {}
            for target in (self._requests, self._responses):
                threading.Thread(target=target, args=(client, broker, kinds), name="proxy", daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket, kinds: dict[int, int]) -> None:
        try:
            while (frame := _read_frame(client)) is not None:
                api, _, correlation = _HEADER.unpack_from(frame)
                held = self._catch(api, frame)
                if held is not None and held.cut:
                    break
                if held is not None:
                    continue
                with self._lock:
                    delay_s = self._delays_s.get(api, 0.0) + self._slow_s
                if delay_s:
                    self._closed.wait(delay_s)
                self._flowing.wait()
                kinds[correlation] = api
                broker.sendall(struct.pack(">i", len(frame)) + frame)
        except OSError:
            pass  # either side went: both end below
        finally:
            _end(client, broker)

    def _responses(self, client: socket.socket, broker: socket.socket, kinds: dict[int, int]) -> None:
        try:
            while (frame := _read_frame(broker)) is not None:
                (correlation,) = struct.unpack_from(">i", frame)
                if kinds.pop(correlation, None) in _WITH_ADDRESSES:
                    for theirs, ours in self._renamed.items():
                        frame = frame.replace(theirs, ours)
                if self._slow_s:
                    self._closed.wait(self._slow_s)
                self._flowing.wait()
                client.sendall(struct.pack(">i", len(frame)) + frame)
        except OSError:
            pass  # either side went: both end below
        finally:
            _end(client, broker)

    def _catch(self, api: int, frame: bytes) -> Held | None:
        with self._lock:
            for held in self._holds:
                if held.api == api and held.matches(frame):
                    self._holds.remove(held)
                    held.caught(frame)
                    return held
        return None


def _address(bootstrap: str) -> bytes:
    """As it stands in answers: the host's bytes, then the port."""
    host, _, port = bootstrap.partition(":")
    return host.encode() + struct.pack(">i", int(port))


def _read_frame(source: socket.socket) -> bytes | None:
    head = _read(source, 4)
    return None if head is None else _read(source, struct.unpack(">i", head)[0])


def _read(source: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = source.recv(min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
