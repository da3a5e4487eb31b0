"""A real Kafka for whoever needs one: one broker, or several.

    STREAMCORE_TEST_KAFKA=HOST:PORT   that one, never ended or restarted here
    Docker                            the image apache/kafka, by testcontainers
    Java                              Kafka's jars from Maven Central (see `jars`), with the machine's Java or PyPI's

`python -m tests.kafka.broker --port 19092 --brokers 1` runs one until SIGINT, SIGTERM or the end of its standard input,
and prints its address once it answers. Everything is bound to 127.0.0.1; data and log lie in a temporary directory
and go with the cluster; a broker is ended by its own process id and does not outlive its parent.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.kafka.jars import Unavailable, jars, java

HOST = "127.0.0.1"
START_S = 60.0
ADDRESS = "STREAMCORE_TEST_KAFKA"
_CLUSTER_ID = "c3RyZWFtY29yZS10ZXN0cw"
_IMAGE = "apache/kafka:4.1.0"
_LISTENERS = ("CLIENT", "INTERNAL", "CONTROLLER")

SETTINGS: Mapping[str, object] = {
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": 0,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.num.partitions": 4,
    "log.cleaner.dedupe.buffer.size": 2 << 20,
}


class Cluster(Protocol):
    bootstrap: str

    def close(self) -> None: ...


class Given:
    """Somebody else's."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        wait_until_it_answers(bootstrap, 1)

    def close(self) -> None:
        pass


class Node:
    """One broker process, which may be killed and started again on its data."""

    def __init__(self, directory: Path, port: int, internal: int) -> None:
        self.directory = directory
        self.port = port
        self.internal = internal
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, heap: str, fast_start: bool) -> None:
        libs = f"{jars()}/*"
        config = str(self.directory / "server.properties")
        log4j = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"
        log = (self.directory / "broker.log").open("ab")
        with log:
            if not (self.directory / "data" / "meta.properties").exists():
                command = [str(java()), "-XX:TieredStopAtLevel=1", log4j, "-cp", libs, "kafka.tools.StorageTool"]
                format_it = [*command, "format", "-t", _CLUSTER_ID, "-c", config]
                subprocess.run(format_it, stdout=log, stderr=log, check=True, timeout=START_S)
            tuned = ["-XX:TieredStopAtLevel=1"] if fast_start else []
            self._process = subprocess.Popen(
                [str(java()), f"-Xmx{heap}", "-XX:+UseSerialGC", *tuned, log4j, "-cp", libs, "kafka.Kafka", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the broker is not running")
        return self._process.pid

    def failed(self) -> str | None:
        """The end of its log, when it ended by itself."""
        if self._process is None or self._process.poll() is None:
            return None
        return (self.directory / "broker.log").read_text(errors="replace")[-1500:]

    def kill(self) -> None:
        """As by kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(15)


class Local:
    """Brokers of our own, on this machine's Java. Raises Unavailable."""

    def __init__(
        self,
        brokers: int = 1,
        port: int = 0,
        settings: Mapping[str, object] | None = None,
        heap: str = "256m",
        fast_start: bool = True,
    ) -> None:
        """`settings`: the broker's own, over those made here. `fast_start`: the quick compiler only, for tests;
        benchmarks want the other. Raises Unavailable."""
        jars()
        self._heap = heap
        self._fast_start = fast_start
        self._root = Path(tempfile.mkdtemp(prefix="streamcore-kafka-"))
        ports = [dict(zip(_LISTENERS, _free_ports(len(_LISTENERS)), strict=True)) for _ in range(brokers)]
        if port:
            for number, of_node in enumerate(ports):
                of_node["CLIENT"] = port + number
        self.nodes = [self._node(number, ports, settings or {}) for number in range(brokers)]
        self.bootstrap = ",".join(f"{HOST}:{node.port}" for node in self.nodes)
        self.internal = ",".join(f"{HOST}:{node.internal}" for node in self.nodes)
        """The brokers' own listener: neither TLS nor a password, whatever `settings` ask of clients."""
        try:
            for node in self.nodes:
                self.start(node)
            wait_until_it_answers(self.internal, brokers, self.nodes)
        except BaseException:
            self.close()
            raise

    def start(self, node: Node) -> None:
        node.start(self._heap, self._fast_start)

    def wait(self, brokers: int | None = None) -> None:
        """Until so many (all) brokers are members of the cluster."""
        wait_until_it_answers(self.internal, brokers or len(self.nodes), self.nodes)

    def close(self) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self._root, ignore_errors=True)

    def _node(self, number: int, ports: Sequence[Mapping[str, int]], settings: Mapping[str, object]) -> Node:
        directory = self._root / f"node-{number + 1}"
        directory.mkdir()
        copies = min(3, len(ports))
        voters = ",".join(f"{i + 1}@{HOST}:{of_node['CONTROLLER']}" for i, of_node in enumerate(ports))
        listeners = [f"{name}://{HOST}:{ports[number][name]}" for name in _LISTENERS]
        config = {
            "process.roles": "broker,controller",
            "node.id": number + 1,
            "controller.quorum.voters": voters,
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(listeners[:2]),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in _LISTENERS),
            "inter.broker.listener.name": "INTERNAL",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": directory / "data",
            "default.replication.factor": copies,
            "min.insync.replicas": max(1, copies - 1),
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": max(1, copies - 1),
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": max(1, copies - 1),
            **SETTINGS,
            **settings,
        }
        (directory / "server.properties").write_text("".join(f"{name}={value}\n" for name, value in config.items()))
        (directory / "log4j2.properties").write_text(
            "rootLogger.level=warn\nrootLogger.appenderRef.s.ref=S\nappender.s.type=Console\nappender.s.name=S\n"
            "appender.s.layout.type=PatternLayout\nappender.s.layout.pattern=%d %p %m (%c)%n\n"
        )
        return Node(directory, ports[number]["CLIENT"], ports[number]["INTERNAL"])


