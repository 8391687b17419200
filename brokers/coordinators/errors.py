"""Which error a group's client sees when the coordinator's log failed it."""

from __future__ import annotations

from kio.schema.errors import ErrorCode

_CLIENT_ERRORS = {
    ErrorCode.unknown_topic_or_partition: ErrorCode.coordinator_not_available,
    ErrorCode.not_enough_replicas: ErrorCode.coordinator_not_available,
    ErrorCode.not_enough_replicas_after_append: ErrorCode.coordinator_not_available,
    ErrorCode.request_timed_out: ErrorCode.coordinator_not_available,
    ErrorCode.not_leader_or_follower: ErrorCode.not_coordinator,
    ErrorCode.kafka_storage_error: ErrorCode.not_coordinator,
    ErrorCode.message_too_large: ErrorCode.unknown_server_error,
    ErrorCode.record_list_too_large: ErrorCode.unknown_server_error,
    ErrorCode.invalid_fetch_size: ErrorCode.unknown_server_error,
}


def client_error(error: ErrorCode) -> ErrorCode:
    """As Kafka's coordinators translate an append's error: clients know coordinator errors, not a log's."""
    return _CLIENT_ERRORS.get(error, error)
