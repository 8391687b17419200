"""A consumer group's rules (KIP-848): epochs, who has what, who is fenced. Pure: no log, no clock."""

from __future__ import annotations

from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.config import ConsumerConfig
from brokers.groups.consumer import records
from brokers.groups.consumer.member import ClassicMember, Current
from brokers.groups.consumer.messages import JOIN_EPOCH, LEAVE_EPOCH, LEAVE_STATIC_EPOCH
from brokers.groups.consumer.reconciliation import Aim, reconcile
from brokers.groups.group import CommitRequest, Sender
from brokers.groups.modern.assignments import MemberState
from brokers.groups.modern.change import Change
from brokers.groups.modern.deadlines import Wait
from brokers.groups.offsets import TopicCommit
from brokers.protocol.offset_commit_codec import PartitionCommit
from tests.support.consumer_group import REBALANCE, SESSION, GroupDriver, ScriptedMember, settle, shares
from tests.support.modern_group import World


@pytest.fixture
def driver() -> GroupDriver:
    return GroupDriver(World(t=4))


def refused(member: ScriptedMember, **changes: object) -> ErrorCode:
    with pytest.raises(KafkaError) as error:
        member.beat(**changes)
    return error.value.code


class TestReconciliation:
    def test_the_first_member_has_everything(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        assert (first.epoch, first.parts("t")) == (2, [0, 1, 2, 3])
        assert driver.group.shown_state == "Stable"
        assert first.beat().assignment is None, "nothing new"

    def test_what_the_first_gives_up_the_second_gets_only_then(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        second = driver.member("b", "t")
        assert (second.epoch, second.parts("t")) == (3, []), "all of its target is still the first's"
        assert driver.group.shown_state == "Reconciling"
        kept = driver.ask(first.request())
        assert kept.member_epoch == 2, "the old epoch, until it has given up"
        assert kept.assignment == {driver.world.id_of("t"): frozenset({0, 1})}
        assert driver.group.members["a"].current.state is MemberState.UNREVOKED_PARTITIONS
        assert second.beat().assignment is None, "the first still has them"
        assert driver.ask(first.request()).member_epoch == 2, "it says that it has all four"
        first.owned = kept.assignment
        assert first.beat().member_epoch == 3
        assert second.beat().assignment == {driver.world.id_of("t"): frozenset({2, 3})}
        assert driver.group.shown_state == "Stable"

    def test_a_heartbeat_that_says_nothing_of_its_partitions_gives_none_up(self, driver: GroupDriver) -> None:
        first, second = driver.member("a", "t"), driver.member("b", "t")
        driver.ask(first.request())
        assert driver.ask(first.request(owned=None)).member_epoch == 2
        assert second.beat().assignment is None

    def test_a_member_that_leaves_makes_room(self, driver: GroupDriver) -> None:
        first, second = driver.member("a", "t"), driver.member("b", "t")
        settle(first, second)
        first.leave()
        assert second.beat().member_epoch == 4
        assert second.parts("t") == [0, 1, 2, 3]
        second.leave()
        assert driver.group.shown_state == "Empty"
        assert driver.group.is_empty

    def test_partitions_that_a_topic_gets_are_assigned(self, driver: GroupDriver) -> None:
        first, second = driver.member("a", "t"), driver.member("b", "t")
        settle(first, second)
        epoch = driver.group.group_epoch
        driver.world.set(t=6, unrelated=1)
        settle(first, second)
        assert driver.group.group_epoch == epoch + 1
        assert sorted(part for _, part in shares(first, second)) == [0, 1, 2, 3, 4, 5]
        driver.world.set(unrelated=2)
        settle(first, second)
        assert driver.group.group_epoch == epoch + 1, "nobody subscribes to it"

    def test_a_deleted_topic_is_taken_away(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t", "u")
        driver.world.set(u=2)
        settle(first)
        assert first.parts("u") == [0, 1]
        gone = driver.world.id_of("u")
        driver.world.set(u=0)
        settle(first)
        assert gone not in first.owned and first.parts("t") == [0, 1, 2, 3]

    def test_what_a_member_no_longer_wants_goes_at_once(self) -> None:
        """Before there is a new target: the assignment interval has not passed."""
        driver = GroupDriver(World(t=2, u=2), ConsumerConfig(assignment_interval_ms=1_000))
        first = driver.member("a", "t", "u")
        answer = driver.ask(first.request(topics=frozenset({"t"})))
        assert answer.assignment == {driver.world.id_of("t"): frozenset({0, 1})}
        assert driver.group.assignment_epoch < driver.group.group_epoch
        member = driver.group.members["a"].current
        assert (member.state, list(member.revoking)) == (
            MemberState.UNREVOKED_PARTITIONS, [driver.world.id_of("u")],
        )  # fmt: skip

    def test_of_its_target_a_member_gets_only_what_it_wants_now(self) -> None:
        """The target is older than its subscription."""
        topic = UUID(int=1)
        current = Current(1, 0, MemberState.STABLE, {topic: {0: 1}})
        aim = Aim(2, {topic: frozenset({0, 1})}, frozenset(), lambda *_: False, {topic: frozenset({0})})
        assert reconcile(current, aim) == Current(1, 1, MemberState.UNREVOKED_PARTITIONS, {}, {topic: {0: 1}})

    def test_members_that_come_together_are_assigned_together(self) -> None:
        driver = GroupDriver(World(t=4), ConsumerConfig(assignment_interval_ms=1_000))
        first = driver.member("a", "t")
        assert first.parts("t") == [0, 1, 2, 3]
        driver.member("b", "t")
        driver.member("c", "t")
        assert driver.group.assignment_epoch == 2 and driver.group.shown_state == "Assigning"
        driver.ticks += 1_000
        first.beat()
        assert driver.group.assignment_epoch == driver.group.group_epoch == 4

    def test_nobody_waits_for_an_assignment_of_a_coordinator_whose_clock_was_ahead(self) -> None:
        driver = GroupDriver(World(t=4), ConsumerConfig(assignment_interval_ms=1_000))
        first = driver.member("a", "t")
        driver.member("b", "t")
        driver.group.assignment_timestamp += 600_000
        first.beat()
        assert driver.group.assignment_epoch == driver.group.group_epoch

    def test_most_members_choose_the_assignor(self, driver: GroupDriver) -> None:
        driver.world.set(u=4)
        first = driver.member("a", "t", "u", assignor="range")
        second = driver.member("b", "t", "u", assignor="range")
        third = driver.member("c", "t", "u")
        settle(first, second, third)
        assert driver.group.preferred_assignor() == "range"
        assert [first.parts("t"), first.parts("u")] == [[0, 1], [0, 1]], "co-partitioned"


class TestEpochs:
    def test_a_lost_answer_is_asked_for_again(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        driver.world.set(t=6)
        lost = driver.ask(first.request())
        assert lost.member_epoch == 3
        assert first.epoch == 2
        assert first.beat().member_epoch == 3, "its previous epoch, and what it says it has it was given"

    def test_an_older_epoch_is_fenced(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        driver.world.set(t=6)
        first.beat()
        driver.world.set(t=8)
        first.beat()
        first.epoch = 2
        assert refused(first) is ErrorCode.fenced_member_epoch

    def test_a_previous_epoch_with_more_than_was_given_is_fenced(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        driver.world.set(t=6)
        first.beat()
        first.epoch = 2
        first.owned = {driver.world.id_of("t"): frozenset({7})}
        assert refused(first) is ErrorCode.fenced_member_epoch
        assert refused(first, owned=None) is ErrorCode.fenced_member_epoch

    def test_an_epoch_of_the_future_is_fenced(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        first.epoch = 7
        assert refused(first) is ErrorCode.fenced_member_epoch

    def test_a_member_that_is_not_known_must_join(self, driver: GroupDriver) -> None:
        stranger = ScriptedMember(driver, "x", frozenset({"t"}))
        stranger.epoch = 3
        assert refused(stranger) is ErrorCode.unknown_member_id

    def test_a_state_of_a_newer_release_is_fenced_until_it_has_nothing(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        member = driver.group.members["a"]
        driver.group.put(member._replace(current=member.current._replace(epoch=1, state=MemberState.UNKNOWN)))
        first.epoch = 1
        assert refused(first) is ErrorCode.fenced_member_epoch
        first.owned = {}
        assert first.beat().member_epoch == 2


class TestTime:
    def test_a_member_that_is_not_heard_of_is_fenced(self, driver: GroupDriver) -> None:
        first, second = driver.member("a", "t"), driver.member("b", "t")
        settle(first, second)
        driver.advance(SESSION - 1)
        second.beat()
        assert driver.advance(1) == ["a"]
        assert refused(first) is ErrorCode.unknown_member_id
        second.beat()
        assert second.parts("t") == [0, 1, 2, 3]

    def test_a_member_that_does_not_give_up_in_time_is_fenced(self, driver: GroupDriver) -> None:
        first, second = driver.member("a", "t"), driver.member("b", "t")
        driver.ask(first.request())
        for _ in range(2):
            assert driver.advance(REBALANCE / 2 - 1) == []
            driver.ask(first.request())
            second.beat()
        assert driver.advance(2) == ["a"]
        second.beat()
        assert second.parts("t") == [0, 1, 2, 3]

    def test_giving_up_in_time_ends_the_wait(self, driver: GroupDriver) -> None:
        first, second = driver.member("a", "t"), driver.member("b", "t")
        settle(first, second)
        assert driver.group.deadlines.get("a", Wait.REVOCATION) is None

    def test_the_group_wakes_no_later_than_its_first_deadline(self, driver: GroupDriver) -> None:
        driver.member("a", "t")
        assert driver.group.wake_at == SESSION
        driver.ticks = 10
        driver.member("b", "t")
        assert driver.group.wake_at == SESSION, "may be too early, never too late"

    def test_a_loaded_group_gives_its_members_a_session(self, driver: GroupDriver) -> None:
        first, second = driver.member("a", "t"), driver.member("b", "t")
        driver.ask(first.request())
        loaded = driver.reload()
        loaded.activate(driver.terms.now, SESSION)
        assert loaded.deadlines.get("a", Wait.SESSION) == SESSION
        assert loaded.deadlines.get("a", Wait.REVOCATION) == REBALANCE
        assert loaded.deadlines.get("b", Wait.REVOCATION) is None
        assert second.epoch == loaded.members["b"].member_epoch


class TestStaticMembers:
    def test_an_instance_comes_back_to_what_it_had(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t", instance_id="one")
        second = driver.member("b", "t", instance_id="two")
        settle(first, second)
        before, epoch = first.owned, driver.group.group_epoch
        assert first.leave(LEAVE_STATIC_EPOCH).member_epoch == LEAVE_STATIC_EPOCH
        kept = driver.group.members["a"].current.assigned.values()
        assert {assigned_in for parts in kept for assigned_in in parts.values()} == {0}
        second.beat()
        assert second.epoch == epoch, "no rebalance"
        again = driver.member("a2", "t", instance_id="one")
        assert again.owned == before
        assert (again.epoch, driver.group.group_epoch) == (epoch, epoch)
        assert "a" not in driver.group.members
        assert driver.group.target_of("a2") == before, "its target is its own now"

    def test_an_instance_that_comes_back_has_what_it_was_giving_up_when_that_is_wanted_of_it_again(
        self, driver: GroupDriver
    ) -> None:
        first = driver.member("a", "t", instance_id="one")
        second = driver.member("b", "t")
        assert first.beat().assignment is not None, "it is told to give some up"
        classic = driver.group.members["a"].subscription._replace(classic=ClassicMember(10_000, ()))
        driver.take(Change(None, [driver.group.record(records.MEMBER, classic, "a")]))  # which does not leave first
        second.leave()
        again = driver.member("a2", "t", instance_id="one")
        assert again.parts("t") == list(range(driver.world.count("t"))), "at once: nobody else has any of it"

    def test_an_instance_that_has_not_left_keeps_its_place(self, driver: GroupDriver) -> None:
        driver.member("a", "t", instance_id="one")
        other = ScriptedMember(driver, "b", frozenset({"t"}), instance_id="one")
        assert refused(other) is ErrorCode.unreleased_instance_id

    def test_whoever_was_replaced_is_fenced(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t", instance_id="one")
        first.leave(LEAVE_STATIC_EPOCH)
        driver.member("b", "t", instance_id="one")
        assert refused(first) is ErrorCode.fenced_instance_id
        with pytest.raises(KafkaError, match="fenced_instance_id"):
            first.leave(LEAVE_STATIC_EPOCH)

    def test_an_instance_that_is_not_known(self, driver: GroupDriver) -> None:
        driver.member("a", "t")
        stranger = ScriptedMember(driver, "x", frozenset({"t"}), instance_id="nobody")
        stranger.epoch = 2
        assert refused(stranger) is ErrorCode.unknown_member_id

    def test_one_that_does_not_come_back_is_fenced_in_time(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t", instance_id="one")
        first.leave(LEAVE_STATIC_EPOCH)
        assert driver.advance(SESSION) == ["a"]
        assert driver.group.static == {}

    def test_one_that_leaves_for_good_is_gone(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t", instance_id="one")
        first.leave(LEAVE_EPOCH)
        assert not driver.group.members


class TestPatterns:
    def test_topics_of_a_pattern_are_assigned_once_they_are_known(self, driver: GroupDriver) -> None:
        driver.world.set(tea=2, coffee=2)
        first = driver.member("a", pattern="t.*")
        assert first.owned == {}
        assert driver.to_resolve == {"t.*"}
        driver.resolve()
        settle(first)
        assert (first.parts("t"), first.parts("tea")) == ([0, 1, 2, 3], [0, 1])
        assert driver.group.subscribes_to("tea") and not driver.group.subscribes_to("coffee")

    def test_a_pattern_matches_the_whole_name(self, driver: GroupDriver) -> None:
        driver.world.set(at=1)
        first = driver.member("a", pattern="t")
        driver.resolve()
        settle(first)
        assert first.parts("at") == []

    def test_new_topics_are_seen_after_ten_seconds(self, driver: GroupDriver) -> None:
        first = driver.member("a", pattern="t.*")
        driver.resolve()
        settle(first)
        driver.world.set(tea=2)
        first.beat()
        assert not driver.to_resolve, "too soon"
        driver.ticks += 10_001
        first.beat()
        driver.resolve()
        settle(first)
        assert first.parts("tea") == [0, 1]
        driver.ticks += 10_001
        first.beat()
        assert not driver.to_resolve, "nothing new"
        driver.ticks += 600_000
        first.beat()
        assert driver.to_resolve == {"t.*"}, "from time to time all the same"

    def test_a_pattern_that_is_none(self, driver: GroupDriver) -> None:
        bad = ScriptedMember(driver, "a", frozenset(), pattern="(")
        assert refused(bad) is ErrorCode.invalid_regular_expression
        assert not driver.group.members

    def test_the_last_subscriber_takes_the_pattern_along(self, driver: GroupDriver) -> None:
        first = driver.member("a", pattern="t.*")
        driver.resolve()
        second = driver.member("b", pattern="t.*")
        settle(first, second)
        assert sorted(part for _, part in shares(first, second)) == [0, 1, 2, 3], "known at once"
        first.leave()
        assert "t.*" in driver.group.resolved
        second.beat(topics=frozenset({"t"}), pattern="")
        assert not driver.group.resolved and not driver.group.patterns
        settle(second)
        assert second.parts("t") == [0, 1, 2, 3]

    def test_what_an_older_release_took_for_a_pattern_matches_nothing(self, driver: GroupDriver) -> None:
        driver.to_resolve = frozenset({"("})
        driver.resolve()
        assert not driver.group.resolved


class TestLimits:
    def test_a_full_group_takes_only_its_own(self) -> None:
        driver = GroupDriver(World(t=2), ConsumerConfig(max_size=1))
        first = driver.member("a", "t")
        assert refused(ScriptedMember(driver, "b", frozenset({"t"}))) is ErrorCode.group_max_size_reached
        first.beat()


class TestOffsets:
    def commit(self, driver: GroupDriver, epoch: int, *parts: int, member: str = "a", **changes: bool) -> ErrorCode:
        commits = tuple(PartitionCommit(part, 5) for part in parts)
        topic = TopicCommit("t", driver.world.id_of("t"), commits)
        request = CommitRequest(Sender("g", member, epoch), [topic], **changes)
        return driver.group.validate_offset_commit(request, driver.terms.now)

    def test_a_members_own_epoch(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        assert self.commit(driver, first.epoch, 0) is ErrorCode.none
        assert self.commit(driver, first.epoch + 1, 0) is ErrorCode.stale_member_epoch
        assert self.commit(driver, first.epoch, 0, member="b") is ErrorCode.unknown_member_id
        assert self.commit(driver, -1, 0, member="") is ErrorCode.unknown_member_id

    def test_an_older_epoch_counts_for_what_was_assigned_in_it(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        driver.world.set(t=6)
        old = first.epoch
        first.beat()
        assert self.commit(driver, old, 0, 3) is ErrorCode.none
        assert self.commit(driver, old, 0, 5) is ErrorCode.stale_member_epoch, "5 came with the new epoch"
        assert self.commit(driver, old, 9) is ErrorCode.stale_member_epoch, "never its own"

    def test_what_is_being_given_up_may_be_committed(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        driver.member("b", "t")
        driver.ask(first.request())
        assert self.commit(driver, first.epoch, 3) is ErrorCode.none

    def test_a_transaction_need_not_name_a_member(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        assert self.commit(driver, -1, 0, member="", transactional=True) is ErrorCode.none
        newer = first.epoch + 1
        assert self.commit(driver, newer, 0, transactional=True) is ErrorCode.illegal_generation

    def test_an_older_commit_api_is_not_for_members(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        assert self.commit(driver, first.epoch, 0, knows_epochs=False) is ErrorCode.unsupported_version

    def test_an_empty_group_takes_offsets_from_anybody(self, driver: GroupDriver) -> None:
        driver.member("a", "t").leave()
        assert self.commit(driver, -1, 0, member="") is ErrorCode.none

    def test_members_that_fetch_name_their_epoch(self, driver: GroupDriver) -> None:
        first = driver.member("a", "t")
        validate = driver.group.validate_offset_fetch
        assert validate(None, -1) is ErrorCode.none
        assert validate("a", first.epoch) is ErrorCode.none
        assert validate("a", first.epoch + 1) is ErrorCode.stale_member_epoch
        assert validate("b", 1) is ErrorCode.unknown_member_id


def test_a_group_that_is_loaded_is_the_group_that_was(driver: GroupDriver) -> None:
    """The target too: without it a coordinator that takes over would move what members have."""
    members = [driver.member(name, "t") for name in ("a", "b", "c")]
    settle(*members)
    loaded = driver.reload()
    for name in ("group_epoch", "metadata_hash", "assignment_epoch", "assignment_timestamp", "members", "targets"):
        assert getattr(loaded, name) == getattr(driver.group, name), name
    driver.group = loaded
    before = [member.owned for member in members]
    driver.world.set(t=5)
    settle(*members)
    for member, owned in zip(members, before, strict=True):
        topic = driver.world.id_of("t")
        assert owned[topic] <= member.owned[topic], "nobody lost anything"


def test_joining_again_with_epoch_0_gives_back_what_is_assigned(driver: GroupDriver) -> None:
    first = driver.member("a", "t")
    first.epoch = JOIN_EPOCH
    assert first.beat().assignment == first.owned != {}
