"""Streams groups (KIP-1071) against what must always hold, whatever members do and whichever answers are lost.

Members are modelled as clients are: what they are given they use at once, what they are not they give up, and say so at
their next heartbeat; one whose answer is lost says again what it said.
"""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.config import StreamsConfig
from brokers.groups.streams.messages import JOIN_EPOCH
from brokers.groups.streams.tasks import NO_TASK_SETS, TaskState
from brokers.groups.streams.topology import Subtopology, TopicInfo, Topology
from tests.support.modern_group import World
from tests.support.streams_group import ScriptedMember, StreamsDriver, tasks_of

REJOIN = (ErrorCode.fenced_member_epoch, ErrorCode.unknown_member_id)
TOPOLOGY = Topology(
    3,
    {
        "0": Subtopology(source_topics=("a",), repartition_sink_topics=("r",)),
        "1": Subtopology(repartition_source_topics=(TopicInfo("r"),), changelog_topics=(TopicInfo("log"),)),
    },
)


class StreamsGroupModel(RuleBasedStateMachine):
    @initialize(
        interval=st.sampled_from([0, 1_000]), delay=st.sampled_from([0, 3_000]), standbys=st.integers(0, 2),
    )  # fmt: skip
    def begin(self, interval: int, delay: int, standbys: int) -> None:
        self.world = World(a=4, r=4, log=4)
        config = StreamsConfig(
            assignment_interval_ms=interval, initial_rebalance_delay_ms=delay, num_standby_replicas=standbys
        )
        self.driver = StreamsDriver(self.world, config)
        self.members: dict[str, ScriptedMember] = {}
        self.ids = 0

    # --- what clients do -----------------------------------------------------------------------

    @rule(process=st.integers(0, 2))
    @precondition(lambda self: len(self.members) < 6)
    def join(self, process: int) -> None:
        self.ids += 1
        member = ScriptedMember(self.driver, f"m{self.ids:03}", TOPOLOGY, f"p{process}")
        self.members[member.member_id] = member
        self.beat(member)

    def beat(self, member: ScriptedMember, lost: bool = False) -> None:
        try:
            if lost:
                member.lose()
            else:
                member.beat()
        except KafkaError as error:
            if error.code is ErrorCode.invalid_request:
                assert "Task" in (error.message or ""), "tasks of a topic that has fewer partitions now"
            else:
                assert error.code in REJOIN, error
            member.owned, member.said, member.epoch = NO_TASK_SETS, None, JOIN_EPOCH

    @rule(data=st.data(), lost=st.booleans())
    @precondition(lambda self: self.members)
    def heartbeat(self, data: st.DataObject, lost: bool) -> None:
        self.beat(self.pick(data), lost)

    @rule(data=st.data())
    @precondition(lambda self: self.members)
    def leave(self, data: st.DataObject) -> None:
        member = self.members.pop(self.pick(data).member_id)
        if member.member_id in self.driver.group.members:
            member.leave()

    def pick(self, data: st.DataObject) -> ScriptedMember:
        return self.members[data.draw(st.sampled_from(sorted(self.members)))]

    # --- what happens to them ------------------------------------------------------------------

    @rule(ms=st.sampled_from([1, 1_000, 3_000, 44_000]))
    def time_passes(self, ms: int) -> None:
        """Whoever is fenced has given everything up by then: its own session has ended too."""
        for member_id in self.driver.advance(ms):
            self.members.pop(member_id, None)

    @rule(count=st.sampled_from([0, 4, 6]))
    def topics_change(self, count: int) -> None:
        """They go, come back and are of another size; the application's own with them, or not."""
        self.world.set(a=0, r=0, log=0)
        self.world.set(a=count, r=count, log=count)

    @rule(standbys=st.integers(0, 2))
    def configured_anew(self, standbys: int) -> None:
        old = self.driver.config
        self.driver.config = StreamsConfig(
            assignment_interval_ms=old.assignment_interval_ms, num_standby_replicas=standbys,
            initial_rebalance_delay_ms=old.initial_rebalance_delay_ms,
        )  # fmt: skip

    @rule(data=st.data())
    def another_coordinator(self, data: st.DataObject) -> None:
        """It loads the group in whatever order the keys are in, and nobody notices."""
        order = data.draw(st.permutations(list(self.driver.stored)))
        group = self.driver.reload(list(order))
        group.activate(self.driver.now, self.driver.config.session_timeout_ms)
        self.driver.group = group

    # --- what always holds ---------------------------------------------------------------------

    @invariant()
    def no_task_is_active_twice(self) -> None:
        if not hasattr(self, "driver"):
            return
        used = Counter(task for member in self.members.values() for task in tasks_of(member.owned.active))
        assert not used or max(used.values()) == 1, "two clients run the same task"
        held = Counter(
            (name, part)
            for member in self.driver.group.members.values()
            for tasks in (member.current.assigned.active, member.current.revoking.active)
            for name, parts in tasks.items()
            for part in parts
        )
        assert not held or max(held.values()) == 1, "the coordinator gave a task to two members"

    @invariant()
    def epochs_follow_each_other(self) -> None:
        if not hasattr(self, "driver"):
            return
        group = self.driver.group
        assert group.assignment_epoch <= group.group_epoch
        for member in group.members.values():
            assert member.member_epoch <= group.assignment_epoch, member

    @invariant()
    def what_is_stored_is_what_is(self) -> None:
        if not hasattr(self, "driver"):
            return
        loaded, group = self.driver.reload(), self.driver.group
        for name in (
            "group_epoch", "metadata_hash", "assignment_epoch", "assignment_timestamp", "members", "targets",
            "topology", "validated_topology_epoch", "assignment_configs", "_active", "_copies", "_sources",
            "shown_state",
        ):  # fmt: skip
            assert getattr(loaded, name) == getattr(group, name), name

    def teardown(self) -> None:
        """Left alone, the group comes to rest: every task active with one member, copies as far as processes go."""
        if not hasattr(self, "driver"):
            return
        self.world.set(a=4, r=4, log=4)
        for _ in range(30):
            self.driver.advance(3_000)
            for member in list(self.members.values()):
                self.beat(member)
        group = self.driver.group
        assert group.members.keys() == self.members.keys()
        if not self.members:
            assert group.shown_state == "Empty"
            return
        assert group.shown_state == "Stable"
        assert all(member.current.state is TaskState.STABLE for member in group.members.values())
        members = self.members.values()
        wanted = sorted((name, part) for name in ("0", "1") for part in range(4))
        assert sorted(task for member in members for task in tasks_of(member.owned.active)) == wanted
        processes = {member.process_id for member in group.members.values()}
        copies = min(self.driver.config.num_standby_replicas, len(processes) - 1)
        found = Counter(task for member in members for task in tasks_of(member.owned.standby))
        assert found == Counter({("1", part): copies for part in range(4) if copies})
        for process in processes:
            mine = [m.current.assigned.sets for m in group.members.values() if m.process_id == process]
            tasks = Counter(task for sets in mine for role in sets for task in tasks_of(role))
            assert max(tasks.values(), default=1) == 1, "a process has a task twice"


StreamsGroupModel.TestCase.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)
TestStreamsGroupModel = StreamsGroupModel.TestCase
