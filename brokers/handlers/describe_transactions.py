"""DescribeTransactions: the state of transactional ids coordinated here (KIP-664).

The answer is encoded here: kio holds the start as a date, and the one of a transaction that has not begun is -1.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from kio.schema.errors import ErrorCode

from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.handlers.errors import count_error
from brokers.protocol.messages import decode_request
from brokers.protocol.primitives import compact_string, uvarint
from brokers.transactions.messages import TransactionDescription
from brokers.transactions.records import by_topic

KEY: Final = 65
_NO_TAGS: Final = b"\x00"
_THROTTLE: Final = struct.pack(">i", 0)
_ERROR = struct.Struct(">h")
_NUMBERS = struct.Struct(">iqqh")
"""Timeout, start, producer id, producer epoch."""
_PARTITION = struct.Struct(">i")


def handle(ctx: RequestContext) -> None:
    request = decode_request(KEY, ctx.api_version, ctx.body)
    transactions = ctx.services.transactions
    found = [transactions.describe(transactional_id) for transactional_id in request.transactional_ids]
    for description in found:
        if description.error is not ErrorCode.none:
            count_error(ctx.services.metrics, "DescribeTransactions", description.error)
    ctx.respond([encode(found)])


def encode(found: Sequence[TransactionDescription]) -> bytes:
    """The answer's body, version 0."""
    parts = [_THROTTLE, uvarint(len(found) + 1)]
    for description in found:
        numbers = _NUMBERS.pack(
            description.timeout_ms, description.start_ms, description.producer_id, description.producer_epoch
        )
        parts += (
            _ERROR.pack(description.error),
            compact_string(description.transactional_id),
            compact_string(description.state),
            numbers,
        )
        topics = by_topic(description.partitions)
        parts.append(uvarint(len(topics) + 1))
        for topic, partitions in topics:
            parts += (compact_string(topic), uvarint(len(partitions) + 1))
            parts += map(_PARTITION.pack, partitions)
            parts.append(_NO_TAGS)
        parts.append(_NO_TAGS)
    parts.append(_NO_TAGS)
    return b"".join(parts)


API = table.Api(KEY, "DescribeTransactions", 0, 0, handle, kind=table.HOT)
