"""Every bound in one place, and the relations that must hold between them (asserted at import).

Whatever waits, retries, buffers or arrives from outside has its bound here. Sizes are in bytes, times in the unit
that ends the name.
"""

from __future__ import annotations

from streamcore.errors import invariant

# --- the protocol's times -----------------------------------------------------------------------------------
TRANSACTION_TIMEOUT_MS = 10_000
SLOW_CALL_MS = 80
"""A send_offsets or commit this slow may have been retried by librdkafka (its retry.backoff.ms is 100)."""
SESSION_TIMEOUT_MS = 10_000
CHECKPOINT_INTERVAL_S = 30.0
"""The soft timer of barriers, where nothing asks for one earlier."""
BARRIER_TIMEOUT_S = 120.0
"""A barrier that is not complete after this is abandoned, and everyone goes on."""
FLUSH_BEFORE_CUT_S = 2.0
"""A source's cut waits so long for what is in memory to go to files; the rest goes on the processing thread."""
CONTROL_INTERVAL_S = 0.05
CONTROL_INTERVAL_OPEN_S = 0.005
"""How often a worker reads the control topic; while a barrier is open, tasks may be waiting for it."""
COMMIT_INTERVAL_MS = 100
COMMIT_INTERVAL_MAX_MS = 2_500
"""What the interval may be set or stretched to: an epoch must end well within its transaction's timeout."""
RPO_MIN_MS = 10
"""A commit alone takes 3 ms and more."""
RTO_MS = 60_000
"""How long a takeover on another machine may take, where no setting says otherwise: what the soft timer of barriers and
the journals of most jobs keep anyway, and about as long as a person waits before he looks."""
RTO_MIN_MS = 1_000
TAKEOVER_S = 0.5
"""What a takeover takes beside restoring and replaying: fencing, offsets, seeking (0.1 to 0.4 s on one machine)."""
RESTORE_BYTES_S = 32 << 20
REPLAY_BYTES_S = 8 << 20
"""What a takeover is taken to do until this job's own has been measured: a small part of what one machine does with the
store and the log on its own disk (300 and 50 MB/s), as both are elsewhere, and busy."""
RATE_SAMPLE_BYTES = 1 << 20
RATE_SAMPLE_S = 0.05
"""A takeover that restored or replayed less than this says nothing about the rate."""
COMMIT_TIME_RATIO = 10
"""The interval is never less than this many times the moving average of a commit's own duration."""
SLICE_MS = 20
CALL_TIMEOUT_S = 10.0
"""Admin calls, committed(), flush: an answer later than this counts as none."""
TOPIC_MISSING_S = 3.0
"""A subscribed topic that the broker does not know for so long is gone."""
STARTUP_RETRY_S = 60.0
OUTAGE_S = 300.0
"""A running worker waits this long for a log that is away; then it ends with the exit code that asks for a restart."""
TAKEOVER_TIMEOUT_S = 120.0
HANG_S = 20.0
"""A call of the transaction protocol that takes longer than this ends the process."""
TRIM_INTERVAL_S = 30.0
TOPICS_INTERVAL_S = 5.0
"""A running worker looks this often whether its topics are still those it began with: a client reads on, at the same
offset, in a topic that was deleted and made anew."""
RETRY_BASE_S = 0.1
RETRY_CAP_S = 5.0
RESTART_BASE_S = 0.2
RESTART_CAP_S = 10.0
RESTART_HEALTHY_S = 30.0
"""A worker that lived this long begins its backoff anew."""
STOP_GRACE_S = 20.0
"""A worker asked to stop has this long to commit; then it is killed, and its open epoch is undone."""

# --- batches and epochs ---------------------------------------------------------------------------------------
POLL_RECORDS = 4_000
SLICE_MIN_RECORDS = 16
SLICE_MAX_RECORDS = 8_192
EPOCH_RECORDS = 500_000
EPOCH_BYTES = 64 << 20
OVERLAY_BYTES = 64 << 20
CACHE_ENTRIES = 200_000
"""Decoded state values a step of a task keeps over epochs."""
KEY_CACHE_ENTRIES = 100_000
"""Keys that a shuffle writer, or a topic's codec, keeps decoded and encoded."""
INBOX_RECENT_IDS = 100_000
"""Ids an inbox keeps exactly, over epochs."""
INBOX_FILTER_BYTES = 16 << 20
"""An inbox's largest filter table (all of its tables: a third more): 8 bytes an id keep 19 of 20 new ones from any look
at the disk's own filters."""
INBOX_REBUILD_IDS = 20_000
"""Ids read back into the filter a batch, after a restart: some 10 ms."""

# --- the local state of a whole worker, its dozens of tasks together --------------------------------------------
STATE_CACHE_BYTES = 64 << 20
"""RocksDB's block cache, indexes and bloom filters included."""
STATE_MEMTABLE_BYTES = 128 << 20
"""Above this the fullest memtables are flushed."""
STATE_WRITE_BUFFER_BYTES = 4 << 20
"""One step's memtable. Small: a write into 4 MB costs 1.0 µs a key, into 16 MB 1.7, and flushing costs the same."""
STATE_WAL_BYTES = 64 << 20
"""One task's write-ahead log: what is read again when a store opens after a kill."""
STATE_OPEN_FILES = 256
SCAN_ENTRIES = 512
"""Entries a scan reads at a time."""
GET_ENTRIES = 256
"""Keys a read of many asks for at a time: the fastest, as measured."""

