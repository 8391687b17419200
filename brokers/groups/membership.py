"""The members of one classic group: who is in, who was promised a place, who leads, what all can speak.

Owns: member and static member maps, the leader, counts of supported protocols, waiting requests.
Does not own: states and time (rebalance.py).
Invariant: a request that waits in here is answered when its member goes or is replaced; it is never forgotten.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from kio.schema.errors import ErrorCode

from brokers.groups.messages import Effects, JoinAnswer, JoinMember, Protocol, SyncAnswer, Token
from brokers.groups.records import MemberValue

NEVER = math.inf


class Member:
    """One member. `deadline` is when its session ends (monotonic milliseconds)."""

    __slots__ = (
        "assignment", "client_host", "client_id", "deadline", "group_instance_id", "is_new", "join_token",
        "member_id", "protocols", "rebalance_timeout_ms", "session_timeout_ms", "sync_token",
    )  # fmt: skip

    def __init__(
        self,
        member_id: str,
        group_instance_id: str | None,
        client_id: str,
        client_host: str,
        rebalance_timeout_ms: int,
        session_timeout_ms: int,
        protocols: tuple[Protocol, ...],
        assignment: bytes = b"",
    ) -> None:
        self.member_id = member_id
        self.group_instance_id = group_instance_id
        self.client_id = client_id
        self.client_host = client_host
        self.rebalance_timeout_ms = rebalance_timeout_ms
        self.session_timeout_ms = session_timeout_ms
        self.protocols = protocols
        self.assignment = assignment
        self.join_token: Token | None = None
        self.sync_token: Token | None = None
        self.is_new = False
        self.deadline = NEVER

    @property
    def heartbeat_satisfied(self) -> bool:
        """A waiting request stands for the heartbeat, except a new member's: its client may be gone."""
        return not self.is_new and (self.join_token is not None or self.sync_token is not None)

    def metadata(self, protocol: str) -> bytes:
        return next(entry.metadata for entry in self.protocols if entry.name == protocol)

    def vote(self, candidates: set[str]) -> str:
        return next(entry.name for entry in self.protocols if entry.name in candidates)

    def as_value(self, protocol: str, assignment: bytes) -> MemberValue:
        return MemberValue(
            self.member_id, self.group_instance_id, self.client_id, self.client_host, self.rebalance_timeout_ms,
            self.session_timeout_ms, self.metadata(protocol), assignment,
        )  # fmt: skip


