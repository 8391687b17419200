"""Drives one ClassicGroup in a test: tokens, time, and whether its records become durable."""

from __future__ import annotations

import itertools
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.groups.classic_group import ClassicGroup
from brokers.groups.messages import (
    Effects,
    GroupTimeouts,
    Instant,
    JoinAnswer,
    JoinRequest,
    LeaveAnswer,
    LeaveMember,
    Protocol,
    Store,
    SyncAnswer,
    SyncRequest,
)

DELAY = 3_000
SESSION = 10_000
REBALANCE = 60_000
WALL = 1_700_000_000_000


def subscription(*topics: str) -> bytes:
    """ConsumerProtocolSubscription version 0."""
    encoded = b"".join(len(t).to_bytes(2, "big") + t.encode() for t in topics)
    return b"\x00\x00" + len(topics).to_bytes(4, "big") + encoded + b"\xff\xff\xff\xff"


class GroupDriver:
    def __init__(self, max_size: int = 100, group: ClassicGroup | None = None) -> None:
        self.timeouts = GroupTimeouts(DELAY, max_size=max_size)
        ids = itertools.count(1)
        self.new_id = lambda: f"id{next(ids)}"
        self.group = group or ClassicGroup("g", self.timeouts, self.new_id, WALL)
        self.answers: dict[Any, Any] = {}
        self.stores: list[Store] = []
        self.ticks = 0.0
        self._tokens = itertools.count(1)

    @property
    def now(self) -> Instant:
        return Instant(self.ticks, WALL + int(self.ticks))

    def take(self, effects: Effects) -> None:
        for token, answer in effects.answers:
            assert token not in self.answers, f"request {token} answered twice"
            self.answers[token] = answer
        self.stores += effects.stores

    def advance(self, ms: float) -> None:
        """Time passes; the group is woken whenever it asked to be, and never needs another look."""
        end = self.ticks + ms
        while self.group.wake_at <= end:
            self.ticks = max(self.ticks, self.group.wake_at)
            self.take(self.group.expire(self.now))
            assert self.group.wake_at > self.ticks, "woken for ever"
        self.ticks = end

    def store(self, refused: ErrorCode | None = None) -> None:
        """Every record asked for becomes durable, or is refused."""
        stores, self.stores = self.stores, []
        for store in stores:
            if refused is None and store.stored is not None:
                self.take(store.stored(self.now))
            elif refused is not None and store.refused is not None:
                self.take(store.refused(self.now, refused))

    # --- requests ------------------------------------------------------------------------------

    def join(self, member_id: str = "", **changes: Any) -> int:
        """Returns the request's token; its answer, once there is one, is in `answers`."""
        token = next(self._tokens)
        protocols = changes.pop("protocols", ("range",))
        metadata = changes.pop("metadata", subscription("t"))
        values: dict[str, Any] = {
            "protocol_type": "consumer",
            "protocols": tuple(Protocol(name, metadata) for name in protocols),
            "session_timeout_ms": SESSION,
            "rebalance_timeout_ms": REBALANCE,
            "client_id": "c",
            "needs_member_id": False,
        }
        self.take(self.group.join(JoinRequest(member_id, **values | changes), token, self.now))
        return token

    def sync(self, member_id: str, generation: int | None = None, **changes: Any) -> int:
        token = next(self._tokens)
        values: dict[str, Any] = {"generation": self.group.generation if generation is None else generation}
        self.take(self.group.sync(SyncRequest(member_id, **values | changes), token, self.now))
        return token

    def heartbeat(self, member_id: str, generation: int | None = None, instance: str | None = None) -> ErrorCode:
        at = self.group.generation if generation is None else generation
        return self.group.heartbeat(member_id, at, instance, self.now)

    def leave(self, *leaving: LeaveMember | str) -> list[LeaveAnswer]:
        members = [LeaveMember(member) if isinstance(member, str) else member for member in leaving]
        answers, effects = self.group.leave(members, self.now)
        self.take(effects)
        return answers

    # --- shortcuts -----------------------------------------------------------------------------

    def joined(self, token: int) -> JoinAnswer:
        answer = self.answers[token]
        assert isinstance(answer, JoinAnswer)
        return answer

    def synced(self, token: int) -> SyncAnswer:
        answer = self.answers[token]
        assert isinstance(answer, SyncAnswer)
        return answer

    def stable(self, *instances: str | None, **join: Any) -> list[str]:
        """A stable generation with one member for each entry (None: dynamic); the first leads. Their ids."""
        tokens = [self.join(group_instance_id=instance, **join) for instance in instances]
        self.advance(DELAY * 2 + 1)
        members = [self.joined(token).member_id for token in tokens]
        assert members, "nobody joined"
        for member in members[1:]:
            self.sync(member)
        self.sync(members[0], assignments=tuple((member, f"for {member}".encode()) for member in members))
        self.store()
        return members
