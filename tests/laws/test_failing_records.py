"""Records that cannot be processed: the policy decides, the failing record's state is undone, nothing else is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamcore import Context, DeadLetter, Job, OnError, Skip, State, Stop, Topic, Value, agg
from streamcore.errors import RecordFailed, RecordTooLarge
from streamcore.testing import Driver

numbers = Topic("numbers", int, key=str)
doubled = Topic("doubled", int, key=str)
totals = Topic("totals", int, key=str)


class Tally(State):
    seen = Value(int, default=0)


def count_up(number: int, state: Tally, ctx: Context[str]) -> Iterator[int]:
    state.seen += 1
    yield state.seen
    if number == 13:
        raise ValueError("thirteen is not served")


def tallying(on_error: OnError) -> Job:
    job = Job("tally", on_error=on_error)
    job.stream(numbers).process("tally", Tally, count_up).to(totals)
    return job


def story(driver: Driver) -> list[dict[str, str]]:
    runs = driver.read_raw("dead")
    return [{name: value.decode() for name, value in headers or []} for run in runs for headers in run.headers or []]


def test_stop_names_step_place_value_and_remedy() -> None:
    with Driver(tallying(Stop())) as driver:
        driver.send(numbers, 1, 2, 13, 4, key="a")
        with pytest.raises(RecordFailed) as stopped:
            driver.settle()
    told = str(stopped.value)
    for part in (
        "step 'tally'",
        "numbers[",
        "offset 2",
        "ValueError: thirteen is not served",
        "b'13'",
        f"({__file__}:",
        "what to do",
    ):
        assert part in told, told


def test_after_a_stop_and_a_mend_the_job_goes_on_at_the_record() -> None:
    with Driver(tallying(Stop())) as driver:
        driver.send(numbers, 1, 13, key="a")
        with pytest.raises(RecordFailed):
            driver.settle()
        assert driver.restart(tallying(Skip())).read(totals) == [1]
        driver.send(numbers, 2, key="a")
        assert driver.read(totals) == [2]


def test_skip_undoes_the_state_of_the_failing_record_and_no_other() -> None:
    with Driver(tallying(Skip())) as driver:
        driver.send(numbers, 1, 13, 2, 13, 3, key="a")
        assert driver.read(totals) == [1, 2, 3]
        assert driver.state("tally", Tally, "a").seen == 3
        assert driver.metrics.registry.get_sample_value("streamcore_skipped_total", {"step": "tally"}) == 2


def test_a_dead_letter_leaves_as_it_came_with_its_story() -> None:
    with Driver(tallying(DeadLetter("dead"))) as driver:
        driver.send(numbers, 1, 13, 2, key="a")
        assert driver.read(totals) == [1, 2]
        runs = driver.read_raw("dead")
        assert [(run.keys, run.values) for run in runs] == [([b"a"], [b"13"])]
    with Driver(tallying(DeadLetter("dead"))) as driver:
        driver.send(numbers, 1, 13, 2, key="a")
        (told,) = story(driver)
        assert told["streamcore-step"] == "tally"
        assert told["streamcore-error"] == "ValueError: thirteen is not served"
        assert "count_up" in told["streamcore-trace"]
        assert (told["streamcore-topic"], told["streamcore-offset"]) == ("numbers", "1")


@pytest.mark.parametrize("point", ["after-slice", "before-commit", "after-commit"])
def test_a_dead_letter_is_written_once_over_a_crash(point: str) -> None:
    with Driver(tallying(DeadLetter("dead"))) as driver:
        driver.send(numbers, 1, 13, 2, key="a")
        driver.crash(at=point)
        assert driver.read(totals) == [1, 2]
        assert len(story(driver)) == 1


def undecodable(driver: Driver) -> None:
    driver.send(numbers, 1, key="a")
    driver.send_raw(numbers, b"not a number", key=b"a")
    driver.send_raw(numbers, None, key=b"a")
    driver.send(numbers, 2, key="a")


def test_an_undecodable_record_stops_the_job_by_name() -> None:
    with Driver(tallying(Stop())) as driver:
        undecodable(driver)
        with pytest.raises(RecordFailed, match="not a number") as stopped:
            driver.settle()
    assert "offset 1" in str(stopped.value) and "declared type" in str(stopped.value)


def test_undecodable_records_go_to_the_dead_letters() -> None:
    with Driver(tallying(DeadLetter("dead"))) as driver:
        undecodable(driver)
        assert driver.read(totals) == [1, 2]
        assert [run.values for run in driver.read_raw("dead")] in (
            [[b"not a number", None]],
            [[b"not a number"], [None]],
        )


def wrong_type(number: int) -> int:
    return "thirteen" if number == 13 else number  # type: ignore[return-value]


def test_a_wrong_type_returned_is_the_records_failure() -> None:
    job = Job("wrong", on_error=Skip())
    job.stream(numbers).map(wrong_type).to(doubled)
    with Driver(job) as driver:
        driver.send(numbers, 1, 13, 2, key="a")
        assert driver.read(doubled) == [1, 2]


def test_a_record_over_the_topics_size_is_the_records_failure() -> None:
    words = Topic("words", str)
    long = Topic("long", str)
    job = Job("long", on_error=Skip())
    job.stream(words).map(lambda word: word * 200_000).to(long)
    with Driver(job) as driver:
        driver.send(words, "ab", "abcdefghijkl", "cd")
        assert sorted(map(len, driver.read(long))) == [400_000, 400_000]


def test_a_record_over_the_topics_size_stops_by_default() -> None:
    words = Topic("words", str)
    long = Topic("long", str)
    job = Job("long")
    job.stream(words).map(lambda word: word * 200_000).to(long)
    with Driver(job) as driver:
        driver.send(words, "abcdefghijkl")
        with pytest.raises(RecordTooLarge, match=r"max\.message\.bytes"):
            driver.settle()


def test_a_failure_behind_a_shuffle_is_told_with_the_records_value() -> None:
    job = Job("behind", on_error=DeadLetter("dead"))
    job.stream(numbers).key_by("by-parity", lambda n: n % 2).process("tally", Tally, count_up_any).map(str).map(int).to(
        by_parity
    )
    with Driver(job) as driver:
        driver.send(numbers, 1, 13, 3, key="a")
        assert driver.read(by_parity) == [1, 2]
        (told,) = story(driver)
        assert told["streamcore-topic"] == "behind.shuffle.by-parity"


by_parity = Topic("by-parity", int, key=int)


def count_up_any(number: int, state: Tally, ctx: Context[int]) -> Iterator[int]:
    state.seen += 1
    yield state.seen
    if number == 13:
        raise ValueError("thirteen is not served")


def test_a_tables_failing_result_is_the_failure_of_that_key_alone() -> None:
    def result(total: int) -> int:
        if total == 13:
            raise ValueError("thirteen is not shown")
        return total

    job = Job("table", on_error=Skip())
    job.stream(numbers).aggregate("sum", agg.sum(lambda n: n)).updates().map(result).to(totals)
    with Driver(job) as driver:
        driver.send(numbers, 13, key="a")
        driver.send(numbers, 2, 3, key="b")
        assert driver.read_items(totals) == [("b", 5)]
        driver.send(numbers, 1, key="a")
        assert driver.read_items(totals) == [("a", 14)]
