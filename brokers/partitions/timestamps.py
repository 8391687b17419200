"""Lookups by time, exact to the record (CORRECTNESS 16).

The stream's index finds the batch; one decode of that batch finds the record.
"""

from __future__ import annotations

from typing import NamedTuple

from brokers.records.batch import parse_header
from brokers.records.record import find_timestamp
from s3stream.errors import Corrupt
from s3stream.stream import Stream
from s3stream.types import Buffer


class TimestampOffset(NamedTuple):
    offset: int
    timestamp: int
    leader_epoch: int
    """Under which the record was written."""


async def first_at_or_after(stream: Stream, target: int, limit_offset: int) -> TimestampOffset | None:
    """The first record at or above the log start with timestamp >= `target`, below `limit_offset`."""
    start = stream.start_offset
    while True:
        batch = await stream.batch_for_timestamp(target, limit_offset, start)
        if batch is None:
            return None
        found = _in_batch(batch, target, max(start, stream.start_offset), limit_offset)
        if found is not None:
            return found
        # The log start lies inside that batch, after its last match (or the producer's header claimed a timestamp
        # that no record has): go on behind it.
        start = parse_header(batch).end_offset


async def first_of_newest(stream: Stream, limit_offset: int) -> TimestampOffset | None:
    """The first record that has the log's greatest timestamp, below `limit_offset`."""
    batch = await stream.batch_of_max_timestamp(limit_offset)
    if batch is None:
        return None
    newest = parse_header(batch).max_timestamp
    return _in_batch(batch, newest, stream.start_offset, limit_offset)


def _in_batch(batch: Buffer, target: int, start_offset: int, limit_offset: int) -> TimestampOffset | None:
    header = parse_header(batch)
    try:
        found = find_timestamp(batch, target, start_offset)
    except Corrupt:
        # The bytes are as the producer sent them (blocks are checksummed), and hold no records that can be read. One
        # bad producer must not end lookups in the whole partition: what its header says is the answer.
        found = max(start_offset, header.base_offset), header.max_timestamp
    if found is None or found[0] >= limit_offset:
        return None
    return TimestampOffset(found[0], found[1], header.leader_epoch)
