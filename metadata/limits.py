"""Bounds of the metadata store, with the relations between them said aloud."""

from s3stream.limits import RANGES_PER_CHUNK, RANGES_PER_COMMIT_MAX

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

BUSY_TIMEOUT_SECONDS = 5.0
"""How long SQLite waits for another process's write lock before it is Unavailable."""
POLL_INTERVAL_SECONDS = 0.5
"""How soon a change made by another process is seen where the database cannot push."""
