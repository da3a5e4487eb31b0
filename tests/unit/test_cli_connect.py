from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from streamcore import limits
from streamcore.cli.connect import EMBEDDED, ensure_topics, opened, patiently
from streamcore.cli.run import graceful
from streamcore.clock import SeededEntropy, SystemClock
from streamcore.config import load
from streamcore.errors import LogUnavailable, StateDirError, TopicError
from streamcore.log.local import LocalLog
from streamcore.testing.clock import ManualClock
from streamcore.topology.plan import NAME


class Broker:
    def __init__(self, answers_at_s: float, clock: ManualClock) -> None:
        self._at_s = answers_at_s
        self._clock = clock
        self.asked: list[float] = []

    def __call__(self) -> str:
        self.asked.append(self._clock.monotonic_s())
        if self._clock.monotonic_s() < self._at_s:
            raise LogUnavailable("connection refused")
        return "answer"


def test_a_broker_that_comes_back_is_waited_for_with_growing_pauses() -> None:
    clock = ManualClock()
    broker = Broker(30.0, clock)
    assert patiently(broker, "not yet", clock, SeededEntropy(1)) == "answer"
    pauses = [later - sooner for sooner, later in zip(broker.asked, broker.asked[1:], strict=False)]
    assert pauses[0] < 0.2 and max(pauses) > 1.0
    assert max(pauses) <= limits.RETRY_CAP_S * 1.5
    assert len({round(pause, 3) for pause in pauses[-3:]}) == 3, "no jitter"


def test_a_broker_that_stays_away_is_given_up_at_the_bound() -> None:
    clock = ManualClock()
    with pytest.raises(LogUnavailable, match="connection refused"):
        patiently(Broker(1e9, clock), "not yet", clock, SeededEntropy(1))
    assert clock.monotonic_s() <= limits.STARTUP_RETRY_S + limits.RETRY_CAP_S


def test_missing_topics_on_kafka_are_all_named_with_the_commands_that_create_them() -> None:
    admin = LocalLog.memory(ManualClock()).admin()
    admin.create("there", 1, {})
    settings = load(flags={"kafka.bootstrap": "broker:9092"})
    with pytest.raises(TopicError) as caught:
        ensure_topics(settings, admin, ["b", "there", "a", "b"])
    assert caught.value.what == "there are no topics b, a"
    assert "streamcore topics create b --partitions 4 --kafka broker:9092" in caught.value.remedy
    assert "streamcore topics create a --partitions 4 --kafka broker:9092" in caught.value.remedy
    assert set(admin.topics()) == {"there"}


def test_topics_appear_by_themselves_on_the_embedded_log() -> None:
    admin = LocalLog.memory(ManualClock()).admin()
    ensure_topics(load(flags={"topics.partitions": 7}), admin, ["a"])
    assert admin.topics()["a"].partitions == 7


def test_the_embedded_log_is_one_process_but_can_be_read_beside_it(tmp_path: Path) -> None:
    settings = load(flags={"worker.state_dir": tmp_path})
    clock = SystemClock()
    with opened(settings, clock) as log:
        log.admin().create("t", 2, {})
        with pytest.raises(StateDirError, match=f"in use by process {os.getpid()}"), opened(settings, clock):
            pass
        with opened(settings, clock, read_only=True) as beside:
            assert beside.admin().topics()["t"].partitions == 2


def test_no_job_can_have_the_embedded_logs_place() -> None:
    assert not NAME.fullmatch(EMBEDDED) and not NAME.fullmatch(f"{EMBEDDED}.lock")


def test_the_first_signal_stops_gracefully_and_the_second_one_has_its_usual_effect() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stops: list[str] = []
    with graceful(lambda: stops.append("stop")):
        signal.raise_signal(signal.SIGTERM)
        assert stops == ["stop"]
        assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGTERM) is before
