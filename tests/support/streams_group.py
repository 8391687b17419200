"""A streams group driven without a log (modern_group.py), and members that do as they are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from brokers.groups.config import StreamsConfig
from brokers.groups.modern.deadlines import GROUP
from brokers.groups.streams import heartbeat
from brokers.groups.streams.group import StreamsGroup
from brokers.groups.streams.messages import JOIN_EPOCH, LEAVE_EPOCH, StreamsHeartbeatAnswer, StreamsHeartbeatRequest
from brokers.groups.streams.tasks import NO_TASK_SETS, Tasks, TaskSets
from brokers.groups.streams.topology import Subtopology, TopicInfo, Topology
from brokers.groups.streams.update import StreamsTerms
from tests.support.modern_group import ModernDriver, World

SESSION, REBALANCE = 45_000, 60_000
AT_ONCE = StreamsConfig(assignment_interval_ms=0, initial_rebalance_delay_ms=0)


def topology(*sources: str, epoch: int = 0, changelog: str | None = None) -> Topology:
    """One subtopology, `0`, that reads these topics and keeps its state in that one."""
    logs = () if changelog is None else (TopicInfo(changelog),)
    return Topology(epoch, {"0": Subtopology(source_topics=sources, changelog_topics=logs)})


class StreamsDriver(ModernDriver[StreamsGroup]):
    def __init__(self, world: World, config: StreamsConfig = AT_ONCE) -> None:
        super().__init__(world, StreamsGroup)
        self.config = config

    @property
    def terms(self) -> StreamsTerms:
        return StreamsTerms(self.now, self.world.topics, self.config)

    def ask(self, request: StreamsHeartbeatRequest) -> StreamsHeartbeatAnswer:
        """Raises KafkaError."""
        leaves = request.member_epoch == LEAVE_EPOCH
        answer: StreamsHeartbeatAnswer = self.take(
            heartbeat.leave(self.group, request) if leaves else heartbeat.heartbeat(self.group, request, self.terms)
        )
        return answer

    def advance(self, ms: float) -> list[str]:
        """Ids of members whose time has come to an end."""
        self.ticks += ms
        late = [member_id for member_id, _ in self.group.deadlines.due(self.ticks)]
        gone = [self.group.members[member_id] for member_id in dict.fromkeys(late) if member_id in self.group.members]
        self.take(heartbeat.remove(self.group, gone, None))
        if GROUP in late:
            self.take(heartbeat.end_delay(self.group, self.terms))
        return [member.member_id for member in gone]

    def member(self, member_id: str, sent: Topology, process_id: str | None = None, **changes: Any) -> ScriptedMember:
        found = ScriptedMember(self, member_id, sent, process_id or member_id, **changes)
        found.beat()
        return found


class ScriptedMember:
    """Takes what it is given and gives up what it is not, at its next heartbeat."""

    def __init__(self, driver: StreamsDriver, member_id: str, sent: Topology, process_id: str, **changes: Any) -> None:
        self.driver = driver
        self.member_id = member_id
        self.joins_with: dict[str, Any] = {
            "topology": sent, "process_id": process_id, "rebalance_timeout_ms": REBALANCE, **changes
        }  # fmt: skip
        self.epoch = JOIN_EPOCH
        self.endpoint_epoch = 0
        self.owned = NO_TASK_SETS
        self.said: TaskSets | None = None
        """What it said last that it has; None: it does not know whether that arrived."""

    def request(self, **changes: Any) -> StreamsHeartbeatRequest:
        joins = self.epoch == JOIN_EPOCH
        said = {"owned": NO_TASK_SETS, **self.joins_with} if joins else {"owned": self.owned}
        return StreamsHeartbeatRequest(self.member_id, self.epoch, self.endpoint_epoch, **{**said, **changes})

    def beat(self, **changes: Any) -> StreamsHeartbeatAnswer:
        if self.said == self.owned:
            changes = {"owned": None, **changes} if self.epoch != JOIN_EPOCH else changes
        answer = self.driver.ask(self.request(**changes))
        self.said = self.owned
        self.epoch, self.endpoint_epoch = answer.member_epoch, answer.endpoint_epoch
        if answer.tasks is not None:
            self.owned = answer.tasks
        return answer

    def lose(self) -> None:
        """A heartbeat that arrives, and its answer does not."""
        self.said = None
        self.driver.ask(self.request())

    def leave(self, **changes: Any) -> StreamsHeartbeatAnswer:
        self.owned = NO_TASK_SETS
        return self.driver.ask(self.request(**changes)._replace(member_epoch=LEAVE_EPOCH))

    @property
    def active(self) -> list[tuple[str, int]]:
        return sorted(tasks_of(self.owned.active))


def settle(*members: ScriptedMember, rounds: int = 15) -> None:
    """Heartbeats of all, until nothing changes any more."""
    for _ in range(rounds):
        before = [(member.epoch, member.owned) for member in members]
        for member in members:
            member.beat()
        if before == [(member.epoch, member.owned) for member in members]:
            return
    raise AssertionError("does not come to rest")


def tasks_of(tasks: Tasks) -> Iterator[tuple[str, int]]:
    return ((name, part) for name, parts in tasks.items() for part in parts)


def active(*parts: int) -> TaskSets:
    """Of subtopology `0`."""
    return TaskSets({"0": frozenset(parts)})
