"""What streams groups' requests and answers have in common with the values of groups/streams: from and to the wire."""

from __future__ import annotations

from typing import Any, Final

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.modern.assignments import gathered
from brokers.groups.streams.member import Endpoint
from brokers.groups.streams.messages import StreamsHeartbeatRequest
from brokers.groups.streams.tasks import Tasks, TaskSets
from brokers.groups.streams.topology import CopartitionGroup, Subtopology, TopicInfo, Topology
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build, milliseconds

VERSION: Final = 0
"""Of both APIs."""


def heartbeat_request(ctx: RequestContext, request: Any) -> StreamsHeartbeatRequest:
    """Raises UNKNOWN_SERVER_ERROR for a topology that Kafka breaks over."""
    owned = None
    if request.active_tasks is not None:
        owned = TaskSets(_tasks(request.active_tasks), _tasks(request.standby_tasks), _tasks(request.warmup_tasks))
    endpoint, tags = request.user_endpoint, request.client_tags
    return StreamsHeartbeatRequest(
        member_id=request.member_id,
        member_epoch=request.member_epoch,
        endpoint_epoch=request.endpoint_information_epoch,
        rack_id=request.rack_id,
        rebalance_timeout_ms=milliseconds(request.rebalance_timeout),
        topology=None if request.topology is None else _topology(request.topology),
        owned=owned,
        process_id=request.process_id,
        endpoint=None if endpoint is None else Endpoint(endpoint.host, endpoint.port),
        client_tags=None if tags is None else {tag.key: tag.value for tag in tags},
        shutdown_application=request.shutdown_application,
        client_id=ctx.client_id or "",
        client_host=f"/{ctx.client_host}",
    )


def _tasks(tasks: Any) -> Tasks:
    return gathered((found.subtopology_id, found.partitions) for found in tasks)


def _topology(topology: Any) -> Topology:
    subtopologies = {found.subtopology_id: _subtopology(found) for found in topology.subtopologies}
    if topology.epoch < 0 or len(subtopologies) < len(topology.subtopologies):
        raise KafkaError(ErrorCode.unknown_server_error)
    return Topology(topology.epoch, subtopologies)


def _subtopology(found: Any) -> Subtopology:
    return Subtopology(
        source_topics=found.source_topics,
        source_topic_patterns=found.source_topic_regex,
        changelog_topics=tuple(map(_topic, found.state_changelog_topics)),
        repartition_sink_topics=found.repartition_sink_topics,
        repartition_source_topics=tuple(map(_topic, found.repartition_source_topics)),
        copartition_groups=tuple(
            CopartitionGroup(group.source_topics, group.source_topic_regex, group.repartition_source_topics)
            for group in found.copartition_groups
        ),
    )


def _topic(topic: Any) -> TopicInfo:
    configs = tuple((config.key, config.value) for config in topic.topic_configs)
    return TopicInfo(topic.name, topic.partitions, topic.replication_factor, configs)


def task_ids(key: int, tasks: Tasks) -> tuple[Any, ...]:
    return tuple(
        build(key, VERSION, "TaskIds", subtopology_id=subtopology, partitions=tuple(sorted(parts)))
        for subtopology, parts in sorted(tasks.items())
    )


def endpoint(key: int, found: Endpoint) -> Any:
    return build(key, VERSION, "Endpoint", host=found.host, port=found.port)
