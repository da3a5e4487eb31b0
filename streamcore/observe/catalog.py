"""Every metric of a worker: its name, what it counts, and what to look at when it rises. The only place names stand.

docs/metrics.md is this table (`markdown()`; a test holds the file to it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Spec:
    name: str
    """As scraped, without prometheus-client's `_total`."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    when_it_rises: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def scraped(self) -> str:
        return f"{self.name}_total" if self.kind == "counter" else self.name


_COMMIT_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0)
_BATCH: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
_REPLAY_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

RECORDS_IN: Final = Spec(
    "streamcore_records_in",
    "counter",
    "Records read from a topic, those of undone epochs included",
    "Falling while the lag rises is what to look at: the job is slower than its input. Add workers up to the number "
    "of partitions.",
    ("topic",),
)
RECORDS_OUT: Final = Spec(
    "streamcore_records_out",
    "counter",
    "Records produced to a topic, those of undone epochs included (its readers see the committed ones)",
    "Compare with records in; a sudden ratio is a change in the input or in a filter.",
    ("topic",),
)
LAG: Final = Spec(
    "streamcore_lag",
    "gauge",
    "Offsets between a task's position and its partition's stable end (transaction markers count)",
    "The job does not keep up, or a task is stuck: look at records in, commit time and replays of the same worker. One "
    "partition alone: a hot key, or an open transaction of another producer that holds the stable end back.",
    ("topic", "partition"),
)
TASKS: Final = Spec(
    "streamcore_tasks",
    "gauge",
    "Tasks that this worker runs now",
    "Other workers are gone: look at their logs and exit codes. 0 on a worker that should work: more workers than "
    "partitions, or a takeover that does not end.",
)
EPOCHS: Final = Spec(
    "streamcore_epochs",
    "counter",
    "Epochs committed, one a task and commit",
    "Nothing. Standing still while records come in is the alarm: no commit goes through.",
)
ABORTED: Final = Spec(
    "streamcore_commits_undone",
    "counter",
    "Transactions aborted and started over; nothing is lost, the work is done again",
    "Rebalances, broker restarts, records that a topic refuses. Steadily: the worker's warnings name the cause.",
)
UNKNOWN: Final = Spec(
    "streamcore_commits_unknown",
    "counter",
    "Commits whose answer did not come, settled by asking for the metadata",
    "The network or the broker that coordinates the transactions.",
)
COMMIT_S: Final = Spec(
    "streamcore_commit_seconds",
    "histogram",
    "One commit: closing the epoch, flush, offsets, decision, and applying it to local state",
    "Usually the broker (replication, disk). Above 80 ms the producer is rebuilt each time. If the broker is quick: "
    "the epochs are large (see epoch records and overlay bytes).",
    (),
    _COMMIT_S,
)
BATCH: Final = Spec(
    "streamcore_epoch_records",
    "histogram",
    "Records in one commit",
    "The commits are slow, or the input comes in bursts. At the bound (500,000) commits are forced.",
    (),
    _BATCH,
)
OVERLAY: Final = Spec(
    "streamcore_overlay_bytes",
    "gauge",
    "Estimated size of the last epoch's state changes and outputs when it was closed, all tasks",
    "Many different keys an epoch, or large values. A shorter commit interval bounds it sooner.",
)
JOURNAL: Final = Spec(
    "streamcore_journal_bytes",
    "counter",
    "Bytes of state changes written to the journals",
    "State values grow: a value is journaled whole when it changes. Split large ones into a Map.",
)
REPLAY_S: Final = Spec(
    "streamcore_replay_seconds",
    "histogram",
    "One takeover: from the assignment to running tasks, the journals' replay included",
    "Long journals or lost local state: is the state directory on a disk that survives a restart?",
    (),
    _REPLAY_S,
)
REPLAYED: Final = Spec(
    "streamcore_replayed_frames",
    "counter",
    "Journal frames applied in takeovers",
    "Tasks move between workers, or local state is lost at each restart.",
)
STATE_REBUILT: Final = Spec(
    "streamcore_state_rebuilt",
    "counter",
    "Times that a task's local state was set aside and rebuilt from the journal",
    "The disk, or processes killed while another one ran on the same directory; the warnings say why each time.",
)
REBALANCES: Final = Spec(
    "streamcore_rebalances",
    "counter",
    "Changes of this worker's partitions, by what happened: assigned, revoked, lost",
    "Workers come and go. `lost`: this one was away for longer than its session timeout (paused, starved of CPU).",
    ("what",),
)
DEDUPE: Final = Spec(
    "streamcore_dedupe",
    "counter",
    "Records seen by a dedupe step, by verdict: accepted, duplicate, too_old (older than `keep`, so not to be known)",
    "duplicate: the sender retries; harmless. too_old: `keep` is too short for how late records come.",
    ("step", "verdict"),
)
DEAD_LETTERS: Final = Spec(
    "streamcore_dead_letters",
    "counter",
    "Records sent to a dead letter topic",
    "Read the topic: the headers name step, error and position. Usually a new version of a producer, or of the code.",
    ("topic",),
)
SKIPPED: Final = Spec(
    "streamcore_skipped",
    "counter",
    "Records left out under the policy Skip, by the step they failed in",
    "As for dead letters, only that the records are gone: use DeadLetter to keep them.",
    ("step",),
)
RERUNS: Final = Spec(
    "streamcore_slices_rerun",
    "counter",
    "Slices rolled back and run record by record, to find the one that fails",
    "Many bad records: each costs a slice. Filter them early, or let the type allow them.",
)
PAUSES: Final = Spec(
    "streamcore_pauses",
    "counter",
    "Times that reading was paused because a bound was reached",
    "The broker takes the output more slowly than it is made: look at commit time.",
)
PRODUCERS: Final = Spec(
    "streamcore_producers_rebuilt",
    "counter",
    "Producers replaced by fresh ones: after a slow (80 ms) or failed call, a fencing, a timed-out transaction",
    "Slow transaction coordinator, or a worker that pauses for seconds. Rarely is normal.",
)

