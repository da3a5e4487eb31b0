"""explain(): the whole drawing, in text and as Mermaid."""

from __future__ import annotations

import re
from datetime import timedelta
from io import StringIO

from rich.console import Console

from streamcore import DeadLetter, Job, Skip, State, Topic, Value, agg
from streamcore.topology.explain import explain
from streamcore.ui.drawing import draw


class Seen(State, version=2, upgrades={1: lambda old: old}):
    times = Value(int, default=0)
    first = Value(str)


def length(word: str) -> int:
    return len(word)


def everything() -> Job:
    job = Job("demo", on_error=DeadLetter("demo.dlq"))
    lines = job.stream(Topic("lines", str), on_error=Skip(), start="latest")
    words = lines.flat_map(str.split).merge(job.stream(Topic("words", str)))
    by_word = words.key_by("by-word", length)
    by_word.aggregate("count", agg.count()).to(Topic("counts", int, key=int))
    by_word.dedupe("once", by=str.lower, keep=timedelta(days=7), too_old=Skip()).process(
        "seen", Seen, lambda w, s, c: [w]
    ).to(Topic("new", str, key=int))
    return job


def test_the_drawing_shows_stages_shuffles_state_and_partitions() -> None:
    known = {"lines": 4, "words": 1, "demo.shuffle.by-word": 4}
    assert explain(everything().plan(), known) == (
        """\
demo · 3 stages · a record that fails: to demo.dlq

lines                             topic of str, 4 partitions, from latest, a record that fails: skipped
└─ flat_map#1                     flat_map
   └─ merge#1                     merge of flat_map#1, words
      └─ by-word                  key_by int ⇒ demo.shuffle.by-word, 4 partitions
                                  journal demo.journal.lines

words                             topic of str, 1 partition, from earliest
└─ merge#1                        merge of flat_map#1, words
   └─ by-word                     key_by int ⇒ demo.shuffle.by-word, 4 partitions
                                  journal demo.journal.words

by-word                           shuffle of demo.shuffle.by-word, 4 partitions, from lines, words
├─ count                          aggregate, state: one value a key → int
│  └─ to#1                        → counts: int → int
└─ once                           dedupe, state: ids of 7 days, older ones: skipped
   └─ seen                        process, state Seen version 2 (times, first)
      └─ to#2                     → new: int → str
                                  journal demo.journal.by-word
"""
    )


def test_without_a_log_no_count_is_claimed() -> None:
    assert "partition" not in everything().explain()


def test_a_terminal_with_colours_shows_the_same_text() -> None:
    plain, coloured = StringIO(), StringIO()
    plan = everything().plan()
    draw(plan, Console(file=plain, width=40))
    draw(plan, Console(file=coloured, force_terminal=True, color_system="standard", width=40, legacy_windows=False))
    assert [line.rstrip() for line in plain.getvalue().splitlines()] == explain(plan).splitlines()
    assert "\x1b[" in coloured.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured.getvalue()) == plain.getvalue()


def test_the_flowchart_names_every_step_once_and_escapes_what_mermaid_reads() -> None:
    chart = everything().explain(mermaid=True)
    assert (
        chart
        == """\
flowchart LR
  subgraph n1["stage lines"]
    n2["flat_map#35;1: flat_map"]
    n3["merge#35;1: merge of flat_map#35;1, words"]
  end
  subgraph n4["stage words"]
  end
  subgraph n5["stage by-word"]
    n6[("count: aggregate")]
    n7[("once: dedupe")]
    n8[("seen: process")]
    n9{{"demo.shuffle.by-word"}}
  end
  n10(["lines"])
  n11(["words"])
  n12(["counts"])
  n13(["new"])
  n14(["demo.dlq"])
  n10 --> n2
  n2 --> n3
  n11 --> n3
  n3 ==> n9
  n9 --> n6
  n6 --> n12
  n9 --> n7
  n7 --> n8
  n8 --> n13
  n4 -.-> n14
  n5 -.-> n14
"""
    )
