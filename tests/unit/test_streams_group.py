"""Streams groups (KIP-1071): who is let in, what members are told, and what becomes of the group. Rules one by one."""

from __future__ import annotations

from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.config import StreamsConfig
from brokers.groups.group import CommitRequest, Sender
from brokers.groups.modern.deadlines import GROUP, Wait
from brokers.groups.offsets import TopicCommit
from brokers.groups.streams import records
from brokers.groups.streams.member import Endpoint, StreamsMember
from brokers.groups.streams.messages import LEAVE_EPOCH, EndpointPartitions, StatusCode, StreamsHeartbeatRequest
from brokers.groups.streams.tasks import NO_TASK_SETS, TaskSets, TaskState
from brokers.groups.streams.topology import Subtopology, TopicInfo, Topology
from brokers.protocol.offset_commit_codec import PartitionCommit
from tests.support.modern_group import World
from tests.support.streams_group import (
    REBALANCE,
    SESSION,
    ScriptedMember,
    StreamsDriver,
    active,
    settle,
    topology,
)

READS = topology("t")
KEEPS = topology("t", changelog="log")


@pytest.fixture
def driver() -> StreamsDriver:
    return StreamsDriver(World(t=4))


def refusal(driver: StreamsDriver, request: StreamsHeartbeatRequest) -> KafkaError:
    with pytest.raises(KafkaError) as refused:
        driver.ask(request)
    return refused.value


def codes(answer: object) -> list[StatusCode]:
    return [status.code for status in answer.statuses]  # type: ignore[attr-defined]


class TestJoining:
    def test_the_first_member_has_every_task(self, driver: StreamsDriver) -> None:
        member = ScriptedMember(driver, "a", READS, "p")
        answer = member.beat()
        assert (answer.member_epoch, answer.interval_ms, answer.statuses) == (2, 5_000, ())
        assert answer.tasks == active(0, 1, 2, 3)
        assert driver.group.shown_state == "Stable"
        assert member.beat().tasks is None, "as before"

    def test_members_share_the_tasks_and_one_has_to_give_up_first(self, driver: StreamsDriver) -> None:
        first = driver.member("a", READS)
        second = driver.member("b", READS)
        assert second.active == [] and driver.group.shown_state == "Reconciling"
        assert driver.group.members["b"].current.state is TaskState.UNRELEASED_TASKS
        first.beat()
        assert len(first.active) == 2 and driver.group.members["a"].current.state is TaskState.UNREVOKED_TASKS
        second.beat()
        assert second.active == [], "the first has not said that it gave them up"
        first.beat()
        second.beat()
        assert sorted((*first.active, *second.active)) == [("0", part) for part in range(4)]
        assert driver.group.shown_state == "Stable"

    def test_a_full_group_refuses_whoever_joins_also_again(self) -> None:
        driver = StreamsDriver(World(t=4), StreamsConfig(max_size=1, initial_rebalance_delay_ms=0))
        member = driver.member("a", READS)
        member.epoch = 0
        for request in (member.request(), ScriptedMember(driver, "b", READS, "b").request()):
            error = refusal(driver, request)
            assert error.code is ErrorCode.group_max_size_reached and "capacity of 1 members" in error.message

    def test_what_a_member_says_of_itself_raises_the_epoch(self, driver: StreamsDriver) -> None:
        member = driver.member("a", READS)
        epoch = driver.group.group_epoch
        member.beat(rack_id="r")
        assert driver.group.group_epoch == epoch + 1
        member.beat(rack_id="r", client_tags={"zone": "z"}, rebalance_timeout_ms=7, process_id="q")
        member.beat()
        said = driver.group.members["a"].subscription
        assert (said.rack_id, said.client_tags, said.rebalance_timeout_ms, said.process_id) == (
            "r", {"zone": "z"}, 7, "q",
        )  # fmt: skip
        assert driver.group.group_epoch == epoch + 2


