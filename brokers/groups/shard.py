"""The coordinator of one __consumer_offsets partition led here: its groups' effects, its timers, members' requests.

Owns: carrying out what the state machines ask for.
Does not own: loading, writing, snapshots (coordinators/shard.py), the rules (classic_group.py, offsets.py), offset and
admin requests (offset_requests.py, admin.py).
Invariant: no answer that depends on a record leaves before the record is durable (CORRECTNESS 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from kio.schema.errors import ErrorCode

from brokers.coordinators.errors import client_error
from brokers.coordinators.fields import Record
from brokers.coordinators.shard import CoordinatorShard, ShardContext, ShardState, resolve
from brokers.coordinators.snapshot import DurableMap
from brokers.coordinators.writer import Outcome
from brokers.errors import KafkaError
from brokers.groups.classic_group import ClassicGroup
from brokers.groups.config import GroupConfig
from brokers.groups.membership import NEVER
from brokers.groups.messages import (
    UNKNOWN_MEMBER_ID,
    Effects,
    GroupState,
    Instant,
    JoinAnswer,
    JoinRequest,
    LeaveAnswer,
    LeaveMember,
    Store,
    SyncAnswer,
    SyncRequest,
)
from brokers.groups.records import encode_group, group_key
from brokers.groups.state import State
from brokers.groups.stats import GroupStats

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class GroupContext(ShardContext):
    """What all shards of the group coordinator share."""

    stats: GroupStats
    config: GroupConfig
    new_id: Callable[[], str]

    def instant(self) -> Instant:
        return Instant(self.timers.now(), self.clock.now_ms())


class Shard(CoordinatorShard[State, GroupContext]):
    def _empty(self, durable: DurableMap) -> State:
        return State(durable, self.context.config.timeouts, self.context.new_id)

    def _activated(self) -> None:
        now = self.context.instant()
        for group in list(self.state.groups.values()):
            self.run(group, group.activate(now))

    def _abandoned(self) -> None:
        for group in self.state.groups.values():
            self._answer(group.kill(ErrorCode.not_coordinator))

    # --- groups --------------------------------------------------------------------------------

    def run(self, group: ClassicGroup, effects: Effects, then: Callable[[ErrorCode], None] | None = None) -> None:
        """Carry out what a group asked for. `then(error)` once its records, if any, are durable."""
        self._answer(effects)
        self.arm(group)
        if then is not None and not effects.stores:
            then(ErrorCode.none)
        for store in effects.stores:
            self._store(group, store, then)

    @staticmethod
    def _answer(effects: Effects) -> None:
        for token, answer in effects.answers:
            assert isinstance(token, asyncio.Future)
            resolve(token, answer)

    def _store(self, group: ClassicGroup, store: Store, then: Callable[[ErrorCode], None] | None) -> None:
        def settled(outcome: Outcome, error: ErrorCode) -> None:
            if outcome is Outcome.DURABLE and store.stored is not None:
                rebalances = group.rebalances
                self.run(group, store.stored(self.context.instant()))
                if group.rebalances > rebalances:
                    self.context.stats.rebalances.inc()
                    log.info(
                        "group is stable", group=group.group_id, generation=group.generation,
                        members=len(group.members), protocol=group.protocol_name,
                    )  # fmt: skip
            elif outcome is Outcome.REFUSED:
                log.warning("group record refused", group=group.group_id, error=error.name)
                if store.refused is not None:
                    self.run(group, store.refused(self.context.instant(), client_error(error)))
            if then is not None:
                then(client_error(error))

        self.write([Record(group_key(group.group_id), encode_group(store.value))], settled)

    def arm(self, group: ClassicGroup) -> None:
        """One timer per group: at its earliest deadline, or before."""
        when = group.wake_at
        if when < group.armed_at:
            group.armed_at = when
            self.context.timers.at(when, lambda: self._wake(group, when))

    def _wake(self, group: ClassicGroup, when: float) -> None:
        if group.armed_at != when or self.state.groups.get(group.group_id) is not group:
            return  # an earlier timer took its place, or the group has gone
        group.armed_at = NEVER
        self.run(group, group.expire(self.context.instant()))

    # --- requests of members -------------------------------------------------------------------

    async def join(self, group_id: str, request: JoinRequest) -> JoinAnswer:
        self.require_active()
        group = self.state.groups.get(group_id)
        created = group is None
        if group is None:
            if request.member_id != UNKNOWN_MEMBER_ID:
                return JoinAnswer(ErrorCode.unknown_member_id, request.member_id)
            group = self.state.create(group_id, self.context.clock.now_ms())
            self.state.unseen.add(group_id)
        log.debug("member joins", group=group_id, member=request.member_id, reason=request.reason)
        waiting: asyncio.Future[JoinAnswer] = asyncio.get_running_loop().create_future()
        effects = group.join(request, waiting, self.context.instant())
        if created and not effects.stores:
            effects.stores.append(Store(group.empty_value(), refused=lambda _, error: self._uncreate(group, error)))
        self.run(group, effects)
        return await waiting

    def _uncreate(self, group: ClassicGroup, error: ErrorCode) -> Effects:
        self.state.groups.pop(group.group_id, None)
        self.state.unseen.discard(group.group_id)
        return group.kill(error)

    async def sync(self, group_id: str, request: SyncRequest) -> SyncAnswer:
        self.require_active()
        group = self.state.groups.get(group_id)
        if group is None:
            return SyncAnswer(ErrorCode.unknown_member_id)
        waiting: asyncio.Future[SyncAnswer] = asyncio.get_running_loop().create_future()
        self.run(group, group.sync(request, waiting, self.context.instant()))
        return await waiting

    def heartbeat(self, group_id: str, member_id: str, generation: int, instance_id: str | None) -> ErrorCode:
        if self.status is ShardState.LOADING:
            return ErrorCode.none  # the members may well be there: do not make them rejoin
        self.require_active()
        group = self.state.groups.get(group_id)
        if group is None:
            return ErrorCode.unknown_member_id
        error = group.heartbeat(member_id, generation, instance_id, self.context.instant())
        self.arm(group)
        return error

    async def leave(self, group_id: str, leaving: Sequence[LeaveMember]) -> list[LeaveAnswer]:
        """Raises KafkaError where the request fails as a whole."""
        self.require_active()
        group = self.state.groups.get(group_id)
        if group is None:
            return [LeaveAnswer(m.member_id, m.group_instance_id, ErrorCode.unknown_member_id) for m in leaving]
        if group.state is GroupState.DEAD:
            raise KafkaError(ErrorCode.coordinator_not_available)
        log.debug("members leave", group=group_id, members=leaving)
        answers, effects = group.leave(leaving, self.context.instant())
        waiting: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()
        self.run(group, effects, lambda error: resolve(waiting, error))
        self.watch(waiting)
        error = await waiting
        if error is not ErrorCode.none:
            raise KafkaError(error)
        return answers