_CHECKPOINT_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_PAUSE_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 30.0)
CHECKPOINT_S: Final = Spec(
    "streamcore_checkpoint_seconds",
    "histogram",
    "Time from the start of a checkpoint's upload to its manifest",
    "The store is slow, or much state changes between two checkpoints: compare with the bytes that were new.",
    buckets=_CHECKPOINT_S,
)
SNAPSHOT_S: Final = Spec(
    "streamcore_snapshot_seconds",
    "histogram",
    "Time a task stands still for the snapshot at its cut (flush and hard links)",
    "The state directory's disk is slow, or shared with something that writes.",
    buckets=_PAUSE_S,
)
CHECKPOINT_NEW: Final = Spec(
    "streamcore_checkpoint_new_bytes",
    "counter",
    "Bytes of checkpoints that the store did not have",
    "More state changes, or RocksDB compacts much: the largest step's keys are written again and again.",
)
CHECKPOINT_BYTES: Final = Spec(
    "streamcore_checkpoint_bytes",
    "gauge",
    "Bytes of the newest checkpoint of some task, all its files",
    "State grows: look at the step's keys, and whether anything ever deletes them.",
)
CHECKPOINT_FAILED: Final = Spec(
    "streamcore_checkpoint_failures",
    "counter",
    "Checkpoints that did not get to their manifest, by cause",
    "The store does not answer, refuses or is full. The job goes on, and its journals grow until one succeeds.",
    ("cause",),
)
DRILLS: Final = Spec(
    "streamcore_checkpoint_drills",
    "counter",
    "Retained checkpoints restored into a scratch directory, and the journal replayed behind them, by outcome: whole, "
    "damaged, differs, unknown",
    "damaged: the log names checkpoint and object; `streamcore checkpoints verify JOB` looks at all. differs: what was "
    "restored and replayed is not what the task recorded (a state digest, an epoch's mark): keep the store and the "
    "journals, and report it. unknown: store or log do not answer, or the state directory's disk is full.",
    ("outcome",),
)
DRILLED_EPOCHS: Final = Spec(
    "streamcore_checkpoint_drill_epochs",
    "counter",
    "Epochs of journals that drills replayed behind a restored checkpoint, their marks compared",
    "Drills do their work. It stands still where no drill finds a checkpoint of the present lineage.",
)
RESTORE_S: Final = Spec(
    "streamcore_restore_seconds",
    "histogram",
    "Time to restore a task's state from a checkpoint, before the journal's tail is replayed",
    "Workers come back without their disks, or the store is slow.",
    buckets=_CHECKPOINT_S,
)
BARRIERS: Final = Spec(
    "streamcore_barriers",
    "counter",
    "Barriers that this worker has seen decided: complete or abandoned",
    "Abandoned ones: a task does not cut, or a checkpoint is not stored in time; the log names it.",
    ("outcome",),
)
HELD_S: Final = Spec(
    "streamcore_barrier_pause_seconds",
    "histogram",
    "Time a task that had cut waited for the markers of the shuffles that it feeds",
    "A task upstream is late with its cut: a slow slice, a takeover under way, a worker that is away.",
    buckets=_PAUSE_S,
)
RECOVERY_S: Final = Spec(
    "streamcore_recovery_seconds",
    "gauge",
    "What a takeover of this worker's tasks, all together, would take on a machine without local state, at the job's "
    "own restore and replay rates",
    "State grows, or no checkpoint is stored and the journals grow. Compare with the RTO: `streamcore replay-estimate` "
    "says which task.",
)
RTO_LEFT_S: Final = Spec(
    "streamcore_rto_left_seconds",
    "gauge",
    "What that takeover leaves of the RTO (`guarantee.rto`); below 0: over it. 0 without one",
    "Nothing. Falling towards 0 is what to look at: more workers, a faster store, fewer tasks a worker.",
)
OVER_RTO: Final = Spec(
    "streamcore_rto_exceeded",
    "counter",
    "Times that the takeover came to take longer than the RTO",
    "The warning says why: the checkpoint store fails, or the state is larger than can be restored in that time.",
)
UNCOMMITTED_S: Final = Spec(
    "streamcore_uncommitted_seconds",
    "histogram",
    "From the first record of an epoch (or of one undone before it) to its commit: what a failure has done again",
    "Commits take long (see commit seconds) or are undone (see commits undone).",
    (),
    _COMMIT_S,
)
OVER_RPO: Final = Spec(
    "streamcore_rpo_exceeded",
    "counter",
    "Commits whose input had stayed uncommitted for longer than the RPO (`guarantee.rpo`)",
    "As for uncommitted seconds; or the RPO is shorter than the broker commits.",
)
CATALOG: Final = (
    RECORDS_IN, RECORDS_OUT, LAG, TASKS, EPOCHS, ABORTED, UNKNOWN, COMMIT_S, BATCH, OVERLAY, JOURNAL, REPLAY_S,
    REPLAYED, STATE_REBUILT, REBALANCES, DEDUPE, DEAD_LETTERS, SKIPPED, RERUNS, PAUSES, PRODUCERS,
    CHECKPOINT_S, SNAPSHOT_S, CHECKPOINT_NEW, CHECKPOINT_BYTES, CHECKPOINT_FAILED, DRILLS, DRILLED_EPOCHS, RESTORE_S,
    BARRIERS, HELD_S, RECOVERY_S, RTO_LEFT_S, OVER_RTO, UNCOMMITTED_S, OVER_RPO,
)  # fmt: skip


def markdown() -> str:
    rows = [
        f"| `{spec.scraped}` | {spec.kind} | {', '.join(spec.labels)} | {spec.help} | {spec.when_it_rises} |"
        for spec in CATALOG
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            "`streamcore run … --metrics-port 9400` serves these in Prometheus' text format at `/metrics`, on",
            "127.0.0.1 unless `metrics.host` says otherwise. With `--workers N` the workers take the ports from that",
            "one on, one a slot. All are of one worker: sum over the workers of a job.",
            "",
            "| name | kind | labels | what it is | what to look at when it rises |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