class TestEpochs:
    def test_unknown_members(self, driver: StreamsDriver) -> None:
        driver.member("a", READS)
        error = refusal(driver, StreamsHeartbeatRequest("b", 1))
        assert error.code is ErrorCode.unknown_member_id
        assert error.message == "Member b is not a member of group g."

    @pytest.mark.parametrize(("by", "word"), [(1, "greater"), (-1, "smaller")])
    def test_other_epochs_are_fenced(self, driver: StreamsDriver, by: int, word: str) -> None:
        member = driver.member("a", READS)
        member.beat(rack_id="r")
        member.beat(rack_id="s")
        error = refusal(driver, member.request()._replace(member_epoch=member.epoch + (by if by > 0 else -2)))
        assert error.code is ErrorCode.fenced_member_epoch
        assert f"has a {word} member epoch" in error.message

    def test_the_epoch_before_is_taken_from_who_has_no_more_than_it_was_given(self, driver: StreamsDriver) -> None:
        member = driver.member("a", READS)
        old = member.request()
        driver.ask(old._replace(rack_id="r"))  # the answer is lost
        assert driver.ask(old).member_epoch == old.member_epoch + 1
        for owned in (None, TaskSets({"0": frozenset((9,))}), TaskSets(standby={"0": frozenset((0,))})):
            assert refusal(driver, old._replace(owned=owned)).code is ErrorCode.fenced_member_epoch

    def test_a_member_that_missed_an_answer_is_told_again(self, driver: StreamsDriver) -> None:
        first = driver.member("a", READS)
        second = driver.member("b", READS)
        first.beat()
        first.beat()
        second.lose()
        assert second.beat().tasks == driver.group.members["b"].current.assigned.sets
        assert second.beat().tasks is None and second.beat().tasks is None

    def test_a_member_may_join_again(self, driver: StreamsDriver) -> None:
        member = driver.member("a", READS)
        member.epoch = 0
        answer = member.beat()
        assert answer.tasks == active(0, 1, 2, 3) and answer.member_epoch == 2


class TestTopology:
    def test_the_first_member_brings_it_and_another_one_is_refused(self, driver: StreamsDriver) -> None:
        driver.member("a", READS)
        for other in (topology("t", "u"), topology("t", epoch=1)):
            error = refusal(driver, ScriptedMember(driver, "b", other, "b").request())
            assert (error.code, error.message) == (
                ErrorCode.invalid_request,
                "Topology updates are not supported yet.",
            )
        assert "b" not in driver.group.members

    def test_an_older_one_is_stale(self) -> None:
        driver = StreamsDriver(World(t=4, u=1))
        driver.member("a", topology("t", epoch=2))
        member = ScriptedMember(driver, "b", topology("u", epoch=1), "b")
        answer = member.beat()
        assert codes(answer) == [StatusCode.STALE_TOPOLOGY]
        assert answer.statuses[0].detail == "The member's topology epoch 1 is behind the group's topology epoch 2."
        assert codes(member.beat()) == [StatusCode.STALE_TOPOLOGY]
        assert driver.group.topology == topology("t", epoch=2)

    def test_a_group_without_one_is_an_error(self, driver: StreamsDriver) -> None:
        driver.group.put(StreamsMember("a"))
        assert refusal(driver, StreamsHeartbeatRequest("a", 0)).code is ErrorCode.unknown_server_error

    def test_missing_topics_are_told_until_they_are_there(self) -> None:
        driver = StreamsDriver(World())
        member = ScriptedMember(driver, "a", KEEPS, "p")
        answer = member.beat()
        assert codes(answer) == [StatusCode.MISSING_SOURCE_TOPICS] and answer.tasks == NO_TASK_SETS
        assert driver.group.shown_state == "NotReady" and answer.to_create == ()
        driver.world.set(t=3)
        answer = member.beat()
        assert codes(answer) == [StatusCode.MISSING_INTERNAL_TOPICS]
        assert answer.to_create == (TopicInfo("log", 3),)
        assert driver.group.shown_state == "NotReady" and driver.group.validated_topology_epoch == -1
        driver.world.set(log=3)
        answer = member.beat()
        assert (answer.statuses, answer.tasks) == ((), active(0, 1, 2))
        assert driver.group.shown_state == "Stable" and driver.group.validated_topology_epoch == 0

    def test_tasks_that_are_not_of_it_are_refused(self, driver: StreamsDriver) -> None:
        member = driver.member("a", READS)
        error = refusal(driver, member.request(owned=TaskSets({"1": frozenset((0,))})))
        assert error == KafkaError(ErrorCode.invalid_request) or error.message == (
            "Subtopology 1 does not exist in the topology."
        )
        error = refusal(driver, member.request(owned=TaskSets(standby={"0": frozenset((4,))})))
        assert error.code is ErrorCode.invalid_request
        assert error.message == "Task 4 for subtopology 0 is invalid. Number of tasks for this subtopology: 4"

    def test_a_topic_that_grows_gives_new_tasks(self, driver: StreamsDriver) -> None:
        member = driver.member("a", READS)
        driver.world.set(t=6)
        member.beat()
        assert member.active == [("0", part) for part in range(6)]

    def test_topics_that_are_not_its_own_change_nothing(self, driver: StreamsDriver) -> None:
        member = driver.member("a", READS)
        member.beat()
        epoch, configured = driver.group.group_epoch, driver.group.configured
        assert configured is not None
        driver.world.set(other=6)
        member.beat()
        assert driver.group.group_epoch == epoch
        assert driver.group.configured is configured, "nor is it looked at again"

    def test_what_another_release_thought_of_it_is_thought_again(self, driver: StreamsDriver) -> None:
        member = driver.member("a", READS)
        found = driver.group.epoch_record(validated_topology_epoch=-1)
        driver.group.replay(found.key, found.value)
        epoch = driver.group.group_epoch
        assert driver.group.shown_state == "NotReady"
        member.beat()
        assert (driver.group.shown_state, driver.group.group_epoch) == ("Stable", epoch + 1)


