"""DeleteTopics: by name, or by id from version 6 (KIP-516)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from kio.schema.delete_topics.v6.response import DeletableTopicResult, DeleteTopicsResponse
from kio.schema.errors import ErrorCode
from kio.schema.types import TopicName

from brokers.errors import KAFKA_WORDS, KafkaError
from brokers.handlers.admin import duplicates, fault_of
from brokers.handlers.context import RequestContext
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME
from s3stream.errors import NotFound


async def handle(ctx: RequestContext, request: Any) -> DeleteTopicsResponse:
    services = ctx.services
    if not services.config.delete_topic_enable:
        # Version 3 brought the error's own code.
        code = ErrorCode.topic_deletion_disabled if ctx.api_version >= 3 else ErrorCode.invalid_request
        raise KafkaError(code)
    if ctx.api_version < 6:
        wanted: list[tuple[str | None, UUID | None]] = [(name, None) for name in request.topic_names]
    else:
        wanted = [(topic.name, topic.topic_id) for topic in request.topics]
    results, targets = _resolve(wanted, services)
    for topic_id, name in targets.items():
        results.append(await _delete(name, topic_id, services))
    if targets:
        await services.refresh()
    return DeleteTopicsResponse(throttle_time=NO_TIME, responses=tuple(results))


def _resolve(
    wanted: list[tuple[str | None, UUID | None]], services: Services
) -> tuple[list[DeletableTopicResult], dict[UUID, str]]:
    """What can be answered at once, and the topics to delete, by id."""
    image = services.partitions.image
    repeated_names = duplicates(name for name, topic_id in wanted if name is not None and topic_id is None)
    repeated_ids = duplicates(str(topic_id) for name, topic_id in wanted if name is None and topic_id is not None)
    results = [_result(name, None, ErrorCode.invalid_request, "Duplicate topic name.") for name in repeated_names]
    results += [
        _result(None, UUID(topic_id), ErrorCode.invalid_request, "Duplicate topic id.") for topic_id in repeated_ids
    ]
    targets: dict[UUID, str] = {}
    # Ids first: a name that maps to one of them is then a repetition, as Kafka has it.
    for name, topic_id in sorted(wanted, key=lambda pair: pair[0] is not None):
        if name is not None and topic_id is not None:
            message = "You may not specify both topic name and topic id."
            results.append(_result(name, topic_id, ErrorCode.invalid_request, message))
        elif name is not None:
            if name in repeated_names:
                continue
            topic = image.topics.get(name)
            if topic is None:
                results.append(_result(name, None, ErrorCode.unknown_topic_or_partition))
            elif topic.topic_id in targets or str(topic.topic_id) in repeated_ids:
                targets.pop(topic.topic_id, None)
                message = "The provided topic name maps to an ID that was already supplied."
                results.append(_result(name, topic.topic_id, ErrorCode.invalid_request, message))
            else:
                targets[topic.topic_id] = name
        elif topic_id is None:
            message = "Neither topic name nor id were specified."
            results.append(_result(None, None, ErrorCode.invalid_request, message))
        elif str(topic_id) not in repeated_ids:
            topic = image.topics_by_id.get(topic_id)
            if topic is None:
                results.append(_result(None, topic_id, ErrorCode.unknown_topic_id))
            else:
                targets[topic_id] = topic.name
    return results, targets


async def _delete(name: str, topic_id: UUID, services: Services) -> DeletableTopicResult:
    try:
        await services.metadata.delete_topic(topic_id)
    except NotFound:
        return _result(name, topic_id, ErrorCode.unknown_topic_or_partition)
    except Exception as error:
        return _result(name, topic_id, *fault_of(error, f"delete topic {name}"))
    return _result(name, topic_id, ErrorCode.none)


def _result(
    name: str | None, topic_id: UUID | None, code: ErrorCode, message: str | None = None
) -> DeletableTopicResult:
    return DeletableTopicResult(
        name=None if name is None else TopicName(name),
        topic_id=topic_id,
        error_code=code,
        error_message=message or KAFKA_WORDS.get(code),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> DeleteTopicsResponse:
    if version < 6:
        results = [_result(name, None, code) for name in request.topic_names]
    else:
        results = [_result(topic.name, topic.topic_id, code) for topic in request.topics]
    return DeleteTopicsResponse(throttle_time=NO_TIME, responses=tuple(results))


API = Api(20, "DeleteTopics", 1, 6, handle, raw=True, error_response=error_response)
