"""One member of a streams group (KIP-1071), a thread of a process. Values only: it is what its two records say."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from brokers.groups.streams.tasks import HOLDS_NOTHING, HeldTasks, TaskState

NO_TAGS: Mapping[str, str] = MappingProxyType({})


class Endpoint(NamedTuple):
    """Where a process answers questions about its state."""

    host: str
    port: int


class Subscription(NamedTuple):
    """Value of StreamsGroupMemberMetadata: who the member is."""

    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    rebalance_timeout_ms: int = -1
    topology_epoch: int = -1
    process_id: str = ""
    """Members of one process share its disk: none of its tasks has a standby there."""
    endpoint: Endpoint | None = None
    client_tags: Mapping[str, str] = NO_TAGS


class Current(NamedTuple):
    """Value of StreamsGroupCurrentMemberAssignment: what the member has."""

    epoch: int = 0
    previous_epoch: int = 0
    """What it may still say when the answer with `epoch` was lost."""
    state: TaskState = TaskState.STABLE
    assigned: HeldTasks = HOLDS_NOTHING
    revoking: HeldTasks = HOLDS_NOTHING
    """It was told to give these up and has not yet said that it did."""

    def moved(self, epoch: int, state: TaskState, assigned: HeldTasks, revoking: HeldTasks = HOLDS_NOTHING) -> Current:
        return Current(epoch, self.epoch, state, assigned, revoking)


class StreamsMember(NamedTuple):
    member_id: str
    subscription: Subscription = Subscription()
    current: Current = Current()

    @property
    def member_epoch(self) -> int:
        return self.current.epoch

    @property
    def process_id(self) -> str:
        return self.subscription.process_id

    def is_reconciled_to(self, epoch: int) -> bool:
        return self.current.state is TaskState.STABLE and self.current.epoch == epoch