class TestDelay:
    CONFIG = StreamsConfig(assignment_interval_ms=1_000, initial_rebalance_delay_ms=3_000)

    def test_a_group_waits_for_more_members_before_it_assigns(self) -> None:
        driver = StreamsDriver(World(t=4), self.CONFIG)
        first, second = (ScriptedMember(driver, name, READS, name) for name in "ab")
        answer = first.beat()
        assert codes(answer) == [StatusCode.ASSIGNMENT_DELAYED] and answer.member_epoch == 1
        assert answer.statuses[0].detail == "Assignment delayed due to the configured initial rebalance delay."
        driver.advance(2_999)
        assert codes(second.beat()) == [StatusCode.ASSIGNMENT_DELAYED]
        assert driver.group.shown_state == "Assigning"
        driver.advance(1)
        assert driver.group.assignment_epoch == driver.group.group_epoch, "made by the timer"
        first.beat()
        second.beat()
        assert sorted((*first.active, *second.active)) == [("0", part) for part in range(4)]
        assert driver.group.shown_state == "Stable"

    def test_only_a_group_without_members_waits(self) -> None:
        driver = StreamsDriver(World(t=4), self.CONFIG)
        driver.member("a", READS).beat()
        driver.advance(3_000)
        second = ScriptedMember(driver, "b", READS, "b")
        assert codes(second.beat()) == [StatusCode.ASSIGNMENT_DELAYED]
        assert driver.group.deadlines.get(GROUP, Wait.ASSIGNMENT) is None
        assert "assignment interval" in second.beat().statuses[0].detail

    def test_a_group_that_lost_all_its_members_waits_again(self) -> None:
        driver = StreamsDriver(World(t=4), self.CONFIG)
        driver.member("a", READS).leave()
        driver.advance(3_000)
        assert driver.group.assignment_epoch == 1, "there is nobody to assign to"
        assert codes(ScriptedMember(driver, "b", READS, "b").beat()) == [StatusCode.ASSIGNMENT_DELAYED]

    def test_the_timer_keeps_to_the_assignment_interval(self) -> None:
        config = StreamsConfig(assignment_interval_ms=9_000, initial_rebalance_delay_ms=3_000)
        driver = StreamsDriver(World(t=4), config)
        first = driver.member("a", READS)
        first.beat()
        driver.advance(3_000)
        made = driver.group.assignment_epoch
        first.beat()
        first.leave()
        second = driver.member("b", READS)
        driver.advance(3_000)
        assert driver.group.assignment_epoch == made
        assert "assignment interval" in second.beat().statuses[0].detail
        driver.advance(6_000)
        assert second.beat().statuses == () and driver.group.assignment_epoch > made

    def test_the_heartbeat_that_makes_a_group_leaves_its_records_alone(self) -> None:
        """As Kafka: nothing that is in memory only. The timer finds nothing to assign by, the next heartbeat does."""
        driver = StreamsDriver(World(t=4), self.CONFIG)
        first = driver.member("a", READS)
        assert driver.group.configured is None
        driver.advance(3_000)
        assert driver.group.assignment_epoch == 1
        first.beat()
        assert len(first.active) == 4 and driver.group.configured is not None

    def test_a_loaded_group_does_not_wait(self) -> None:
        driver = StreamsDriver(World(t=4), self.CONFIG)
        member = driver.member("a", READS)
        driver.group = driver.reload()
        driver.group.activate(driver.now, SESSION)
        member.beat()
        assert len(member.active) == 4


