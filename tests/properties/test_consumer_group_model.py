"""Consumer groups (KIP-848) against what must always hold, whatever members do and whichever answers are lost.

Members are modelled as clients are: what they are given they use at once, what they are not they give up, and say so at
their next heartbeat; one whose answer is lost says again what it said.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.config import ConsumerConfig
from brokers.groups.consumer.messages import JOIN_EPOCH, LEAVE_EPOCH, LEAVE_STATIC_EPOCH
from brokers.groups.modern.assignments import NOTHING, MemberState
from tests.support.consumer_group import GroupDriver, ScriptedMember, shares
from tests.support.modern_group import World

TOPICS = ("a", "b", "c")
PATTERNS = ("", "[ab]", "c|d", ".*")
REJOIN = (ErrorCode.fenced_member_epoch, ErrorCode.unknown_member_id, ErrorCode.fenced_instance_id)


class ConsumerGroupModel(RuleBasedStateMachine):
    @initialize(interval=st.sampled_from([0, 1_000]), assignor=st.sampled_from([None, "range", "uniform"]))
    def begin(self, interval: int, assignor: str | None) -> None:
        self.world = World(a=4, b=1)
        self.driver = GroupDriver(self.world, ConsumerConfig(assignment_interval_ms=interval))
        self.assignor = assignor
        self.members: dict[str, ScriptedMember] = {}
        self.ids = 0

    # --- what clients do -----------------------------------------------------------------------

    @rule(topics=st.frozensets(st.sampled_from(TOPICS)), pattern=st.sampled_from(PATTERNS), instance=st.integers(0, 6))
    @precondition(lambda self: len(self.members) < 6)
    def join(self, topics: frozenset[str], pattern: str, instance: int) -> None:
        self.ids += 1
        changes: dict[str, Any] = {"pattern": pattern}
        if instance < 2:
            changes["instance_id"] = f"i{instance}"
        if self.assignor is not None:
            changes["assignor"] = self.assignor
        member = ScriptedMember(self.driver, f"m{self.ids:03}", topics, **changes)
        if self.beat(member):
            self.members[member.member_id] = member

    def beat(self, member: ScriptedMember, lost: bool = False) -> bool:
        """Whether the member is in the group."""
        try:
            if lost:
                member.says_all = True
                self.driver.ask(member.request())
            else:
                member.beat()
        except KafkaError as error:
            if error.code is not ErrorCode.unreleased_instance_id:
                assert error.code in REJOIN, error
            member.owned, member.epoch = NOTHING, JOIN_EPOCH
            self.members.pop(member.member_id, None)
            return False
        return True

    @rule(data=st.data(), lost=st.booleans())
    @precondition(lambda self: self.members)
    def heartbeat(self, data: st.DataObject, lost: bool) -> None:
        self.beat(self.pick(data), lost)

    @rule(data=st.data())
    @precondition(lambda self: self.members)
    def heartbeat_without_partitions(self, data: st.DataObject) -> None:
        member = self.pick(data)
        if member.epoch != JOIN_EPOCH and not member.says_all:
            try:
                member.beat(owned=None)
            except KafkaError as error:
                assert error.code in REJOIN
                self.members.pop(member.member_id)

    @rule(data=st.data(), topics=st.frozensets(st.sampled_from(TOPICS)), pattern=st.sampled_from(PATTERNS))
    @precondition(lambda self: self.members)
    def subscribe(self, data: st.DataObject, topics: frozenset[str], pattern: str) -> None:
        member = self.pick(data)
        member.changes |= {"topics": topics, "pattern": pattern}
        if member.epoch != JOIN_EPOCH:
            try:
                member.beat(topics=topics, pattern=pattern)
            except KafkaError as error:
                assert error.code in REJOIN
                self.members.pop(member.member_id)

    @rule(data=st.data())
    @precondition(lambda self: self.members)
    def leave(self, data: st.DataObject) -> None:
        member = self.pick(data)
        static = "instance_id" in member.changes
        epoch = data.draw(st.sampled_from([LEAVE_EPOCH, LEAVE_STATIC_EPOCH])) if static else LEAVE_EPOCH
        del self.members[member.member_id]
        member.owned = NOTHING
        member.leave(epoch)

    def pick(self, data: st.DataObject) -> ScriptedMember:
        return self.members[data.draw(st.sampled_from(sorted(self.members)))]

    # --- what happens to them ------------------------------------------------------------------

    @rule(ms=st.sampled_from([1, 1_000, 11_000, 44_000]))
    def time_passes(self, ms: int) -> None:
        """Whoever is fenced has given everything up by then: its own session has ended too."""
        for member_id in self.driver.advance(ms):
            self.members.pop(member_id, None)

    @rule(topic=st.sampled_from((*TOPICS, "d")), more=st.integers(0, 3))
    def topics_change(self, topic: str, more: int) -> None:
        self.world.set(**{topic: 0 if more == 0 else self.world.count(topic) + more})

    @rule()
    def patterns_are_matched(self) -> None:
        self.driver.resolve()

    @rule(data=st.data())
    def another_coordinator(self, data: st.DataObject) -> None:
        """It loads the group in whatever order the keys are in, and nobody notices."""
        order = data.draw(st.permutations(list(self.driver.stored)))
        group = self.driver.reload(list(order))
        group.activate(self.driver.terms.now, self.driver.config.session_timeout_ms)
        self.driver.group = group

    # --- what always holds ---------------------------------------------------------------------

    @invariant()
    def no_partition_is_with_two_members(self) -> None:
        if not hasattr(self, "driver"):
            return
        used = list(shares(*self.members.values()))
        assert len(used) == len(set(used)), "two clients read the same partition"
        held = [
            (topic, part)
            for member in self.driver.group.members.values()
            for owned in (member.current.assigned, member.current.revoking)
            for topic, parts in owned.items()
            for part in parts
        ]
        assert len(held) == len(set(held)), "the coordinator gave a partition to two members"

    @invariant()
    def epochs_follow_each_other(self) -> None:
        if not hasattr(self, "driver"):
            return
        group = self.driver.group
        assert group.assignment_epoch <= group.group_epoch
        for member in group.members.values():
            assert member.member_epoch <= group.assignment_epoch, member
            for owned in (member.current.assigned, member.current.revoking):
                assert all(epoch <= max(member.member_epoch, group.assignment_epoch)
                           for parts in owned.values() for epoch in parts.values())  # fmt: skip

    @invariant()
    def what_is_stored_is_what_is(self) -> None:
        if not hasattr(self, "driver"):
            return
        loaded, group = self.driver.reload(), self.driver.group
        for name in (
            "group_epoch", "metadata_hash", "assignment_epoch", "assignment_timestamp", "members", "targets", "static",
            "patterns", "resolved", "_holders", "_topic_counts",
        ):  # fmt: skip
            assert getattr(loaded, name) == getattr(group, name), name

    def teardown(self) -> None:
        """Left alone, the group comes to rest: everything assigned, evenly, to those who want it."""
        if not hasattr(self, "driver"):
            return
        self.driver.advance(self.driver.config.session_timeout_ms - 1)
        for member in list(self.members.values()):
            self.beat(member)
        for member_id in self.driver.advance(1):
            self.members.pop(member_id, None)  # did not come back
        for _ in range(30):
            self.driver.ticks += 11_000
            for member in list(self.members.values()):
                self.beat(member)
            self.driver.resolve()
        group, topics = self.driver.group, self.world.topics
        assert group.members.keys() == self.members.keys()
        if not self.members:
            return
        wanted = {
            (topic, part)
            for member in group.members.values()
            for topic in topics.ids(group.topics_of(member.subscription))
            for part in range(topics.partition_count(topic))
        }
        assert set(shares(*self.members.values())) == wanted
        assert all(m.current.state is MemberState.STABLE for m in group.members.values())
        assert group.shown_state == "Stable"


ConsumerGroupModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)
TestConsumerGroupModel = ConsumerGroupModel.TestCase
