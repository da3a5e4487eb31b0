"""The judge: pure checkers over a recorded history, each True, False or unknown (None). Unknown is no pass.

Each checker looks for one kind of harm and knows nothing of how the engine works inside; `judge` runs them all. The
numbers are those of the invariants in docs/proof.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from streamcore.state.store import MARK_KEY, Delta
from streamcore.testing.history import History, JournalFrame, Record
from streamcore.types import TaskId, TopicPartition

SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    checker: str
    holds: bool | None
    why: str = ""

    def __str__(self) -> str:
        word = {True: "holds", False: "BROKEN", None: "unknown"}[self.holds]
        return f"{self.checker}: {word}{f': {self.why}' if self.why else ''}"


Checker = Callable[[History], Verdict]
Pairs = list[tuple[bytes | None, bytes | None]]
Rows = dict[bytes, bytes]


def judge(history: History, checkers: Sequence[Checker]) -> list[Verdict]:
    return [checker(history) for checker in checkers]


def failed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that do not hold, the unknown ones included."""
    return [verdict for verdict in verdicts if verdict.holds is not True]


def _verdict(checker: str, wrong: Sequence[object]) -> Verdict:
    if not wrong:
        return Verdict(checker, True)
    more = f" (and {len(wrong) - SHOWN} more)" if len(wrong) > SHOWN else ""
    return Verdict(checker, False, "; ".join(map(str, wrong[:SHOWN])) + more)


def pairs(records: Sequence[Record]) -> Pairs:
    return [(record.key, record.value) for record in records]


# --- 1, 2: outputs ----------------------------------------------------------------------------------------------


def outputs_equal(topic: str, expected: Callable[[History], Pairs]) -> Checker:
    """1, of a stream: what was written is, as a multiset, what the oracle says."""

    def check(history: History) -> Verdict:
        found, wanted = Counter(pairs(history.outputs[topic])), Counter(expected(history))
        lost, repeated = wanted - found, found - wanted
        missed = [] if history.cut_short else list(lost.items())
        wrong = [f"{topic}: {_shown(pair)} {n} times too few" for pair, n in missed]
        wrong += [f"{topic}: {_shown(pair)} {n} times too many" for pair, n in repeated.items()]
        return _verdict(f"outputs equal ({topic})", wrong)

    return check


def table_equals(topic: str, expected: Callable[[History], Pairs]) -> Checker:
    """1, of a Table: each key's last value is the oracle's, and its values are a subsequence of the oracle's.
    `expected`: every value that each key goes through, in order."""

    def check(history: History) -> Verdict:
        found, wanted = _by_key(pairs(history.outputs[topic])), _by_key(expected(history))
        wrong: list[str] = []
        for key in sorted(found.keys() | wanted.keys(), key=repr):
            got, want = found.get(key, []), wanted.get(key, [])
            if got[-1:] != want[-1:] and not history.cut_short:
                wrong.append(f"{topic}: {key!r} ends as {got[-1:]}, should be {want[-1:]}")
            elif not _is_subsequence(got, want):
                wrong.append(f"{topic}: {key!r} went {got[-6:]}, which is no part of {want[-8:]}")
        return _verdict(f"table equals ({topic})", wrong)

    return check


def last_values(topic: str, expected: Callable[[History], Pairs]) -> Checker:
    """1, of a Table of which only the ends are known: each key's last value."""

    def check(history: History) -> Verdict:
        found, wanted = dict(pairs(history.outputs[topic])), dict(expected(history))
        wrong = [
            f"{topic}: {key!r} ends as {found.get(key)!r}, should be {wanted.get(key)!r}"
            for key in sorted(found.keys() | wanted.keys(), key=repr)
            if found.get(key) != wanted.get(key) and not history.cut_short
        ]
        return _verdict(f"last values ({topic})", wrong)

    return check