class TestStandbys:
    def test_other_processes_keep_copies(self) -> None:
        driver = StreamsDriver(World(t=2, log=2))
        first, second = (driver.member(name, KEEPS) for name in "ab")
        settle(first, second)
        assert first.owned.standby == second.owned.standby == {}
        epoch = driver.group.group_epoch
        driver.config = StreamsConfig(
            num_standby_replicas=1, assignment_interval_ms=0, initial_rebalance_delay_ms=0
        )  # fmt: skip
        settle(first, second)
        assert driver.group.group_epoch == epoch + 1
        assert driver.group.assignment_configs == {"num.standby.replicas": "1"}
        assert first.owned.standby == second.owned.active and second.owned.standby == first.owned.active

    def test_a_process_is_not_its_own_stand_by(self) -> None:
        config = StreamsConfig(num_standby_replicas=1, assignment_interval_ms=0, initial_rebalance_delay_ms=0)
        driver = StreamsDriver(World(t=2, log=2), config)
        first, second = (driver.member(name, KEEPS, "same") for name in "ab")
        settle(first, second)
        assert first.owned.standby == second.owned.standby == {}

    def test_copies_are_the_process_s_that_their_member_is_of(self) -> None:
        config = StreamsConfig(num_standby_replicas=1, assignment_interval_ms=0, initial_rebalance_delay_ms=0)
        driver = StreamsDriver(World(t=1, log=1), config)
        first, second = (driver.member(name, KEEPS) for name in "ab")
        settle(first, second)
        keeps = second if first.active else first
        driver.ask(keeps.request(process_id="q", owned=None))
        processes = [name for name in ("a", "b", "q") if driver.group.has_copy(name, "0", 0)]
        assert processes == ["q"]

    def test_a_copy_becomes_active_once_its_holder_gave_it_up(self) -> None:
        config = StreamsConfig(num_standby_replicas=1, assignment_interval_ms=0, initial_rebalance_delay_ms=0)
        driver = StreamsDriver(World(t=1, log=1), config)
        first, second = (driver.member(name, KEEPS) for name in "ab")
        settle(first, second)
        runs, keeps = (first, second) if first.active else (second, first)
        assert keeps.owned.standby == {"0": frozenset((0,))}
        runs.leave()
        settle(keeps)
        assert keeps.active == [("0", 0)] and keeps.owned.standby == {}


class TestLeaving:
    def test_who_leaves_is_gone_at_once(self, driver: StreamsDriver) -> None:
        first, second = (driver.member(name, READS) for name in "ab")
        settle(first, second)
        epoch = driver.group.group_epoch
        answer = second.leave()
        assert (answer.member_epoch, answer.tasks, answer.statuses) == (LEAVE_EPOCH, None, ())
        assert driver.group.group_epoch == epoch + 1 and "b" not in driver.group.targets
        settle(first)
        assert len(first.active) == 4
        first.leave()
        assert driver.group.shown_state == "Empty" and driver.group.topology == READS
        assert refusal(driver, StreamsHeartbeatRequest("a", LEAVE_EPOCH)).code is ErrorCode.unknown_member_id

    def test_who_is_silent_is_fenced(self, driver: StreamsDriver) -> None:
        first = driver.member("a", READS)
        driver.advance(SESSION - 1)
        first.beat()
        driver.advance(SESSION - 1)
        assert driver.group.members
        assert driver.advance(1) == ["a"] and driver.group.shown_state == "Empty"

    def test_who_does_not_give_up_is_fenced(self, driver: StreamsDriver) -> None:
        first = driver.member("a", READS)
        second = driver.member("b", READS)
        first.beat()
        held = first.owned._replace(active={"0": frozenset(range(4))})
        for _ in range(2):
            driver.advance(REBALANCE / 2 - 1)
            first.beat(owned=held)
            second.beat()
        assert driver.advance(2) == ["a"]
        settle(second)
        assert len(second.active) == 4

    def test_who_gave_up_in_time_is_not(self, driver: StreamsDriver) -> None:
        first, second = (driver.member(name, READS) for name in "ab")
        first.beat()
        settle(first, second)
        for _ in range(3):
            driver.advance(REBALANCE / 2)
            settle(first, second)
        assert len(driver.group.members) == 2

    def test_the_time_to_give_up_begins_anew_with_another_coordinator(self, driver: StreamsDriver) -> None:
        first = driver.member("a", READS)
        driver.member("b", READS)
        first.beat()
        driver.group = driver.reload()
        driver.group.activate(driver.now, SESSION)
        assert driver.group.deadlines.get("a", Wait.REVOCATION) == driver.ticks + REBALANCE
        assert driver.group.deadlines.get("b", Wait.REVOCATION) is None


