from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcore import limits
from streamcore.errors import LogUnavailable, SettingsError, TopicError
from streamcore.log.local import LocalLog
from streamcore.log.port import Run
from streamcore.runtime.feed import CHUNK_BYTES, Feed, FeedSpec
from streamcore.runtime.show import Show, as_json, as_text, partitions_of
from streamcore.testing.clock import ManualClock
from streamcore.types import Offset, Partition, TopicPartition


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log(clock: ManualClock) -> Iterator[LocalLog]:
    log = LocalLog.memory(clock)
    log.admin().create("t", 1, {})
    yield log
    log.close()


def feed(log: LocalLog, spec: FeedSpec) -> int:
    feed = Feed(log, spec)
    try:
        for _ in range(10_000):
            if feed.step():
                return feed.records
        raise AssertionError("never done")
    finally:
        feed.close()


def content(log: LocalLog, clock: ManualClock) -> list[tuple[bytes | None, bytes | None]]:
    runs: list[Run] = []
    show = Show(log, {TopicPartition("t", Partition(0)): Offset(0)}, runs.append, clock)
    show.finish()
    show.close()
    return [pair for run in runs for pair in zip(run.keys, run.values, strict=True)]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"\n\n", [b"", b""]),
        (b"", []),
        ("grüße\n".encode(), ["grüße".encode()]),
    ],
)
def test_a_line_is_a_record(
    log: LocalLog, clock: ManualClock, tmp_path: Path, text: bytes, values: list[bytes]
) -> None:
    (tmp_path / "f").write_bytes(text)
    assert feed(log, FeedSpec("t", str(tmp_path / "f"))) == len(values)
    assert content(log, clock) == [(None, value) for value in values]


def test_lines_longer_than_a_chunk_and_chunks_that_cut_lines_arrive_whole(
    log: LocalLog, clock: ManualClock, tmp_path: Path
) -> None:
    lines = [b"%06d" % n + b"x" * (n % 97) for n in range(20_000)] + [b"y" * (CHUNK_BYTES + 5)]
    (tmp_path / "f").write_bytes(b"\n".join(lines))
    feed(log, FeedSpec("t", str(tmp_path / "f")))
    assert [value for _, value in content(log, clock)] == lines


def test_blank_lines_of_a_json_topic_are_no_records(log: LocalLog, clock: ManualClock, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b'{"a":1}\n\n  \n2\n')
    feed(log, FeedSpec("t", str(tmp_path / "f"), skip_blank=True))
    assert [value for _, value in content(log, clock)] == [b'{"a":1}', b"2"]


def test_with_keys_a_line_is_key_tab_value(log: LocalLog, clock: ManualClock, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"k1\tv\tw\nk2\t\n")
    feed(log, FeedSpec("t", str(tmp_path / "f"), keyed=True))
    assert content(log, clock) == [(b"k1", b"v\tw"), (b"k2", b"")]


def test_a_line_without_its_key_is_named(log: LocalLog, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"k1\tv\nno key\n")
    with pytest.raises(SettingsError, match=r"line 2 of .* has no tab: 'no key'"):
        feed(log, FeedSpec("t", str(tmp_path / "f"), keyed=True))


def test_an_open_pipe_is_not_waited_for(log: LocalLog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        feed = Feed(log, FeedSpec("t", "-"))
        assert not feed.step()
        os.write(write, b"one\ntw")
        assert not feed.step()
        assert content(log, clock) == [(None, b"one")]
        os.write(write, b"o")
        os.close(write)
        assert not feed.step()
        assert feed.step()
        feed.close()
    assert content(log, clock) == [(None, b"one"), (None, b"two")]


def test_an_endless_line_is_refused(log: LocalLog, tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as out:
        out.truncate(limits.MESSAGE_BYTES + CHUNK_BYTES + 1)
    with pytest.raises(SettingsError, match=r"line 1 of .* is over"):
        feed(log, FeedSpec("t", str(tmp_path / "f")))


@pytest.mark.parametrize("text", ["t", "t=", "=f", ""])
def test_what_is_no_feed_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(SettingsError, match="write --feed TOPIC=FILE"):
        FeedSpec.parse(text, keyed=False)


def test_a_file_that_cannot_be_read_is_named(log: LocalLog) -> None:
    with pytest.raises(SettingsError, match="/no/such cannot be read"):
        Feed(log, FeedSpec("t", "/no/such"))


class Away:
    """A producer whose log is away for some flushes."""

    def __init__(self, flushes: int) -> None:
        self.left = flushes
        self.values: list[bytes] = []

    def producer(self, transactional_id: str | None) -> Away:
        return self

    def init(self, timeout_s: float) -> None: ...

    def produce(self, topic: str, partition: Partition | None, values: list[bytes], keys: object) -> None:
        self.values += values

    def flush(self, timeout_s: float) -> None:
        self.left -= 1
        if self.left >= 0:
            raise LogUnavailable("away")

    def close(self) -> None: ...


def test_a_log_that_is_away_for_a_while_is_waited_for_and_every_line_sent_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\nb\n")
    log = Away(flushes=20)
    assert feed(log, FeedSpec("t", str(tmp_path / "f"))) == 2  # type: ignore[arg-type]
    assert log.values == [b"a", b"b"] and log.left < 0


def test_a_log_that_stays_away_ends_the_feed(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\n")
    with pytest.raises(LogUnavailable):
        feed(Away(flushes=10_000), FeedSpec("t", str(tmp_path / "f")))  # type: ignore[arg-type]


# --- show -------------------------------------------------------------------------------------------------------


def test_show_waits_for_what_is_undecided_and_never_prints_what_was_undone(log: LocalLog, clock: ManualClock) -> None:
    shown: list[str] = []
    show = Show(log, {TopicPartition("t", Partition(0)): Offset(0)}, lambda run: shown.extend(as_text(run)), clock)
    writer = log.producer("w")
    writer.init(1.0)
    for values, commit in (([b"good"], True), ([b"undone"], False), ([b"also good"], True)):
        writer.begin()
        writer.produce("t", Partition(0), list(values))
        writer.flush(1.0)
        show.step()
        assert bytes(values[0]).decode() not in shown
        if commit:
            writer.commit(1.0)
        else:
            writer.abort(1.0)
    show.finish()
    assert shown == ["good", "also good"]
    show.close()


def test_a_topic_that_does_not_exist_is_named(log: LocalLog) -> None:
    with pytest.raises(TopicError, match="no such topic: nothing, neither"):
        partitions_of(log.admin(), ["nothing", "t", "neither"])


def test_json_lines_have_their_fields_headers_when_read_and_any_bytes() -> None:
    run = Run(
        TopicPartition("t", Partition(3)), [7, 9], [b"k", None], [b"\xff\x00", None], [1, 2], [[("h", b"v")], None]
    )
    plain = Run(run.tp, [7], [b"k"], [b"v"], [1])
    assert as_json(plain) == ['{"partition": 3, "offset": 7, "key": "k", "value": "v", "timestamp": 1}']
    assert as_json(run) == [
        '{"partition": 3, "offset": 7, "key": "k", "value": "\\\\xff\\u0000", "timestamp": 1, "headers": {"h": "v"}}',
        '{"partition": 3, "offset": 9, "key": null, "value": null, "timestamp": 2, "headers": {}}',
    ]
