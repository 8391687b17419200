"""One classic consumer group: a pure state machine. Requests and time in; answers, records and deadlines out.

Owns: what each request means in each state. Does not own: rebalance phases (rebalance.py), durability and
waiting clients (shard.py), committed offsets (offsets.py).
Invariant: no I/O, no clock, no chance of its own; the same inputs give the same effects.

Source: Kafka 4.3 JoinGroup v0–9, SyncGroup v0–5, Heartbeat v0–4, LeaveGroup v0–5 semantics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.groups.group import CommitRequest, commit_time
from brokers.groups.membership import Member
from brokers.groups.messages import (
    CONSUMER_PROTOCOL,
    UNKNOWN_MEMBER_ID,
    Effects,
    GroupState,
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
    Token,
)
from brokers.groups.rebalance import Rebalance
from brokers.groups.records import GroupValue, group_key


class ClassicGroup(Rebalance):
    def __init__(self, group_id: str, timeouts: GroupTimeouts, new_id: Callable[[], str], wall_ms: int) -> None:
        super().__init__(group_id, timeouts, wall_ms)
        self._new_id = new_id

    @classmethod
    def load(cls, group_id: str, value: GroupValue, timeouts: GroupTimeouts, new_id: Callable[[], str]) -> ClassicGroup:
        """The group as its record says: stable with members, or empty."""
        group = cls(group_id, timeouts, new_id, value.current_state_timestamp)
        group.generation = value.generation
        group.protocol_type = value.protocol_type or None
        group.protocol_name = value.protocol
        for member in value.members:
            protocols = (Protocol(value.protocol or "", member.subscription),)
            group.members.add(
                Member(
                    member.member_id, member.group_instance_id, member.client_id, member.client_host,
                    member.rebalance_timeout_ms, member.session_timeout_ms, protocols, member.assignment,
                )
            )  # fmt: skip
        if value.members:
            group.state = GroupState.STABLE
            group.members.leader = value.leader if value.leader in group.members.members else group.members.leader
        group.subscribed_topics = group._read_subscriptions()
        return group

    def become_stable(self, generation: int, protocol_type: str) -> None:
        """Its members came from a group of another protocol, in the middle of their work."""
        self.generation = generation
        self.protocol_type = protocol_type
        self.protocol_name = self.members.select_protocol()
        self.state = GroupState.STABLE
        self.subscribed_topics = self._read_subscriptions()

    def take_over(self, now: Instant, stale: bool) -> Effects:
        """After `become_stable`: sessions start. `stale`: what members have is not what they should."""
        effects = self.activate(now)
        if stale and self.state is GroupState.STABLE:
            self._prepare(now, effects)
        return effects

    def activate(self, now: Instant) -> Effects:
        """After loading: sessions start; a group over the size limit (which was lowered) rebalances."""
        effects = Effects()
        for member in self.members.members.values():
            self._touch(member, now)
        if len(self.members) > self.timeouts.max_size:
            self._prepare(now, effects)
        return effects

    # --- join ----------------------------------------------------------------------------------

    def join(self, request: JoinRequest, token: Token, now: Instant) -> Effects:
        """Answers now, or when the join phase ends. Session timeout bounds were checked by the caller."""
        effects = Effects()
        if not self._accepts(request.member_id):
            self.members.remove(request.member_id, effects)
            error = ErrorCode.group_max_size_reached
            effects.answers.append((token, JoinAnswer(error)))
        elif self.state is GroupState.DEAD:
            effects.answers.append((token, JoinAnswer(ErrorCode.coordinator_not_available, request.member_id)))
        elif not self._supports(request):
            error = ErrorCode.inconsistent_group_protocol
            effects.answers.append((token, JoinAnswer(error, request.member_id)))
        elif request.member_id == UNKNOWN_MEMBER_ID:
            self._join_new(request, token, now, effects)
        else:
            self._join_known(request, token, now, effects)
        return effects

    def _accepts(self, member_id: str) -> bool:
        limit = self.timeouts.max_size
        member = self.members.members.get(member_id)
        if self.state is GroupState.PREPARING_REBALANCE:
            # Counted by who has joined: the last to rejoin a group that is too large are left out.
            return (member is not None and member.join_token is not None) or self.members.awaiting_join < limit
        if self.state in (GroupState.COMPLETING_REBALANCE, GroupState.STABLE):
            return member is not None or len(self.members) < limit
        return True

    def _supports(self, request: JoinRequest) -> bool:
        if self.state is GroupState.EMPTY:
            return bool(request.protocol_type) and bool(request.protocols)
        return request.protocol_type == self.protocol_type and self.members.supports_any(request.protocols)

    def _join_new(self, request: JoinRequest, token: Token, now: Instant, effects: Effects) -> None:
        instance_id = request.group_instance_id
        member_id = f"{request.client_id if instance_id is None else instance_id}-{self._new_id()}"
        if instance_id is not None:
            existing = self.members.static.get(instance_id)
            if existing is not None:
                self._join_replacing(request, existing, member_id, token, now, effects)
            else:
                self._add(request, member_id, token, now, effects)
        elif request.needs_member_id:
            # The place is promised before the id is known to the client, so that a client that never hears of
            # it leaves nothing behind but a promise that ends (KIP-394).
            deadline = now.ticks + request.session_timeout_ms
            self.members.pending_join[member_id] = deadline
            self.wake_at = min(self.wake_at, deadline)
            effects.answers.append((token, JoinAnswer(ErrorCode.member_id_required, member_id)))
        else:
            self._add(request, member_id, token, now, effects)

    def _join_known(self, request: JoinRequest, token: Token, now: Instant, effects: Effects) -> None:
        member_id = request.member_id
        if member_id in self.members.pending_join:
            if request.group_instance_id is not None:
                # Promised ids are given to dynamic members only.
                error = ErrorCode.unknown_server_error
                effects.answers.append((token, JoinAnswer(error, member_id)))
                return
            self._add(request, member_id, token, now, effects)
            return
        error = self.members.validate(member_id, request.group_instance_id)
        if error is ErrorCode.none and self.state is GroupState.EMPTY:
            error = ErrorCode.unknown_member_id
        if error is not ErrorCode.none:
            effects.answers.append((token, JoinAnswer(error, member_id)))
            return
        member = self.members.members[member_id]
        changed = member.protocols != request.protocols
        stable = self.state is GroupState.STABLE
        if self.state is GroupState.PREPARING_REBALANCE or changed or (stable and self.members.leader == member_id):
            # The leader of a stable group rejoins to have partitions assigned anew, with the same metadata.
            self._update(member, request, token, effects)
            self._rebalance(now, effects)
        else:
            # It missed its answer: the generation as it is.
            answer = self._join_answer(member_id)
            effects.answers.append((token, answer if not stable else answer._replace(members=())))

    def _add(self, request: JoinRequest, member_id: str, token: Token, now: Instant, effects: Effects) -> None:
        member = Member(
            member_id, request.group_instance_id, request.client_id, request.client_host,
            request.rebalance_timeout_ms, request.session_timeout_ms, request.protocols,
        )  # fmt: skip
        member.is_new = True
        if self.state is GroupState.PREPARING_REBALANCE and self.previous_state is GroupState.EMPTY:
            self._new_member_added = True
        if not self.members.members:
            self.protocol_type = request.protocol_type
        self.members.add(member, token)
        # A new member cannot send heartbeats while its join waits; if its client is gone, this ends it.
        self._touch(member, now, self.timeouts.new_member_join_timeout_ms)
        self._rebalance(now, effects)

    def _update(self, member: Member, request: JoinRequest, token: Token | None, effects: Effects) -> None:
        self.members.update(
            member, request.protocols, request.rebalance_timeout_ms, request.session_timeout_ms, token, effects
        )

    # --- static members ------------------------------------------------------------------------

    def _join_replacing(
        self, request: JoinRequest, old_id: str, new_id: str, token: Token, now: Instant, effects: Effects
    ) -> None:
        """A static member restarted. In a stable group it gets its assignment back without a rebalance."""
        instance_id = request.group_instance_id
        assert instance_id is not None
        leader_before = self.members.leader
        member = self.members.replace_static(instance_id, old_id, new_id, effects)
        self._touch(member, now)
        before = (member.protocols, member.rebalance_timeout_ms, member.session_timeout_ms)
        self._update(member, request, token, effects)
        if self.state is GroupState.STABLE:
            if self.members.select_protocol() == self.protocol_name:
                self._store_replacement(request, member, old_id, before, leader_before, effects)
            else:
                self._rebalance(now, effects)
        elif self.state is GroupState.COMPLETING_REBALANCE:
            # The leader may have been told the old member id: its assignment would miss the new one.
            self._prepare(now, effects)
        else:
            self._maybe_complete_join(now, effects)

    def _store_replacement(
        self,
        request: JoinRequest,
        member: Member,
        old_id: str,
        before: tuple[tuple[Protocol, ...], int, int],
        leader_before: str | None,
        effects: Effects,
    ) -> None:
        new_id, instance_id = member.member_id, member.group_instance_id
        assert instance_id is not None

        def stored(now: Instant) -> Effects:
            after = Effects()
            if self.state is not GroupState.STABLE or self.members.members.get(new_id) is not member:
                return after  # a rebalance began meanwhile: its end answers this join too
            leads = self.members.leader == new_id
            answer = self._join_answer(new_id)
            if request.may_skip_assignment:
                answer = answer._replace(skip_assignment=leads)
            else:
                # An old client that leads would assign again: it is told the leader of before, and follows.
                answer = answer._replace(leader=leader_before or "", members=())
            self.members.answer_join(member, answer, after)
            return after

        def refused(now: Instant, error: ErrorCode) -> Effects:
            after = Effects()
            if self.members.members.get(new_id) is not member:
                return after
            answer = JoinAnswer(
                error, UNKNOWN_MEMBER_ID, self.generation, self.protocol_type, self.protocol_name, leader_before or ""
            )
            self.members.answer_join(member, answer, after)
            self.members.update(member, *before, None, after)
            self._touch(self.members.replace_static(instance_id, new_id, old_id, after), now)
            return after

        assignments = {m.member_id: m.assignment for m in self.members.members.values()}
        effects.stores.append(Store(self.value(assignments), stored, refused))

    # --- sync, heartbeat, leave ----------------------------------------------------------------

    def sync(self, request: SyncRequest, token: Token, now: Instant) -> Effects:
        """Answers with the member's assignment: at once in a stable group, else when the leader's is durable."""
        effects = Effects()
        error = self._validate_sync(request)
        if error is not ErrorCode.none:
            effects.answers.append((token, SyncAnswer(error)))
            return effects
        member = self.members.members[request.member_id]
        self.members.pending_sync.discard(request.member_id)
        if not self.members.pending_sync:
            self._sync_deadline = float("inf")
        if self.state is GroupState.STABLE:
            answer = SyncAnswer(ErrorCode.none, self.protocol_type, self.protocol_name, member.assignment)
            effects.answers.append((token, answer))
            return effects
        self.members.await_sync(member, token, effects)
        if self.members.leader == request.member_id:
            self._store_assignments(dict(request.assignments), effects)
        return effects

    def _validate_sync(self, request: SyncRequest) -> ErrorCode:
        if self.state is GroupState.DEAD:
            return ErrorCode.coordinator_not_available
        if self.state is GroupState.EMPTY:
            return ErrorCode.unknown_member_id
        error = self.members.validate(request.member_id, request.group_instance_id)
        if error is not ErrorCode.none:
            return error
        if request.generation != self.generation:
            return ErrorCode.illegal_generation
        if _differs(request.protocol_type, self.protocol_type) or _differs(request.protocol_name, self.protocol_name):
            return ErrorCode.inconsistent_group_protocol
        if self.state is GroupState.PREPARING_REBALANCE:
            return ErrorCode.rebalance_in_progress
        return ErrorCode.none

    def heartbeat(self, member_id: str, generation: int, group_instance_id: str | None, now: Instant) -> ErrorCode:
        if self.state is GroupState.DEAD:
            return ErrorCode.coordinator_not_available
        error = self.members.validate(member_id, group_instance_id)
        if error is not ErrorCode.none:
            return error
        if generation != self.generation:
            return ErrorCode.illegal_generation
        self._touch(self.members.members[member_id], now)
        preparing = self.state is GroupState.PREPARING_REBALANCE
        return ErrorCode.rebalance_in_progress if preparing else ErrorCode.none

    def leave(self, leaving: Sequence[LeaveMember], now: Instant) -> tuple[list[LeaveAnswer], Effects]:
        """Each member on its own; those that were there cause one rebalance. The group must not be DEAD."""
        assert self.state is not GroupState.DEAD
        effects = Effects()
        answers = [self._leave_one(member, effects) for member in leaving]
        if any(answer.error is ErrorCode.none for answer in answers) and self.state is not GroupState.EMPTY:
            self._rebalance(now, effects)
        return answers, effects

    def _leave_one(self, leaving: LeaveMember, effects: Effects) -> LeaveAnswer:
        member_id, instance_id = leaving.member_id, leaving.group_instance_id
        if member_id == UNKNOWN_MEMBER_ID:
            # An operator removes a static member by its instance id.
            owner = None if instance_id is None else self.members.static.get(instance_id)
            error = ErrorCode.unknown_member_id if owner is None else ErrorCode.none
            target = owner or ""
        elif member_id in self.members.pending_join:
            error, target = ErrorCode.none, member_id
        else:
            error, target = self.members.validate(member_id, instance_id), member_id
        if error is ErrorCode.none:
            self.members.remove(target, effects)
        return LeaveAnswer(member_id, instance_id, error)

    # --- offsets -------------------------------------------------------------------------------

    def validate_offset_commit(self, request: CommitRequest, now: Instant) -> ErrorCode:
        """A member's commit keeps its session. A transactional one need not name a member, and may come during a
        rebalance: its fate is the transaction's."""
        _, member_id, generation, group_instance_id = request.sender
        transactional = request.transactional
        if self.state is GroupState.DEAD:
            return ErrorCode.coordinator_not_available
        if generation < 0 and self.state is GroupState.EMPTY:
            return ErrorCode.none
        if generation < 0 and not member_id and group_instance_id is None:
            # Not a member; only an empty group takes offsets from anybody.
            return ErrorCode.none if transactional else ErrorCode.unknown_member_id
        error = self.members.validate(member_id, group_instance_id)
        if error is not ErrorCode.none:
            return error
        if generation != self.generation:
            return ErrorCode.illegal_generation
        if self.state is GroupState.COMPLETING_REBALANCE and not transactional:
            return ErrorCode.rebalance_in_progress
        self._touch(self.members.members[member_id], now)
        return ErrorCode.none

    def validate_offset_fetch(self, member_id: str | None, member_epoch: int) -> ErrorCode:
        return ErrorCode.none

    @property
    def is_consumer_group(self) -> bool:
        return self.protocol_type == CONSUMER_PROTOCOL

    @property
    def offsets_are_deletable(self) -> bool:
        return self.state is GroupState.EMPTY or self.is_consumer_group

    def subscribes_to(self, topic: str) -> bool:
        """A consumer group whose subscriptions cannot be read is taken to subscribe to everything."""
        return self.is_consumer_group if self.subscribed_topics is None else topic in self.subscribed_topics

    def expiry_base(self) -> Callable[[int], int] | None:
        """From which time an offset's retention counts, given its commit time; None: offsets do not expire now."""
        if self.protocol_type is None:
            return commit_time
        if self.state is GroupState.EMPTY:
            since = self.state_timestamp
            return commit_time if since < 0 else lambda _: since
        if self.is_consumer_group and self.subscribed_topics is not None and self.state is GroupState.STABLE:
            return commit_time
        return None

    # --- end -----------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        return self.state is GroupState.EMPTY

    @property
    def is_dead(self) -> bool:
        return self.state is GroupState.DEAD

    @property
    def is_promised(self) -> bool:
        return bool(self.members.pending_join)

    def tombstones(self) -> list[Record]:
        return [Record(group_key(self.group_id), None)]

    def kill(self, error: ErrorCode | None = None) -> Effects:
        """DEAD: being deleted, or no longer led here (then waiting requests get `error`)."""
        effects = Effects()
        if error is not None:
            for member in self.members.members.values():
                self.members.answer_join(member, JoinAnswer(error, member.member_id), effects)
                self.members.answer_sync(member, SyncAnswer(error), effects)
        self.previous_state, self.state = self.state, GroupState.DEAD
        return effects

    def revive(self) -> None:
        """The log took no tombstone: an empty group is as it was."""
        assert self.state is GroupState.DEAD and not self.members.members
        self.state = GroupState.EMPTY
        self.wake_at = self._earliest_deadline()

    @property
    def durable_state(self) -> GroupState:
        """What readers may see: a deletion shows once its tombstone is durable, and then the group is gone."""
        return self.previous_state if self.state is GroupState.DEAD else self.state

    @property
    def shown_state(self) -> str:
        return self.durable_state.value

    @property
    def shown_protocol_type(self) -> str:
        return self.protocol_type or ""


def _differs(asked: str | None, actual: str | None) -> bool:
    return asked is not None and actual is not None and asked != actual
