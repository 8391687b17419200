"""The classic group's state machine: static members, size limit, loading, who may commit offsets."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from brokers.groups.classic_group import ClassicGroup
from brokers.groups.group import CommitRequest, Sender
from brokers.groups.messages import GroupState
from brokers.groups.records import GroupValue, MemberValue
from tests.support.group_driver import DELAY, REBALANCE, SESSION, WALL, GroupDriver, subscription

NEW_MEMBER_TIMEOUT = 300_000


@pytest.fixture
def driver() -> GroupDriver:
    return GroupDriver()


class TestStaticMembers:
    def test_a_restarted_member_gets_its_assignment_without_a_rebalance(self, driver: GroupDriver) -> None:
        members = driver.stable("a", "b")
        token = driver.join(group_instance_id="b")
        assert token not in driver.answers, "the new member id is not durable yet"
        driver.store()
        answer = driver.joined(token)
        assert (answer.error, answer.generation, answer.skip_assignment) == (ErrorCode.none, 1, False)
        assert driver.group.state is GroupState.STABLE
        assert driver.synced(driver.sync(answer.member_id)).assignment == f"for {members[1]}".encode()
        # Whoever still uses the old id is fenced.
        assert driver.heartbeat(members[1], instance="b") is ErrorCode.fenced_instance_id
        assert driver.synced(driver.sync(members[1], group_instance_id="b")).error is ErrorCode.fenced_instance_id
        fenced = driver.joined(driver.join(members[1], group_instance_id="b"))
        assert fenced.error is ErrorCode.fenced_instance_id

    def test_a_restarted_leader_is_told_to_skip_the_assignment(self, driver: GroupDriver) -> None:
        driver.stable("a", "b")
        token = driver.join(group_instance_id="a")
        driver.store()
        answer = driver.joined(token)
        assert answer.skip_assignment and answer.leader == answer.member_id and len(answer.members) == 2

    def test_an_old_client_that_leads_is_told_the_old_leader(self, driver: GroupDriver) -> None:
        members = driver.stable("a", "b")
        token = driver.join(group_instance_id="a", may_skip_assignment=False)
        driver.store()
        answer = driver.joined(token)
        assert (answer.leader, answer.members, answer.skip_assignment) == (members[0], (), False)

    def test_a_replacement_that_is_refused_is_undone(self, driver: GroupDriver) -> None:
        members = driver.stable("a", "b")
        token = driver.join(group_instance_id="b", session_timeout_ms=SESSION * 2)
        driver.store(refused=ErrorCode.not_coordinator)
        assert driver.joined(token).error is ErrorCode.not_coordinator
        assert driver.heartbeat(members[1], instance="b") is ErrorCode.none
        assert driver.group.members.members[members[1]].session_timeout_ms == SESSION

    def test_a_replacement_with_another_protocol_rebalances(self, driver: GroupDriver) -> None:
        driver.stable("a", protocols=("range", "sticky"))
        driver.join(group_instance_id="a", protocols=("sticky", "range"))
        assert driver.group.generation == 2
        assert driver.group.protocol_name == "sticky"

    def test_a_replacement_while_the_assignment_is_awaited_rebalances(self, driver: GroupDriver) -> None:
        tokens = [driver.join(group_instance_id="a"), driver.join(group_instance_id="b")]
        driver.advance(DELAY * 2)
        leader = driver.joined(tokens[0]).member_id
        waiting = driver.sync(driver.joined(tokens[1]).member_id)
        driver.join(group_instance_id="b")
        assert driver.synced(waiting).error is ErrorCode.fenced_instance_id
        assert driver.heartbeat(leader) is ErrorCode.rebalance_in_progress

    def test_a_replacement_during_the_join_phase_fences_the_waiting_one(self, driver: GroupDriver) -> None:
        first = driver.join(group_instance_id="a")
        second = driver.join(group_instance_id="a")
        assert driver.joined(first).error is ErrorCode.fenced_instance_id
        driver.advance(DELAY)
        assert driver.joined(second).generation == 1

    def test_a_rebalance_during_the_replacement_answers_its_join(self, driver: GroupDriver) -> None:
        members = driver.stable("a", None)
        replacing = driver.join(group_instance_id="a")
        driver.join(members[1], metadata=subscription("u"))
        driver.store()
        assert driver.joined(replacing).generation == 2

    def test_errors_of_an_instance_id_that_is_not_there(self, driver: GroupDriver) -> None:
        members = driver.stable("a")
        assert driver.heartbeat(members[0], instance="z") is ErrorCode.unknown_member_id
        assert driver.joined(driver.join(members[0], group_instance_id="z")).error is ErrorCode.unknown_member_id


class TestSizeLimit:
    def test_a_full_stable_group_takes_nobody_new(self) -> None:
        driver = GroupDriver(max_size=2)
        members = driver.stable(None, None)
        assert driver.joined(driver.join()).error is ErrorCode.group_max_size_reached
        assert driver.joined(driver.join(members[1])).error is ErrorCode.none

    def test_a_full_join_phase_takes_nobody_new(self) -> None:
        driver = GroupDriver(max_size=2)
        driver.join()
        driver.join()
        assert driver.joined(driver.join()).error is ErrorCode.group_max_size_reached

    def test_a_group_loaded_above_the_limit_rebalances_and_leaves_the_last_ones_out(self) -> None:
        driver = GroupDriver(max_size=1)
        members = tuple(
            MemberValue(name, None, "c", "/h", REBALANCE, SESSION, subscription("t"), b"") for name in ("a", "b")
        )
        value = GroupValue("consumer", 5, "range", "a", WALL, members)
        driver.group = ClassicGroup.load("g", value, driver.timeouts, driver.new_id)
        driver.take(driver.group.activate(driver.now))
        assert driver.group.state is GroupState.PREPARING_REBALANCE
        token = driver.join("b")
        assert driver.joined(driver.join("a")).error is ErrorCode.group_max_size_reached
        driver.advance(REBALANCE)
        assert driver.joined(token).generation == 6


class TestLoading:
    def test_a_stable_group_goes_on_where_it_was(self, driver: GroupDriver) -> None:
        members = driver.stable("a", None)
        value = driver.group.value(dict.fromkeys(members, b"x"))
        group = ClassicGroup.load("g", value, driver.timeouts, driver.new_id)
        again = GroupDriver(group=group)
        again.take(group.activate(again.now))
        assert group.state is GroupState.STABLE
        assert again.heartbeat(members[0], 1, "a") is ErrorCode.none
        assert again.synced(again.sync(members[1], 1)).assignment == b"x"
        assert group.subscribed_topics == {"t"}
        again.advance(SESSION * 2)
        assert group.state is GroupState.EMPTY

    def test_a_leader_that_is_no_member_is_replaced(self, driver: GroupDriver) -> None:
        member = MemberValue("a", None, "c", "/h", REBALANCE, SESSION, b"", b"")
        value = GroupValue("connect", 5, "p", "gone", WALL, (member,))
        assert ClassicGroup.load("g", value, driver.timeouts, driver.new_id).members.leader == "a"


class TestOffsetCommit:
    def check(
        self, driver: GroupDriver, member: str = "", generation: int = -1, instance: str | None = None
    ) -> ErrorCode:
        return driver.group.validate_offset_commit(
            CommitRequest(Sender("g", member, generation, instance), ()), driver.now
        )

    def test_an_empty_group_takes_offsets_from_anybody_without_a_generation(self, driver: GroupDriver) -> None:
        assert self.check(driver) is ErrorCode.none
        assert self.check(driver, "m", 3) is ErrorCode.unknown_member_id

    def test_a_group_with_members_takes_them_from_members_of_its_generation(self, driver: GroupDriver) -> None:
        members = driver.stable("a", None)
        assert self.check(driver, members[1], 1) is ErrorCode.none
        assert self.check(driver) is ErrorCode.unknown_member_id
        assert self.check(driver, "nobody", 1) is ErrorCode.unknown_member_id
        assert self.check(driver, members[1], 0) is ErrorCode.illegal_generation
        assert self.check(driver, members[1], 1, "a") is ErrorCode.fenced_instance_id

    def test_not_while_the_assignment_is_awaited(self, driver: GroupDriver) -> None:
        token = driver.join()
        driver.advance(DELAY)
        assert self.check(driver, driver.joined(token).member_id, 1) is ErrorCode.rebalance_in_progress

    def test_the_old_generation_may_commit_while_a_rebalance_is_prepared(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None)
        driver.join(members[0])
        assert self.check(driver, members[1], 1) is ErrorCode.none

    def test_a_commit_keeps_the_session(self, driver: GroupDriver) -> None:
        (member,) = driver.stable(None)
        driver.advance(SESSION - 1)
        self.check(driver, member, 1)
        driver.advance(SESSION - 1)
        assert driver.heartbeat(member) is ErrorCode.none

    def test_a_dead_group_sends_the_client_back(self, driver: GroupDriver) -> None:
        driver.group.kill()
        assert self.check(driver) is ErrorCode.coordinator_not_available
        assert driver.joined(driver.join()).error is ErrorCode.coordinator_not_available


class TestSubscriptions:
    def test_unreadable_subscriptions_count_as_subscribed_to_everything(self, driver: GroupDriver) -> None:
        driver.stable(None, metadata=b"\x00\x00\x00\x00\x00\x09")
        assert driver.group.subscribed_topics is None
        assert driver.group.subscribes_to("anything")
        assert driver.group.expiry_base() is None

    def test_another_protocol_subscribes_to_nothing(self, driver: GroupDriver) -> None:
        driver.stable(None, protocol_type="connect")
        assert not driver.group.subscribes_to("t")
        assert driver.group.expiry_base() is None

    def test_when_retention_starts(self, driver: GroupDriver) -> None:
        simple = driver.group.expiry_base()
        assert simple is not None and simple(5) == 5
        (member,) = driver.stable(None)
        stable = driver.group.expiry_base()
        assert stable is not None and stable(5) == 5
        driver.join(member)
        assert driver.group.expiry_base() is None
        driver.leave(member)
        empty = driver.group.expiry_base()
        assert empty is not None and empty(5) == WALL + int(driver.ticks)
