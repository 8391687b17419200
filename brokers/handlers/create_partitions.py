"""CreatePartitions: more partitions for a topic; answers when they are open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kio.schema.create_partitions.v3.response import CreatePartitionsResponse, CreatePartitionsTopicResult
from kio.schema.errors import ErrorCode
from kio.schema.types import TopicName

from brokers.controller.planner import Placer
from brokers.errors import KafkaError
from brokers.handlers import placement, topic_rules
from brokers.handlers.admin import duplicates, fault_of
from brokers.handlers.context import RequestContext
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME
from metadata.image import TopicImage
from s3stream.errors import NotFound
from s3stream.types import NodeId


async def handle(ctx: RequestContext, request: Any) -> CreatePartitionsResponse:
    services = ctx.services
    repeated = duplicates(topic.name for topic in request.topics)
    results = [_result(name, ErrorCode.invalid_request, "Duplicate topic name.") for name in sorted(repeated)]
    changed = False
    placer = await placement.placer(services)
    for topic in request.topics:
        if topic.name in repeated:
            continue
        try:
            found, assignment = _plan(topic, services, placer)
            if not request.validate_only:
                grown = await services.metadata.create_partitions(found.topic_id, assignment)
                await placement.settle(services, grown.partitions[-len(assignment) :])
                changed = True
            results.append(_result(topic.name, ErrorCode.none))
        except NotFound:
            results.append(_result(topic.name, ErrorCode.unknown_topic_or_partition))
        except Exception as error:
            results.append(_result(topic.name, *fault_of(error, f"add partitions to {topic.name}")))
    if changed:
        await services.refresh()
    return CreatePartitionsResponse(throttle_time=NO_TIME, results=tuple(results))


def _plan(topic: Any, services: Services, placer: Placer) -> tuple[TopicImage, Sequence[Sequence[NodeId]]]:
    image = services.partitions.image
    found = image.topics.get(topic.name)
    if found is None:
        raise KafkaError(ErrorCode.unknown_topic_or_partition)
    existing = len(found.partitions)
    if topic.count == existing:
        raise KafkaError(ErrorCode.invalid_partitions, f"Topic already has {existing} partition(s).")
    if topic.count < existing:
        raise KafkaError(
            ErrorCode.invalid_partitions,
            f"The topic {topic.name} currently has {existing} partition(s); {topic.count} would not be an increase.",
        )
    additional = topic.count - existing
    if topic.assignments is not None and len(topic.assignments) != additional:
        raise KafkaError(
            ErrorCode.invalid_replica_assignment,
            f"Attempted to add {additional} additional partition(s), but only {len(topic.assignments)} "
            "assignment(s) were specified.",
        )
    if additional > topic_rules.PARTITIONS_PER_REQUEST_MAX:
        raise KafkaError(ErrorCode.policy_violation, "Excessively large number of partitions per request.")
    factor = len(found.partitions[0].replicas)
    if topic.assignments is None:
        return found, placement.place(placer, additional, factor)
    for number, entry in enumerate(topic.assignments, existing):
        topic_rules.check_assignment(entry.broker_ids, factor, image.nodes)
        topic_rules.check_somebody_alive(number, entry.broker_ids, image.nodes)
    return found, [list(entry.broker_ids) for entry in topic.assignments]


def _result(name: str, code: ErrorCode, message: str | None = None) -> CreatePartitionsTopicResult:
    return CreatePartitionsTopicResult(name=TopicName(name), error_code=code, error_message=message)


def error_response(request: Any, code: ErrorCode, version: int) -> CreatePartitionsResponse:
    return CreatePartitionsResponse(
        throttle_time=NO_TIME, results=tuple(_result(topic.name, code) for topic in request.topics)
    )


API = Api(37, "CreatePartitions", 0, 3, handle, error_response=error_response)
