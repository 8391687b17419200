"""The group state machine under random histories of members, time and durability.

Invariants: generations only grow, and at most one is active; a stable generation has an assignment for every
member that the leader named, and only durable records made it stable; every request is answered once, and one
that waits belongs to a member; a static instance has one member, and its older ids are fenced.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from kio.schema.errors import ErrorCode

from brokers.groups.messages import GroupState, JoinAnswer, LeaveMember
from tests.support.group_driver import DELAY, REBALANCE, SESSION, GroupDriver, subscription

MAX_SIZE = 4
INSTANCES = st.sampled_from([None, None, "a", "b"])
PROTOCOLS = st.sampled_from([("range",), ("range", "sticky"), ("sticky", "range")])
pick = st.tuples(st.integers(0, 2), st.integers(0, 60))


class GroupModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.driver = GroupDriver(max_size=MAX_SIZE)
        self.known: list[tuple[str, str | None]] = []
        """(member id, instance id) that any client was ever told."""
        self.asked: set[int] = set()
        self.instance_of: dict[int, str | None] = {}
        self.assigned: dict[int, set[bytes]] = {}
        """What leaders sent, by generation."""
        self.generation = 0
        self.fenced: set[tuple[str, str]] = set()

    def _pick(self, at: tuple[int, int]) -> tuple[str, str | None]:
        """Mostly one of the members there are, at times anybody who ever was."""
        kind, number = at
        members = list(self.driver.group.members.members.values())
        if kind and members:
            member = members[number % len(members)]
            return member.member_id, member.group_instance_id
        return self.known[number % len(self.known)]

    # --- what clients do -----------------------------------------------------------------------

    @rule(instance=INSTANCES, protocols=PROTOCOLS, known_id=st.booleans(), topic=st.sampled_from("tu"))
    def join_new(self, instance: str | None, protocols: tuple[str, ...], known_id: bool, topic: str) -> None:
        before = self.driver.group.members.static.get(instance or "")
        token = self.driver.join(
            group_instance_id=instance, protocols=protocols, needs_member_id=known_id, metadata=subscription(topic)
        )
        if instance is not None and before is not None and self.driver.group.members.static.get(instance) != before:
            self.fenced.add((instance, before))
        self._ask(token, instance)

    @precondition(lambda self: self.known)
    @rule(at=pick, protocols=PROTOCOLS, topic=st.sampled_from("tu"))
    def join_again(self, at: tuple[int, int], protocols: tuple[str, ...], topic: str) -> None:
        member, instance = self._pick(at)
        token = self.driver.join(member, group_instance_id=instance, protocols=protocols, metadata=subscription(topic))
        self._ask(token, instance)
        if (instance, member) in self.fenced and token in self.driver.answers:
            errors = (ErrorCode.fenced_instance_id, ErrorCode.unknown_member_id, ErrorCode.group_max_size_reached,
                      ErrorCode.inconsistent_group_protocol)  # fmt: skip
            assert self.driver.joined(token).error in errors

    @precondition(lambda self: self.known)
    @rule(at=pick, stale=st.sampled_from([False, False, False, True]))
    def sync(self, at: tuple[int, int], stale: bool) -> None:
        member, instance = self._pick(at)
        group = self.driver.group
        generation = group.generation - stale
        assignments = ()
        leads = group.members.leader == member and group.state is GroupState.COMPLETING_REBALANCE and not stale
        if leads:
            named = list(group.members.members)[: 1 + at[1] % MAX_SIZE]
            assignments = tuple((name, f"{generation}:{name}:{at[1]}".encode()) for name in named)
        stores = len(self.driver.stores)
        token = self.driver.sync(member, generation, group_instance_id=instance, assignments=assignments)
        if len(self.driver.stores) > stores:
            assert leads and generation not in self.assigned, "one assignment for each generation"
            self.assigned[generation] = {assignment for _, assignment in assignments}
        self.asked.add(token)
        if stale and token in self.driver.answers:
            assert self.driver.synced(token).error is not ErrorCode.none

    @precondition(lambda self: self.known)
    @rule(at=pick)
    def heartbeat(self, at: tuple[int, int]) -> None:
        member, instance = self._pick(at)
        code = self.driver.heartbeat(member, instance=instance)
        if code is ErrorCode.none:
            assert self.driver.group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE)
            assert member in self.driver.group.members.members
        if instance is not None and (instance, member) in self.fenced:
            assert code in (ErrorCode.fenced_instance_id, ErrorCode.unknown_member_id)

    @precondition(lambda self: self.known)
    @rule(at=pick)
    def leave(self, at: tuple[int, int]) -> None:
        member, instance = self._pick(at)
        self.driver.leave(LeaveMember(member, instance))
        assert member not in self.driver.group.members.members or (instance, member) in self.fenced

    # --- what the world does -------------------------------------------------------------------

    @rule(ms=st.sampled_from([1, DELAY, SESSION // 2, SESSION, REBALANCE]))
    def time_passes(self, ms: int) -> None:
        self.driver.advance(ms)

    @precondition(lambda self: self.driver.stores)
    @rule()
    def records_become_durable(self) -> None:
        self.driver.store()

    @precondition(lambda self: self.driver.stores)
    @rule()
    def records_are_refused(self) -> None:
        self.driver.store(refused=ErrorCode.unknown_server_error)

    # --- what must hold ------------------------------------------------------------------------

    def _ask(self, token: int, instance: str | None) -> None:
        self.asked.add(token)
        self.instance_of[token] = instance

    @invariant()
    def clients_learn_their_ids(self) -> None:
        for token, answer in self.driver.answers.items():
            if isinstance(answer, JoinAnswer) and answer.member_id:
                known = (answer.member_id, self.instance_of.get(token))
                if answer.error in (ErrorCode.none, ErrorCode.member_id_required) and known not in self.known:
                    self.known.append(known)

    @invariant()
    def generations_only_grow(self) -> None:
        assert self.driver.group.generation >= self.generation
        self.generation = self.driver.group.generation

    @invariant()
    def counts_agree_with_members(self) -> None:
        members = self.driver.group.members
        waiting = sum(member.join_token is not None for member in members.members.values())
        assert members.awaiting_join == waiting
        assert members.static == {
            m.group_instance_id: m.member_id for m in members.members.values() if m.group_instance_id is not None
        }
        assert (members.leader in members.members) if members.members else members.leader is None
        assert not members.pending_join.keys() & members.members.keys()
        assert members.pending_sync <= members.members.keys()

    @invariant()
    def waiting_requests_belong_to_members(self) -> None:
        members = self.driver.group.members.members.values()
        waiting = {m.join_token for m in members} | {m.sync_token for m in members}
        assert waiting - {None} == self.asked - self.driver.answers.keys()

    @invariant()
    def a_stable_generation_is_what_its_leader_assigned(self) -> None:
        group = self.driver.group
        if group.state is GroupState.STABLE:
            sent = self.assigned[group.generation] | {b""}
            assert all(member.assignment in sent for member in group.members.members.values())
            assert group.protocol_name is not None and group.members.members

    @invariant()
    def states_fit_their_members(self) -> None:
        group = self.driver.group
        if group.state is GroupState.EMPTY:
            assert not group.members.members
        if group.state is not GroupState.COMPLETING_REBALANCE:
            assert all(member.sync_token is None for member in group.members.members.values())
        assert all(len(member.protocols) for member in group.members.members.values())

    @invariant()
    def the_group_wakes_in_time(self) -> None:
        group = self.driver.group
        deadlines = [m.deadline for m in group.members.members.values()] + list(group.members.pending_join.values())
        assert all(group.wake_at <= deadline for deadline in deadlines)

    def teardown(self) -> None:
        """Left alone, every request is answered and the group dies out."""
        for _ in range(8):
            self.driver.store()
            self.driver.advance(400_000)
        assert self.asked == self.driver.answers.keys()
        assert self.driver.group.state is GroupState.EMPTY
        assert self.driver.group.wake_at == float("inf")


TestGroupModel = GroupModel.TestCase
TestGroupModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
