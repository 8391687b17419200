"""The coordinator of one __consumer_offsets partition led here: its groups' effects, its timers, members' requests.

Owns: carrying out what the state machines ask for, requests of classic groups.
Does not own: loading, writing, snapshots (coordinators/shard.py), the rules (classic_group.py, offsets.py, consumer/),
requests of consumer groups, about offsets and of operators (consumer_requests.py, offset_requests.py, admin.py).
Invariant: no answer that depends on a record leaves before the record is durable (CORRECTNESS 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog
from kio.schema.errors import ErrorCode

from brokers.coordinators.errors import client_error
from brokers.coordinators.fields import Record
from brokers.coordinators.shard import CoordinatorShard, ShardContext, ShardState, resolve
from brokers.coordinators.snapshot import DurableMap
from brokers.coordinators.writer import Outcome
from brokers.errors import KafkaError
from brokers.groups import record_types
from brokers.groups.classic_group import ClassicGroup
from brokers.groups.config import ConsumerConfig, GroupConfig, ModernConfig, ShareConfig, StreamsConfig
from brokers.groups.consumer import departure
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.group import Group, GroupType
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
from brokers.groups.modern.change import Change
from brokers.groups.modern.deadlines import GROUP, Wait
from brokers.groups.modern.group import ModernGroup
from brokers.groups.modern.terms import Terms
from brokers.groups.modern.topics import Topics
from brokers.groups.records import encode_group, group_key
from brokers.groups.share import heartbeat as share_heartbeat
from brokers.groups.share.group import ShareGroup
from brokers.groups.share.messages import ShareStates, ShareTerms
from brokers.groups.state import State
from brokers.groups.stats import GroupStats
from brokers.groups.streams import heartbeat as streams_heartbeat
from brokers.groups.streams.group import StreamsGroup
from brokers.groups.streams.update import StreamsTerms

log = structlog.get_logger(__name__)

A = TypeVar("A")
M = TypeVar("M", bound=ModernGroup[Any, Any])

FENCE_RETRY_MS = 5_000
"""A late member whose removal the log refused is looked at again after that."""


class World(Protocol):
    """What groups know of the cluster."""

    @property
    def topics(self) -> Topics: ...

    def config_of(self, group_type: GroupType, group_id: str) -> ModernConfig:
        """The broker's, with the group's own over it; of a modern group of any type."""

    def consumer_config(self, group_id: str) -> ConsumerConfig: ...

    def share_config(self, group_id: str) -> ShareConfig: ...

    def streams_config(self, group_id: str) -> StreamsConfig: ...


@dataclass(frozen=True, slots=True)
class GroupContext(ShardContext):
    """What all shards of the group coordinator share."""

    stats: GroupStats
    config: GroupConfig
    new_id: Callable[[], str]
    world: World
    share_states: ShareStates

    def instant(self) -> Instant:
        return Instant(self.timers.now(), self.clock.now_ms())


class Shard(CoordinatorShard[State, GroupContext]):
    def _empty(self, durable: DurableMap) -> State:
        return State(durable, self.context.config.timeouts, self.context.new_id)

    def _activated(self) -> None:
        now = self.context.instant()
        for group in list(self.state.groups.values()):
            if isinstance(group, ClassicGroup):
                self.run(group, group.activate(now))
            elif isinstance(group, ModernGroup):
                group.activate(now, self.context.world.config_of(group.group_type, group.group_id).session_timeout_ms)
                self.arm(group)

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

    # --- modern groups -------------------------------------------------------------------------

    def terms(self, group_id: str) -> Terms:
        world = self.context.world
        return Terms(self.context.instant(), world.topics, world.consumer_config(group_id))

    def share_terms(self, group_id: str) -> ShareTerms:
        world = self.context.world
        return ShareTerms(self.context.instant(), world.topics, world.share_config(group_id))

    def streams_terms(self, group_id: str) -> StreamsTerms:
        world = self.context.world
        return StreamsTerms(self.context.instant(), world.topics, world.streams_config(group_id))

    def perform(self, group: Group, change: Change[Any]) -> asyncio.Future[ErrorCode]:
        """Append a change's records now, and let the group have them unless the log refuses them; the future has the
        error a client is to see, once everything that the answer rests on is durable."""
        records = [*change.conversion, *map(record_types.encode, change.records)]
        waiting: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()
        refused = False

        def settled(outcome: Outcome, error: ErrorCode) -> None:
            nonlocal refused
            refused = outcome is not Outcome.DURABLE
            resolve(waiting, client_error(error))

        if records:
            self.writer.write(records, self.context.clock.now_ms(), settled, whole=True)
        else:
            self.writer.barrier(settled)
        if refused:
            log.warning("group records refused", group=group.group_id, records=len(records))
            return waiting
        self._take(group, change)
        self.watch(waiting)
        return waiting

    def _take(self, group: Group, change: Change[Any]) -> None:
        if change.becomes is not None:
            log.info("group has another protocol", group=group.group_id, type=change.becomes.group_type.value)
            # A classic group's members are told to come again: to the group that it is now.
            self._answer(group.kill(ErrorCode.rebalance_in_progress))
        self.state.take(group, change)
        effects = change.accepted()
        found = group if change.becomes is None else change.becomes
        if effects is not None and isinstance(found, ClassicGroup):
            self.run(found, effects)
        else:
            self.arm(found)

    async def carry_out(self, group: Group, change: Change[A], conversion: Sequence[Record] = ()) -> A:
        """The change's answer, once what it rests on is durable. `conversion`: what makes the group of the one that
        is there now. Raises KafkaError."""
        was = group
        if conversion:
            was, change = self.state.groups[group.group_id], change._replace(becomes=group, conversion=conversion)
        error = await self.perform(was, change)
        if error is not ErrorCode.none:
            raise KafkaError(error)
        return change.answer

    # --- timers --------------------------------------------------------------------------------

    def arm(self, group: Group) -> None:
        """One timer per group: at its earliest deadline, or before."""
        when = group.wake_at
        if when < group.armed_at:
            group.armed_at = when
            self.context.timers.at(when, lambda: self._wake(group, when))

    def _wake(self, group: Group, when: float) -> None:
        if group.armed_at != when or self.state.groups.get(group.group_id) is not group:
            return  # an earlier timer took its place, or the group has gone
        group.armed_at = NEVER
        if isinstance(group, ClassicGroup):
            self.run(group, group.expire(self.context.instant()))
        elif isinstance(group, ModernGroup):
            self._expire(group)

    def _expire(self, group: ModernGroup[Any, Any]) -> None:
        """Members that were not heard of are fenced; a streams group waits no longer for members."""
        now = self.context.instant()
        late = group.deadlines.due(now.ticks)
        for member_id, wait in late:
            if member_id != GROUP:
                log.info("member is fenced", group=group.group_id, member=member_id, reason=wait.value)
        late_ids = dict.fromkeys(member_id for member_id, _ in late)
        gone = [group.members[member_id] for member_id in late_ids if member_id in group.members]
        if gone and not group.is_dead and self._is_taken(group, self._fence(group, gone)):
            gone = []
        for member in gone:
            group.deadlines.set(member.member_id, Wait.SESSION, now.ticks + FENCE_RETRY_MS)
        if GROUP in late_ids:
            self._end_delay(group)
        self.arm(group)

    def _end_delay(self, group: ModernGroup[Any, Any]) -> None:
        assert isinstance(group, StreamsGroup)
        terms = self.streams_terms(group.group_id)
        if not self._is_taken(group, streams_heartbeat.end_delay(group, terms)):
            group.deadlines.set(GROUP, Wait.ASSIGNMENT, terms.now.ticks + FENCE_RETRY_MS)

    def _is_taken(self, group: ModernGroup[Any, Any], change: Change[None]) -> bool:
        """Whether the log takes it."""
        outcome = self.perform(group, change)
        return not outcome.done() or outcome.result() is ErrorCode.none

    def _fence(self, group: ModernGroup[Any, Any], gone: Sequence[Any]) -> Change[None]:
        if isinstance(group, ShareGroup):
            return share_heartbeat.remove(group, gone, self.share_terms(group.group_id), None)
        if isinstance(group, StreamsGroup):
            return streams_heartbeat.remove(group, gone, None)
        assert isinstance(group, ConsumerGroup)
        return departure.fence(group, gone, self.terms(group.group_id), None, self.new_classic_group)

    def existing(self, group_id: str, kind: type[M]) -> M:
        """Raises GROUP_ID_NOT_FOUND, also for a group of another type; COORDINATOR_NOT_AVAILABLE for one that is being
        deleted."""
        group = self.state.groups.get(group_id)
        if group is None:
            raise KafkaError(ErrorCode.group_id_not_found, f"Group {group_id} not found.")
        if not isinstance(group, kind):
            name = kind.group_type.value
            raise KafkaError(ErrorCode.group_id_not_found, f"Group {group_id} is not a {name} group.")
        if group.is_dead:
            raise KafkaError(ErrorCode.coordinator_not_available)
        return group

    def meet(self, group_id: str, kind: type[M], joins: bool) -> tuple[M, list[Record]]:
        """The group that a heartbeat is for, and the records that end an empty classic one whose place it takes.
        Raises KafkaError."""
        group = self.state.groups.get(group_id)
        if joins and group is None:
            return kind(group_id), []
        if joins and isinstance(group, ClassicGroup) and group.is_empty:
            return kind(group_id), group.tombstones()
        if joins and isinstance(group, ClassicGroup) and group.is_dead:
            raise KafkaError(ErrorCode.coordinator_not_available)
        return self.existing(group_id, kind), []

    def new_classic_group(self, group_id: str) -> ClassicGroup:
        """One that is in no state yet: what a group of another protocol becomes."""
        return ClassicGroup(group_id, self.context.config.timeouts, self.context.new_id, self.context.clock.now_ms())

    # --- requests of members -------------------------------------------------------------------

    async def join(self, group_id: str, request: JoinRequest) -> JoinAnswer:
        self.require_active()
        group = self._classic(group_id)
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

    async def join_instead_of(self, group: ModernGroup[Any, Any], request: JoinRequest) -> JoinAnswer:
        """A group of another protocol without members gives way to a classic one, which keeps its offsets."""
        self.require_active()
        if request.member_id != UNKNOWN_MEMBER_ID:
            return JoinAnswer(ErrorCode.unknown_member_id, request.member_id)
        classic = self.new_classic_group(group.group_id)
        value = Record(group_key(group.group_id), encode_group(classic.empty_value()))
        made = self.perform(group, Change(None, [], becomes=classic, conversion=[*group.tombstones(), value]))
        if made.done() and made.result() is not ErrorCode.none:
            return JoinAnswer(made.result(), request.member_id)
        return await self.join(group.group_id, request)

    def _classic(self, group_id: str) -> ClassicGroup | None:
        """Requests for groups of other protocols go elsewhere (coordinator.py)."""
        group = self.state.groups.get(group_id)
        assert group is None or isinstance(group, ClassicGroup)
        return group

    def _uncreate(self, group: ClassicGroup, error: ErrorCode) -> Effects:
        self.state.groups.pop(group.group_id, None)
        self.state.unseen.discard(group.group_id)
        return group.kill(error)

    async def sync(self, group_id: str, request: SyncRequest) -> SyncAnswer:
        self.require_active()
        group = self._classic(group_id)
        if group is None:
            return SyncAnswer(ErrorCode.unknown_member_id)
        waiting: asyncio.Future[SyncAnswer] = asyncio.get_running_loop().create_future()
        self.run(group, group.sync(request, waiting, self.context.instant()))
        return await waiting

    def heartbeat(self, group_id: str, member_id: str, generation: int, instance_id: str | None) -> ErrorCode:
        if self.status is ShardState.LOADING:
            return ErrorCode.none  # the members may well be there: do not make them rejoin
        self.require_active()
        group = self._classic(group_id)
        if group is None:
            return ErrorCode.unknown_member_id
        error = group.heartbeat(member_id, generation, instance_id, self.context.instant())
        self.arm(group)
        return error

    async def leave(self, group_id: str, leaving: Sequence[LeaveMember]) -> list[LeaveAnswer]:
        """Raises KafkaError where the request fails as a whole."""
        self.require_active()
        group = self._classic(group_id)
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