def order_per_key(topic: str, expected: Callable[[History], Pairs]) -> Checker:
    """2: each key's outputs stand in one partition, in the oracle's order."""

    def check(history: History) -> Verdict:
        places: defaultdict[bytes | None, set[int]] = defaultdict(set)
        for record in history.outputs[topic]:
            places[record.key].add(record.tp.partition)
        wrong = [f"{topic}: {key!r} stands in partitions {sorted(at)}" for key, at in places.items() if len(at) > 1]
        found, wanted = _by_key(pairs(history.outputs[topic])), _by_key(expected(history))
        for key, want in wanted.items():
            got = found.get(key, [])
            if got != (want[: len(got)] if history.cut_short else want):
                at = next(
                    (i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want))
                )
                wrong.append(f"{topic}: {key!r}, output {at}: {got[at : at + 1]}, should be {want[at : at + 1]}")
        return _verdict(f"order per key ({topic})", wrong)

    return check


def _by_key(items: Pairs) -> dict[bytes | None, list[bytes | None]]:
    found: defaultdict[bytes | None, list[bytes | None]] = defaultdict(list)
    for key, value in items:
        found[key].append(value)
    return found


def _is_subsequence(part: list[bytes | None], whole: list[bytes | None]) -> bool:
    rest = iter(whole)
    return all(value in rest for value in part)


def _shown(pair: tuple[bytes | None, bytes | None]) -> str:
    return f"{pair[0]!r} = {pair[1]!r}"


# --- 3, 4: state ------------------------------------------------------------------------------------------------


def state_is_the_fold(history: History) -> Verdict:
    """3: what the last owner of each task has on disk is the fold of the committed frames."""
    name = "state is the fold of the frames"
    if history.states is None:
        return Verdict(name, None, "local state was not recorded")
    wrong: list[str] = []
    for state in history.states:
        if not state.owner:
            continue
        frames = history.frames.get(state.task, [])
        if history.cut_short:  # a worker may have been stopped between a commit and its own disk
            frames = [f for f in frames if state.mark is not None and f.frame.epoch <= state.mark.epoch]
        folded = fold(frames, history.begun.get(state.task))
        for step, rows in state.rows.items():
            found = {key: value for key, value in rows.items() if key != MARK_KEY}
            want = folded.get(step, {})
            if found != want:
                different = sorted(found.items() ^ want.items())[:2]
                wrong.append(f"{state.machine}, {state.task}, step {step}: differs at {different}")
    return _verdict(name, wrong)


def fold(frames: Sequence[JournalFrame], begun: Mapping[str, Rows] | None = None) -> dict[str, Rows]:
    """`begun`: the rows that the task began with, by step."""
    folded: defaultdict[str, Rows] = defaultdict(dict)
    folded.update((step, dict(rows)) for step, rows in (begun or {}).items())
    for placed in frames:
        for step, delta in placed.frame.deltas.items():
            _fold(folded[step], delta)
    return folded


def _fold(rows: Rows, delta: Delta) -> None:
    for start, stop in delta.ranges:
        for key in [key for key in rows if start <= key < stop]:
            del rows[key]
    for key, value in zip(delta.keys, delta.values, strict=True):
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


def local_never_ahead(history: History) -> Verdict:
    """4, law 1: whatever stands on any disk is a committed epoch, at or before the last."""
    name = "local state is never ahead of the commit"
    if history.states is None:
        return Verdict(name, None, "local state was not recorded")
    wrong: list[str] = []
    for state in history.states:
        mark = state.mark
        if mark is None:
            continue
        known = {(f.frame.lineage, f.frame.epoch, f.frame.nonce) for f in history.frames.get(state.task, [])}
        if (mark.lineage, mark.epoch, mark.nonce) not in known:
            wrong.append(f"{state.machine}, {state.task}: stands at epoch {mark.epoch}, which was never committed")
    return _verdict(name, wrong)


# --- 5 to 8: the commits ----------------------------------------------------------------------------------------


