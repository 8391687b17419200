"""What goes into and comes out of the group state machine. Values only; no behaviour.

Neither Kafka's wire classes (handlers translate) nor record bytes (records.py) are known here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from kio.schema.errors import ErrorCode

from brokers.groups.records import GroupValue

UNKNOWN_MEMBER_ID = ""
NO_GENERATION = -1
CONSUMER_PROTOCOL = "consumer"

Token: TypeAlias = Hashable
"""Names one waiting request. Opaque: it comes back with the answer."""


class GroupState(enum.Enum):
    """Kafka's states of a classic group, with the names clients see."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


class Protocol(NamedTuple):
    name: str
    metadata: bytes


class JoinRequest(NamedTuple):
    member_id: str
    protocol_type: str
    protocols: tuple[Protocol, ...]
    session_timeout_ms: int
    rebalance_timeout_ms: int
    group_instance_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    reason: str = ""
    needs_member_id: bool = True
    """JoinGroup v4 and newer: a new dynamic member is told its id first and joins again with it."""
    may_skip_assignment: bool = True
    """JoinGroup v9 and newer."""


class JoinMember(NamedTuple):
    member_id: str
    group_instance_id: str | None
    metadata: bytes


class JoinAnswer(NamedTuple):
    error: ErrorCode
    member_id: str = UNKNOWN_MEMBER_ID
    generation: int = NO_GENERATION
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader: str = ""
    skip_assignment: bool = False
    members: tuple[JoinMember, ...] = ()
    """The leader's answer only."""


class SyncRequest(NamedTuple):
    member_id: str
    generation: int
    group_instance_id: str | None = None
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignments: tuple[tuple[str, bytes], ...] = ()


class SyncAnswer(NamedTuple):
    error: ErrorCode
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignment: bytes = b""


class LeaveMember(NamedTuple):
    member_id: str
    group_instance_id: str | None = None
    reason: str | None = None


class LeaveAnswer(NamedTuple):
    member_id: str
    group_instance_id: str | None
    error: ErrorCode


Answer: TypeAlias = JoinAnswer | SyncAnswer


class Instant(NamedTuple):
    """Time as the state machine gets it."""

    ticks: float
    """Monotonic milliseconds: deadlines."""
    wall_ms: int
    """Milliseconds since 1970: what is stored."""


@dataclass(slots=True)
class Store:
    """Append the group's record; then call one of the two, which return what follows from it."""

    value: GroupValue
    stored: Callable[[Instant], Effects] | None = None
    """The record is durable."""
    refused: Callable[[Instant, ErrorCode], Effects] | None = None
    """The log took nothing of it (a record too large, say). The error is the one clients are to see."""


class Effects:
    """What an input did besides changing the state: answers to requests (also other members'), and records."""

    __slots__ = ("answers", "stores")

    def __init__(self) -> None:
        self.answers: list[tuple[Token, Answer]] = []
        self.stores: list[Store] = []


class GroupTimeouts(NamedTuple):
    """The settings that the state machine obeys (names as Kafka's broker configs)."""

    initial_rebalance_delay_ms: int = 3_000
    new_member_join_timeout_ms: int = 300_000
    """Not configurable in Kafka either."""
    max_size: int = 2**31 - 1
