"""An append between the stream and durability, and what it answers."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from kio.schema.errors import ErrorCode

from brokers.records.record import EndMarker
from s3stream.types import NO_TIMESTAMP

if TYPE_CHECKING:
    from brokers.partitions.producer_state import DurableBatch

NO_OFFSET = -1
WITHOUT_LOG_START = frozenset(
    (
        ErrorCode.unknown_topic_or_partition,
        ErrorCode.not_leader_or_follower,
        ErrorCode.message_too_large,
        ErrorCode.record_list_too_large,
        ErrorCode.corrupt_message,
        ErrorCode.kafka_storage_error,
        ErrorCode.request_timed_out,
    )
)
"""Refusals that Kafka answers without the log start offset."""


class AppendOrigin(enum.Enum):
    CLIENT = "client"
    """A produce request: everything is checked."""
    COORDINATOR = "coordinator"
    """This broker's own coordinators: control batches and transactional batches allowed, no sequence numbers."""


class RecordError(NamedTuple):
    """One record's share of a refused batch, as Produce answers it."""

    batch_index: int
    message: str


class AppendResult:
    """What Produce answers for a partition."""

    __slots__ = ("base_offset", "error", "error_message", "log_append_time_ms", "log_start_offset", "record_errors")

    def __init__(
        self,
        error: ErrorCode,
        base_offset: int = NO_OFFSET,
        log_append_time_ms: int = NO_TIMESTAMP,
        log_start_offset: int = NO_OFFSET,
        error_message: str | None = None,
        record_errors: Sequence[RecordError] = (),
    ) -> None:
        self.error = error
        self.base_offset = base_offset
        self.log_append_time_ms = log_append_time_ms
        """-1 for CreateTime."""
        self.log_start_offset = log_start_offset
        self.error_message = error_message
        self.record_errors = record_errors

    def __repr__(self) -> str:
        return f"AppendResult({self.error.name}, base offset {self.base_offset}, {self.error_message})"


Done: TypeAlias = Callable[[AppendResult], None]


class PendingAppend:
    """A batch that the stream has taken and that is not durable yet. One object per append."""

    __slots__ = (
        "base_offset", "base_sequence", "done", "end_offset", "last_sequence", "log_append_time_ms", "marker",
        "max_timestamp", "producer_epoch", "producer_id", "retries", "transactional",
    )  # fmt: skip

    def __init__(
        self,
        base_offset: int,
        end_offset: int,
        max_timestamp: int,
        log_append_time_ms: int,
        done: Done,
        producer_id: int,
        producer_epoch: int,
        base_sequence: int,
        last_sequence: int,
        transactional: bool,
        marker: EndMarker | None,
    ) -> None:
        self.base_offset = base_offset
        self.end_offset = end_offset
        self.max_timestamp = max_timestamp
        self.log_append_time_ms = log_append_time_ms
        self.done = done
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self.base_sequence = base_sequence
        self.last_sequence = last_sequence
        self.transactional = transactional
        self.marker = marker
        self.retries: list[Done] | None = None
        """Retries of this very batch that came while it was pending: they hear what the original hears."""


def repeated(base_offset: int, timestamp: int, log_start_offset: int) -> AppendResult:
    """Kafka tells a duplicate's max timestamp as its log append time, whatever the topic's timestamp type."""
    return AppendResult(ErrorCode.none, base_offset, timestamp, log_start_offset)


def answer_duplicate(duplicate: PendingAppend | DurableBatch, log_start_offset: int, done: Done) -> None:
    """A retry answers with its original: at once if that is durable, else when it is (CORRECTNESS 6)."""
    if isinstance(duplicate, PendingAppend):
        if duplicate.retries is None:
            duplicate.retries = []
        duplicate.retries.append(done)
    else:
        done(repeated(duplicate.base_offset, duplicate.timestamp, log_start_offset))
