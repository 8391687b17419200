"""Kafka's error codes, and the one place where faults of the layers below become them."""

from __future__ import annotations

from typing import Final

from kio.schema.errors import ErrorCode

from s3stream import errors


class KafkaError(Exception):
    """An error that a client is to see. `message` goes into the answer where the API has a field for it."""

    def __init__(self, code: ErrorCode, message: str | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name


KAFKA_WORDS: Final = {
    ErrorCode.unknown_topic_or_partition: "This server does not host this topic-partition.",
    ErrorCode.unknown_topic_id: "This server does not host this topic ID.",
}
"""What Kafka says of an error by itself, where clients or tools show it."""


def words_of(code: ErrorCode) -> str | None:
    """For a partition's or a topic's error, which has no message of its own."""
    return None if code is ErrorCode.none else KAFKA_WORDS.get(code, code.name)


def error_code(error: BaseException) -> ErrorCode:
    """The code a client sees for `error`. Anything unknown is UNKNOWN_SERVER_ERROR, and is logged by the caller."""
    if isinstance(error, KafkaError):
        return error.code
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return ErrorCode.unknown_server_error


# Subclasses before their bases: the first match wins.
_CODES: tuple[tuple[type[BaseException], ErrorCode], ...] = (
    (errors.Overloaded, ErrorCode.request_timed_out),
    (errors.Unavailable, ErrorCode.kafka_storage_error),
    (errors.Fenced, ErrorCode.not_leader_or_follower),
    (errors.OutOfRange, ErrorCode.offset_out_of_range),
    (errors.NotFound, ErrorCode.unknown_topic_or_partition),
    (errors.Corrupt, ErrorCode.kafka_storage_error),
)
