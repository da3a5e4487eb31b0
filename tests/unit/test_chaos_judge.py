"""The chaos run's judge must see what it is there to see: each check is shown a history that breaks it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from chaos.events import Event, events
from chaos.faults import PER_MINUTE, planned
from chaos.judge import COMMITS, LEFT_OUT, Output, judged
from streamcore.testing.judge import ALWAYS

SENT = [Event("e1", "u", "tea", 0), Event("e2", "u", "milk", 1), Event("e3", "u", "tea", 2), Event("e1", "u", "tea", 0)]
RIGHT = [
    Output(0, 0, "tea", "tea", 1, "e1"),
    Output(0, 1, "tea", "tea", 2, "e3"),
    Output(1, 0, "milk", "milk", 1, "e2"),
]


def test_a_history_in_which_each_record_counted_once_has_no_problems() -> None:
    assert judged(SENT, RIGHT) == []


def test_a_lost_record_is_named() -> None:
    assert judged(SENT, [RIGHT[0], RIGHT[2]])[0] == "1 records have no output: e3"


def test_a_repeated_record_is_named() -> None:
    problems = judged(SENT, [*RIGHT, Output(0, 2, "tea", "tea", 3, "e1")])
    assert problems == [
        "1 records have more than one output: e1 x2",
        "1 words are counted wrongly: tea: 2 times, outputs [1, 2, 3]",
    ]


def test_an_output_of_no_record_is_named() -> None:
    problems = judged(SENT, [*RIGHT, Output(1, 1, "rum", "rum", 1, "e9")])
    assert any("outputs are of no record" in problem and "e9" in problem for problem in problems)


def test_the_same_count_twice_is_named_though_every_record_has_its_output() -> None:
    problems = judged(SENT, [RIGHT[0], replace(RIGHT[1], count=1), RIGHT[2]])
    assert problems == ["1 words are counted wrongly: tea: 2 times, outputs [1, 1]"]


def test_counts_out_of_order_are_named() -> None:
    problems = judged(SENT, [replace(RIGHT[0], count=2), replace(RIGHT[1], count=1), RIGHT[2]])
    assert problems == ["1 words are counted wrongly: tea: 2 times, outputs [2, 1]"]


def test_a_word_counted_in_two_partitions_is_named() -> None:
    problems = judged(SENT, [RIGHT[0], replace(RIGHT[1], partition=1, offset=9), RIGHT[2]])
    assert len(problems) == 1
    assert "tea" in problems[0]


def test_what_is_fed_has_the_promised_number_of_copies_and_is_the_same_for_a_seed() -> None:
    fed = events(seed=3, count=1_000, copies=0.05, first_ms=0)
    assert len(fed) == 1_000
    assert len({event.id for event in fed}) == 950
    assert [event.id for event in fed] != sorted(event.id for event in fed)
    assert fed == events(seed=3, count=1_000, copies=0.05, first_ms=0)


def test_every_checker_that_holds_for_all_jobs_is_run_or_left_out_with_a_reason() -> None:
    assert {*COMMITS, *LEFT_OUT} == set(ALWAYS)
    assert not {*COMMITS} & {*LEFT_OUT}


def test_the_plan_of_faults_is_the_seeds_and_has_every_kind() -> None:
    plan = planned(Random(7), 1.0, PER_MINUTE)
    assert plan == planned(Random(7), 1.0, PER_MINUTE)
    assert {kind for _, kind in plan} == set(PER_MINUTE)
    assert all(0 < at < 60 for at, _ in plan)
