"""One streams group (KIP-1071): what its records make of it, and what may be asked of it.

Owns: members, the topology, who has which task, the state that clients are shown; in memory alone: what the topology
comes to with today's topics, endpoints' epoch, whether all are to stop. Does not own: what a request does
(heartbeat.py, update.py), bytes (records.py).
Invariant: `replay` alone changes what is stored, with the same outcome in any order that keeps a key's own records in
order: a group that is loaded is the group that was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.groups.group import CommitRequest, GroupType
from brokers.groups.messages import Instant
from brokers.groups.modern.change import GroupRecord
from brokers.groups.modern.commits import check_commit, check_fetch
from brokers.groups.modern.deadlines import GROUP, Wait
from brokers.groups.modern.group import FIRST_EPOCH, NOT_READY, Kinds, ModernGroup, shown_progress
from brokers.groups.offsets import TopicCommit
from brokers.groups.streams import records
from brokers.groups.streams.configuration import ConfiguredTopology
from brokers.groups.streams.member import Current, StreamsMember
from brokers.groups.streams.records import GroupEpoch
from brokers.groups.streams.tasks import NO_TASK_SETS, TaskSets, TaskState
from brokers.groups.streams.topology import Topology

STREAMS_PROTOCOL = "streams"
NO_EPOCH = GroupEpoch(FIRST_EPOCH, 0)


class StreamsGroup(ModernGroup[StreamsMember, TaskSets]):
    group_type = GroupType.STREAMS
    kinds = Kinds(records.EPOCH, records.MEMBER, records.TARGET_EPOCH, records.TARGET, records.CURRENT)
    no_target = NO_TASK_SETS

    def __init__(self, group_id: str) -> None:
        super().__init__(group_id)
        self.validated_topology_epoch = NO_EPOCH.validated_topology_epoch
        self.assignment_configs = NO_EPOCH.assignment_configs
        self.topology: Topology | None = None
        self.configured: ConfiguredTopology | None = None
        """Made of the topology and the topics whose hash is the group's."""
        self.endpoint_epoch = 0
        """Grows when tasks moved at an endpoint."""
        self.shutdown_requested_by: str | None = None
        """Member id; until the last member is gone."""
        self._active: dict[tuple[str, int], str] = {}
        """Task → the member that has it active, assigned or not yet given up."""
        self._copies: Counter[tuple[str, int, str]] = Counter()
        """Task and process → members of the process that have a copy of it."""
        self._sources: Mapping[str, str] = {}
        """Topic that tasks read → the subtopology that they are of."""

    # --- records -------------------------------------------------------------------------------

    def _set_epoch(self, value: GroupEpoch | None) -> None:
        found = NO_EPOCH if value is None else value
        self.group_epoch, self.metadata_hash = found.epoch, found.metadata_hash
        self.validated_topology_epoch = found.validated_topology_epoch
        self.assignment_configs = found.assignment_configs

    def epoch_record(self, **changes: Any) -> GroupRecord:
        """The group's epoch and what it is the epoch of, as it is but for the changes."""
        now = GroupEpoch(
            self.group_epoch, self.metadata_hash, self.validated_topology_epoch, self.assignment_configs
        )  # fmt: skip
        return self.record(records.EPOCH, now._replace(**changes))

    def _replay_own(self, kind: int, item: str, value: Any) -> None:
        assert kind == records.TOPOLOGY, kind
        self.topology = value
        subtopologies = {} if value is None else value.subtopologies
        self._sources = {topic: name for name, found in subtopologies.items() for topic in found.read_topics}

    def _new_member(self, member_id: str) -> StreamsMember:
        return StreamsMember(member_id)

    def put(self, member: StreamsMember) -> None:
        old = self.members.get(member.member_id)
        super().put(member)
        if old is None or old.current is not member.current or old.process_id != member.process_id:
            self._release(old)
            for task in _active(member.current):
                self._active[task] = member.member_id
            self._copies.update((*task, member.process_id) for task in _copies(member.current))

    def forget(self, member_id: str) -> StreamsMember | None:
        member = super().forget(member_id)
        self._release(member)
        if not self.members:
            self.shutdown_requested_by = None
        return member

    def _release(self, member: StreamsMember | None) -> None:
        if member is None:
            return
        for task in _active(member.current):
            if self._active.get(task) == member.member_id:
                del self._active[task]
        for task in _copies(member.current):
            key = (*task, member.process_id)
            self._copies[key] -= 1
            if not self._copies[key]:
                del self._copies[key]

    # --- what operations ask -------------------------------------------------------------------

    def active_process(self, subtopology: str, part: int) -> str | None:
        """The process that has the task active, or is giving it up."""
        holder = self._active.get((subtopology, part))
        return None if holder is None else self.members[holder].process_id

    def has_copy(self, process_id: str, subtopology: str, part: int) -> bool:
        """Whether the process has the task as a stand-by or a warm-up, or is giving it up."""
        return (subtopology, part, process_id) in self._copies

    @property
    def is_delayed(self) -> bool:
        """It waits for more members before its first assignment."""
        return self.deadlines.get(GROUP, Wait.ASSIGNMENT) is not None

    # --- time ----------------------------------------------------------------------------------

    def watch_revocation(self, member: StreamsMember, now: Instant) -> None:
        unrevoked = member.current.state is TaskState.UNREVOKED_TASKS
        at = now.ticks + member.subscription.rebalance_timeout_ms if unrevoked else None
        self.deadlines.set_or_cancel(member.member_id, Wait.REVOCATION, at)

    # --- what operators see --------------------------------------------------------------------

    def _shown_with_members(self) -> str:
        if self.topology is None or self.topology.epoch != self.validated_topology_epoch:
            return NOT_READY
        return shown_progress(self)

    @property
    def shown_protocol_type(self) -> str:
        return STREAMS_PROTOCOL

    # --- offsets -------------------------------------------------------------------------------

    def validate_offset_commit(self, request: CommitRequest, now: Instant) -> ErrorCode:
        return check_commit(self, request, self._assigned_in)

    def validate_offset_fetch(self, member_id: str | None, member_epoch: int) -> ErrorCode:
        return check_fetch(self, member_id, member_epoch)

    def _assigned_in(self, member: StreamsMember, topic: TopicCommit, part: int) -> int | None:
        """A task reads the partition of its number of every topic of its subtopology."""
        subtopology, current = self._sources.get(topic.topic, ""), member.current
        found = current.assigned.active.get(subtopology, {}).get(part)
        return current.revoking.active.get(subtopology, {}).get(part) if found is None else found

    def subscribes_to(self, topic: str) -> bool:
        return bool(self.members) and topic in self._sources

    # --- end -----------------------------------------------------------------------------------

    def _own_tombstones(self) -> Iterator[GroupRecord]:
        yield self.record(records.TOPOLOGY, None)


def _active(current: Current) -> Iterator[tuple[str, int]]:
    for held in (current.assigned, current.revoking):
        yield from ((name, part) for name, parts in held.active.items() for part in parts)


def _copies(current: Current) -> Iterator[tuple[str, int]]:
    for held in (current.assigned, current.revoking):
        for tasks in (held.standby, held.warmup):
            yield from ((name, part) for name, parts in tasks.items() for part in parts)
