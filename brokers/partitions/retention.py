"""Which records a partition no longer has to keep: by age and by size (cleanup.policy=delete).

Owns: the new log start. Does not own: when this is asked (manager.py), moving the log start (partition_log.py).
Accuracy: by age to the batch; by size to the committed range, of which the oldest goes as long as
retention.bytes are left without it (as Kafka does with segments). Uncommitted batches are never removed by size.
Invariant: what is removed is a prefix, and never reaches above the high watermark.
"""

from __future__ import annotations

from brokers.partitions.partition_log import PartitionLog
from brokers.records.batch import parse_header
from s3stream.seams import MetadataStore

_ALWAYS = -(1 << 62)
_RANGES_PER_PAGE = 64


async def enforce(log: PartitionLog, metadata: MetadataStore, now_ms: int) -> int:
    """Move the log start where the topic's retention wants it; returns how far it moved.

    Raises KafkaError, PonorError: try again at the next check.
    """
    if not log.config.deletes:
        return 0
    before = log.log_start_offset
    start = max(await _kept_by_age(log, now_ms), await _kept_by_size(log, metadata))
    if start > before:
        await log.trim(start)
    return log.log_start_offset - before


async def _kept_by_age(log: PartitionLog, now_ms: int) -> int:
    """Offset of the first batch with a record that is young enough; the high watermark when there is none."""
    start, end = log.log_start_offset, log.high_watermark
    retention_ms = log.config.retention_ms
    if retention_ms < 0 or start >= end or now_ms < log.retention_hint_ms:
        return start
    first = await log.stream.batch_for_timestamp(_ALWAYS, end)
    if first is None:
        return start
    oldest = parse_header(first).max_timestamp
    if oldest < 0:
        return start  # a batch without timestamps has no age: only size removes it
    expires_ms = oldest + retention_ms + 1
    if now_ms < expires_ms:
        # What is removed is a prefix: as long as its first batch is kept, nothing can go.
        log.retention_hint_ms = expires_ms
        return start
    kept = await log.stream.batch_for_timestamp(now_ms - retention_ms, end)
    return end if kept is None else parse_header(kept).base_offset


async def _kept_by_size(log: PartitionLog, metadata: MetadataStore) -> int:
    """End of the last range that the log can lose and still hold retention.bytes."""
    start = log.log_start_offset
    retention_bytes = log.config.retention_bytes
    if retention_bytes < 0:
        return start
    excess = log.stream.size_bytes - retention_bytes
    while excess > 0:
        page = await metadata.object_ranges(log.stream.stream_id, start, _RANGES_PER_PAGE)
        for found in page:
            if found.size > excess or found.end > log.high_watermark:
                return start
            excess -= found.size
            start = found.end
        if not page:
            break
    return start