def atomic(history: History) -> Verdict:
    """5: offsets, frames and outputs of a transaction stand or fall together. A task's committed offsets are those of
    its last frame, and no transaction committed one without the other."""
    name = "offsets, frames and outputs are atomic"
    wrong: list[str] = []
    for task, frames in history.frames.items():
        last = frames[-1].frame if frames else None
        tp = TopicPartition(history.stages[task.stage], task.partition)
        told = history.committed.get(tp)
        if told is None and history.cut_short:
            continue  # a topic that is made anew takes its offsets with it
        if (told is None) != (last is None):
            wrong.append(f"{task}: journal {'stands' if last else 'is empty'}, offsets {'stand' if told else 'do not'}")
        elif told is not None and last is not None:
            if (told.metadata.nonce, told.metadata.epoch) != (last.nonce, last.epoch):
                wrong.append(f"{task}: offsets of epoch {told.metadata.epoch}, journal's last is {last.epoch}")
            elif last.offsets.get(tp.topic) != told.offset:
                wrong.append(f"{task}: offset {told.offset} committed, {last.offsets.get(tp.topic)} in the frame")
    if history.transactions is not None:
        framed = {(f.task, f.frame.nonce) for frames in history.frames.values() for f in frames}
        told_of = {
            (TaskId(stage, offset.tp.partition), offset.metadata.nonce)
            for transaction in history.transactions
            if transaction.committed
            for offset in transaction.offsets
            for stage, topic in history.stages.items()
            if topic == offset.tp.topic
        }
        wrong += [f"{task}: nonce {nonce} has a frame and no offsets" for task, nonce in sorted(framed - told_of)]
        wrong += [f"{task}: nonce {nonce} has offsets and no frame" for task, nonce in sorted(told_of - framed)]
        for transaction in history.transactions:
            if transaction.committed and not transaction.offsets:
                wrong.append(f"{transaction.name}: a transaction without offsets was committed")
    return _verdict(name, wrong)


def epochs_rise_by_one(history: History) -> Verdict:
    """6."""
    wrong = [
        f"{task}: epochs {[f.frame.epoch for f in frames][-6:]}"
        for task, frames in history.frames.items()
        if [f.frame.epoch for f in frames] != list(range(len(frames)))
    ]
    return _verdict("a task's epochs rise by one", wrong)


def one_nonce_an_epoch(history: History) -> Verdict:
    """7: and one lineage a task."""
    wrong: list[str] = []
    for task, frames in history.frames.items():
        seen = Counter(f.frame.nonce for f in frames)
        wrong += [f"{task}: nonce {nonce} names {n} epochs" for nonce, n in seen.items() if n > 1]
        if len({f.frame.lineage for f in frames}) > 1:
            wrong.append(f"{task}: more than one lineage")
    return _verdict("one nonce an epoch", wrong)


def offsets_never_go_back(history: History) -> Verdict:
    """8: in the journal, and in the transactions as they were decided."""
    wrong: list[str] = []
    for task, frames in history.frames.items():
        for topic in {topic for f in frames for topic in f.frame.offsets}:
            offsets = [f.frame.offsets[topic] for f in frames if topic in f.frame.offsets]
            if offsets != sorted(offsets):
                wrong.append(f"{task}: offsets of {topic} in the journal go back")
    last: dict[TopicPartition, int] = {}
    for transaction in history.transactions or ():
        for told in transaction.offsets if transaction.committed else ():
            if told.offset < last.get(told.tp, 0):
                wrong.append(f"{told.tp}: {last[told.tp]}, then {told.offset} by {transaction.actor}")
            last[told.tp] = told.offset
    return _verdict("offsets never go back", wrong)


# --- 9 to 11: who may commit --------------------------------------------------------------------------------------


def offsets_within_the_assignment(history: History) -> Verdict:
    """9."""
    name = "offsets lie within the assignment"
    if history.offsets_sent is None:
        return Verdict(name, None, "the coordinator was not recorded")
    wrong = [
        f"{sent.actor}: {sorted(map(str, sent.tps - sent.assigned))} were not its own"
        for sent in history.offsets_sent
        if sent.assigned is not None and not sent.tps <= sent.assigned
    ]
    return _verdict(name, wrong)


