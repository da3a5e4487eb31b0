"""The judge: what must hold of the counted words, and all of the simulator's own checkers that an outsider can run.

Each check of the words takes what was sent and what was read, knows nothing of streamcore, and returns the problems it
found; none means that it holds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chaos.events import Event
from streamcore.testing import judge as shared
from streamcore.testing.history import History, Record
from streamcore.testing.judge import Checker, Verdict

SHOWN = 5

COMMITS: Final[tuple[Checker, ...]] = (
    shared.atomic,
    shared.epochs_rise_by_one,
    shared.one_nonce_an_epoch,
    shared.offsets_never_go_back,
    shared.state_is_the_fold,
    shared.local_never_ahead,
    shared.at_rest,
)

LEFT_OUT: Final[Mapping[Checker, str]] = {
    shared.offsets_within_the_assignment: "what the group coordinator had assigned at each commit cannot be read",
    shared.nothing_after_lost: "when a worker was told that it lost its tasks cannot be read",
    shared.no_doubtful_producer_again: "how long a worker's calls took cannot be read",
    shared.buffers_within_bounds: "a worker's buffers cannot be read",
    shared.watermarks_never_go_back: "this job has no watermark",
}
"""Of the checkers that hold for every job, those that would answer "unknown" here, and why."""


@dataclass(frozen=True)
class Output:
    partition: int
    offset: int
    key: str
    word: str
    count: int
    id: str


def verdicts(history: History, sent: Sequence[Event]) -> list[Verdict]:
    return [*shared.judge(history, COMMITS), *words(history, sent)]


def words(history: History, sent: Sequence[Event]) -> list[Verdict]:
    """The checks of the job's own outputs, as verdicts."""
    word_of = {event.id: event.word for event in sent}
    outputs = [as_output(record) for record in history.outputs[f"{history.job}.counts"]]
    fed = Counter(event.id for event in sent)
    stand = Counter(id_of(record) for record in history.inputs[f"{history.job}.words"])
    checks = {
        "the input is what was sent": told("records differ", sorted((fed - stand) + (stand - fed))),
        "nothing is lost": nothing_lost(word_of, outputs),
        "nothing is repeated": nothing_repeated(outputs),
        "nothing is invented": nothing_invented(word_of, outputs),
        "every word is counted in order": counted_in_order(word_of, outputs),
        "no record is a dead letter": told("dead letters", history.outputs[f"{history.job}.dead"]),
    }
    return [Verdict(check, not wrong, "; ".join(wrong)) for check, wrong in checks.items()]


def id_of(record: Record) -> str:
    try:
        return json.loads(record.value or b"")["id"]
    except ValueError:
        return repr(record.value)


def as_output(record: Record) -> Output:
    value = json.loads(record.value or b"")
    key = (record.key or b"").decode()
    return Output(record.tp.partition, record.offset, key, value["word"], value["count"], value["id"])


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


def told(what: str, wrong: Sequence[object]) -> list[str]:
    if not wrong:
        return []
    return [f"{len(wrong)} {what}: {', '.join(map(str, wrong[:SHOWN]))}{', …' if len(wrong) > SHOWN else ''}"]
