"""What every modern group has: epochs, members, targets, deadlines.

Owns: the group epoch, the hash of what it is subscribed to, the target assignment and its epoch, who holds which
partition. Does not own: what a member is and what targets are of (each protocol's own), requests, durability
(shard.py).
Invariant: member epoch ≤ assignment epoch ≤ group epoch. The group epoch grows when subscriptions or topics change,
the target assignment follows it, members follow that: each at its own pace.

Source: KIP-848.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.errors import KafkaError
from brokers.groups import record_types
from brokers.groups.config import ModernConfig
from brokers.groups.group import Group, commit_time
from brokers.groups.messages import Effects, Instant
from brokers.groups.modern.change import GroupRecord, ModernKey
from brokers.groups.modern.deadlines import Deadlines, Wait
from brokers.groups.modern.topics import Topics

FIRST_EPOCH = 1
EMPTY, NOT_READY, ASSIGNING = "Empty", "NotReady", "Assigning"
RECONCILING, STABLE = "Reconciling", "Stable"


class Kinds(NamedTuple):
    """Kinds of the records that every modern protocol has, by its own numbers."""

    epoch: int
    member: int
    target_epoch: int
    target: int
    current: int


class ModernMember(Protocol):
    """What a group needs to know of a member of any protocol: a tuple with `subscription` and `current`."""

    @property
    def member_id(self) -> str: ...

    @property
    def member_epoch(self) -> int: ...


class ReconcilingMember(ModernMember, Protocol):
    """One that gives up what it has before it is given more."""

    def is_reconciled_to(self, epoch: int) -> bool: ...


M = TypeVar("M", bound=ModernMember)
R = TypeVar("R", bound=ReconcilingMember)
T = TypeVar("T")
"""What a member is to have: of no target record, `no_target`."""


class ModernGroup(Group, Generic[M, T]):
    kinds: Kinds
    no_target: T
    gives_way = True
    """Without members it becomes a classic group when a member of the classic protocol comes."""

    def __init__(self, group_id: str) -> None:
        super().__init__(group_id)
        self.group_epoch = FIRST_EPOCH
        self.metadata_hash = 0
        self.assignment_epoch = FIRST_EPOCH
        self.assignment_timestamp = 0
        """Wall milliseconds at which the target was computed; 0: not known."""
        self.members: dict[str, M] = {}
        self.targets: dict[str, T] = {}
        self.deadlines = Deadlines()
        self.topics_seen = -1
        """`Topics.version` for which the metadata hash was last looked at; -1: not since it was loaded."""
        self._dead = False

    # --- what records do -----------------------------------------------------------------------

    def replay(self, key: ModernKey, value: Any) -> None:
        """One record that is in the log, or is on its way there and was taken."""
        kind, item = key.kind, key.item
        if kind == self.kinds.member:
            if value is None:
                self.forget(item)
            else:
                self._change(item, subscription=value)
        elif kind == self.kinds.current:
            if value is not None:
                self._change(item, current=value)
            elif item in self.members:
                nothing: Any = self._new_member(item)
                self._change(item, current=nothing.current)
        elif kind == self.kinds.target:
            self.set_target(item, value)
        elif kind == self.kinds.epoch:
            self._set_epoch(value)
        elif kind == self.kinds.target_epoch:
            self.assignment_epoch, self.assignment_timestamp = (0, 0) if value is None else value
        else:
            self._replay_own(kind, item, value)

    def _change(self, member_id: str, **changes: object) -> None:
        known: Any = self.members.get(member_id) or self._new_member(member_id)
        self.put(known._replace(**changes))

    @abstractmethod
    def _new_member(self, member_id: str) -> M:
        """One of whom nothing is known yet."""

    @abstractmethod
    def _replay_own(self, kind: int, item: str, value: Any) -> None:
        """A record that only this protocol has."""

    def activate(self, now: Instant, session_timeout_ms: int) -> None:
        """After loading: sessions start, and so does the time to give up what is not a member's any more."""
        for member_id, member in self.members.items():
            self.deadlines.set(member_id, Wait.SESSION, now.ticks + session_timeout_ms)
            self.watch_revocation(member, now)

    def watch_revocation(self, member: M, now: Instant) -> None:
        """The member's state is another: what it is waited for."""

    def _set_epoch(self, value: Any) -> None:
        self.group_epoch, self.metadata_hash = (FIRST_EPOCH, 0) if value is None else value

    def put(self, member: M) -> None:
        """The member is new, or another than it was."""
        self.members[member.member_id] = member

    def forget(self, member_id: str) -> M | None:
        """The member is gone; None when it was not there."""
        member = self.members.pop(member_id, None)
        if member is not None:
            self.deadlines.cancel_all(member_id)
        return member

    def set_target(self, member_id: str, target: T | None) -> None:
        if target is None:
            self.targets.pop(member_id, None)
        else:
            self.targets[member_id] = target

    # --- what operators see --------------------------------------------------------------------

    @property
    def shown_state(self) -> str:
        return self._shown_with_members() if self.members and not self._dead else EMPTY

    @abstractmethod
    def _shown_with_members(self) -> str:
        """`shown_state` of a group that has some."""

    # --- offsets -------------------------------------------------------------------------------

    @property
    def offsets_are_deletable(self) -> bool:
        return True

    def expiry_base(self) -> Callable[[int], int] | None:
        return commit_time

    # --- end -----------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        return not self.members and not self._dead

    @property
    def is_dead(self) -> bool:
        return self._dead

    def tombstones(self) -> list[Record]:
        return [record_types.encode(record) for record in self._tombstones()]

    def _tombstones(self) -> Iterator[GroupRecord]:
        kinds = self.kinds
        yield from (self.record(kinds.current, None, member_id) for member_id in self.members)
        yield from (self.record(kinds.target, None, member_id) for member_id in self.targets)
        yield self.record(kinds.target_epoch, None)
        yield from (self.record(kinds.member, None, member_id) for member_id in self.members)
        yield from self._own_tombstones()
        yield self.record(kinds.epoch, None)

    @abstractmethod
    def _own_tombstones(self) -> Iterator[GroupRecord]:
        """Of records that only this protocol has."""

    def kill(self, error: ErrorCode | None = None) -> Effects:
        self._dead = True
        return Effects()

    def revive(self) -> None:
        assert self._dead
        self._dead = False

    # --- what operations ask -------------------------------------------------------------------

    def record(self, kind: int, value: object, item: str = "") -> GroupRecord:
        """One of the group's records; None as its value deletes it."""
        return GroupRecord(ModernKey(kind, self.group_id, item), value)

    def target_records(self, targets: Mapping[str, T], epoch: int, wall_ms: int) -> Iterator[GroupRecord]:
        """What makes these the targets, for that group epoch."""
        for member_id, target in targets.items():
            if self.targets.get(member_id) != target:
                yield self.record(self.kinds.target, target, member_id)
        yield self.record(self.kinds.target_epoch, (epoch, wall_ms))

    def without(self, gone: Iterable[M]) -> list[GroupRecord]:
        """What takes members out of the group."""
        kinds = (self.kinds.current, self.kinds.target, self.kinds.member)
        return [self.record(kind, None, member.member_id) for member in gone for kind in kinds]

    def member(self, member_id: str) -> M:
        """Raises UNKNOWN_MEMBER_ID."""
        found = self.members.get(member_id)
        if found is None:
            message = f"Member {member_id} is not a member of group {self.group_id}."
            raise KafkaError(ErrorCode.unknown_member_id, message)
        return found

    def target_of(self, member_id: str) -> T:
        return self.targets.get(member_id, self.no_target)

    def may_assign(self, config: ModernConfig, wall_ms: int) -> bool:
        """Not so soon after the assignment before: many members that come together are assigned together. One from the
        future was made by a coordinator whose clock was ahead: nobody waits for that."""
        made, interval = self.assignment_timestamp, config.assignment_interval_ms
        return made == 0 or not made <= wall_ms < made + interval

    def topics_changed(self, topics: Topics) -> bool:
        """Whether the metadata hash may be another than the one that is stored."""
        return self.topics_seen != topics.version

    @property
    def wake_at(self) -> float:
        return self.deadlines.wake_at


def shown_progress(group: ModernGroup[R, Any]) -> str:
    """How far the members are on their way to the group's epoch."""
    if group.group_epoch > group.assignment_epoch:
        return ASSIGNING
    stable = all(member.is_reconciled_to(group.assignment_epoch) for member in group.members.values())
    return STABLE if stable else RECONCILING
