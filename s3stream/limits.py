"""Every bound of the storage engine, with the relations between them said aloud.

Bounds of the Kafka side are in `brokers/limits.py`.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- objects -----------------------------------------------------------------------------------
BLOCK_BYTES = 512 * KIB
"""Target size of a data block; one batch larger than this is a block of its own."""
BLOCK_BYTES_MAX = 128 * MIB
"""A block's length field beyond this is corruption, not data."""
STREAM_OBJECT_BYTES = 8 * MIB
"""A stream with at least this much in one flush gets an object of its own."""
OBJECT_BYTES_MAX = 64 * MIB
"""A flush is cut into objects of about this size."""
FOOTER_READ_BYTES = 64 * KIB
"""Read from an object's end in one request: footer and, nearly always, the index."""
OBJECT_PREPARE_TTL_MS = 60 * 60 * 1000
"""Time for an object's upload and its commit."""
OBJECT_IDS_TTL_MS = 24 * OBJECT_PREPARE_TTL_MS
"""Of ids prepared ahead, so that an outage of hours ends before they do. What a broker that died had uploaded and not
committed, at most its WAL's size, lies in the store for as long."""
OBJECT_IDS_SPARE = 16
OBJECT_IDS_MAX = 1_024
"""Ids held ahead: a row of 60 bytes each. 100 brokers at the default WAL and flush sizes hold 14,400."""
OBJECT_IDS_CHECK_S = 60.0
assert OBJECT_PREPARE_TTL_MS < OBJECT_IDS_TTL_MS // 2
OBJECT_DELETE_GRACE_MS = 10 * 60 * 1000
"""Between a commit that frees an object and its deletion: running reads finish, a restored database finds it."""
RANGES_PER_CHUNK = 128
"""Entries of a stream's packed range index kept in one metadata row."""

# --- batches -----------------------------------------------------------------------------------
BATCH_BYTES_MAX = 100 * MIB
"""Largest batch the engine takes: Kafka's socket.request.max.bytes default."""
assert BATCH_BYTES_MAX < BLOCK_BYTES_MAX
assert BLOCK_BYTES <= STREAM_OBJECT_BYTES <= OBJECT_BYTES_MAX

GIL_HELD_BYTES = 512 * KIB
"""Checksums of up to this many bytes (50 us) keep the interpreter's lock. Giving it away at each batch let loop and
WAL writer wait for each other up to a switch interval (5 ms) every time."""

# --- checkpoints -------------------------------------------------------------------------------
CHECKPOINT_ROW_BYTES_MAX = 64 * KIB
"""A checkpoint up to this size lies in its stream's metadata row, a larger one in the object flushed with it. Most have
some hundred bytes; this is the state of about 400 idempotent producers."""
CHECKPOINT_BYTES_MAX = BLOCK_BYTES_MAX
"""A checkpoint is one block. A larger one is not taken: the older one stands, and opening the stream replays more."""
assert CHECKPOINT_ROW_BYTES_MAX < CHECKPOINT_BYTES_MAX <= BLOCK_BYTES_MAX

# --- WAL ---------------------------------------------------------------------------------------
WAL_SEGMENT_BYTES = 128 * MIB
WAL_GROUP_BYTES_MAX = 16 * MIB
"""A group commit takes at most this much, so that one sync's latency stays bounded."""
WAL_INLINE_BYTES = 64 * KIB
"""A group up to this size is written on the event loop itself, while the disk syncs that quickly: handing it to a
thread and back costs more CPU (the interpreter's lock changes hands) than the write."""
WAL_INLINE_SYNC_US = 1000
WAL_BYTES_MAX = 4 * GIB
"""Retained WAL. At the bound appends are Overloaded until a flush trims it."""
WAL_RECORD_BYTES_MIN = 48 + 61
"""An entry in the WAL on objects (a record's header in a file has 88 bytes) and a record batch without records."""
OFFSETS_PER_BATCH_MAX = 1 << 31
"""Kafka's last offset delta has 32 bits, and a batch's records are not looked at: what its header says counts."""
WAL_SEGMENTS_KEPT = 4
"""Trimmed segment files kept for reuse: one flush may free a few. Writing into blocks and page-cache pages that exist
was measured at 0.10 CPU-seconds per GB, into a new file at 0.74."""
WAL_RECOVERY_READ_BYTES = 4 * MIB
"""Read and handed out at a time by recovery; one record larger than this is read alone."""
assert WAL_SEGMENT_BYTES > BATCH_BYTES_MAX
assert WAL_GROUP_BYTES_MAX <= WAL_SEGMENT_BYTES <= WAL_BYTES_MAX // 4

