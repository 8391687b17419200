"""What goes into and comes out of a consumer group. Values only; the wire's classes are the handlers' affair."""

from __future__ import annotations

from typing import Final, NamedTuple

from brokers.groups.modern.assignments import Partitions

JOIN_EPOCH: Final = 0
LEAVE_EPOCH: Final = -1
LEAVE_STATIC_EPOCH: Final = -2


class HeartbeatRequest(NamedTuple):
    """What is None did not change since the last one."""

    member_id: str
    member_epoch: int
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    topics: frozenset[str] | None = None
    pattern: str | None = None
    assignor: str | None = None
    owned: Partitions | None = None
    client_id: str = ""
    client_host: str = ""

    @property
    def is_full(self) -> bool:
        """Everything is said: the member is answered its whole assignment."""
        subscribes = self.topics is not None or self.pattern is not None
        return self.rebalance_timeout_ms != -1 and subscribes and self.owned is not None


class HeartbeatAnswer(NamedTuple):
    member_id: str
    member_epoch: int
    interval_ms: int = 0
    assignment: Partitions | None = None
    """None: as before."""


class DescribedMember(NamedTuple):
    member_id: str
    instance_id: str | None
    rack_id: str | None
    member_epoch: int
    client_id: str
    client_host: str
    topics: frozenset[str]
    pattern: str
    assigned: Partitions
    """With what it is giving up."""
    target: Partitions
    is_classic: bool


class ConsumerGroupDescription(NamedTuple):
    group_id: str
    state: str
    group_epoch: int
    assignment_epoch: int
    assignor: str
    members: tuple[DescribedMember, ...]
