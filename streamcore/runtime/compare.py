"""What a run of an interval gave, against what was published of it.

Published records lie between those from before the cut and behind the end, and nothing in them says which they are:
the outputs' ends at a cut are not known, since tasks cut one after the other while others publish. So they are told
apart by what a record carries:

    correlation id   TOPIC-PARTITION-OFFSET of the input it comes of, where the job writes it: exact
    timestamp        that of an input record (of a table, the latest): one that no input of the interval has is another
                     interval's. One that inputs inside and outside have is held against nobody: it may be either's

Streams are compared as multisets of (key, value, own headers, time), and where the plan says that a key's records come
in one order, in that order. Tables by each key's last value: it must have been published; where it was not, and the
key changed again behind the end, the epoch that would have published it went past the end, and nobody can say.

One pass over each topic, 16 bytes and a count kept for each record that differs so far; a second pass for the examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import Final, NamedTuple

from streamcore import limits
from streamcore.errors import StopError
from streamcore.log.port import Admin, Headers, Log
from streamcore.operators.batch import CORRELATION_HEADER
from streamcore.runtime.interval import Around, Interval
from streamcore.runtime.show import partitions_of
from streamcore.topology.repeatable import Fate, Shape
from streamcore.types import Offset, Partition, TimestampMs, TopicPartition

OWN: Final = "streamcore-"
"""Headers that begin so are the engine's: they name the job, or hold a trace."""
EXAMPLES: Final = 3
BROKERS_TIMES: Final = "the topic has the broker's times, so that nothing says which records are the interval's"


class Outcome(Enum):
    EQUAL = "equal"
    DIFFERENT = "different"
    UNKNOWN = "unknown"


class Seen(NamedTuple):
    tp: TopicPartition
    offset: int
    key: bytes | None
    value: bytes | None
    time_ms: int
    headers: tuple[tuple[str, bytes], ...]

    def fingerprint(self, timed: bool) -> bytes:
        digest = blake2b(digest_size=16)
        for part in (self.key, self.value, *(piece for name, data in self.headers for piece in (name.encode(), data))):
            digest.update(b"\0" if part is None else b"\1%d:" % len(part) + part)
        if timed:
            digest.update(b"%d" % self.time_ms)
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Difference:
    """One of a key: what the run gave, and what was published; None where there is nothing."""

    key: bytes | None
    replayed: Seen | None
    published: Seen | None
    order: bool = False
    """Both are there, in another order."""


@dataclass
class Compared:
    topic: str
    outcome: Outcome
    why: str = ""
    """Of what is unknown."""
    replayed: int = 0
    published: int = 0
    """Records; of a table, keys."""
    differing: int = 0
    differences: list[Difference] = field(default_factory=list[Difference])
    undecided: int = 0
    """Published records that may be of the interval or not, and were held against nobody; keys of a table whose value
    at the end was never published."""
    mixes: tuple[str, ...] = ()
    """Steps whose input has no order of its own: an explanation of a difference that is nobody's fault."""