# --- flush -------------------------------------------------------------------------------------
FLUSH_BYTES = 64 * MIB
FLUSH_INTERVAL_MS = 30_000
"""An idle broker never fills a memtable: it is sealed by age too. 2,880 PUTs a day, $0.0144 at $5 per million."""
FLUSHES_IN_FLIGHT_MAX = 3
COMMITS_IN_FLIGHT_MAX = 3
"""After an outage of the database hundreds are queued, and heartbeats must get through between them."""
UPLOADS_IN_FLIGHT_MAX = 4
URGENT_UPLOADS_MAX = 2
"""Besides those: what a closing stream still has, while its producers wait. Little, where it was flushed before."""
RANGES_PER_COMMIT_MAX = 20_000

# --- closing and taking over ---------------------------------------------------------------------
CLOSE_AHEAD_BYTES = 1 * MIB
"""What of the closing streams may be uncommitted when appends are refused: 10 to 20 ms of uploading."""
CLOSE_ROUNDS_MAX = 4
"""Flushes ahead of the refusal: each leaves what was appended while it ran. A producer faster than the store would keep
a stream open for ever."""
CLOSE_TIMEOUT_S = 30.0
"""Flushes while appends go on, before the closing is given up and the streams stay open."""
CLOSE_PAUSE_MAX_S = 5.0
"""What producers wait when the store or the database has stopped answering just then; after it the streams go on."""
TAIL_BYTES_MAX = 4 * MIB
"""What of the streams of one closing may be handed over from memory, bookkeeping included: some 10 ms to send, while
producers wait. What is more is flushed while appends go on."""
TAILS_FETCHED_BYTES_MAX = 64 * MIB
"""Tails that were fetched and whose streams are not open yet: of several closings of several sources."""
TAIL_FRAME_BYTES = 1 * MIB
"""One answer between brokers carries at most this much, or one batch."""
TAIL_POLL_S = 0.1
"""A target asks so often whether the tails that it serves are committed; a source's commit takes some 50 ms."""
TAIL_OTHERS_S = 2.0
"""After this a target commits a tail itself: its source is slow, or gone."""
assert TAIL_FRAME_BYTES <= TAIL_BYTES_MAX <= TAILS_FETCHED_BYTES_MAX
TAKEOVER_CHUNK_BYTES = 16 * MIB
"""What a takeover uploads and commits at a time, while it reads on. Small enough that reading, uploading and committing
overlap for one broker's 64 MiB, large enough that a WAL of 10 GB is 640 objects."""
TAKEOVER_CHUNKS_IN_FLIGHT_MAX = 2
TAKEOVER_EARLY_BYTES_MAX = 16 * MIB
"""Batches that wait for one before them. Beyond it they are read again, in a further pass."""
assert TAKEOVER_CHUNK_BYTES <= OBJECT_BYTES_MAX

# --- reads -------------------------------------------------------------------------------------
READ_GAP_BYTES = 256 * KIB
"""Two wanted blocks closer than this are read in one request."""
READ_REQUEST_BYTES_MAX = 2 * MIB
"""Neighbouring blocks are read in requests of at most this size, unless one block is larger. A block in the cache
keeps its whole request's buffer alive, so this bounds what one block may pin."""
READ_AHEAD_BYTES_MIN = 1 * MIB
READ_AHEAD_BYTES_MAX = 32 * MIB
GETS_IN_FLIGHT_MAX = 16
INDEX_CACHE_BYTES = 32 * MIB
INDEX_BYTES_MAX = 256 * MIB
"""An object's index beyond this is corruption, not an index: 4 million blocks of 64 bytes."""
assert BLOCK_BYTES <= READ_REQUEST_BYTES_MAX
READ_AHEAD_SHARE = 0.5
"""Of the block cache: all readers' read-ahead together, so that readers cannot push out each other's blocks."""
READERS_TRACKED_MAX = 1_024
"""Sequential readers whose position is remembered; the longest idle one is forgotten."""
RANGES_WINDOW_MAX = 64
"""Object ranges of one stream kept in memory. 2,000 busy streams: 128,000 entries of about 130 bytes = 16 MiB."""
assert READ_GAP_BYTES <= READ_AHEAD_BYTES_MIN <= READ_REQUEST_BYTES_MAX <= READ_AHEAD_BYTES_MAX

