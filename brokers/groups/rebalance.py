"""The phases of a rebalance: prepare, wait for joins, next generation, wait for the assignment, stable.

Owns: state transitions, generation, deadlines. Does not own: requests (classic_group.py), members (membership.py).
Invariant: a generation becomes STABLE only when its group record is durable (CORRECTNESS 6). `wake_at` is never
later than the earliest deadline, so that one timer per group serves all of its members.

Source: Kafka's classic group protocol (KIP-62, KIP-134 initial delay, KIP-345 static members, KIP-394 member ids).
"""

from __future__ import annotations

from kio.schema.errors import ErrorCode

from brokers.groups.group import Group, GroupType
from brokers.groups.membership import NEVER, Member, Membership
from brokers.groups.messages import (
    Effects,
    GroupState,
    GroupTimeouts,
    Instant,
    JoinAnswer,
    Store,
    SyncAnswer,
)
from brokers.groups.records import GroupValue
from brokers.groups.subscription import subscribed_topics

_VALID_PREVIOUS: dict[GroupState, tuple[GroupState, ...]] = {
    GroupState.EMPTY: (GroupState.PREPARING_REBALANCE,),
    GroupState.PREPARING_REBALANCE: (GroupState.STABLE, GroupState.COMPLETING_REBALANCE, GroupState.EMPTY),
    GroupState.COMPLETING_REBALANCE: (GroupState.PREPARING_REBALANCE,),
    GroupState.STABLE: (GroupState.COMPLETING_REBALANCE,),
    GroupState.DEAD: tuple(GroupState),
}


