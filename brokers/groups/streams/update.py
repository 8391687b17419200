"""A heartbeat of one member of a streams group, and what follows for the group: topology, epoch, targets, the member's
next step.

Pure: the group is read and records are gathered; they change it once they are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, TypeAlias

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.assignors import sticky_tasks
from brokers.groups.assignors.sticky_tasks import TaskCount, TaskMember
from brokers.groups.config import StreamsConfig
from brokers.groups.modern.change import GroupRecord
from brokers.groups.modern.terms import ModernTerms
from brokers.groups.streams import records
from brokers.groups.streams.configuration import ConfiguredTopology, configure
from brokers.groups.streams.group import StreamsGroup
from brokers.groups.streams.member import StreamsMember, Subscription
from brokers.groups.streams.messages import Status, StatusCode, StreamsHeartbeatRequest
from brokers.groups.streams.reconciliation import Aim, reconcile
from brokers.groups.streams.tasks import NO_TASK_SETS, TaskSets
from brokers.groups.streams.topology import Topology

StreamsTerms: TypeAlias = ModernTerms[StreamsConfig]

NUM_STANDBY_REPLICAS: Final = "num.standby.replicas"


class MemberUpdate:
    def __init__(
        self,
        group: StreamsGroup,
        terms: StreamsTerms,
        before: StreamsMember,
        said: Subscription,
        request: StreamsHeartbeatRequest,
    ) -> None:
        self.group = group
        self.terms = terms
        self.member = before._replace(subscription=said)
        self.records: list[GroupRecord] = []
        self.statuses: list[Status] = []
        self.group_epoch = group.group_epoch
        self.begins_delay = not group.members and not group.is_delayed and terms.config.initial_rebalance_delay_ms > 0
        """The group was without members: more may come."""
        self._owned = request.owned
        self._bumped = said != before.subscription
        if self._bumped:
            self._record(records.MEMBER, said, before.member_id)
        self._topology = self._meet(request.topology)
        self._metadata_hash = group.metadata_hash
        self.configured = self._configure()
        self._configs = {NUM_STANDBY_REPLICAS: str(terms.config.num_standby_replicas)}
        self._raise_epoch()

    def _record(self, kind: int, value: object, item: str = "") -> None:
        self.records.append(self.group.record(kind, value, item))

    # --- topology ------------------------------------------------------------------------------

    def _meet(self, sent: Topology | None) -> Topology:
        """The group's topology, which the first member brings. Raises INVALID_REQUEST for another one of its epoch or
        a newer one: 4.3 does not take updates."""
        known = self.group.topology
        if known is None:
            if sent is None:
                raise KafkaError(ErrorCode.unknown_server_error)
            self._record(records.TOPOLOGY, sent)
            return sent
        if sent is not None and sent.epoch >= known.epoch and sent != known:
            raise KafkaError(ErrorCode.invalid_request, "Topology updates are not supported yet.")
        epoch = self.member.subscription.topology_epoch
        if epoch < known.epoch:
            detail = f"The member's topology epoch {epoch} is behind the group's topology epoch {known.epoch}."
            self.statuses.append(Status(StatusCode.STALE_TOPOLOGY, detail))
        return known

    def _configure(self) -> ConfiguredTopology:
        """What the topology comes to. Raises KafkaError."""
        group, topics = self.group, self.terms.topics
        known = group.configured
        if known is not None and not group.topics_changed(topics):
            return known
        self._metadata_hash = topics.metadata_hash(self._topology.required_topics)
        if self._metadata_hash != group.metadata_hash:
            self._bumped = True
        elif known is not None:
            return known

        def existing(name: str) -> int | None:
            topic = topics.named(name)
            return None if topic is None else len(topic.partitions)

        return configure(self._topology, existing)

    def _raise_epoch(self) -> None:
        """Where something is another than what the group's epoch is of. Raises INVALID_REQUEST."""
        group, validated = self.group, -1
        if self.configured.is_ready:
            validated = self._topology.epoch
            _check_tasks(self._owned, self.configured)
        if self._bumped or validated != group.validated_topology_epoch or self._configs != group.assignment_configs:
            self.group_epoch += 1
            self.records.append(
                group.epoch_record(
                    epoch=self.group_epoch,
                    metadata_hash=self._metadata_hash,
                    validated_topology_epoch=validated,
                    assignment_configs=self._configs,
                )
            )

    # --- target --------------------------------------------------------------------------------

    def target(self) -> tuple[int, TaskSets]:
        """The target's epoch and the member's target; computed anew when the group's epoch has passed it."""
        group, terms, member_id = self.group, self.terms, self.member.member_id
        last = group.assignment_epoch, group.target_of(member_id)
        if self.begins_delay or group.is_delayed:
            self._delayed("initial rebalance delay")
            return last
        if group.assignment_epoch >= self.group_epoch:
            return last
        if not group.may_assign(terms.config, terms.now.wall_ms):
            self._delayed("assignment interval")
            return last
        targets = assigned_anew(group, {**group.members, member_id: self.member}, self.configured, self._configs)
        self.records += group.target_records(targets, self.group_epoch, terms.now.wall_ms)
        return self.group_epoch, targets[member_id]

    def _delayed(self, by: str) -> None:
        self.statuses.append(Status(StatusCode.ASSIGNMENT_DELAYED, f"Assignment delayed due to the configured {by}."))

    # --- the member's next step ----------------------------------------------------------------

    def reconcile(self, epoch: int, target: TaskSets) -> None:
        member, group = self.member, self.group
        has_copy = partial(group.has_copy, member.process_id)
        aim = Aim(epoch, target, member.process_id, group.active_process, has_copy, self._owned)
        current = reconcile(member.current, aim)
        if current != member.current:
            self.member = member._replace(current=current)
            self._record(records.CURRENT, current, member.member_id)


def assigned_anew(
    group: StreamsGroup,
    members: Mapping[str, StreamsMember],
    configured: ConfiguredTopology,
    configs: Mapping[str, str],
) -> Mapping[str, TaskSets]:
    """Every member's target; nothing while topics are missing or wrong."""
    if not configured.is_ready:
        return dict.fromkeys(members, NO_TASK_SETS)
    specs = {}
    for member_id, member in members.items():
        last = group.target_of(member_id)
        specs[member_id] = TaskMember(member.process_id, last.active, last.standby)
    subtopologies = configured.topology.subtopologies
    counts = {name: TaskCount(count, subtopologies[name].is_stateful) for name, count in configured.task_counts.items()}
    return sticky_tasks.assign(specs, counts, int(configs.get(NUM_STANDBY_REPLICAS, 0)))


def _check_tasks(owned: TaskSets | None, configured: ConfiguredTopology) -> None:
    for tasks in () if owned is None else owned:
        for name, parts in tasks.items():
            count = configured.task_counts.get(name)
            if count is None:
                message = f"Subtopology {name} does not exist in the topology."
                raise KafkaError(ErrorCode.invalid_request, message)
            for part in sorted(parts):
                if not 0 <= part < count:
                    raise KafkaError(
                        ErrorCode.invalid_request,
                        f"Task {part} for subtopology {name} is invalid. Number of tasks for this subtopology: {count}",
                    )
