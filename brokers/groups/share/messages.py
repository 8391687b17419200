"""What goes into and comes out of a share group. Values only; the wire's classes are the handlers' affair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeAlias
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.groups.config import ShareConfig
from brokers.groups.modern.assignments import Partitions
from brokers.groups.modern.terms import ModernTerms

ShareTerms: TypeAlias = ModernTerms[ShareConfig]


class ShareHeartbeatRequest(NamedTuple):
    """What is None did not change since the last one."""

    member_id: str
    member_epoch: int
    rack_id: str | None = None
    topics: frozenset[str] | None = None
    client_id: str = ""
    client_host: str = ""


class ShareHeartbeatAnswer(NamedTuple):
    member_id: str
    member_epoch: int
    interval_ms: int = 0
    assignment: Partitions | None = None
    """None: as before."""


class DescribedShareMember(NamedTuple):
    member_id: str
    rack_id: str | None
    member_epoch: int
    client_id: str
    client_host: str
    topics: frozenset[str]
    assigned: Partitions


class ShareGroupDescription(NamedTuple):
    group_id: str
    state: str
    group_epoch: int
    assignment_epoch: int
    members: tuple[DescribedShareMember, ...]


class PartitionOffset(NamedTuple):
    """What is stored of one share-partition."""

    error: ErrorCode
    message: str | None = None
    start_offset: int = -1
    leader_epoch: int = 0
    complete_count: int = -1


class ShareStates(Protocol):
    """What is stored of share-partitions, wherever it is. Never raises: an error is an answer."""

    async def initialize(
        self, group_id: str, topic_id: UUID, partition: int, state_epoch: int, start_offset: int
    ) -> ErrorCode:
        """Begin anew; -1: where the group's configs say, once it is read."""

    async def delete(self, group_id: str, topic_id: UUID, partition: int) -> ErrorCode: ...

    async def summary(self, group_id: str, topic_id: UUID, partition: int) -> PartitionOffset: ...


PartitionErrors = Mapping[UUID, Mapping[int, ErrorCode]]