class TestShutdown:
    def test_one_member_stops_all_until_the_last_is_gone(self, driver: StreamsDriver) -> None:
        first, second = (driver.member(name, READS) for name in "ab")
        answer = first.beat(shutdown_application=True)
        assert codes(answer) == [StatusCode.SHUTDOWN_APPLICATION]
        assert answer.statuses[0].detail == (
            "Streams group member a encountered a fatal error and requested a shutdown for the entire application."
        )
        assert "member a " in second.beat(shutdown_application=True).statuses[0].detail, "the first who asked"
        first.leave()
        assert codes(second.beat()) == [StatusCode.SHUTDOWN_APPLICATION]
        second.leave()
        assert codes(ScriptedMember(driver, "c", READS, "c").beat()) == []

    def test_who_leaves_may_ask_for_it(self, driver: StreamsDriver) -> None:
        first, second = (driver.member(name, READS) for name in "ab")
        first.leave(shutdown_application=True)
        assert codes(second.beat()) == [StatusCode.SHUTDOWN_APPLICATION]
        second.leave(shutdown_application=True)
        assert driver.group.shutdown_requested_by is None, "nobody is left to be told"


class TestEndpoints:
    HOSTS = (Endpoint("one", 1), Endpoint("two", 2))

    def test_members_hear_of_each_others(self) -> None:
        driver = StreamsDriver(World(t=2))
        first = ScriptedMember(driver, "a", READS, "a", endpoint=self.HOSTS[0])
        answer = first.beat()
        both = {"t": frozenset((0, 1))}
        assert answer.endpoints == (EndpointPartitions(self.HOSTS[0], both, {}),)
        assert answer.endpoint_epoch == 0, "a group that was just made keeps none"
        second = driver.member("b", READS, endpoint=self.HOSTS[1])
        settle(first, second)
        first.endpoint_epoch = -1
        answer = first.beat()
        parts = {found.endpoint: (found.active, found.standby) for found in answer.endpoints or ()}
        assert parts == {
            host: ({"t": frozenset(part for _, part in member.active)}, {})
            for host, member in zip(self.HOSTS, (first, second), strict=True)
        }
        assert answer.endpoints is not None and answer.endpoints[-1].endpoint == self.HOSTS[0], "who asks comes last"
        assert answer.endpoint_epoch == driver.group.endpoint_epoch > 0
        assert first.beat().endpoints is None, "as before"

    def test_without_one_there_is_nothing_to_tell(self, driver: StreamsDriver) -> None:
        assert ScriptedMember(driver, "a", READS, "a").beat().endpoints is None
        assert driver.group.endpoint_epoch == 0

    def test_topics_of_fewer_partitions_and_stand_bys(self) -> None:
        config = StreamsConfig(num_standby_replicas=1, assignment_interval_ms=0, initial_rebalance_delay_ms=0)
        driver = StreamsDriver(World(t=4, u=1, log=4), config)
        both = topology("t", "u", changelog="log")
        first, second = (driver.member(name, both, endpoint=host) for name, host in zip("ab", self.HOSTS, strict=True))
        settle(first, second)
        answer = driver.ask(first.request()._replace(endpoint_epoch=-1))
        assert answer.endpoints is not None
        for found in answer.endpoints:
            assert len(found.active["t"]) == len(found.standby["t"]) == 2
            assert len(found.active["u"]) == 1 and found.active["u"] == {min(found.active["t"])}
        driver.world.set(u=0)
        answer = driver.ask(first.request()._replace(endpoint_epoch=-1))
        assert answer.endpoints is not None and answer.endpoints[0].active.keys() <= {"t"}, "it is gone"


