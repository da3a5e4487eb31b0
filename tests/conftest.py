"""A real Kafka and a real S3-compatible store for every test that asks: one for the session, never skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.checkpoint.s3 import S3Server
from tests.kafka import broker
from tests.kafka.jars import Unavailable


@pytest.fixture(scope="session")
def bootstrap() -> Iterator[str]:
    """HOST:PORT of one broker, which tests share: names are to be unique (see `unique`)."""
    try:
        cluster = broker.one()
    except Unavailable as error:
        pytest.fail(str(error), pytrace=False)
    yield cluster.bootstrap
    cluster.close()


@pytest.fixture
def brokers() -> Iterator[Callable[[int], broker.Local]]:
    """Makes a cluster of so many brokers for one test, which may kill, pause and restart them."""
    made: list[broker.Local] = []

    def make(count: int) -> broker.Local:
        made.append(broker.Local(count))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Shared: buckets are to be unique."""
    server = S3Server()
    yield server
    server.close()