# --- memory ------------------------------------------------------------------------------------
UNCOUNTED_SHARE = 1 / 3
UNCOUNTED_BYTES_MAX = 192 * MIB
"""Of the memory setting, what no account sees: objects on their way inside the store's client (up to
FLUSHES_IN_FLIGHT_MAX of FLUSH_BYTES) and what the allocator cannot use again at once."""
MEMTABLE_SHARE = 0.5
"""Of the memory budget: uncommitted batches. At the bound appends are Overloaded until a flush commits."""
CACHE_SHARE = 0.5
READS_SHARE = 0.125
"""Of the memory budget: blocks being fetched for readers. Beyond it reads wait for each other."""
BATCH_OVERHEAD_BYTES = 512
"""Counted for a batch besides its payload: StreamBatch (104), its integers (about 160), the view and the list slot
(about 200). Without it 100-byte batches would hold five times the memory that the budget sees."""
QUEUED_STREAM_BYTES = 1_024
"""Counted in the memtable's account for each stream of a queued commit: its range, share and segment, without batches.
1,000 streams in 64 flushes of 64 MiB: 64 MiB."""
RELEASE_AT = 0.5
"""Share of the memtable's bound at which, while the database is away, uploaded ranges leave memory."""
THROTTLE_AT = 0.8
"""Share of the memtable's or WAL's bound at which the server stops reading producers, before appends fail."""
assert MEMTABLE_SHARE + READS_SHARE < 1 and CACHE_SHARE + READS_SHARE < 1 and 0 < RELEASE_AT < THROTTLE_AT < 1

# --- the event loop ----------------------------------------------------------------------------
STEP_BYTES = 2 * MIB
"""Long work on the loop yields after this many bytes: crc32c at 5 GB/s takes 0.4 ms for them."""
STEP_ITEMS = 64
"""... or after this many streams, at some 20 microseconds each (a checkpoint, a commit's outcome)."""
STEP_BATCHES = 1_024
"""... or after this many batches, at about a microsecond each."""

# --- retries -----------------------------------------------------------------------------------
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 5.0
"""Work that must not be given up (flush, WAL repair) is tried again for ever, at most this far apart."""

# --- requests to the object store --------------------------------------------------------------
STORE_ATTEMPTS_MAX = 10
STORE_DEADLINE_S = 30.0
"""After this an answer is Unavailable, and whoever asked decides: a reader's client asks again, the flusher goes on."""
STORE_REQUEST_TIMEOUT_S = 10.0
STORE_BYTES_PER_S_MIN = 2 * MIB
"""A transfer below this rate is taken for stuck: 64 MiB may take 42 s."""
STORE_REQUEST_TIMEOUT_MAX_S = 300.0
"""What the HTTP client itself allows one request: only a second line of defence."""
STORE_CONNECT_TIMEOUT_S = 5.0
STORE_IDLE_CONNECTIONS_MAX = 64
# An object's last stream may bring one checkpoint past the size at which objects are cut.
assert (
    STORE_REQUEST_TIMEOUT_S + (OBJECT_BYTES_MAX + CHECKPOINT_BYTES_MAX) / STORE_BYTES_PER_S_MIN
    < STORE_REQUEST_TIMEOUT_MAX_S
)
assert STORE_IDLE_CONNECTIONS_MAX >= GETS_IN_FLIGHT_MAX + UPLOADS_IN_FLIGHT_MAX + URGENT_UPLOADS_MAX
