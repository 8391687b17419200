"""Bounds of the metadata store, with the relations between them said aloud."""

from s3stream.limits import RANGES_PER_CHUNK, RANGES_PER_COMMIT_MAX

OBJECT_IDS_PER_BLOCK = 256
"""Object ids that a process fetches at a time: of 2^63, so what a restart leaves unused does not matter."""

IDS_PER_STATEMENT = 1_000
"""Ids named by one statement. SQLite binds at most 32,766 values, PostgreSQL 65,535."""
assert IDS_PER_STATEMENT < 32_766
assert RANGES_PER_COMMIT_MAX // IDS_PER_STATEMENT <= 20, "a commit takes a few dozen statements, not hundreds"

CHUNKS_PER_TRANSACTION = 64
"""Full chunks that one transaction drops: 8,192 ranges, some tens of milliseconds; the rest follows in further ones."""
RANGES_DROPPED_PER_TRANSACTION = 10_000
"""Of all streams together; a stream that is begun may add its own 8,192."""
assert CHUNKS_PER_TRANSACTION * RANGES_PER_CHUNK <= RANGES_DROPPED_PER_TRANSACTION

STREAMS_DROPPED_PER_TRANSACTION = 256
"""Deleted streams whose rows one transaction removes."""
EPOCHS_PER_STREAM_MAX = 1_000
"""Openings remembered; the oldest go first. 12 bytes each, so at most 12 KB in a row."""
TOPIC_TOMBSTONES_MAX = 1_000
"""Deleted topics remembered so that images can be refreshed; a reader older than that loads the image whole."""
LOSSES_SHOWN_MAX = 1_000
"""Intervals given up that an image holds: about 200 KiB. There should be none."""

IMAGE_HISTORY_MAX = 10_000
"""Versions whose tags are kept at least; up to twice as many. A broker that saw none of them is not checked by tag."""

BUSY_TIMEOUT_SECONDS = 10.0
"""How long SQLite waits for another process's write lock before it is Unavailable. Its waiters take no turns: one of
several brokers may find the lock taken many times over."""
POLL_INTERVAL_SECONDS = 0.5
"""How soon a change made by another process is seen at the latest, where not every one is pushed."""
FALLBACK_POLL_SECONDS = 5.0
"""The same where pushes arrive: only for one that was lost without a trace."""
assert POLL_INTERVAL_SECONDS < FALLBACK_POLL_SECONDS
SEEN_SAVE_SECONDS = 10.0
"""How far the memory on disk may lag behind. Each save is a sync on the disk that may hold the WAL."""

POSTGRES_CONNECTIONS = 3
"""Transactions of one broker at a time; one connection more listens. PostgreSQL's default of 100 connections, 3 of
them reserved, then serves two dozen brokers."""
assert (100 - 3) // (POSTGRES_CONNECTIONS + 1) >= 24
CONNECT_SECONDS = 3
"""To one host of the URL. libpq takes whole seconds, 2 at least."""
LOCK_SECONDS = 4.0
"""Wait for one row lock. PostgreSQL looks for deadlocks after 1 s: they are found, not waited out."""
STATEMENT_SECONDS = 5.0
"""One statement, its waits for locks included."""
SILENCE_SECONDS = 6.0
"""Without an answer to a statement: the server is stopped or gone, and the connection is given up."""
IDLE_TRANSACTION_SECONDS = 5.0
"""The server ends a transaction whose broker is silent that long (stopped, swapped out, gone) and has locks."""
assert 1.0 < LOCK_SECONDS < STATEMENT_SECONDS < SILENCE_SECONDS, "the server's answer comes before our patience ends"
MIGRATION_SECONDS = 600.0
"""A migration, its wait for another's included."""
CONFLICT_ATTEMPTS = 5
"""Times that a transaction is run which the server rolled back for a deadlock or another writer."""

TUNE_ATTEMPTS = 100
TUNE_PAUSE_SECONDS = 0.02
"""How long the change to WAL mode is tried while other processes read the file: two seconds."""