class Membership:
    """Members in the order they came: the oldest is the next leader."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.static: dict[str, str] = {}
        """group.instance.id → member id."""
        self.pending_join: dict[str, float] = {}
        """Ids given with MEMBER_ID_REQUIRED that have not joined yet → when the promise ends."""
        self.pending_sync: set[str] = set()
        self.leader: str | None = None
        self.awaiting_join = 0
        self._supported: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.members)

    def add(self, member: Member, token: Token | None = None) -> None:
        assert member.member_id not in self.members
        if member.group_instance_id is not None:
            assert member.group_instance_id not in self.static
            self.static[member.group_instance_id] = member.member_id
        if self.leader is None:
            self.leader = member.member_id
        self.members[member.member_id] = member
        self._supported.update({entry.name for entry in member.protocols})
        self.pending_join.pop(member.member_id, None)
        self._await_join(member, token)

    def remove(self, member_id: str, effects: Effects) -> None:
        """Remove a member or a promised place; its waiting requests get UNKNOWN_MEMBER_ID."""
        self.pending_join.pop(member_id, None)
        self.pending_sync.discard(member_id)
        member = self.members.pop(member_id, None)
        if member is None:
            return
        self._supported.subtract({entry.name for entry in member.protocols})
        if member.group_instance_id is not None:
            self.static.pop(member.group_instance_id, None)
        self.answer_join(member, JoinAnswer(ErrorCode.unknown_member_id), effects)
        self.answer_sync(member, SyncAnswer(ErrorCode.unknown_member_id), effects)
        if self.leader == member_id:
            self.leader = next(iter(self.members), None)

    def update(
        self,
        member: Member,
        protocols: tuple[Protocol, ...],
        rebalance_timeout_ms: int,
        session_timeout_ms: int,
        token: Token | None,
        effects: Effects,
    ) -> None:
        """The member joins again. A join of it that still waits is told to try again."""
        self._supported.subtract({entry.name for entry in member.protocols})
        member.protocols = protocols
        self._supported.update({entry.name for entry in protocols})
        member.rebalance_timeout_ms = rebalance_timeout_ms
        member.session_timeout_ms = session_timeout_ms
        self.answer_join(member, JoinAnswer(ErrorCode.rebalance_in_progress, member.member_id), effects)
        self._await_join(member, token)

    def replace_static(self, instance_id: str, old_id: str, new_id: str, effects: Effects) -> Member:
        """The instance restarted under a new member id: whoever still uses the old one is fenced."""
        old = self.members.pop(old_id)
        self.answer_join(old, JoinAnswer(ErrorCode.fenced_instance_id, old_id), effects)
        self.answer_sync(old, SyncAnswer(ErrorCode.fenced_instance_id), effects)
        new = Member(
            new_id, instance_id, old.client_id, old.client_host, old.rebalance_timeout_ms, old.session_timeout_ms,
            old.protocols, old.assignment,
        )  # fmt: skip
        self.members[new_id] = new
        self.static[instance_id] = new_id
        if self.leader == old_id:
            self.leader = new_id
        return new

    def validate(self, member_id: str, group_instance_id: str | None) -> ErrorCode:
        if group_instance_id is not None:
            owner = self.static.get(group_instance_id)
            if owner is None:
                return ErrorCode.unknown_member_id
            if owner != member_id:
                return ErrorCode.fenced_instance_id
        return ErrorCode.none if member_id in self.members else ErrorCode.unknown_member_id

    @property
    def all_joined(self) -> bool:
        return self.awaiting_join == len(self.members) and not self.pending_join

    def elect_joined_leader(self) -> bool:
        """Keep a leader that joined, else elect the oldest member that did. False: nobody joined."""
        leader = None if self.leader is None else self.members.get(self.leader)
        if leader is not None and leader.join_token is not None:
            return True
        for member in self.members.values():
            if member.join_token is not None:
                self.leader = member.member_id
                return True
        return False

    def supports_any(self, protocols: Iterable[Protocol]) -> bool:
        return any(self._supported[entry.name] == len(self.members) for entry in protocols)

    def select_protocol(self) -> str:
        """What every member supports and most prefer; the first vote breaks a tie."""
        candidates = {name for name, count in self._supported.items() if count == len(self.members)}
        votes = Counter(member.vote(candidates) for member in self.members.values())
        return votes.most_common(1)[0][0]

    def rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    def join_members(self, protocol: str) -> tuple[JoinMember, ...]:
        return tuple(
            JoinMember(member.member_id, member.group_instance_id, member.metadata(protocol))
            for member in self.members.values()
        )

    def answer_join(self, member: Member, answer: JoinAnswer, effects: Effects) -> bool:
        if member.join_token is None:
            return False
        effects.answers.append((member.join_token, answer))
        member.join_token = None
        self.awaiting_join -= 1
        return True

    def await_sync(self, member: Member, token: Token, effects: Effects) -> None:
        self.answer_sync(member, SyncAnswer(ErrorCode.rebalance_in_progress), effects)
        member.sync_token = token

    def answer_sync(self, member: Member, answer: SyncAnswer, effects: Effects) -> bool:
        if member.sync_token is None:
            return False
        effects.answers.append((member.sync_token, answer))
        member.sync_token = None
        return True

    def _await_join(self, member: Member, token: Token | None) -> None:
        assert member.join_token is None
        if token is not None:
            member.join_token = token
            self.awaiting_join += 1