class Rebalance(Group):
    group_type = GroupType.CLASSIC
    wake_at: float = NEVER

    def __init__(self, group_id: str, timeouts: GroupTimeouts, wall_ms: int) -> None:
        super().__init__(group_id)
        self.timeouts = timeouts
        self.members = Membership()
        self.state = GroupState.EMPTY
        self.previous_state = GroupState.DEAD
        self.state_timestamp = wall_ms
        self.generation = 0
        self.protocol_type: str | None = None
        self.protocol_name: str | None = None
        self.subscribed_topics: frozenset[str] | None = None
        """None: not a consumer group, or its subscriptions cannot be read."""
        self.rebalances = 0
        """Generations that became stable."""
        self._join_deadline = NEVER
        self._sync_deadline = NEVER
        self._initial_remaining_ms: float | None = None
        """Not None: the join deadline is the initial delay, which may be extended by this much."""
        self._initial_delay_ms: float = 0
        self._new_member_added = False
        self._assigning = 0
        """The generation whose assignment is on its way into the log."""

    # --- time ----------------------------------------------------------------------------------

    def expire(self, now: Instant) -> Effects:
        """Everything whose deadline has passed. Call it at `wake_at`; sets the next `wake_at`."""
        effects = Effects()
        if self.state is not GroupState.DEAD:
            self._expire_sessions(now, effects)
            if now.ticks >= self._sync_deadline:
                self._expire_sync(now, effects)
            if now.ticks >= self._join_deadline:
                self._expire_join(now, effects)
        self.wake_at = self._earliest_deadline()
        return effects

    def _earliest_deadline(self) -> float:
        if self.state is GroupState.DEAD:
            return NEVER
        sessions = min((member.deadline for member in self.members.members.values()), default=NEVER)
        pending = min(self.members.pending_join.values(), default=NEVER)
        return min(sessions, pending, self._join_deadline, self._sync_deadline)

    def _expire_sessions(self, now: Instant, effects: Effects) -> None:
        for member_id in [m for m, at in self.members.pending_join.items() if at <= now.ticks]:
            self.members.remove(member_id, effects)
            if self.state is GroupState.PREPARING_REBALANCE and self.members.all_joined:
                self._complete_join(now, effects)
        for member in [m for m in self.members.members.values() if m.deadline <= now.ticks]:
            if member.deadline > now.ticks or member.member_id not in self.members.members:
                continue  # a rebalance that ended just now has heard of it, or has removed it
            member.deadline = NEVER
            if member.heartbeat_satisfied:
                continue  # its next answer starts the session again
            self.members.remove(member.member_id, effects)
            if self.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
                self._rebalance(now, effects)
            elif self.state is GroupState.PREPARING_REBALANCE and self.members.all_joined:
                self._complete_join(now, effects)

    def _expire_join(self, now: Instant, effects: Effects) -> None:
        remaining = self._initial_remaining_ms
        if remaining is not None and remaining > 0 and self._new_member_added:
            # More members came during the initial delay: wait once more, within the rebalance timeout.
            self._new_member_added = False
            self._initial_remaining_ms = max(remaining - self._initial_delay_ms, 0)
            self._initial_delay_ms = min(self.timeouts.initial_rebalance_delay_ms, remaining)
            self._set_join_deadline(now.ticks + self._initial_delay_ms)
            return
        self._complete_join(now, effects)

    def _expire_sync(self, now: Instant, effects: Effects) -> None:
        self._sync_deadline = NEVER
        if self.members.pending_sync and self.state in (GroupState.COMPLETING_REBALANCE, GroupState.STABLE):
            for member_id in sorted(self.members.pending_sync):
                self.members.remove(member_id, effects)
            self._prepare(now, effects)

    def _touch(self, member: Member, now: Instant, timeout_ms: float | None = None) -> None:
        """The member was heard of: its session lasts another timeout."""
        member.deadline = now.ticks + (member.session_timeout_ms if timeout_ms is None else timeout_ms)
        if member.deadline < self.wake_at:
            self.wake_at = member.deadline

    def _set_join_deadline(self, at: float) -> None:
        self._join_deadline = at
        self.wake_at = min(self.wake_at, at)

    # --- phases --------------------------------------------------------------------------------

    def _transition(self, state: GroupState, now: Instant) -> None:
        assert self.state in _VALID_PREVIOUS[state], f"group {self.group_id}: {self.state} → {state}"
        self.previous_state = self.state
        self.state = state
        self.state_timestamp = now.wall_ms

    def _rebalance(self, now: Instant, effects: Effects) -> None:
        """Begin a rebalance where that is possible, else see whether the one under way can go on."""
        if self.state in _VALID_PREVIOUS[GroupState.PREPARING_REBALANCE]:
            self._prepare(now, effects)
        else:
            self._maybe_complete_join(now, effects)

    def _prepare(self, now: Instant, effects: Effects) -> None:
        if self.state is GroupState.COMPLETING_REBALANCE:
            self._reset_assignments(now, effects, ErrorCode.rebalance_in_progress)
        self.members.pending_sync.clear()
        self._sync_deadline = NEVER
        if self.state is GroupState.EMPTY:
            # A new group: give the other members time to arrive before the first generation.
            delay = self.timeouts.initial_rebalance_delay_ms
            self._initial_delay_ms = delay
            self._initial_remaining_ms = max(self.members.rebalance_timeout_ms() - delay, 0)
            self._set_join_deadline(now.ticks + delay)
            self._transition(GroupState.PREPARING_REBALANCE, now)
            return
        self._initial_remaining_ms = None
        self._transition(GroupState.PREPARING_REBALANCE, now)
        if self.members.all_joined:
            self._complete_join(now, effects)
        else:
            self._set_join_deadline(now.ticks + self.members.rebalance_timeout_ms())

    def _maybe_complete_join(self, now: Instant, effects: Effects) -> None:
        preparing = self.state is GroupState.PREPARING_REBALANCE
        if preparing and self.previous_state is not GroupState.EMPTY and self.members.all_joined:
            self._complete_join(now, effects)

    def _complete_join(self, now: Instant, effects: Effects) -> None:
        """End of the join phase: dynamic members that did not come are out; the rest are the next generation."""
        self._join_deadline = NEVER
        members = self.members
        absent = [m for m in members.members.values() if m.join_token is None and m.group_instance_id is None]
        for member in absent:
            members.remove(member.member_id, effects)
        if members.members and not members.elect_joined_leader():
            # Only static members, none of which came: wait until their sessions end.
            self._initial_remaining_ms = None
            self._set_join_deadline(now.ticks + members.rebalance_timeout_ms())
            return
        self._initial_remaining_ms = None
        self._new_member_added = False
        self.generation += 1
        members.pending_sync.clear()
        if not members.members:
            self._become_empty(now, effects)
            return
        self.protocol_name = members.select_protocol()
        self.subscribed_topics = self._read_subscriptions()
        self._transition(GroupState.COMPLETING_REBALANCE, now)
        for member in members.members.values():
            members.answer_join(member, self._join_answer(member.member_id), effects)
            self._touch(member, now)
            member.is_new = False
            members.pending_sync.add(member.member_id)
        self._sync_deadline = now.ticks + members.rebalance_timeout_ms()
        self.wake_at = min(self.wake_at, self._sync_deadline)

    def _become_empty(self, now: Instant, effects: Effects) -> None:
        self.protocol_name = None
        self.subscribed_topics = self._read_subscriptions()
        self._transition(GroupState.EMPTY, now)
        effects.stores.append(Store(self.value({})))

    def _join_answer(self, member_id: str) -> JoinAnswer:
        assert self.protocol_name is not None
        leads = self.members.leader == member_id
        return JoinAnswer(
            ErrorCode.none,
            member_id,
            self.generation,
            self.protocol_type,
            self.protocol_name,
            self.members.leader or "",
            members=self.members.join_members(self.protocol_name) if leads else (),
        )

    # --- assignments ---------------------------------------------------------------------------

    def _store_assignments(self, assignments: dict[str, bytes], effects: Effects) -> None:
        """The leader has spoken: its assignment counts, and is answered, once the group record is durable."""
        generation = self.generation
        if self._assigning == generation:
            return  # the leader repeats itself: what is in the log first is what counts, here and after a reload
        self._assigning = generation

        def still_expected() -> bool:
            return self.state is GroupState.COMPLETING_REBALANCE and self.generation == generation

        def stored(now: Instant) -> Effects:
            after = Effects()
            if still_expected():
                for member in self.members.members.values():
                    member.assignment = assignments.get(member.member_id, b"")
                self._propagate(now, after, ErrorCode.none)
                self._transition(GroupState.STABLE, now)
                self.rebalances += 1
            return after

        def refused(now: Instant, error: ErrorCode) -> Effects:
            after = Effects()
            if still_expected():
                self._reset_assignments(now, after, error)
                self._prepare(now, after)
            return after

        effects.stores.append(Store(self.value(assignments), stored, refused))

    def _reset_assignments(self, now: Instant, effects: Effects, error: ErrorCode) -> None:
        for member in self.members.members.values():
            member.assignment = b""
        self._propagate(now, effects, error)

    def _propagate(self, now: Instant, effects: Effects, error: ErrorCode) -> None:
        for member in self.members.members.values():
            answer = SyncAnswer(error)
            if error is ErrorCode.none:
                answer = SyncAnswer(error, self.protocol_type, self.protocol_name, member.assignment)
            if self.members.answer_sync(member, answer, effects):
                # The session may have ended, ignored, while the request waited: start it again.
                self._touch(member, now)

    def value(self, assignments: dict[str, bytes]) -> GroupValue:
        """The group record of this generation with the given assignments (missing ones are empty)."""
        members = self.members.members.values()
        assert self.protocol_name is not None or not members
        return GroupValue(
            self.protocol_type or "",
            self.generation,
            self.protocol_name,
            self.members.leader,
            self.state_timestamp,
            tuple(m.as_value(self.protocol_name or "", assignments.get(m.member_id, b"")) for m in members),
        )

    def empty_value(self) -> GroupValue:
        """The record that makes a new group known before its first generation."""
        return GroupValue("", 0, None, None, self.state_timestamp)

    def _read_subscriptions(self) -> frozenset[str] | None:
        if not self.members.members:
            return subscribed_topics(self.protocol_type, ())
        name = self.protocol_name
        if name is None:
            return None
        return subscribed_topics(self.protocol_type, [m.metadata(name) for m in self.members.members.values()])