class Comparison:
    def __init__(self, log: Log, admin: Admin, interval: Interval, around: Around) -> None:
        self._log = log
        self._admin = admin
        self._interval = interval
        self._around = around

    def compare(self, topic: str, scratch: str, fate: Fate) -> Compared:
        """`scratch`: where the run wrote what the job writes to `topic`. Raises StopError for more than can be held."""
        found = Compared(topic, Outcome.UNKNOWN, fate.unknown, mixes=fate.mixes)
        if fate.unknown:
            return found
        config = self._admin.config(topic)
        timed = config.get("message.timestamp.type") != "LogAppendTime"
        if fate.shape is Shape.TABLE and not timed:
            found.why = BROKERS_TIMES
            return found
        if fate.shape is Shape.STREAM and "compact" in config.get("cleanup.policy", ""):
            found.why = "the topic is compacted: records of a stream that were published are gone by now"
            return found
        starts, lost = self._starts(topic, timed)
        if lost:
            found.why = lost
            return found
        pair = _Pair(self, starts, scratch, timed, found, fate)
        if fate.shape is Shape.TABLE:
            _Tables(pair).compare()
        else:
            _Streams(pair).compare()
        return found

    def _starts(self, topic: str, timed: bool) -> tuple[dict[TopicPartition, Offset], str]:
        """Where what the interval gave may begin, and why it may be gone already."""
        tps = partitions_of(self._admin, [topic])
        first = self._admin.first_offsets(tps)
        if not timed:
            return first, ""
        at = self._admin.offsets_at(tps, TimestampMs(self._around.inside.earliest_ms))
        gone = [str(tp) for tp in tps if first[tp] > 0 and at[tp] <= first[tp]]
        return at, f"records of the interval may have expired from {', '.join(gone)}" if gone else ""

    # --- whose a published record is ------------------------------------------------------------------------------

    def inside(self, seen: Seen, timed: bool) -> bool | None:
        """None: it may be."""
        exact = self._origin(seen)
        if exact is not None:
            return exact
        if timed and seen.time_ms not in self._around.inside:
            return False
        return None

    def _origin(self, seen: Seen) -> bool | None:
        """By a correlation id that names a place of our sources; None where there is none."""
        for name, data in seen.headers:
            if name == CORRELATION_HEADER:
                topic, _, rest = data.decode(errors="replace").rpartition("-")
                topic, _, partition = topic.rpartition("-")
                if not (rest.isdecimal() and partition.isdecimal()):
                    return None
                tp = TopicPartition(topic, Partition(int(partition)))
                return self._interval.holds(tp, int(rest)) if tp in self._interval.starts else None
        return None

    def beside(self, seen: Seen) -> bool:
        """Whether input outside the interval has its time too."""
        return seen.time_ms in self._around

    def behind(self, seen: Seen) -> bool:
        return seen.time_ms > self._around.inside.latest_ms

    def read(self, starts: Mapping[TopicPartition, Offset]) -> Iterator[Seen]:
        """Committed records to the end as it is now, each partition's in order."""
        reader = self._log.reader(starts, headers=True)
        try:
            while not reader.ended() >= starts.keys():
                for run in reader.poll(limits.POLL_RECORDS, 0.1):
                    headers: list[Headers | None] = run.headers or [None] * len(run)
                    columns = zip(run.offsets, run.keys, run.values, run.times, headers, strict=True)
                    for offset, key, value, time, told in columns:
                        own = tuple(pair for pair in told or () if not pair[0].startswith(OWN))
                        yield Seen(run.tp, offset, key, value, time, own)
        finally:
            reader.close()

    @property
    def exact(self) -> bool:
        return self._interval.exact

    def scratch_starts(self, scratch: str) -> dict[TopicPartition, Offset]:
        return dict.fromkeys(partitions_of(self._admin, [scratch]), Offset(0))


class _Pair:
    """The two sides of one topic."""

    def __init__(
        self,
        by: Comparison,
        starts: Mapping[TopicPartition, Offset],
        scratch: str,
        timed: bool,
        found: Compared,
        fate: Fate,
    ) -> None:
        self.by = by
        self.timed = timed
        self.found = found
        self.fate = fate
        self._starts = starts
        self._scratch = by.scratch_starts(scratch)

    def replayed(self) -> Iterator[Seen]:
        return self.by.read(self._scratch)

    def published(self) -> Iterator[tuple[Seen, bool | None]]:
        """Without those that are another interval's for sure; None: it may be."""
        for seen in self.by.read(self._starts):
            inside = self.by.inside(seen, self.timed)
            if inside is not False:
                yield seen, inside

    def everything(self) -> Iterator[Seen]:
        return self.by.read(self._starts)


# --- streams ----------------------------------------------------------------------------------------------------------


class _Streams:
    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self._by = pair.by
        self._found = pair.found
        self._open: dict[bytes, int] = {}
        """Fingerprint to how often it was replayed more (below 0: less) than published."""
        self._orders: tuple[dict[bytes | None, int], dict[bytes | None, int]] = {}, {}
        """Of each key, the fingerprints in their order as one number: replayed, published."""

    def compare(self) -> None:
        found = self._found
        for seen in self._pair.replayed():
            found.replayed += 1
            self._count(seen, 1)
        for seen, _ in self._pair.published():
            found.published += 1
            self._count(seen, -1)
        self._judge()

    def _count(self, seen: Seen, by: int) -> None:
        print_ = seen.fingerprint(self._pair.timed)
        count = self._open.get(print_, 0) + by
        if count:
            self._open[print_] = count
        else:
            self._open.pop(print_, None)
        order = self._orders[by < 0]
        if self._pair.fate.ordered:
            order[seen.key] = hash((order.get(seen.key, 0), print_))
        _bounded(len(self._open) + len(order), self._found.topic)

    def _judge(self) -> None:
        found, surplus = self._found, {print_ for print_, count in self._open.items() if count < 0}
        missing = self._open.keys() - surplus
        if surplus:
            surplus -= self._not_ours(surplus)
        for print_ in missing | surplus:
            found.differing += abs(self._open[print_])
        if not found.differing and not found.undecided and self._pair.fate.ordered:
            self._judge_orders()
            return
        if not found.differing and found.undecided and not self._pair.timed:
            found.why = f"{BROKERS_TIMES}: run the job with correlation_ids=True"
            return
        found.outcome = Outcome.DIFFERENT if found.differing else Outcome.EQUAL
        if found.differing:
            self._exemplify(missing, surplus)

    def _not_ours(self, surplus: set[bytes]) -> set[bytes]:
        """Those that input beside the interval may have given. (Of the broker's own times nothing can be said.)"""
        others: set[bytes] = set()
        for seen, inside in self._pair.published():
            print_ = seen.fingerprint(self._pair.timed)
            doubtful = inside is None and print_ in surplus
            if doubtful and (not self._pair.timed or self._by.beside(seen)):
                others.add(print_)
        self._found.undecided = sum(-self._open[print_] for print_ in others)
        return others

    def _judge_orders(self) -> None:
        found, (replayed, published) = self._found, self._orders
        other = {key for key, order in replayed.items() if published.get(key) != order}
        found.outcome = Outcome.DIFFERENT if other else Outcome.EQUAL
        found.differing = len(other)
        if not other:
            return
        ours = [seen for seen in self._pair.replayed() if seen.key in other]
        key = ours[0].key
        theirs = [seen for seen, _ in self._pair.published() if seen.key == key]
        pairs = zip((seen for seen in ours if seen.key == key), theirs, strict=False)
        one, another = next(
            (a, b) for a, b in pairs if a.fingerprint(self._pair.timed) != b.fingerprint(self._pair.timed)
        )
        found.differences.append(Difference(key, one, another, order=True))

    def _exemplify(self, missing: set[bytes], surplus: set[bytes]) -> None:
        """The first keys that differ, in the order of the replay, then of what was published."""
        timed = self._pair.timed
        ours = _first_of_keys(seen for seen in self._pair.replayed() if seen.fingerprint(timed) in missing)
        theirs = _first_of_keys(seen for seen, _ in self._pair.published() if seen.fingerprint(timed) in surplus)
        for key in list(dict.fromkeys([*ours, *theirs]))[:EXAMPLES]:
            self._found.differences.append(Difference(key, ours.get(key), theirs.get(key)))


