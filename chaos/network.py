"""The network between workers and brokers: a proxy for each pair, so that one worker can lose one broker.

Each worker is given addresses of its own for every broker, and hears of no others: the proxies rewrite the brokers'
answers. The brokers talk to each other, and the judge to them, past all of this.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.kafka.proxy import Proxy


class Network:
    def __init__(self, brokers: Sequence[str], workers: int) -> None:
        """`brokers`: the addresses that they advertise."""
        self._links = [[Proxy(address) for address in brokers] for _ in range(workers)]
        for links in self._links:
            for link in links:
                link.rename({theirs: other.bootstrap for theirs, other in zip(brokers, links, strict=True)})

    @property
    def brokers(self) -> int:
        return len(self._links[0])

    def bootstrap(self, worker: int) -> str:
        return ",".join(link.bootstrap for link in self._links[worker])

    def link(self, worker: int, broker: int) -> Proxy:
        return self._links[worker][broker]

    def close(self) -> None:
        for links in self._links:
            for link in links:
                link.close()
