"""What all groups of a coordinator have in common, whatever their protocol.

Owns: the seam between groups and what is asked of any of them: offsets, listing, deletion, the timer.
Invariant: whoever asks so needs to know no protocol.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.groups.membership import NEVER
from brokers.groups.messages import Effects, Instant
from brokers.groups.offsets import TopicCommit


class GroupType(enum.Enum):
    """As clients name them."""

    CLASSIC = "classic"
    CONSUMER = "consumer"
    SHARE = "share"
    STREAMS = "streams"


class Sender(NamedTuple):
    """Who commits. A simple consumer or an admin client: generation -1, no member id."""

    group_id: str
    member_id: str = ""
    generation: int = -1
    """Or member epoch."""
    group_instance_id: str | None = None


class CommitRequest(NamedTuple):
    """What decides whether a commit is taken."""

    sender: Sender
    topics: Sequence[TopicCommit]
    transactional: bool = False
    knows_epochs: bool = True
    """OffsetCommit 9 and newer: what members of a consumer group must use, and which tells GROUP_ID_NOT_FOUND from
    ILLEGAL_GENERATION."""


class Group(ABC):
    group_type: GroupType

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.armed_at = NEVER
        """When the timer that whoever runs this group has set will fire."""

    @property
    @abstractmethod
    def wake_at(self) -> float:
        """Never later than the group's earliest deadline."""

    # --- what operators see --------------------------------------------------------------------

    @property
    @abstractmethod
    def shown_state(self) -> str:
        """Kafka's name of the state. A deletion shows once its tombstones are durable, and then the group is gone."""

    @property
    @abstractmethod
    def shown_protocol_type(self) -> str: ...

    # --- offsets -------------------------------------------------------------------------------

    @abstractmethod
    def validate_offset_commit(self, request: CommitRequest, now: Instant) -> ErrorCode:
        """Whether the commit is taken, all of it."""

    @abstractmethod
    def validate_offset_fetch(self, member_id: str | None, member_epoch: int) -> ErrorCode:
        """Whether the sender may see the group's offsets. Without a member id: whoever asks may."""

    @property
    @abstractmethod
    def offsets_are_deletable(self) -> bool:
        """Whether offsets of topics that it does not subscribe to may be deleted."""

    @abstractmethod
    def subscribes_to(self, topic: str) -> bool: ...

    @abstractmethod
    def expiry_base(self) -> Callable[[int], int] | None:
        """From which time an offset's retention counts, given its commit time; None: offsets do not expire now."""

    # --- end -----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Without members, and not dead."""

    @property
    @abstractmethod
    def is_dead(self) -> bool:
        """Its tombstones are on their way into the log."""

    @property
    def is_promised(self) -> bool:
        """Somebody was told to come: an empty group stays for them."""
        return False

    @abstractmethod
    def tombstones(self) -> list[Record]:
        """Of every record that the group itself has."""

    @abstractmethod
    def kill(self, error: ErrorCode | None = None) -> Effects:
        """It is being deleted, or no longer led here (then waiting requests get `error`)."""

    @abstractmethod
    def revive(self) -> None:
        """The log took no tombstone: it is as it was."""


def commit_time(commit_timestamp: int) -> int:
    """The base of retention where nothing but the commit counts."""
    return commit_timestamp
