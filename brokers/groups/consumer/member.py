"""One member of a consumer group (KIP-848). Values only: a member is what its two records say."""

from __future__ import annotations

from typing import NamedTuple

from brokers.groups.messages import Protocol
from brokers.groups.modern.assignments import NOTHING_OWNED, MemberState, Owned

LEFT_FOR_A_WHILE = -2
"""Member epoch of a static member whose process has gone and may come back."""


class ClassicMember(NamedTuple):
    """What a member of the classic protocol has besides (it is in the group while it migrates)."""

    session_timeout_ms: int
    protocols: tuple[Protocol, ...]


class Subscription(NamedTuple):
    """Value of ConsumerGroupMemberMetadata: who the member is and what it wants."""

    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    topics: frozenset[str] = frozenset()
    pattern: str = ""
    """Regular expression over topic names; empty for none."""
    rebalance_timeout_ms: int = -1
    assignor: str | None = None
    classic: ClassicMember | None = None


class Current(NamedTuple):
    """Value of ConsumerGroupCurrentMemberAssignment: what the member has."""

    epoch: int = 0
    previous_epoch: int = -1
    """What it may still say when the answer with `epoch` was lost."""
    state: MemberState = MemberState.STABLE
    assigned: Owned = NOTHING_OWNED
    revoking: Owned = NOTHING_OWNED
    """It was told to give these up and has not yet said that it did."""

    def moved(self, epoch: int, state: MemberState, assigned: Owned, revoking: Owned = NOTHING_OWNED) -> Current:
        return Current(epoch, self.epoch, state, assigned, revoking)


class ConsumerMember(NamedTuple):
    member_id: str
    subscription: Subscription = Subscription()
    current: Current = Current()

    @property
    def member_epoch(self) -> int:
        return self.current.epoch

    @property
    def topics(self) -> frozenset[str]:
        return self.subscription.topics

    @property
    def instance_id(self) -> str | None:
        return self.subscription.instance_id

    @property
    def pattern(self) -> str:
        return self.subscription.pattern

    @property
    def is_classic(self) -> bool:
        return self.subscription.classic is not None

    def is_reconciled_to(self, epoch: int) -> bool:
        return self.current.state is MemberState.STABLE and self.current.epoch == epoch
