"""What goes into and comes out of a streams group. Values only; the wire's classes are the handlers' affair."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from brokers.groups.streams.member import Endpoint, Subscription
from brokers.groups.streams.tasks import Tasks, TaskSets
from brokers.groups.streams.topology import TopicInfo, Topology

JOIN_EPOCH: Final = 0
LEAVE_EPOCH: Final = -1


class StatusCode(enum.IntEnum):
    """What members are told beside their tasks; the numbers are Kafka's."""

    STALE_TOPOLOGY = 0
    MISSING_SOURCE_TOPICS = 1
    INCORRECTLY_PARTITIONED_TOPICS = 2
    MISSING_INTERNAL_TOPICS = 3
    SHUTDOWN_APPLICATION = 4
    ASSIGNMENT_DELAYED = 5


class Status(NamedTuple):
    code: StatusCode
    detail: str


class StreamsHeartbeatRequest(NamedTuple):
    """What is None did not change since the last one."""

    member_id: str
    member_epoch: int
    endpoint_epoch: int = 0
    """Of the endpoints that the member has heard of."""
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    topology: Topology | None = None
    owned: TaskSets | None = None
    process_id: str | None = None
    endpoint: Endpoint | None = None
    client_tags: Mapping[str, str] | None = None
    shutdown_application: bool = False
    """Every member of the group is to be told to stop."""
    client_id: str = ""
    client_host: str = ""


class EndpointPartitions(NamedTuple):
    """Which partitions' state can be asked for at an endpoint: by topic name."""

    endpoint: Endpoint
    active: Tasks
    standby: Tasks


class StreamsHeartbeatAnswer(NamedTuple):
    member_id: str
    member_epoch: int
    interval_ms: int = 0
    statuses: tuple[Status, ...] = ()
    tasks: TaskSets | None = None
    """None: as before."""
    endpoint_epoch: int = 0
    endpoints: tuple[EndpointPartitions, ...] | None = None
    """None: as before."""
    to_create: tuple[TopicInfo, ...] = ()
    """Topics of the application that are not there yet: not told to the member, but made for it."""


class DescribedStreamsMember(NamedTuple):
    member_id: str
    member_epoch: int
    subscription: Subscription
    assigned: TaskSets
    target: TaskSets


class StreamsGroupDescription(NamedTuple):
    group_id: str
    state: str
    group_epoch: int
    assignment_epoch: int
    topology: Topology
    """With the partition counts that follow from the topics, where all of them are there; else as it was sent."""
    members: tuple[DescribedStreamsMember, ...]