def nothing_after_lost(history: History) -> Verdict:
    """10, law 2: a transaction that was open when its worker's tasks were lost is never committed."""
    name = "no commit after LOST"
    if history.events is None or history.transactions is None:
        return Verdict(name, None, "the group's decisions were not recorded")
    lost = [event for event in history.events if event.what == "lost"]
    wrong = [
        f"{transaction.actor}: lost its tasks at step {event.step}, committed at step {transaction.ended_step}"
        for transaction in history.transactions
        if transaction.committed
        for event in lost
        if event.actor == transaction.actor and transaction.begun_step <= event.step < transaction.ended_step
    ]
    return _verdict(name, wrong)


def no_doubtful_producer_again(history: History) -> Verdict:
    """11, law 4: after a send_offsets or commit that failed or was slow, its producer opens no other transaction."""
    name = "no producer is used again after a doubtful call"
    if history.doubtful is None or history.opened is None:
        return Verdict(name, None, "the calls were not recorded")
    doubtful = {call.producer: call for call in reversed(history.doubtful)}
    wrong = [
        f"{opened.actor}: {call.request} of producer {call.producer} was in doubt at step {call.step}, "
        f"which opened another transaction at step {opened.step}"
        for opened in history.opened
        if (call := doubtful.get(opened.producer)) is not None and opened.step > call.step
    ]
    return _verdict(name, wrong)


# --- 12 to 14: bounds and rest --------------------------------------------------------------------------------------


def buffers_within_bounds(history: History) -> Verdict:
    """12, law 11."""
    name = "every buffer is within its bound"
    if history.levels is None:
        return Verdict(name, None, "buffers were not measured")
    return _verdict(name, [f"{lv.buffer}: {lv.most} of {lv.bound}" for lv in history.levels if lv.most > lv.bound])


def watermarks_never_go_back(history: History) -> Verdict:
    """13, law 12: where the job has a watermark."""
    wrong = [f"{task}: {marks}" for task, marks in (history.watermarks or {}).items() if marks != sorted(marks)]
    return _verdict("watermarks never go back", wrong)


def at_rest(history: History) -> Verdict:
    """14: with the faults over, everything is processed, no transaction is open, nobody stopped for no reason."""
    name = "the job comes to rest"
    if history.unprocessed is None or history.open_transactions is None:
        return Verdict(name, None, "the end was not seen")
    wrong = list(history.stopped)
    if not history.cut_short:
        if history.unprocessed:
            wrong.append(f"{history.unprocessed} records were never processed")
        wrong += [f"the transaction of {name} stays open" for name in history.open_transactions]
    return _verdict(name, wrong)


# --- barriers -------------------------------------------------------------------------------------------------------


def barriers_align(history: History) -> Verdict:
    """In each partition of a shuffle: before a marker nothing from after the sources' cuts, behind it nothing from
    before them."""
    name = "barriers cut along one line"
    if history.shuffled is None:
        return Verdict(name, None, "the shuffles were not read")
    cuts: dict[tuple[TaskId, int], int] = {}
    for task, frames in history.frames.items():
        for placed in frames:
            if placed.frame.cut is not None:
                cuts.setdefault((task, placed.frame.cut), placed.frame.epoch)
    wrong: list[str] = []
    marked: defaultdict[TopicPartition, dict[int, int]] = defaultdict(dict)
    for message in history.shuffled:
        if message.source is None:
            marked[message.tp].setdefault(message.epoch, message.offset)
    for message in history.shuffled:
        if message.source is None:
            continue
        for barrier, at in marked[message.tp].items():
            cut = cuts.get((message.source, barrier))
            if cut is not None and (message.offset < at) != (message.epoch <= cut):
                side = "before" if message.offset < at else "behind"
                wrong.append(
                    f"{message.tp} offset {message.offset}: epoch {message.epoch} of {message.source} stands {side} "
                    f"the marker of barrier {barrier}, for which it cut at epoch {cut}"
                )
    return _verdict(name, wrong)


