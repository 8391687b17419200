"""What ShareFetch and ShareAcknowledge have in common: who may ask, acknowledgements in requests and their results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers import leaders
from brokers.handlers.group_messages import build, check_feature
from brokers.handlers.services import Services
from brokers.protocol.messages import milliseconds
from brokers.protocol.primitives import ZERO_UUID
from brokers.protocol.share_fetch_codec import NOBODY
from brokers.protocol.tags import CurrentLeader, NodeEndpoint
from brokers.shares.messages import DONE, Result
from brokers.shares.records import SharePartitionKey
from brokers.shares.sessions import MemberKey, Place
from brokers.shares.share_partition import Ack, Acknowledgement

MEMBER_ID_LENGTH_MAX: Final = 36
RENEWAL_VERSION: Final = 2
MOVED: Final = (ErrorCode.not_leader_or_follower, ErrorCode.fenced_leader_epoch)

Acks: TypeAlias = Mapping[Place, Sequence[Acknowledgement]]


def check_served(services: Services) -> None:
    """Raises UNSUPPORTED_VERSION where share groups are not."""
    check_feature(services, "share.version")


def member_of(request: Any, services: Services) -> MemberKey:
    """Raises KafkaError."""
    check_served(services)
    if request.group_id is None:
        raise KafkaError(ErrorCode.invalid_request, "Invalid group id in the request.")
    if not request.member_id or len(request.member_id) > MEMBER_ID_LENGTH_MAX:
        raise KafkaError(ErrorCode.invalid_request, "Invalid member id in the request.")
    return MemberKey(request.group_id, request.member_id)


def acknowledgements(request: Any) -> dict[Place, list[Acknowledgement]]:
    """Of each partition in the request; none for one that has no batches."""
    return {
        (topic.topic_id or ZERO_UUID, part.partition_index): [
            Acknowledgement(batch.first_offset, batch.last_offset, batch.acknowledge_types)
            for batch in part.acknowledgement_batches
        ]
        for topic in request.topics
        for part in topic.partitions
    }


async def acknowledge(
    services: Services, key: MemberKey, acks: Acks, version: int, renews: bool
) -> dict[Place, Result]:
    """Carried out and stored, or refused, partition by partition."""
    places = list(acks)
    results = await asyncio.gather(
        *(_acknowledge(services, key, place, acks[place], version, renews) for place in places)
    )
    return dict(zip(places, results, strict=True))


async def _acknowledge(
    services: Services, key: MemberKey, place: Place, acks: Sequence[Acknowledgement], version: int, renews: bool
) -> Result:
    topic_id, partition = place
    topic = services.partitions.image.topics_by_id.get(topic_id)
    if topic is None:
        return Result(ErrorCode.unknown_topic_id)
    if not _is_well_formed(acks, version >= RENEWAL_VERSION, renews):
        return Result(ErrorCode.invalid_request)
    if not 0 <= partition < len(topic.partitions):
        return Result(ErrorCode.unknown_topic_or_partition)
    if not acks:
        return DONE
    led = services.shares.leaders.get(SharePartitionKey(key.group, topic_id, partition))
    if led is not None:
        return await led.acknowledge(key.member, acks)
    try:
        services.partitions.log_by_id(topic_id, partition)
    except KafkaError as error:
        return Result(error.code, error.message)
    return Result(ErrorCode.unknown_topic_or_partition)


def _is_well_formed(acks: Sequence[Acknowledgement], may_renew: bool, renews: bool) -> bool:
    end = -1
    for ack in acks:
        types = ack.types
        if ack.first > ack.last or ack.first < end or not types:
            return False
        if len(types) > 1 and len(types) != ack.last - ack.first + 1:
            return False
        if not all(0 <= kind <= (Ack.RENEW if may_renew else Ack.REJECT) for kind in types):
            return False
        if Ack.RENEW in types and not renews:
            return False
        end = ack.last
    return True


def answer(
    key: int,
    version: int,
    code: ErrorCode,
    message: str | None,
    topics: tuple[Any, ...] = (),
    endpoints: tuple[Any, ...] = (),
    lock_ms: int = 0,
) -> Any:
    """Of either API."""
    return build(
        key, version, error_code=code, error_message=message, acquisition_lock_timeout=milliseconds(lock_ms),
        responses=topics, node_endpoints=endpoints,
    )  # fmt: skip


def refused(key: int) -> Callable[[Any, ErrorCode, int], Any]:
    """`error_response` of the API."""
    return lambda request, code, version: answer(key, version, code, None)


class Leaders:
    """New leaders to name in an answer, and where they are."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._endpoints: dict[int, NodeEndpoint] = {}

    def name(self, place: Place, error: ErrorCode) -> CurrentLeader:
        """Nobody where nobody need be named."""
        leader = leaders.new_leader(self._services, *place) if error in MOVED else None
        if leader is None:
            return NOBODY
        node = leaders.endpoint(self._services.partitions.image, leader)
        if node is not None:
            self._endpoints[node.node_id] = node
        return leader

    @property
    def endpoints(self) -> tuple[NodeEndpoint, ...]:
        return tuple(self._endpoints.values())


async def wait_until_named(services: Services, places: Iterable[Place]) -> None:
    """Returns once the new leaders of partitions that left this broker a moment ago are known, or nobody can say."""
    named = asyncio.Event()
    leaders.when_named(services, list(places), named.set)
    await named.wait()
