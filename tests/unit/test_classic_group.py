"""The classic group's state machine: what each request means in each state."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from brokers.groups.messages import GroupState, LeaveMember
from brokers.groups.records import GroupValue
from tests.support.group_driver import DELAY, REBALANCE, SESSION, WALL, GroupDriver, subscription

NEW_MEMBER_TIMEOUT = 300_000


@pytest.fixture
def driver() -> GroupDriver:
    return GroupDriver()


class TestFirstGeneration:
    def test_a_new_dynamic_member_is_told_its_id_first(self, driver: GroupDriver) -> None:
        first = driver.joined(driver.join(needs_member_id=True))
        assert (first.error, first.member_id) == (ErrorCode.member_id_required, "c-id1")
        assert driver.group.state is GroupState.EMPTY
        token = driver.join(first.member_id, needs_member_id=True)
        driver.advance(DELAY)
        assert driver.joined(token).error is ErrorCode.none

    def test_a_promised_place_ends_with_the_session_timeout(self, driver: GroupDriver) -> None:
        promised = driver.joined(driver.join(needs_member_id=True)).member_id
        driver.advance(SESSION)
        assert driver.joined(driver.join(promised)).error is ErrorCode.unknown_member_id

    def test_a_promised_place_cannot_be_taken_by_a_static_member(self, driver: GroupDriver) -> None:
        promised = driver.joined(driver.join(needs_member_id=True)).member_id
        answer = driver.joined(driver.join(promised, group_instance_id="i"))
        assert answer.error is ErrorCode.unknown_server_error

    def test_joins_wait_for_the_initial_delay_and_the_first_leads(self, driver: GroupDriver) -> None:
        first, second = driver.join(), driver.join()
        driver.advance(DELAY - 1)
        assert not driver.answers
        driver.advance(DELAY + 1)
        leader, follower = driver.joined(first), driver.joined(second)
        assert leader.generation == follower.generation == 1
        assert leader.leader == follower.leader == leader.member_id
        assert [member.member_id for member in leader.members] == [leader.member_id, follower.member_id]
        assert follower.members == ()
        assert (leader.protocol_type, leader.protocol_name) == ("consumer", "range")
        assert driver.group.state is GroupState.COMPLETING_REBALANCE

    def test_the_initial_delay_is_extended_while_members_arrive_up_to_the_rebalance_timeout(
        self, driver: GroupDriver
    ) -> None:
        first = driver.join(rebalance_timeout_ms=DELAY * 3)
        for _ in range(2):
            driver.advance(DELAY - 1)
            driver.join(rebalance_timeout_ms=DELAY * 3)
            driver.advance(1)
            assert first not in driver.answers
        driver.advance(DELAY)
        assert driver.joined(first).generation == 1
        assert driver.ticks == DELAY * 3

    def test_the_initial_delay_is_not_extended_when_nobody_arrives(self, driver: GroupDriver) -> None:
        token = driver.join()
        driver.advance(DELAY)
        assert driver.joined(token).generation == 1

    def test_a_member_whose_join_waits_too_long_is_dropped(self, driver: GroupDriver) -> None:
        # Its client may have gone away and come back under another id: heartbeats cannot tell.
        (member,) = driver.stable(
            None, session_timeout_ms=NEW_MEMBER_TIMEOUT * 3, rebalance_timeout_ms=NEW_MEMBER_TIMEOUT * 2
        )
        token = driver.join()
        driver.advance(NEW_MEMBER_TIMEOUT - 1)
        assert token not in driver.answers
        driver.advance(1)
        assert driver.joined(token).error is ErrorCode.unknown_member_id
        assert list(driver.group.members.members) == [member]


class TestProtocols:
    def test_no_protocols_or_no_type_is_inconsistent(self, driver: GroupDriver) -> None:
        for changes in ({"protocols": ()}, {"protocol_type": ""}):
            answer = driver.joined(driver.join(**changes))
            assert answer.error is ErrorCode.inconsistent_group_protocol

    def test_a_member_without_a_common_protocol_is_refused(self, driver: GroupDriver) -> None:
        driver.join(protocols=("range", "sticky"))
        assert driver.joined(driver.join(protocols=("other",))).error is ErrorCode.inconsistent_group_protocol
        answer = driver.joined(driver.join(protocol_type="connect"))
        assert answer.error is ErrorCode.inconsistent_group_protocol

    def test_the_common_protocol_with_most_votes_wins(self, driver: GroupDriver) -> None:
        driver.join(protocols=("range", "sticky", "mine"))
        driver.join(protocols=("sticky", "range"))
        token = driver.join(protocols=("sticky", "range"))
        driver.advance(2 * DELAY)
        assert driver.joined(token).protocol_name == "sticky"

    def test_sync_with_another_protocol_is_inconsistent(self, driver: GroupDriver) -> None:
        (member,) = driver.stable(None)
        for changes in ({"protocol_type": "connect"}, {"protocol_name": "sticky"}):
            answer = driver.synced(driver.sync(member, **changes))
            assert answer.error is ErrorCode.inconsistent_group_protocol
        assert driver.synced(driver.sync(member, protocol_name="range")).error is ErrorCode.none


class TestSync:
    def test_nobody_gets_an_assignment_before_the_record_is_durable(self, driver: GroupDriver) -> None:
        tokens = [driver.join(), driver.join()]
        driver.advance(DELAY * 2)
        leader, follower = (driver.joined(token).member_id for token in tokens)
        early = driver.sync(follower)
        mine = driver.sync(leader, assignments=((leader, b"L"), (follower, b"F")))
        assert early not in driver.answers and mine not in driver.answers
        (store,) = driver.stores
        assert [(m.member_id, m.assignment) for m in store.value.members] == [(leader, b"L"), (follower, b"F")]
        driver.store()
        assert driver.synced(early).assignment == b"F"
        assert driver.synced(mine).assignment == b"L"
        assert driver.group.state is GroupState.STABLE
        assert driver.group.rebalances == 1

    def test_a_member_the_leader_forgot_gets_nothing(self, driver: GroupDriver) -> None:
        tokens = [driver.join(), driver.join()]
        driver.advance(DELAY * 2)
        leader, follower = (driver.joined(token).member_id for token in tokens)
        waiting = driver.sync(follower)
        driver.sync(leader, assignments=((leader, b"L"),))
        driver.store()
        assert (driver.synced(waiting).error, driver.synced(waiting).assignment) == (ErrorCode.none, b"")

    def test_a_late_follower_gets_its_assignment_from_the_stable_group(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None)
        assert driver.synced(driver.sync(members[1])).assignment == f"for {members[1]}".encode()

    def test_a_refused_record_sends_everybody_back(self, driver: GroupDriver) -> None:
        tokens = [driver.join(), driver.join()]
        driver.advance(DELAY * 2)
        leader, follower = (driver.joined(token).member_id for token in tokens)
        waiting = [driver.sync(follower), driver.sync(leader, assignments=((leader, b"L"),))]
        driver.store(refused=ErrorCode.unknown_server_error)
        assert [driver.synced(token).error for token in waiting] == [ErrorCode.unknown_server_error] * 2
        assert driver.group.state is GroupState.PREPARING_REBALANCE

    def test_a_rebalance_during_the_store_wins(self, driver: GroupDriver) -> None:
        token = driver.join()
        driver.advance(DELAY)
        member = driver.joined(token).member_id
        waiting = driver.sync(member, assignments=((member, b"L"),))
        driver.join()
        assert driver.synced(waiting).error is ErrorCode.rebalance_in_progress
        driver.store()
        assert driver.group.state is GroupState.PREPARING_REBALANCE
        assert driver.group.members.members[member].assignment == b""

    def test_an_older_generations_record_that_is_durable_late_changes_nothing(self, driver: GroupDriver) -> None:
        token = driver.join()
        driver.advance(DELAY)
        member = driver.joined(token).member_id
        driver.sync(member, assignments=((member, b"old"),))
        driver.join(member, metadata=subscription("u"))
        assert (driver.group.state, driver.group.generation) == (GroupState.COMPLETING_REBALANCE, 2)
        waiting = driver.sync(member, assignments=((member, b"new"),))
        old, new = driver.stores
        assert old.stored is not None and new.stored is not None
        driver.take(old.stored(driver.now))
        assert waiting not in driver.answers
        driver.take(new.stored(driver.now))
        assert driver.synced(waiting).assignment == b"new"

    def test_a_leader_that_repeats_itself_assigns_once(self, driver: GroupDriver) -> None:
        token = driver.join()
        driver.advance(DELAY)
        member = driver.joined(token).member_id
        driver.sync(member, assignments=((member, b"first"),))
        again = driver.sync(member, assignments=((member, b"second"),))
        assert len(driver.stores) == 1
        driver.store()
        assert driver.synced(again).assignment == b"first"

    def test_a_member_that_never_syncs_is_removed(self, driver: GroupDriver) -> None:
        tokens = [driver.join(session_timeout_ms=REBALANCE * 9), driver.join(session_timeout_ms=REBALANCE * 9)]
        driver.advance(DELAY * 2)
        leader, follower = (driver.joined(token).member_id for token in tokens)
        driver.sync(leader, assignments=((leader, b"L"),))
        driver.store()
        driver.advance(REBALANCE)
        assert list(driver.group.members.members) == [leader]
        assert driver.group.state is GroupState.PREPARING_REBALANCE
        assert driver.heartbeat(follower) is ErrorCode.unknown_member_id

    def test_errors(self, driver: GroupDriver) -> None:
        assert driver.synced(driver.sync("c-id1")).error is ErrorCode.unknown_member_id
        (member,) = driver.stable(None)
        assert driver.synced(driver.sync("nobody")).error is ErrorCode.unknown_member_id
        assert driver.synced(driver.sync(member, 7)).error is ErrorCode.illegal_generation
        driver.join()
        assert driver.synced(driver.sync(member)).error is ErrorCode.rebalance_in_progress
        driver.group.kill()
        assert driver.synced(driver.sync(member)).error is ErrorCode.coordinator_not_available

    def test_a_repeated_sync_takes_the_place_of_the_first(self, driver: GroupDriver) -> None:
        tokens = [driver.join(), driver.join()]
        driver.advance(DELAY * 2)
        follower = driver.joined(tokens[1]).member_id
        first, again = driver.sync(follower), driver.sync(follower)
        assert driver.synced(first).error is ErrorCode.rebalance_in_progress
        assert again not in driver.answers


class TestRejoin:
    def test_a_stable_follower_with_the_same_metadata_changes_nothing(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None)
        answer = driver.joined(driver.join(members[1]))
        assert (answer.error, answer.generation, answer.members) == (ErrorCode.none, 1, ())
        assert driver.group.state is GroupState.STABLE

    def test_a_stable_leader_that_rejoins_asks_for_a_rebalance(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None)
        token = driver.join(members[0])
        assert driver.group.state is GroupState.PREPARING_REBALANCE
        assert driver.heartbeat(members[1]) is ErrorCode.rebalance_in_progress
        other = driver.join(members[1])
        assert driver.joined(token).generation == driver.joined(other).generation == 2

    def test_changed_metadata_asks_for_a_rebalance(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None)
        driver.join(members[1], metadata=subscription("t", "u"))
        assert driver.group.state is GroupState.PREPARING_REBALANCE
        driver.join(members[0])
        assert driver.group.subscribed_topics == {"t", "u"}

    def test_a_lost_join_answer_is_given_again_while_the_assignment_is_awaited(self, driver: GroupDriver) -> None:
        token = driver.join()
        driver.advance(DELAY)
        member = driver.joined(token).member_id
        again = driver.joined(driver.join(member))
        assert (again.generation, len(again.members)) == (1, 1)
        assert driver.group.state is GroupState.COMPLETING_REBALANCE

    def test_changed_metadata_while_the_assignment_is_awaited_starts_over(self, driver: GroupDriver) -> None:
        token = driver.join()
        driver.advance(DELAY)
        answer = driver.joined(driver.join(driver.joined(token).member_id, metadata=subscription("u")))
        assert answer.generation == 2

    def test_members_that_do_not_rejoin_in_time_are_out(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None, session_timeout_ms=REBALANCE * 9)
        token = driver.join(members[0])
        driver.advance(REBALANCE)
        answer = driver.joined(token)
        assert (answer.generation, [m.member_id for m in answer.members]) == (2, [members[0]])

    def test_another_leads_when_the_leader_does_not_rejoin(self, driver: GroupDriver) -> None:
        members = driver.stable("a", "b", session_timeout_ms=REBALANCE * 9)
        token = driver.join(members[1], group_instance_id="b", metadata=subscription("u"))
        driver.advance(REBALANCE)
        # A static member keeps its place while its session lasts.
        assert (driver.joined(token).leader, len(driver.joined(token).members)) == (members[1], 2)

    def test_a_group_of_absent_static_members_waits_until_their_sessions_end(self, driver: GroupDriver) -> None:
        members = driver.stable("a", "b", session_timeout_ms=REBALANCE * 3)
        driver.leave(members[0])
        driver.advance(REBALANCE + 1)
        assert driver.group.state is GroupState.PREPARING_REBALANCE
        driver.advance(REBALANCE * 3)
        assert driver.group.state is GroupState.EMPTY

    def test_a_repeated_join_takes_the_place_of_the_first(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None)
        first = driver.join(members[0])
        again = driver.join(members[0])
        assert driver.joined(first).error is ErrorCode.rebalance_in_progress
        assert again not in driver.answers
        driver.join(members[1])
        assert driver.joined(again).generation == 2

    def test_an_unknown_member_is_told_so(self, driver: GroupDriver) -> None:
        driver.stable(None)
        assert driver.joined(driver.join("gone")).error is ErrorCode.unknown_member_id


class TestHeartbeat:
    def test_a_silent_member_is_removed_and_the_others_rebalance(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None)
        driver.advance(SESSION - 1)
        assert driver.heartbeat(members[0]) is ErrorCode.none
        driver.advance(1)
        assert driver.heartbeat(members[1]) is ErrorCode.unknown_member_id
        assert driver.heartbeat(members[0]) is ErrorCode.rebalance_in_progress

    def test_a_rebalance_that_a_broken_promise_ends_spares_those_it_heard_of(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None, session_timeout_ms=SESSION)
        driver.join(needs_member_id=True, session_timeout_ms=SESSION)
        tokens = [driver.join(members[0]), driver.join(members[1])]
        driver.advance(SESSION)
        assert [driver.joined(token).generation for token in tokens] == [2, 2]
        assert [driver.heartbeat(member) for member in members] == [ErrorCode.none] * 2

    def test_errors(self, driver: GroupDriver) -> None:
        assert driver.heartbeat("nobody") is ErrorCode.unknown_member_id
        (member,) = driver.stable(None)
        assert driver.heartbeat(member, 7) is ErrorCode.illegal_generation
        driver.group.kill()
        assert driver.heartbeat(member) is ErrorCode.coordinator_not_available

    def test_a_waiting_request_stands_for_the_heartbeat(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None)
        token = driver.join(members[0])
        for _ in range(5):
            driver.advance(SESSION - 1)
            driver.heartbeat(members[1])
        assert members[0] in driver.group.members.members
        driver.join(members[1])
        assert driver.joined(token).generation == 2

    def test_the_group_is_empty_when_the_last_member_is_gone(self, driver: GroupDriver) -> None:
        driver.stable(None)
        driver.advance(SESSION)
        assert driver.group.state is GroupState.EMPTY
        (store,) = driver.stores
        assert store.value == GroupValue("consumer", 2, None, None, WALL + int(driver.ticks), ())
        assert driver.group.wake_at == float("inf")


class TestLeave:
    def test_the_rest_rebalance(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None)
        assert [answer.error for answer in driver.leave(members[0])] == [ErrorCode.none]
        assert driver.group.members.leader == members[1]
        assert driver.heartbeat(members[1]) is ErrorCode.rebalance_in_progress

    def test_the_last_one_empties_the_group(self, driver: GroupDriver) -> None:
        members = driver.stable(None)
        driver.leave(members[0])
        assert driver.group.state is GroupState.EMPTY
        assert driver.stores[0].value.members == ()

    def test_each_member_of_a_batch_has_its_own_result(self, driver: GroupDriver) -> None:
        members = driver.stable("a", "b", None)
        promised = driver.joined(driver.join(needs_member_id=True)).member_id
        answers = driver.leave(
            LeaveMember("", "a"), LeaveMember("", "z"), LeaveMember(""), LeaveMember("other", "b"),
            LeaveMember(members[2]), LeaveMember("nobody"), LeaveMember(promised),
        )  # fmt: skip
        assert [answer.error for answer in answers] == [
            ErrorCode.none, ErrorCode.unknown_member_id, ErrorCode.unknown_member_id, ErrorCode.fenced_instance_id,
            ErrorCode.none, ErrorCode.unknown_member_id, ErrorCode.none,
        ]  # fmt: skip
        assert list(driver.group.members.members) == [members[1]]

    def test_a_batch_of_nobody_changes_nothing(self, driver: GroupDriver) -> None:
        driver.stable(None)
        driver.leave("nobody")
        assert driver.group.state is GroupState.STABLE

    def test_a_waiting_join_or_sync_of_the_leaver_is_answered(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None)
        joining = driver.join(members[0])
        driver.leave(members[0])
        assert driver.joined(joining).error is ErrorCode.unknown_member_id
        driver.join(members[1])
        syncing = driver.sync(members[1], assignments=())
        driver.leave(members[1])
        assert driver.synced(syncing).error is ErrorCode.unknown_member_id

    def test_the_last_one_missing_lets_the_others_go_on(self, driver: GroupDriver) -> None:
        members = driver.stable(None, None)
        token = driver.join(members[0])
        driver.leave(members[1])
        assert driver.joined(token).generation == 2