class Container:
    """One broker in Docker. Raises Unavailable."""

    def __init__(self, port: int = 0) -> None:
        docker = shutil.which("docker")
        if docker is None:
            raise Unavailable("no docker on the path")
        told = subprocess.run([docker, "info"], capture_output=True, text=True, timeout=20, check=False)
        if told.returncode != 0:
            raise Unavailable(f"docker: {told.stderr.strip()[-200:]}")
        try:
            from testcontainers.core.container import DockerContainer
        except ImportError as error:
            raise Unavailable(f"{error} (pip install testcontainers)") from error
        port = port or _free_ports(1)[0]
        container = DockerContainer(_IMAGE).with_bind_ports(f"{port}/tcp", (HOST, port))
        for name, value in self._settings(port).items():
            container = container.with_env("KAFKA_" + name.upper().replace(".", "_"), str(value))
        try:
            self._container = container.start()
        except Exception as error:  # whatever Docker's client makes of an image that cannot be pulled
            raise Unavailable(f"docker: {error}") from error
        self.bootstrap = f"{HOST}:{port}"
        try:
            wait_until_it_answers(self.bootstrap, 1)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._container.stop()

    def _settings(self, port: int) -> dict[str, object]:
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": "1@localhost:9093",
            "listeners": f"CLIENT://:{port},CONTROLLER://:9093",
            "advertised.listeners": f"CLIENT://{HOST}:{port}",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            **SETTINGS,
        }


def one(port: int = 0, *, given: bool = True) -> Cluster:
    """A broker, by the first way that works here. `given`: somebody else's will do. Raises Unavailable."""
    address = os.environ.get(ADDRESS)
    if given and address:
        return Given(address)
    reasons: list[str] = []
    for way in (lambda: Container(port), lambda: Local(1, port)):
        try:
            return way()
        except Unavailable as error:
            reasons.append(str(error))
    raise Unavailable(f"no Kafka to be had here. Set {ADDRESS}=HOST:PORT, or see: {'; '.join(reasons)}")


def wait_until_it_answers(bootstrap: str, brokers: int, nodes: Sequence[Node] = ()) -> None:
    """Until the cluster names so many brokers. Raises Unavailable after START_S, or when a node of ours ended."""
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 200})
    deadline = time.monotonic() + START_S
    trouble = "no answer"
    while time.monotonic() < deadline:
        for node in nodes:
            log = node.failed()
            if log is not None:
                raise Unavailable(f"the broker on port {node.port} ended by itself: {log}")
        try:
            if len(client.list_topics(timeout=1).brokers) >= brokers:
                return
        except KafkaException as error:
            trouble = str(error)
    raise Unavailable(f"Kafka at {bootstrap} does not answer within {START_S:.0f} s: {trouble}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """In the child, before exec: the kernel kills it when the thread that started it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kafka.broker", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the first broker; the others follow. 0: any free one")
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--heap", default="256m", help="of each broker, as Java's -Xmx")
    parser.add_argument("--full-compiler", action="store_true", help="slower to start, faster to run: for benchmarks")
    options = parser.parse_args(arguments)
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    cluster = Local(options.brokers, options.port, heap=options.heap, fast_start=not options.full_compiler)
    try:
        sys.stdout.write(f"{cluster.bootstrap}\n")
        sys.stdout.flush()
        while not ended:
            readable, _, _ = select.select([sys.stdin], [], [], 0.2)
            if readable and not os.read(sys.stdin.fileno(), 4096):
                break
    finally:
        cluster.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
