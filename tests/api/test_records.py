from datetime import UTC, datetime

from msgspec import Struct

from streamcore import Job, Record, Topic
from streamcore.testing import Driver


class Order(Struct):
    id: str


orders = Topic("orders", Order, key=str)
told = Topic("told", str, key=str)


def by_value(record: Record[str, Order]) -> str:
    return record.value.id


def tell(record: Record[str, Order]) -> str:
    return f"{record.key} {record.topic} {record.offset} {record.timestamp:%H:%M} {dict(record.headers)}"


def test_a_record_crosses_a_shuffle_with_all_that_kafka_told() -> None:
    job = Job("records")
    job.stream(orders).records().key_by("by-value", by_value).map(tell).to(told)
    with Driver(job, partitions=1) as driver:
        driver.send_raw(
            orders, b'{"id":"o1"}', key=b"k", headers=[("trace", b"t")], at=datetime(2024, 1, 1, 12, tzinfo=UTC)
        )
        assert driver.read_items(told) == [("o1", "k orders 0 12:00 {'trace': b't'}")]
