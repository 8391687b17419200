"""Makes a partition log of a stream that has just been opened: its checkpoint, then the log's batches behind it.

Owns: restoring, replay by batch headers. Does not own: opening streams (storage), who opens what (manager.py).
Invariant: the state made here is exactly that of a replay of the whole log, at the stream's durable end.
"""

from __future__ import annotations

from uuid import UUID

import structlog

from brokers.limits import REPLAY_READ_BYTES
from brokers.partitions import checkpoint
from brokers.partitions.checkpoint import PartitionCheckpoint
from brokers.partitions.epoch_cache import EpochCache
from brokers.partitions.log_config import LogConfig
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.producer_state import ProducerState
from brokers.records.batch import NO_PRODUCER_ID, iter_headers
from brokers.records.record import end_marker
from s3stream.errors import Corrupt
from s3stream.seams import Clock
from s3stream.stream import Stream
from s3stream.types import Buffer, CheckpointPointer

log = structlog.get_logger(__name__)


def needs_reads(stream: Stream) -> bool:
    """Whether opening the log has to read: batches to replay, or a checkpoint that lies in an object."""
    start = stream.start_offset
    if stream.checkpoint is not None:
        start = max(start, stream.checkpoint.offset)
    return start < stream.durable_end or isinstance(stream.checkpoint, CheckpointPointer)


async def open_log(
    topic: str,
    topic_id: UUID,
    partition: int,
    stream: Stream,
    config: LogConfig,
    clock: Clock,
    producer_id_expiration_ms: int,
    told: bytes | None = None,
) -> PartitionLog:
    """`told`: a checkpoint by who had the stream open before, who closed it at its end. Raises Unavailable, Corrupt,
    Fenced: the partition stays closed, others are not touched."""
    name = f"{topic}-{partition}"
    found = (None if told is None else _at_the_end(name, told, stream)) or await _restore(name, stream)
    producers = ProducerState()
    producers.restore(found.producers, found.aborted)
    await replay(stream, max(found.offset, stream.start_offset), stream.durable_end, producers)
    producers.expire(clock.now_ms(), producer_id_expiration_ms)
    producers.trimmed(stream.start_offset)
    # The row knows every opening, this one too; the checkpoint may know epochs that the row has let go.
    epochs = EpochCache(sorted({*found.epochs, *stream.epochs}), stream.start_offset)
    return PartitionLog(
        topic,
        topic_id,
        partition,
        stream,
        config,
        clock,
        producers=None if producers.empty else producers,
        epochs=epochs,
        snapshot=found.snapshot,
    )


def _at_the_end(name: str, told: bytes, stream: Stream) -> PartitionCheckpoint | None:
    """None: it cannot be used, and everything is read."""
    try:
        found = checkpoint.decode(told)
    except Corrupt as error:
        log.error("the state of a partition that was handed over is unusable", partition=name, error=str(error))
        return None
    return found if found.offset == stream.durable_end else None


async def _restore(name: str, stream: Stream) -> PartitionCheckpoint:
    """The stream's checkpoint, or an empty one at the start of a log that can still be replayed whole."""
    try:
        stored = await stream.read_checkpoint()
        if stored is None:
            return PartitionCheckpoint(stream.start_offset)
        found = checkpoint.decode(stored.blob)
        if found.offset != stored.offset:
            raise Corrupt(f"partition checkpoint of {name} is for {found.offset}, not for {stored.offset}")
        if found.offset > stream.durable_end:
            raise Corrupt(f"partition checkpoint of {name} at {found.offset} is ahead of the log, {stream.durable_end}")
    except Corrupt as error:
        if stream.start_offset > 0:
            # What the log no longer holds would be lost with it: a coordinator's state, producers' sequences.
            raise
        log.error("partition checkpoint unusable, replaying the whole log", partition=name, error=str(error))
        return PartitionCheckpoint(0)
    return found


async def replay(stream: Stream, offset: int, end: int, producers: ProducerState) -> None:
    """Apply the batches of [offset, end) to `producers`."""
    while offset < end:
        result = await stream.read(offset, end, REPLAY_READ_BYTES)
        if result.end_offset <= offset:
            raise Corrupt(f"stream {stream.stream_id} has no batch at {offset}, below its end {end}")
        for buffer in result.buffers:
            replay_buffer(buffer, offset, producers)
        offset = result.end_offset


def replay_buffer(buffer: Buffer, start: int, producers: ProducerState) -> None:
    """Batches that end at or below `start` are known already."""
    view = memoryview(buffer)
    for position, header in iter_headers(view):
        if header.producer_id <= NO_PRODUCER_ID or header.end_offset <= start:
            continue
        if not header.control:
            producers.apply(
                header.producer_id, header.producer_epoch, header.last_sequence, header.base_offset,
                header.end_offset - 1, header.max_timestamp, header.transactional,
            )  # fmt: skip
            continue
        marker = end_marker(view[position : position + header.size])
        if marker is not None:
            producers.apply_marker(
                header.producer_id, header.producer_epoch, header.base_offset, header.max_timestamp, marker
            )