def _first_of_keys(found: Iterator[Seen]) -> dict[bytes | None, Seen]:
    first: dict[bytes | None, Seen] = {}
    for seen in found:
        if len(first) < limits.SHOWN_KEYS:
            first.setdefault(seen.key, seen)
    return first


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Key:
    replayed: Seen | None = None
    """The last."""
    published: Seen | None = None
    """The last that may be of the interval."""
    matched: bool = False
    """The last value was published, at its time."""
    later: bool = False
    """It was published again, behind the interval."""


class _Tables:
    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self._by = pair.by
        self._keys: dict[bytes | None, _Key] = {}

    def compare(self) -> None:
        for seen in self._pair.replayed():
            self._key(seen).replayed = seen
        for seen in self._pair.everything():
            self._take(seen)
        found = self._pair.found
        found.replayed = sum(key.replayed is not None for key in self._keys.values())
        found.published = sum(key.published is not None for key in self._keys.values())
        for name, key in self._keys.items():
            self._judge(name, key)
        if found.differing:
            found.outcome = Outcome.DIFFERENT
        elif found.undecided:
            found.why = (
                f"of {found.undecided} keys the value at the end was never published: each changed again before the "
                "job's epoch was committed. Give a savepoint as --until, or a time at which no input came"
            )
        else:
            found.outcome = Outcome.EQUAL

    def _key(self, seen: Seen) -> _Key:
        if seen.key not in self._keys:
            self._keys[seen.key] = _Key()
            _bounded(len(self._keys), self._pair.found.topic)
        return self._keys[seen.key]

    def _take(self, seen: Seen) -> None:
        inside = self._by.inside(seen, self._pair.timed)
        if inside is False:
            if self._by.behind(seen) and seen.key in self._keys:
                self._keys[seen.key].later = True
            return
        if seen.key not in self._keys and inside is None and self._by.beside(seen):
            return  # another interval's, of the same time
        key = self._key(seen)
        key.published = seen
        if key.replayed is not None and (seen.value, seen.time_ms) == (key.replayed.value, key.replayed.time_ms):
            key.matched = True

    def _judge(self, name: bytes | None, key: _Key) -> None:
        found, replayed, published = self._pair.found, key.replayed, key.published
        if key.matched or (replayed and published and replayed.value == published.value):
            return
        if replayed is not None and self._open_ended(key, replayed):
            found.undecided += 1
            return
        found.differing += 1
        if len(found.differences) < EXAMPLES:
            found.differences.append(Difference(name, replayed, published))

    def _open_ended(self, key: _Key, replayed: Seen) -> bool:
        """The key changed again behind the end, in the same epoch for all that is known. At a savepoint's cut every
        epoch ends: there it cannot be."""
        if self._by.exact:
            return False
        published = key.published
        late = published is not None and published.time_ms > replayed.time_ms and self._by.beside(published)
        return key.later or late


def _bounded(held: int, topic: str) -> None:
    if held > limits.COMPARED_RECORDS:
        raise StopError(
            f"topic {topic}: more than {limits.COMPARED_RECORDS:,} records would have to be held to be compared",
            "replay a shorter interval",
        )
