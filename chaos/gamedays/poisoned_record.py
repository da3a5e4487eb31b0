"""Poisoned record: one that cannot be decoded, and one that the job's own function fails on.

Hypothesis: each becomes a dead letter with its story in its headers; the record leaves no half state (the function had
counted it before it failed); every other record is counted as if the two had never been sent.
"""

from __future__ import annotations

from confluent_kafka import Consumer, TopicPartition

from chaos.events import Event
from chaos.gamedays.day import Day, day
from chaos.topology import POISON
from streamcore.testing.history import Record


def main() -> None:
    with day() as today:
        today.flow(3.0)
        today.scene.producer.produce(f"{today.scene.name}.words", b'{"id": 7, "user": ', "user-1")
        for number in range(3):
            today.scene.feed_one(poisoned(today, number))
        today.say("sent among others: one record that is no JSON, three of the word that the function fails on")
        today.flow(3.0)
        today.all_out()
        letters = today.until(lambda: len(today.dead_letters()) == 4, "four dead letters")
        today.say(f"four dead letters, {letters:.1f} s after all other outputs")
        for letter in sorted(today.dead_letters(), key=lambda one: one.value or b""):
            tell(today, letter)
        today.scene.feed_one(poisoned(today, 0))
        today.flow(3.0)
        today.all_out()
        today.say(f"one of them sent again, with its id: {len(today.dead_letters())} dead letters")
        today.judge("no record is a dead letter", "the input is what was sent")


def poisoned(today: Day, number: int) -> Event:
    return Event(f"poison-{number}", "user-2", POISON, today.scene.sent[0].time_ms)


def tell(today: Day, letter: Record) -> None:
    headers = headers_of(today.scene.kafka, letter)
    today.say(f"dead letter {letter.value!r}")
    for name, value in headers:
        first = value.decode(errors="replace").splitlines()
        today.say(f"    {name}: {first[0][:140] if first else ''}{' …' if len(first) > 1 else ''}")


def headers_of(kafka: str, record: Record) -> list[tuple[str, bytes]]:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "gameday", "log_level": 0})
    consumer.assign([TopicPartition(record.tp.topic, record.tp.partition, record.offset)])
    message = consumer.poll(10)
    consumer.close()
    assert message is not None
    return [(name, value or b"") for name, value in message.headers() or ()]  # type: ignore[misc]


if __name__ == "__main__":
    main()