class TestOffsets:
    def commit(
        self, driver: StreamsDriver, member: ScriptedMember, epoch: int, topic: str, part: int, **changes: bool
    ) -> ErrorCode:
        sent = TopicCommit(topic, UUID(int=0), (PartitionCommit(part, 1),))
        request = CommitRequest(Sender("g", member.member_id, epoch), [sent], **changes)
        return driver.group.validate_offset_commit(request, driver.now)

    def test_an_older_epoch_commits_what_the_member_had_in_it(self) -> None:
        driver = StreamsDriver(World(t=4, r=4))
        through = Subtopology(("t",), repartition_sink_topics=("r",), repartition_source_topics=(TopicInfo("r", 4),))
        reads = Topology(0, {"0": through})
        first = driver.member("a", reads)
        old = first.epoch
        second = driver.member("b", reads)
        settle(first, second)
        kept, lost = first.active[0][1], second.active[0][1]
        assert first.epoch > old
        for topic in ("t", "r"):
            assert self.commit(driver, first, old, topic, kept) is ErrorCode.none
            assert self.commit(driver, first, old, topic, lost) is ErrorCode.stale_member_epoch
        assert self.commit(driver, first, old, "x", kept) is ErrorCode.stale_member_epoch, "not of the topology"
        assert self.commit(driver, second, second.epoch - 1, "t", lost) is ErrorCode.stale_member_epoch
        assert self.commit(driver, first, first.epoch, "x", 9) is ErrorCode.none, "its own epoch commits anything"
        assert self.commit(driver, first, first.epoch + 1, "t", kept) is ErrorCode.stale_member_epoch
        in_transaction = self.commit(driver, first, old, "t", lost, transactional=True, knows_epochs=False)
        assert in_transaction is ErrorCode.illegal_generation

    def test_what_is_being_given_up_may_be_committed(self, driver: StreamsDriver) -> None:
        first = driver.member("a", READS)
        old = first.epoch
        first.beat(rack_id="r")
        driver.member("b", READS)
        first.beat()
        revoking = driver.group.members["a"].current.revoking.active["0"]
        assert first.epoch > old and len(revoking) == 2
        assert all(self.commit(driver, first, old, "t", part) is ErrorCode.none for part in revoking)

    def test_who_may_not(self, driver: StreamsDriver) -> None:
        stranger = ScriptedMember(driver, "x", READS, "x")
        assert self.commit(driver, stranger, -1, "t", 0) is ErrorCode.none, "the group is empty"
        first = driver.member("a", READS)
        assert self.commit(driver, stranger, -1, "t", 0) is ErrorCode.unknown_member_id
        old_client = self.commit(driver, first, first.epoch, "t", 0, knows_epochs=False)
        assert old_client is ErrorCode.unsupported_version
        driver.group.kill()
        assert self.commit(driver, first, first.epoch, "t", 0) is ErrorCode.coordinator_not_available

    def test_fetching(self, driver: StreamsDriver) -> None:
        first = driver.member("a", READS)
        group = driver.group
        assert group.validate_offset_fetch(None, -1) is ErrorCode.none
        assert group.validate_offset_fetch("a", first.epoch) is ErrorCode.none
        assert group.validate_offset_fetch("a", first.epoch - 1) is ErrorCode.stale_member_epoch
        assert group.validate_offset_fetch("b", 1) is ErrorCode.unknown_member_id

    def test_offsets_of_topics_that_a_living_application_reads_stay(self, driver: StreamsDriver) -> None:
        first = driver.member("a", READS)
        assert driver.group.subscribes_to("t") and not driver.group.subscribes_to("u")
        first.leave()
        assert not driver.group.subscribes_to("t")


class TestRecords:
    def test_a_group_ends_with_its_records(self, driver: StreamsDriver) -> None:
        driver.member("a", READS)
        for record in driver.group.tombstones():
            driver._store(record)
        assert driver.stored == {}

    def test_records_that_come_before_the_groups_own(self, driver: StreamsDriver) -> None:
        driver.member("a", READS)
        del driver.group
        group = driver.reload()
        group.replay(group.record(records.TOPOLOGY, None).key, None)
        assert group.topology is None and group.shown_state == "NotReady" and not group.subscribes_to("t")
        group.replay(group.record(records.CURRENT, None, "a").key, None)
        assert group.active_process("0", 0) is None
        group.replay(group.record(records.EPOCH, None).key, None)
        assert (group.group_epoch, group.validated_topology_epoch) == (1, -1)


def test_settings_of_a_group_keep_within_the_brokers_bounds() -> None:
    config = StreamsConfig(bounds={"num.standby.replicas": (0, 2)})
    own = {"num.standby.replicas": 5, "initial.rebalance.delay.ms": 7, "session.timeout.ms": 9}
    made = config.with_group(own)
    assert (made.num_standby_replicas, made.initial_rebalance_delay_ms, made.session_timeout_ms) == (2, 7, 9)
