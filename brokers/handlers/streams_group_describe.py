"""StreamsGroupDescribe: epochs, topology, members and tasks of streams groups (KIP-1071)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.streams.messages import DescribedStreamsMember, StreamsGroupDescription
from brokers.groups.streams.tasks import TaskSets
from brokers.groups.streams.topology import Subtopology, TopicInfo, Topology
from brokers.handlers.context import RequestContext
from brokers.handlers.describe_groups import GROUP_OPERATIONS, NO_OPERATIONS
from brokers.handlers.group_messages import build, check_protocol
from brokers.handlers.streams_messages import VERSION, endpoint, task_ids
from brokers.handlers.table import Api

KEY = 89


async def handle(ctx: RequestContext, request: Any) -> Any:
    check_protocol(ctx.services, "streams", "streams.version")
    groups = [await _group(ctx, group_id, request.include_authorized_operations) for group_id in request.group_ids]
    return build(KEY, VERSION, groups=tuple(groups))


async def _group(ctx: RequestContext, group_id: str, with_operations: bool) -> Any:
    try:
        group = await ctx.services.groups.describe_streams(group_id)
    except KafkaError as error:
        return _refusal(group_id, error.code, error.message)
    return _described(group, with_operations)


def _described(group: StreamsGroupDescription, with_operations: bool) -> Any:
    return build(
        KEY, VERSION, "DescribedGroup", error_code=ErrorCode.none, error_message=None, group_id=group.group_id,
        group_state=group.state, group_epoch=group.group_epoch, assignment_epoch=group.assignment_epoch,
        topology=_topology(group.topology), members=tuple(map(_member, group.members)),
        authorized_operations=GROUP_OPERATIONS if with_operations else NO_OPERATIONS,
    )  # fmt: skip


def _topology(topology: Topology) -> Any:
    subtopologies = tuple(_subtopology(*item) for item in sorted(topology.subtopologies.items()))
    return build(KEY, VERSION, "Topology", epoch=topology.epoch, subtopologies=subtopologies)


def _subtopology(subtopology_id: str, found: Subtopology) -> Any:
    return build(
        KEY, VERSION, "Subtopology", subtopology_id=subtopology_id, source_topics=tuple(sorted(found.source_topics)),
        repartition_sink_topics=tuple(sorted(found.repartition_sink_topics)),
        state_changelog_topics=_topics(found.changelog_topics),
        repartition_source_topics=_topics(found.repartition_source_topics),
    )  # fmt: skip


def _topics(topics: Iterable[TopicInfo]) -> tuple[Any, ...]:
    return tuple(
        build(
            KEY, VERSION, "TopicInfo", name=topic.name, partitions=topic.partitions,
            replication_factor=topic.replication_factor, topic_configs=_pairs(topic.configs),
        )
        for topic in sorted(topics)
    )  # fmt: skip


def _pairs(pairs: Iterable[tuple[str, str]]) -> tuple[Any, ...]:
    return tuple(build(KEY, VERSION, "KeyValue", key=key, value=value) for key, value in pairs)


def _member(member: DescribedStreamsMember) -> Any:
    said = member.subscription
    return build(
        KEY, VERSION, "Member", member_id=member.member_id, member_epoch=member.member_epoch,
        instance_id=said.instance_id, rack_id=said.rack_id, client_id=said.client_id, client_host=said.client_host,
        topology_epoch=said.topology_epoch, process_id=said.process_id,
        user_endpoint=None if said.endpoint is None else endpoint(KEY, said.endpoint),
        client_tags=_pairs(said.client_tags.items()), task_offsets=(), task_end_offsets=(),
        assignment=_assignment(member.assigned), target_assignment=_assignment(member.target), is_classic=False,
    )  # fmt: skip


def _assignment(tasks: TaskSets) -> Any:
    return build(
        KEY, VERSION, "Assignment", active_tasks=task_ids(KEY, tasks.active),
        standby_tasks=task_ids(KEY, tasks.standby), warmup_tasks=task_ids(KEY, tasks.warmup),
    )  # fmt: skip


def _refusal(group_id: str, code: ErrorCode, message: str | None = None) -> Any:
    return build(
        KEY, VERSION, "DescribedGroup", error_code=code, error_message=message, group_id=group_id, group_state="",
        group_epoch=0, assignment_epoch=0, topology=None, members=(), authorized_operations=NO_OPERATIONS,
    )  # fmt: skip


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    return build(KEY, VERSION, groups=tuple(_refusal(group_id, code) for group_id in request.group_ids))


API = Api(KEY, "StreamsGroupDescribe", 0, 0, handle, error_response=error_response)
