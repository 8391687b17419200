"""Metadata: brokers, topics, leaders; creates the topics asked for where that is allowed.

Invariant: a large answer does not hold the event loop: it is built in steps of bounded work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import structlog
from kio.schema.errors import ErrorCode

from brokers.handlers import topic_rules
from brokers.handlers.admin import CLUSTER_OPERATIONS, TOPIC_OPERATIONS
from brokers.handlers.context import RequestContext
from brokers.handlers.errors import count_error
from brokers.handlers.table import HOT, Api
from brokers.handlers.topic_view import shown_controller
from brokers.protocol.messages import decode_request
from brokers.protocol.metadata_codec import OPERATIONS_OMITTED, encode_metadata_response, encode_topic
from brokers.protocol.tags import NodeEndpoint
from metadata.image import ClusterImage, TopicImage

log = structlog.get_logger(__name__)

KEY: Final = 3
NO_CONTROLLER: Final = -1
PARTITIONS_PER_STEP: Final = 1_000
"""Partitions encoded before others get a turn: about 5 ms."""


def handle(ctx: RequestContext) -> None:
    request = decode_request(KEY, ctx.api_version, ctx.body)
    ctx.services.tasks.spawn(_answer(ctx, request), "metadata")


async def _answer(ctx: RequestContext, request: Any) -> None:
    try:
        body = await _body(ctx, request)
    except Exception:
        log.exception("request failed", api="Metadata", version=ctx.api_version)
        count_error(ctx.services.metrics, "Metadata", ErrorCode.unknown_server_error)
        body = _refusal(ctx, request, ErrorCode.unknown_server_error)
    ctx.respond([body])


async def _body(ctx: RequestContext, request: Any) -> bytes:
    version, services = ctx.api_version, ctx.services
    everything = request.topics is None or (version == 0 and not request.topics)
    if not everything and _names_badly(request.topics, version):
        return _refusal(ctx, request, ErrorCode.invalid_request)
    if not everything and _names_nothing(request.topics, version):
        return _refusal(ctx, request, ErrorCode.unknown_server_error)
    image = services.partitions.image
    if everything:
        return _respond(ctx, request, image, await _known(ctx, request, image.topics.values()))
    ids = {topic.topic_id for topic in request.topics if getattr(topic, "topic_id", None) is not None}
    if ids:
        known = [image.topics_by_id[topic_id] for topic_id in ids if topic_id in image.topics_by_id]
        unknown = [
            _error(version, ErrorCode.unknown_topic_id, None, topic_id)
            for topic_id in ids
            if topic_id not in image.topics_by_id
        ]
        return _respond(ctx, request, image, unknown + await _known(ctx, request, known))
    names = list(dict.fromkeys(topic.name for topic in request.topics))
    await _create_missing(ctx, request, names)
    image = services.partitions.image
    found = await _known(ctx, request, [image.topics[name] for name in names if name in image.topics])
    missing = [_error(version, _missing(name), name) for name in names if name not in image.topics]
    return _respond(ctx, request, image, found + missing)


def _names_badly(topics: Sequence[Any], version: int) -> bool:
    """Versions 10 and 11 have ids and null names on the wire, but do not mean them (KAFKA-14104)."""
    return version < 12 and any(topic.name is None or getattr(topic, "topic_id", None) is not None for topic in topics)


def _names_nothing(topics: Sequence[Any], version: int) -> bool:
    """Kafka fails on a topic with neither name nor id, unless the ids of others have it look at those alone."""
    return (
        version >= 12
        and all(topic.topic_id is None for topic in topics)
        and any(topic.name is None for topic in topics)
    )


async def _create_missing(ctx: RequestContext, request: Any, names: Sequence[str]) -> None:
    """A topic that could not be created is told as unknown, as by Kafka: whatever the reason, clients ask again."""
    services = ctx.services
    allowed = getattr(request, "allow_auto_topic_creation", True) and services.config.auto_create_topics_enable
    missing = [name for name in names if name not in services.partitions.image.topics]
    if allowed and missing:
        await services.auto_create(missing)


def _missing(name: str) -> ErrorCode:
    bad = topic_rules.name_fault(name) is not None
    return ErrorCode.invalid_topic_exception if bad else ErrorCode.unknown_topic_or_partition


async def _known(ctx: RequestContext, request: Any, topics: Iterable[TopicImage]) -> list[bytes]:
    version, services = ctx.api_version, ctx.services
    image, answers = services.partitions.image, services.metadata_answers
    operations = TOPIC_OPERATIONS if getattr(request, "include_topic_authorized_operations", False) else None
    found, work = [], 0
    for topic in topics:
        if operations is not None:
            work += len(topic.partitions)
            found.append(answers.encode(version, image, topic, operations))
        else:
            work += 0 if answers.kept(version, image, topic) else len(topic.partitions)
            found.append(answers.topic(version, image, topic))
        if work >= PARTITIONS_PER_STEP:
            work = 0
            await asyncio.sleep(0)
    return found


def _error(version: int, code: ErrorCode, name: str | None, topic_id: UUID | None = None) -> bytes:
    internal = name in topic_rules.INTERNAL_TOPICS
    return encode_topic(version, code, name, topic_id, internal, ())


def _respond(ctx: RequestContext, request: Any, image: ClusterImage, topics: list[bytes]) -> bytes:
    nodes = [NodeEndpoint(node.node_id, node.host, node.port, node.rack) for node in image.nodes.values() if node.alive]
    asked = getattr(request, "include_cluster_authorized_operations", False)
    return encode_metadata_response(
        ctx.api_version,
        nodes,
        image.cluster_id,
        shown_controller(image, ctx.services.node_id),
        topics,
        cluster_authorized_operations=CLUSTER_OPERATIONS if asked else OPERATIONS_OMITTED,
    )


def _refusal(ctx: RequestContext, request: Any, code: ErrorCode) -> bytes:
    """The same error for every topic asked for."""
    version = ctx.api_version
    topics = [
        _error(version, code, topic.name or "", getattr(topic, "topic_id", None)) for topic in request.topics or ()
    ]
    # As Kafka's: without the cluster, so that a client does not take this for news of it.
    return encode_metadata_response(version, (), None, NO_CONTROLLER, topics, error_code=code if version >= 13 else 0)


API = Api(KEY, "Metadata", 0, 13, handle, kind=HOT)
