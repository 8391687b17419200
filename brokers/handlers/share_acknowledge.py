"""ShareAcknowledge: a member says what became of records that it acquired. Answers when that is stored."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers import share_messages as messages
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.handlers.table import Api
from brokers.shares.messages import Result
from brokers.shares.sessions import FINAL_EPOCH, Place

KEY = 79


async def handle(ctx: RequestContext, request: Any) -> Any:
    services, version = ctx.services, ctx.api_version
    shares = services.shares
    try:
        key = messages.member_of(request, services)
        shares.sessions.acknowledge(key, request.share_session_epoch)
    except KafkaError as error:
        return messages.answer(KEY, version, error.code, error.message)
    renews = bool(getattr(request, "is_renew_ack", False))
    results = await messages.acknowledge(services, key, messages.acknowledgements(request), version, renews)
    if request.share_session_epoch == FINAL_EPOCH:
        shares.end_session(key)
    moved = [place for place, result in results.items() if result.error is messages.MOVED[0]]
    if moved:
        await messages.wait_until_named(services, moved)
    lock_ms = shares.settings(key.group).limits.lock_ms
    return _answer(ctx, results, lock_ms)


def _answer(ctx: RequestContext, results: dict[Place, Result], lock_ms: int) -> Any:
    version = ctx.api_version
    leaders = messages.Leaders(ctx.services)
    by_topic: dict[Any, list[Any]] = {}
    for place, result in results.items():
        leader = leaders.name(place, result.error)
        by_topic.setdefault(place[0], []).append(
            build(
                KEY, version, "PartitionData", partition_index=place[1], error_code=result.error,
                error_message=result.message,
                current_leader=build(
                    KEY, version, "LeaderIdAndEpoch", leader_id=leader.leader_id, leader_epoch=leader.leader_epoch
                ),
            )
        )  # fmt: skip
    topics = tuple(
        build(KEY, version, "ShareAcknowledgeTopicResponse", topic_id=topic_id, partitions=tuple(parts))
        for topic_id, parts in by_topic.items()
    )
    endpoints = tuple(build(KEY, version, "NodeEndpoint", **node._asdict()) for node in leaders.endpoints)
    return messages.answer(KEY, version, ErrorCode.none, None, topics, endpoints, lock_ms)


API = Api(KEY, "ShareAcknowledge", 1, 2, handle, raw=True, error_response=messages.refused(KEY))