def barriers_are_decided_once(history: History) -> Verdict:
    name = "a barrier is decided once"
    if history.decisions is None or history.stored_cuts is None:
        return Verdict(name, None, "the control topic was not read")
    times = Counter(barrier for barrier, _ in history.decisions)
    wrong = [f"barrier {barrier} has {n} decisions" for barrier, n in times.items() if n > 1]
    wrong += [
        f"barrier {barrier}: {task} cut at epoch {cut} and stored epoch {stored}"
        for barrier, task, cut, stored in history.stored_cuts
        if not _stands_still(history, task, cut, stored)
    ]
    return _verdict(name, wrong)


def _stands_still(history: History, task: TaskId, cut: int, stored: int) -> bool:
    """Whether the checkpoint has the state of the cut: a task that is held commits epochs of words alone."""
    at = [f.frame.offsets for f in history.frames.get(task, []) if f.frame.epoch == cut]
    behind = [f.frame for f in history.frames.get(task, []) if cut < f.frame.epoch <= stored]
    return (
        stored >= cut
        and all(frame.offsets in at and not any(frame.deltas.values()) for frame in behind)
        and len(behind) == stored - cut
    )


def checkpoints_are_whole(history: History) -> Verdict:
    """Law 7: what a manifest names is there and hashes, and is the fold of the committed frames up to its epoch."""
    name = "a checkpoint is whole, and the state of its epoch"
    if history.checkpoints is None:
        return Verdict(name, None, "the checkpoint store was not read")
    wrong: list[str] = []
    for seen in history.checkpoints:
        if seen.wrong:
            wrong.append(f"{seen.key}: {seen.wrong}")
        if seen.rows is None:
            continue
        frames = [f for f in history.frames.get(seen.task, []) if f.frame.lineage == seen.lineage]
        if not frames:
            continue  # built for a resume that never came to its genesis
        folded = fold([f for f in frames if f.frame.epoch <= seen.epoch], history.begun.get(seen.task))
        for step, rows in seen.rows.items():
            found = {key: value for key, value in rows.items() if key != MARK_KEY}
            if found != folded.get(step, {}):
                wrong.append(f"{seen.key}: step {step} is not the fold of the frames up to epoch {seen.epoch}")
    return _verdict(name, wrong)


def journals_reach_their_checkpoints(history: History) -> Verdict:
    """Law 8: nothing is trimmed that the checkpoint named by committed metadata needs for its replay."""
    name = "a journal reaches back to the checkpoint that is named"
    if history.journals_trimmed is None:
        return Verdict(name, None, "trimming was not recorded")
    wrong: list[str] = []
    for trimmed in history.journals_trimmed:
        epoch = None if trimmed.named is None else int(trimmed.named.rsplit("/", 1)[-1].removesuffix(".json"))
        frames = history.frames.get(trimmed.task, [])
        needed = next((f.first for f in frames if epoch is not None and f.frame.epoch == epoch), 0)
        if trimmed.before > needed:
            wrong.append(f"{trimmed.task}: trimmed below {trimmed.before}, its named checkpoint begins at {needed}")
    return _verdict(name, wrong)


WITH_BARRIERS: Final[tuple[Checker, ...]] = (
    barriers_align,
    barriers_are_decided_once,
    checkpoints_are_whole,
    journals_reach_their_checkpoints,
)
"""What must hold besides, of a job with barriers and checkpoints."""

ALWAYS: Final[tuple[Checker, ...]] = (
    state_is_the_fold,
    local_never_ahead,
    atomic,
    epochs_rise_by_one,
    one_nonce_an_epoch,
    offsets_never_go_back,
    offsets_within_the_assignment,
    nothing_after_lost,
    no_doubtful_producer_again,
    buffers_within_bounds,
    watermarks_never_go_back,
    at_rest,
)
"""What must hold of every job, whatever it computes."""
