"""ElectLeaders (KIP-183, KIP-460): leaders go back to the first broker of their list, or to any that lives.

No election here loses records, the "unclean" one included: a partition is opened only from a closed stream or a sealed
log, wherever it is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from kio.schema.elect_leaders.v2.response import ElectLeadersResponse, PartitionResult, ReplicaElectionResult
from kio.schema.errors import ErrorCode
from kio.schema.types import TopicName
from kio.static.primitive import i32

from brokers.errors import KafkaError
from brokers.handlers.admin import carried_out, fault_of
from brokers.handlers.context import RequestContext
from brokers.handlers.placement import home
from brokers.handlers.table import Api
from brokers.handlers.topic_view import partition_view
from brokers.protocol.messages import NO_TIME
from metadata.image import NO_LEADER, ClusterImage
from s3stream.types import NodeId, StreamId

PREFERRED: Final = 0
UNCLEAN: Final = 1


async def handle(ctx: RequestContext, request: Any) -> ElectLeadersResponse:
    services = ctx.services
    if request.topic_partitions is not None and not request.topic_partitions:
        return _answer(())
    if request.election_type not in (PREFERRED, UNCLEAN):
        return _refused(request, ErrorCode.invalid_request, f"Unknown election type {request.election_type}")
    image = services.partitions.image
    everything = request.topic_partitions is None
    asked: Iterable[tuple[str, Iterable[int]]] = (
        ((topic.name, range(len(topic.partitions))) for topic in image.topics.values())
        if request.topic_partitions is None
        else ((topic.topic, topic.partitions) for topic in request.topic_partitions)
    )
    moves: dict[StreamId, NodeId] = {}
    results = []
    for name, numbers in asked:
        found = []
        for number in numbers:
            code, message = _elect(image, name, number, request.election_type, moves)
            # Of all partitions, those that have the leader they should have are not told.
            if not everything or code != ErrorCode.election_not_needed:
                found.append(PartitionResult(partition_id=i32(number), error_code=code, error_message=message))
        results.append(ReplicaElectionResult(topic=TopicName(name), partition_result=tuple(found)))
    if moves:
        await carried_out(services.metadata.assign(moves), "elect leaders")
        await services.refresh()
    return _answer(results)


def _elect(
    image: ClusterImage, name: str, number: int, election: int, moves: dict[StreamId, NodeId]
) -> tuple[ErrorCode, str | None]:
    try:
        stream_id, target = _new_leader(image, name, number, election)
    except KafkaError as error:
        return fault_of(error, f"elect a leader of {name}-{number}")
    moves[stream_id] = target
    return ErrorCode.none, None


def _new_leader(image: ClusterImage, name: str, number: int, election: int) -> tuple[StreamId, NodeId]:
    topic = image.topics.get(name)
    if topic is None:
        raise KafkaError(ErrorCode.unknown_topic_or_partition, f"No such topic as {name}")
    if not 0 <= number < len(topic.partitions):
        raise KafkaError(ErrorCode.unknown_topic_or_partition, f"No such partition as {name}-{number}")
    part = topic.partitions[number]
    view = partition_view(image, part)
    if view.leader != NO_LEADER and (election == UNCLEAN or view.leader == view.replicas[0]):
        raise KafkaError(ErrorCode.election_not_needed, "Leader election not needed for topic partition.")
    if election == PREFERRED and view.leader != NO_LEADER:
        target = home(image, view.replicas[:1])
    else:
        target = home(image, (*view.replicas, part.assigned, *sorted(image.nodes)))
    if target is None:
        code = ErrorCode.preferred_leader_not_available if election == PREFERRED else (
            ErrorCode.eligible_leaders_not_available
        )  # fmt: skip
        raise KafkaError(code, "No broker that could lead the partition is alive.")
    return part.stream_id, target


def _answer(results: Sequence[ReplicaElectionResult], code: ErrorCode = ErrorCode.none) -> ElectLeadersResponse:
    return ElectLeadersResponse(throttle_time=NO_TIME, error_code=code, replica_election_results=tuple(results))


def _refused(request: Any, code: ErrorCode, message: str | None = None) -> ElectLeadersResponse:
    results = [
        ReplicaElectionResult(
            topic=TopicName(topic.topic),
            partition_result=tuple(
                PartitionResult(partition_id=i32(number), error_code=code, error_message=message)
                for number in topic.partitions
            ),
        )
        for topic in request.topic_partitions or ()
    ]
    return _answer(results, code)


def error_response(request: Any, code: ErrorCode, version: int) -> ElectLeadersResponse:
    return _refused(request, code)


API = Api(43, "ElectLeaders", 0, 2, handle, error_response=error_response)
