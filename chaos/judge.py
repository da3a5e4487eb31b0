"""The judge: a plain read_committed consumer, and checks that know nothing of streamcore.

Each check takes what was sent and what was read, and returns the problems it found; none means that it holds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from chaos.events import Event

SHOWN = 5


@dataclass(frozen=True)
class Output:
    partition: int
    offset: int
    key: str
    word: str
    count: int
    id: str


class Reader:
    """Every committed output, from the topic's beginning on."""

    def __init__(self, kafka: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": "chaos-judge",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
        self._unfinished = set(range(partitions))
        self.outputs: list[Output] = []

    def poll(self, seconds: float) -> None:
        """Read what comes within `seconds`."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            self._take(left)

    def to_the_end(self, bound_s: float) -> list[Output]:
        """All that stands there now. Raises TimeoutError: an open transaction holds the end back, or no broker."""
        until = monotonic() + bound_s
        while self._unfinished:
            if monotonic() > until:
                raise TimeoutError(f"partitions {self._unfinished} could not be read to their end in {bound_s:.0f} s")
            self._take(0.2)
        return self.outputs

    def _take(self, seconds: float) -> None:
        for message in self._consumer.consume(2_000, min(seconds, 0.2)):
            partition = int(message.partition() or 0)
            if error := message.error():
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                self._unfinished.discard(partition)
                continue
            value = json.loads(message.value() or b"")
            key = (message.key() or b"").decode()
            offset = int(message.offset() or 0)
            self.outputs.append(Output(partition, offset, key, value["word"], value["count"], value["id"]))

    def close(self) -> None:
        self._consumer.close()


def judged(sent: Iterable[Event], outputs: list[Output]) -> list[str]:
    word_of = {event.id: event.word for event in sent}
    return [
        *nothing_lost(word_of, outputs),
        *nothing_repeated(outputs),
        *nothing_invented(word_of, outputs),
        *counted_in_order(word_of, outputs),
    ]


def nothing_lost(word_of: dict[str, str], outputs: list[Output]) -> list[str]:
    return told("records have no output", sorted(word_of.keys() - {output.id for output in outputs}))


def nothing_repeated(outputs: list[Output]) -> list[str]:
    times = Counter(output.id for output in outputs)
    return told("records have more than one output", [f"{id} x{n}" for id, n in times.items() if n > 1])


def nothing_invented(word_of: dict[str, str], outputs: list[Output]) -> list[str]:
    return told("outputs are of no record, or of another word", [o for o in outputs if word_of.get(o.id) != o.word])


def counted_in_order(word_of: dict[str, str], outputs: list[Output]) -> list[str]:
    """The plain recount: each word's outputs stand in one partition and count 1, 2, ... to its true number."""
    seen: dict[str, list[Output]] = {}
    for output in sorted(outputs, key=lambda o: (o.partition, o.offset)):
        seen.setdefault(output.key, []).append(output)
    recount = Counter(word_of.values())
    wrong = [
        f"{word}: {recount[word]} times, outputs {[o.count for o in seen.get(word, [])][-8:]}"
        for word in recount.keys() | seen.keys()
        if [o.count for o in seen.get(word, [])] != list(range(1, recount[word] + 1))
        or len({o.partition for o in seen[word]}) != 1
    ]
    return told("words are counted wrongly", wrong)


def no_open_transaction(kafka: str, prefix: str) -> list[str]:
    """On every partition of the run's topics and of the offsets topic, what is stable is all there is."""
    admin = AdminClient({"bootstrap.servers": kafka})
    topics = admin.list_topics(timeout=10).topics
    tps = [
        TopicPartition(name, partition)
        for name, topic in topics.items()
        if name.startswith(prefix) or name == "__consumer_offsets"
        for partition in topic.partitions
    ]
    stable, high = (
        ends(admin, tps, level) for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
    )
    open_ones = [
        f"{topic}[{p}]: stable {stable[topic, p]} of {end}"
        for (topic, p), end in high.items()
        if stable[topic, p] != end
    ]
    return told("partitions have an open transaction", open_ones)


def ends(admin: AdminClient, tps: list[TopicPartition], level: IsolationLevel) -> dict[tuple[str, int], int]:
    answers = admin.list_offsets({tp: OffsetSpec.latest() for tp in tps}, isolation_level=level, request_timeout=10)
    return {(tp.topic, tp.partition): answer.result(10).offset for tp, answer in answers.items()}


def told(what: str, wrong: list[object] | list[str] | list[Output]) -> list[str]:
    if not wrong:
        return []
    return [f"{len(wrong)} {what}: {', '.join(map(str, wrong[:SHOWN]))}{', …' if len(wrong) > SHOWN else ''}"]
