"""What a coordinator needs of the partition log it keeps its state in, and reading that state back.

Owns: the seam to the log, replay. Does not own: what records mean (state.py).
Invariant: only whole, durable batches are replayed, each once, in offset order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from brokers.coordinators.snapshot import DurableMap
from brokers.partitions.log_config import LogConfig
from brokers.partitions.pending import Done
from brokers.partitions.producer_state import Verification
from brokers.records.batch import iter_headers
from brokers.records.record import end_marker, iter_records
from s3stream.limits import MIB
from s3stream.types import Buffer, ReadResult

log = structlog.get_logger(__name__)

LOAD_READ_BYTES = 1 * MIB


class CoordinatorLog(Protocol):
    """The part of `PartitionLog` that a coordinator uses: its contract is there."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> LogConfig: ...

    @property
    def leader_epoch(self) -> int:
        """Grows with every opening of the partition, here or elsewhere: the coordinator's epoch."""

    @property
    def log_start_offset(self) -> int: ...

    @property
    def high_watermark(self) -> int: ...

    @property
    def restored_snapshot(self) -> tuple[bytes, int] | None:
        """The coordinator snapshot of the checkpoint the log was opened with, and its offset."""

    def attach(self, snapshot: Callable[[int], bytes | None], committed: Callable[[int], None] | None = None) -> None:
        """`snapshot(offset)` is asked for the state at exactly `offset` when a checkpoint is made (None: keep the
        one before); `committed(offset)` hears of the offset of the snapshot in a committed checkpoint."""

    def append_records(
        self, batch: bytearray, done: Done, verified: Verification | None = None, transaction_version: int = 0
    ) -> None:
        """Append one batch. `done` is called once: before this returns when nothing was appended, else in the
        order of appends, when the batch is durable or lost. `verified`: what `begin_verification` gave, for the first
        batch of a transaction; `transaction_version`: of a marker."""

    def begin_verification(self, producer_id: int, sequence: int, epoch: int, bumps_epoch: bool) -> Verification | None:
        """None: the transaction is open here, nothing is to be verified. Raises KafkaError."""

    async def read(self, offset: int, max_bytes: int) -> ReadResult:
        """Durable batches from `offset` on, at least one."""

    async def trim(self, start_offset: int) -> None:
        """Records below are no longer needed."""


async def replay(source: CoordinatorLog, durable: DurableMap) -> int:
    """Bring `durable` up to the log's high watermark; returns how many records that took."""
    position = max(durable.end, source.log_start_offset)
    if position > durable.end and durable.end:
        log.warning("records below the log start are not in the snapshot", log=source.name, start=position)
    end = source.high_watermark
    replayed = 0
    while position < end:
        result = await source.read(position, LOAD_READ_BYTES)
        for buffer in result.buffers:
            replayed += _apply(buffer, position, durable)
        position = result.end_offset
        durable.end = position
    durable.end = max(durable.end, position)
    return replayed


def _apply(buffer: Buffer, start: int, durable: DurableMap) -> int:
    """Records at or above `start`, and markers."""
    applied = 0
    view = memoryview(buffer)
    for position, header in iter_headers(view):
        if header.end_offset <= start or header.record_count == 0:
            continue
        batch = view[position : position + header.size]
        if header.control:
            marker = end_marker(batch)
            if marker is not None:
                durable.end_transaction(header.producer_id, marker.commit)
                applied += 1
            continue
        for record in iter_records(batch):
            if record.offset < start or record.key is None:
                continue
            if header.transactional and record.value is not None:
                durable.apply_open(header.producer_id, record.key, record.value, record.offset)
            else:
                durable.apply(record.key, record.value)
            applied += 1
    return applied
