"""A consumer group driven without a log (modern_group.py), and members that do as they are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from brokers.groups.config import ConsumerConfig
from brokers.groups.consumer import departure, heartbeat, patterns
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.consumer.messages import JOIN_EPOCH, LEAVE_EPOCH, HeartbeatAnswer, HeartbeatRequest
from brokers.groups.consumer.records import Resolved
from brokers.groups.modern.assignments import NOTHING, Partitions
from brokers.groups.modern.terms import Terms
from tests.support.modern_group import ModernDriver, World

SESSION, REBALANCE, INTERVAL = 45_000, 60_000, 1_000


class GroupDriver(ModernDriver[ConsumerGroup]):
    def __init__(self, world: World, config: ConsumerConfig | None = None) -> None:
        super().__init__(world, ConsumerGroup)
        self.config = config or ConsumerConfig(assignment_interval_ms=0)
        self.to_resolve: frozenset[str] = frozenset()

    @property
    def terms(self) -> Terms:
        return Terms(self.now, self.world.topics, self.config)

    def ask(self, request: HeartbeatRequest) -> HeartbeatAnswer:
        """Raises KafkaError."""
        if request.member_epoch < JOIN_EPOCH:
            member = departure.leaving(self.group, request)
            if departure.is_for_a_while(request):
                left: HeartbeatAnswer = self.take(departure.leave_for_a_while(self.group, member))
                return left
            return self.remove(request)
        beat = heartbeat.heartbeat(self.group, request, self.terms)
        answer: HeartbeatAnswer = self.take(beat.change)
        self.to_resolve |= beat.to_resolve
        return answer

    def remove(self, request: HeartbeatRequest) -> HeartbeatAnswer:
        member = departure.leaving(self.group, request)
        answer = HeartbeatAnswer(request.member_id, request.member_epoch)
        self.take(departure.remove(self.group, (member,), self.terms, answer))
        return answer

    def resolve(self) -> None:
        """Match the patterns that are asked for."""
        wanted, self.to_resolve = self.to_resolve, frozenset()
        terms = self.terms
        found = {
            pattern: Resolved(
                frozenset(name for name in terms.topics.names() if matching.fullmatch(name)),
                terms.topics.image_version, terms.now.wall_ms,
            )
            for pattern, matching in patterns.matcher(wanted).items()
        }  # fmt: skip
        if found:
            self.take(patterns.resolved(self.group, terms, found))

    def advance(self, ms: float) -> list[str]:
        """Ids of members whose time has come to an end."""
        self.ticks += ms
        late = [self.group.members[m] for m, _ in self.group.deadlines.due(self.ticks) if m in self.group.members]
        gone = {member.member_id: member for member in late}
        self.take(departure.remove(self.group, gone.values(), self.terms, None))
        return list(gone)

    # --- a member that does what it is told ----------------------------------------------------

    def member(self, member_id: str = "m", *topics: str, **changes: Any) -> ScriptedMember:
        found = ScriptedMember(self, member_id, frozenset(topics), **changes)
        found.beat()
        return found


class ScriptedMember:
    """Takes what it is given and gives up what it is not, at its next heartbeat."""

    def __init__(self, driver: GroupDriver, member_id: str, topics: frozenset[str], **changes: Any) -> None:
        self.driver = driver
        self.member_id = member_id
        self.changes: dict[str, Any] = {"topics": topics, "rebalance_timeout_ms": REBALANCE} | changes
        self.epoch = JOIN_EPOCH
        self.owned: Partitions = NOTHING
        self.says_all = False
        """It does not know whether its last heartbeat arrived."""

    def request(self, **changes: Any) -> HeartbeatRequest:
        joins = self.epoch == JOIN_EPOCH
        said: dict[str, Any] = dict(self.changes) if joins or self.says_all else {}
        if not joins and "instance_id" in self.changes:
            said["instance_id"] = self.changes["instance_id"]
        owned = NOTHING if joins else self.owned
        return HeartbeatRequest(self.member_id, self.epoch, **{"owned": owned, **said, **changes})

    def beat(self, **changes: Any) -> HeartbeatAnswer:
        answer = self.driver.ask(self.request(**changes))
        self.epoch, self.says_all = answer.member_epoch, False
        if answer.assignment is not None:
            self.owned = answer.assignment
        return answer

    def leave(self, epoch: int = LEAVE_EPOCH) -> HeartbeatAnswer:
        return self.driver.ask(self.request()._replace(member_epoch=epoch))

    def parts(self, topic: str) -> list[int]:
        return sorted(self.owned.get(self.driver.world.id_of(topic), ()))


def settle(*members: ScriptedMember, rounds: int = 12) -> None:
    """Heartbeats of all, until nothing changes any more."""
    for _ in range(rounds):
        before = [(member.epoch, member.owned) for member in members]
        for member in members:
            member.beat()
        if before == [(member.epoch, member.owned) for member in members]:
            return
    raise AssertionError("does not come to rest")


def shares(*members: ScriptedMember) -> Iterator[tuple[UUID, int]]:
    for member in members:
        for topic, parts in member.owned.items():
            yield from ((topic, part) for part in parts)
