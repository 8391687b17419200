"""Every bound of the Kafka side. Bounds of the storage engine are in `s3stream/limits.py`."""

from s3stream.limits import BATCH_BYTES_MAX, KIB, MEMTABLE_SHARE, MIB, READS_SHARE

FRAME_BYTES_MAX = 100 * MIB
"""Kafka's socket.request.max.bytes default: a larger frame closes its connection."""
assert FRAME_BYTES_MAX <= BATCH_BYTES_MAX

REQUEST_ELEMENTS_MAX = 500_000
"""Array elements of one request, all its arrays together: two bytes may ask for an object of hundreds."""

SMALL_FRAME_BYTES = 16 * KIB
"""Frames up to this size are copied out of the connection's receive buffer, so that a kept batch pins nothing else."""
RECEIVE_BUFFER_BYTES = 64 * KIB
REQUESTS_IN_FLIGHT_MAX = 100
"""Pipelined requests of one connection; then its socket is not read."""
CONNECTION_RECEIVE_BYTES_MAX = 128 * MIB
"""Frames of one connection that are not yet answered."""
assert CONNECTION_RECEIVE_BYTES_MAX >= FRAME_BYTES_MAX
CONNECTION_SEND_BYTES_MAX = 64 * MIB
"""Answers queued for a slow reader; then nothing more is worked on for it."""
SEND_HIGH_WATER_BYTES = 1 * MIB
"""Unsent bytes of a connection at which no further request of it is begun."""
RECEIVE_SHARE = 0.25
"""Of the memory budget: frames received and not yet answered. When it is full nobody's socket is read."""
ANSWERS_SHARE = 0.125
"""Of the memory budget: answers being read from objects, and those that their readers have not taken yet."""
ANSWER_BYTES_MIN = 128 * KIB
"""A Fetch may answer this much (or one batch) even when that share is used up, so that slow readers cannot stop the
others: they get on with smaller answers. Smaller answers than this are not counted."""
assert MEMTABLE_SHARE + READS_SHARE + RECEIVE_SHARE + ANSWERS_SHARE <= 1
FRAME_STALL_MS = 60_000
"""A connection that sends not one byte of a frame it has begun for this long is closed: the frame is budgeted."""
CONNECTIONS_MAX = 10_000
FETCH_SESSIONS_MAX = 1_000
FETCH_SESSION_PARTITIONS_MAX = 500_000
"""In all fetch sessions together, about 300 bytes each; beyond it clients fetch without a session."""
COLD_READS_PER_FETCH_MAX = 4
"""Partitions of one Fetch that are read from objects at the same time."""
COLD_READ_PATIENCE_S = 3.0
"""A Fetch that has partitions in memory too answers without those that the store has not brought by then: a store that
hangs must not hold up what is recent. Far above a slow read; what comes later is in the cache the next time."""
FETCH_BYTES_MAX = 55 * MIB
"""Kafka's fetch.max.bytes default: bounds one answer."""
# Fetches of one connection run one after another: at most one answer is added past the high-water mark.
assert SEND_HIGH_WATER_BYTES + FETCH_BYTES_MAX <= CONNECTION_SEND_BYTES_MAX
FOLLOWED_PARTITIONS_MAX = 1_000
"""Partitions of other brokers that are read here (KIP-392): about 1 KB each, and 8 KB of object ranges at most; the one
not read for longest is forgotten, and costs one read of its row when it is read again."""
FOLLOWED_AGE_S = 10.0
"""How old what is known of such a partition may be while records below its known end are read: deleted records are
served that much longer at most. A row read costs the database about as much as a heartbeat."""
FOLLOWED_LOOKS_APART_S = 0.1
"""At its known end a partition's row is read again, at most so often however many consumers get there."""
FOLLOWED_PATIENCE_S = 1.0
"""What a consumer waits for that; then it is sent back to the leader, who has all of it."""
REFERRALS_APART_S = 65.0
"""After a consumer was sent to another broker, how long the leader serves it itself if it comes back: librdkafka takes
more than one such answer a minute for trouble, says so in its log, and waits half a second before the next fetch."""
REFERRALS_MAX = 16_384
"""Consumers' partitions for which that is remembered, about 200 bytes each. One forgotten early is sent once more."""
FOLLOWER_LAG_BYTES = 1 * MIB
"""From how far behind the committed end on a consumer is sent to a broker of its rack: below it, the leader's next
answer (Kafka's max.partition.fetch.bytes default) brings it there at no more cost than the sending."""
assert FOLLOWED_LOOKS_APART_S < FOLLOWED_AGE_S < REFERRALS_APART_S
PRODUCER_IDS_PER_BLOCK = 1_000
BATCHES_PER_PRODUCER = 5
"""Kafka's ProducerStateEntry keeps five: max.in.flight.requests.per.connection of an idempotent producer."""
PRODUCERS_PER_PARTITION_MAX = 10_000
"""Idempotent producers a partition remembers (about 150 bytes each in a checkpoint); then the one that was silent
longest is forgotten, as if it had expired."""
DECOMPRESSED_BYTES_MAX = 128 * MIB
"""What one compressed batch may unfold to where the broker has to look into it."""
REPLAY_READ_BYTES = 4 * MIB
"""Read at a time when a partition's state is rebuilt from its log."""
PARTITION_OPENS_IN_FLIGHT_MAX = 16
"""Partitions replaying at once; times REPLAY_READ_BYTES of memory."""
COMPACTED_OBJECT_BYTES = 16 * MIB
"""Log compaction writes objects of about this size, and commits one, or the ranges of as many bytes, at a time: it is
held in memory twice while it is uploaded, beside a map of 128 MiB."""
COMPACTION_READ_BYTES = 4 * MIB
COMPACTION_RANGES_MAX = 1_000
"""Ranges that one commit of log compaction replaces: eight rows of a stream's index."""
COMPACTION_SILENCE_S = 60.0
"""A worker that has read, written and answered nothing for so long hangs, and is killed."""
COMPACTION_IDLE_S = 60.0
"""A worker without work for so long is ended: it gives its map's memory back."""
COMPACTION_DEATHS_MAX = 3
"""Of workers, one after another, at the same partition; then the partition is left alone until it is opened again."""
COMPACTED_ABORTS_S = 60.0
"""How long after it was found without records an aborted transaction is still told to consumers: whoever reads with an
older list of objects meets its records yet."""
assert COMPACTED_ABORTS_S > FOLLOWED_AGE_S
