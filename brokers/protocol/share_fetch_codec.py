"""ShareFetch's answers, versions 1 and 2 (which are alike), encoded around the record buffers.

Does not own: requests, and answers that refuse the whole request (`messages.py`).
Invariant: a record buffer goes into the answer as it is, never copied; the answer's bytes are kio's
(property-tested).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from brokers.protocol.primitives import INT16, array_length, compact_string, uvarint
from brokers.protocol.tags import CurrentLeader, NodeEndpoint, encode_current_leader, encode_node_endpoints
from s3stream.types import Buffer

_HEAD: Final = struct.Struct(">ihbi")
"""Throttle time, error, no message, time that records are locked for."""
_PARTITION: Final = struct.Struct(">ih")
_ACQUIRED: Final = struct.Struct(">qqhb")
"""First, last, deliveries, no tags."""
NOBODY: Final = CurrentLeader(0, 0)


class SharePartitionAnswer(NamedTuple):
    """One partition's share of the answer."""

    partition: int
    error_code: int = 0
    error_message: str | None = None
    acknowledge_error_code: int = 0
    acknowledge_error_message: str | None = None
    current_leader: CurrentLeader = NOBODY
    buffers: Sequence[Buffer] = ()
    acquired: Sequence[tuple[int, int, int]] = ()
    """First offset, last offset, how often delivered."""


def encode_share_fetch_response(
    topics: Mapping[UUID, Sequence[SharePartitionAnswer]], lock_ms: int, endpoints: Sequence[NodeEndpoint] = ()
) -> list[Buffer]:
    """The body as buffers."""
    out: list[Buffer] = []
    meta = bytearray(_HEAD.pack(0, 0, 0, lock_ms))
    meta += array_length(len(topics), flexible=True)
    for topic_id, answers in topics.items():
        meta += topic_id.bytes
        meta += array_length(len(answers), flexible=True)
        for answer in answers:
            meta += _partition_head(answer)
            if answer.buffers:
                out.append(meta)
                out += answer.buffers
                meta = bytearray()
            meta += array_length(len(answer.acquired), flexible=True)
            for acquired in answer.acquired:
                meta += _ACQUIRED.pack(*acquired, 0)
            meta += b"\x00"
        meta += b"\x00"
    meta += encode_node_endpoints(endpoints)
    meta += b"\x00"
    out.append(meta)
    return out


def _partition_head(answer: SharePartitionAnswer) -> bytes:
    """Everything before the records, their length included."""
    return b"".join(
        (
            _PARTITION.pack(answer.partition, answer.error_code),
            compact_string(answer.error_message),
            INT16.pack(answer.acknowledge_error_code),
            compact_string(answer.acknowledge_error_message),
            encode_current_leader(answer.current_leader),
            uvarint(sum(map(len, answer.buffers)) + 1),
        )
    )
