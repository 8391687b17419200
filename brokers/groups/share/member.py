"""One member of a share group (KIP-932). Values only: a member is what its two records say."""

from __future__ import annotations

from typing import NamedTuple

from brokers.groups.modern.assignments import NOTHING, MemberState, Partitions


class Subscription(NamedTuple):
    """Value of ShareGroupMemberMetadata: who the member is and what it wants."""

    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    topics: frozenset[str] = frozenset()


class Current(NamedTuple):
    """Value of ShareGroupCurrentMemberAssignment: what the member has. Nothing is given up first: it is shared."""

    epoch: int = 0
    previous_epoch: int = -1
    """What it may still say when the answer with `epoch` was lost."""
    state: MemberState = MemberState.STABLE
    assigned: Partitions = NOTHING


class ShareMember(NamedTuple):
    member_id: str
    subscription: Subscription = Subscription()
    current: Current = Current()

    @property
    def member_epoch(self) -> int:
        return self.current.epoch

    @property
    def topics(self) -> frozenset[str]:
        return self.subscription.topics