# --- checkpoints: one clock rules what is deleted, the store's; see checkpoint.collect ----------------------------
CHECKPOINT_GRACE_S = 3_600
"""What no manifest names is deleted only when it is older than this, and was seen so for as long."""
CHECKPOINT_UPLOAD_S = 1_200
"""An upload that takes longer is given up before its manifest; what it put is found again by the next."""
CHECKPOINT_REUSE_S = 1_200
"""An object that no manifest of ours names is taken as uploaded only while it is younger than this."""
CHECKPOINT_SKEW_S = 600
"""How far a worker's clock may be from the store's."""
CHECKPOINT_RETRY_S = 120.0
"""A request to a store that does not answer is repeated for so long."""
CHECKPOINT_REQUEST_S = 120.0
CHECKPOINT_CONNECT_S = 5.0
CHECKPOINT_CHUNK_BYTES = 1 << 20
CHECKPOINT_OBJECT_BYTES = 1 << 30
"""One file of a checkpoint; it is held in memory while it is put. RocksDB's are below 100 MB."""
CHECKPOINT_MANIFEST_BYTES = 32 << 20
CHECKPOINT_THREADS = 8
"""Downloads of a restore at a time."""
CHECKPOINT_KEEP = 3
"""Checkpoints of each task that are kept."""
JOURNAL_MILESTONE_BYTES = 256 << 20
"""A task's journal has grown by so much since its last cut: a barrier begins before its time."""
JOURNAL_BOUND_BYTES = 64 << 30
"""A task's journal since its newest checkpoint: beyond it the job stops, as no takeover would come to its end."""
DRILL_INTERVAL_S = 3_600.0
DIGEST_SHARE = 0.01
"""Of a worker's time that may go into digests of its tasks' states at their cuts; see runtime.digests."""
DIGEST_S = 2.0
"""One that takes longer is given up."""
DIGEST_BYTES = 256 << 20
"""A state of more, in files, is not tried."""
COMPARED_RECORDS = 5_000_000
"""Records (or keys of a table) whose digests a replay holds while it compares a topic: some 100 bytes each."""
SHOWN_KEYS = 1_000
"""Among these the first differences are looked for."""
SWEEP_BARRIERS = 20
"""Unnamed objects are looked for after so many completed barriers."""
CONTROL_KEPT = 100
"""Barriers that the control topic still tells of."""

# --- sizes on the wire ---------------------------------------------------------------------------------------
METADATA_BYTES = 3_500
FRAME_BYTES = 768 << 10
"""A packed frame (journal, shuffle) is cut into messages of at most this size: below the broker's default 1 MB."""
JOURNAL_PARTS = 256
"""Messages a task's epoch may take in its journal."""
FRAME_RECORDS = 8_192
"""Of a shuffle. A message is processed in one turn of the loop: slow functions must not outlast max.poll.interval."""
STATE_VALUE_BYTES = 700 << 10
STATE_KEY_BYTES = 16 << 10
MESSAGE_BYTES = 16 << 20
"""What the client lets through; the topic's own max.message.bytes is the narrower bound."""
FETCH_BYTES = 16 << 20
FETCH_QUEUE_BYTES = 64 << 20
FETCH_QUEUE_RECORDS = 100_000
"""A partition with fewer records than this in the fetch queue is fetched again."""
PRODUCE_QUEUE_BYTES = 256 << 20
PRODUCE_QUEUE_RECORDS = 1_000_000
PARTITIONS = 61_440
"""Key groups; no shuffle can have more partitions."""
STORY_BYTES = 8 << 10
"""A dead letter's header (the trace) is cut to this."""

invariant(HANG_S > TRANSACTION_TIMEOUT_MS / 1000, "a hung call is one past the transaction's timeout")
invariant(4 * COMMIT_INTERVAL_MAX_MS <= TRANSACTION_TIMEOUT_MS, "epochs end well within the transaction timeout")
invariant(TAKEOVER_S * 1000 < RTO_MIN_MS < RTO_MS, "a budget that can be set can be kept by a small state")
invariant(RPO_MIN_MS <= COMMIT_INTERVAL_MS, "the default interval is within some budget")
invariant(SLOW_CALL_MS < 100, "the 80 ms rule rests on librdkafka's retry.backoff.ms of 100")
invariant(FRAME_BYTES < (1 << 20) - (64 << 10), "frames must pass a topic with the broker's default size")
invariant(STATE_VALUE_BYTES + STATE_KEY_BYTES + (16 << 10) < FRAME_BYTES, "one state entry fits a frame")
invariant(JOURNAL_PARTS * FRAME_BYTES >= 2 * OVERLAY_BYTES, "an epoch that fills the overlay fits its journal frame")
invariant(FETCH_BYTES <= FETCH_QUEUE_BYTES, "one fetch must fit the fetch queue")
invariant(SLICE_MAX_RECORDS <= FRAME_RECORDS, "one slice's chunk fits a frame")
invariant(
    CHECKPOINT_REUSE_S + CHECKPOINT_UPLOAD_S + CHECKPOINT_SKEW_S < CHECKPOINT_GRACE_S,
    "what an upload takes as uploaded is not collected before its manifest is there",
)
invariant(0 < JOURNAL_MILESTONE_BYTES < JOURNAL_BOUND_BYTES, "a checkpoint is tried before a journal is too long")
invariant(SLICE_MIN_RECORDS < SLICE_MAX_RECORDS <= EPOCH_RECORDS, "slices lie within an epoch")
