"""From the classic protocol to the consumer protocol and back, while members go on reading (KIP-848).

Owns: when a group may change, what it is afterwards. Does not own: requests that cause it.
Invariant: assignments and committed offsets are carried over as they are; of the two kinds of records one goes as the
other comes, in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.errors import KafkaError
from brokers.groups import record_types
from brokers.groups.classic_group import ClassicGroup
from brokers.groups.config import MigrationPolicy
from brokers.groups.consumer import embedded
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.consumer.member import ClassicMember, ConsumerMember, Current, Subscription
from brokers.groups.membership import Member
from brokers.groups.messages import CONSUMER_PROTOCOL
from brokers.groups.modern.assignments import with_epoch
from brokers.groups.modern.terms import Terms
from brokers.groups.modern.topics import Topics
from brokers.groups.records import encode_group, group_key
from s3stream.errors import Corrupt

NewClassicGroup = Callable[[str], ClassicGroup]


def check_upgrade(group: ClassicGroup, terms: Terms) -> None:
    """Raises GROUP_ID_NOT_FOUND: for a consumer of the new protocol there is no such group."""
    if terms.config.migration_policy not in (MigrationPolicy.UPGRADE, MigrationPolicy.BIDIRECTIONAL):
        raise _not_upgraded(group, "online upgrade is disabled")
    if group.protocol_type != CONSUMER_PROTOCOL:
        raise _not_upgraded(group, "the group does not use the consumer embedded protocol")
    if len(group.members) > terms.config.max_size:
        raise _not_upgraded(group, "the group size exceeds the consumer group maximum size")


def _not_upgraded(group: ClassicGroup, reason: str) -> KafkaError:
    message = f"Cannot upgrade classic group {group.group_id} to consumer group because {reason}."
    return KafkaError(ErrorCode.group_id_not_found, message)


def to_consumer(group: ClassicGroup, topics: Topics) -> tuple[ConsumerGroup, list[Record]]:
    """The same members with the same partitions, and the records that say so. Raises GROUP_ID_NOT_FOUND."""
    upgraded = ConsumerGroup(group.group_id)
    generation = group.generation
    upgraded.group_epoch = upgraded.assignment_epoch = generation
    try:
        for member in group.members.members.values():
            upgraded.put(_consumer_member(group, member, generation, topics, upgraded))
    except Corrupt as error:
        raise _not_upgraded(group, f"the embedded consumer protocol is malformed: {error}") from None
    upgraded.metadata_hash = topics.metadata_hash(upgraded.names_after((), None))
    records = [record_types.encode(record) for record in upgraded.snapshot_records()]
    return upgraded, [Record(group_key(group.group_id), None), *records]


def _consumer_member(
    group: ClassicGroup, member: Member, generation: int, topics: Topics, upgraded: ConsumerGroup
) -> ConsumerMember:
    assigned, has_user_data = embedded.read_assignment(member.assignment, topics)
    if has_user_data:
        raise _not_upgraded(
            group, "an unsupported custom assignor is in use. Please refer to the documentation or switch to a default "
            "assignor before re-attempting the upgrade",
        )  # fmt: skip
    protocol = group.protocol_name or member.protocols[0].name
    read = embedded.read_subscription(member.metadata(protocol), topics)
    upgraded.set_target(member.member_id, assigned)
    return ConsumerMember(
        member.member_id,
        Subscription(
            member.group_instance_id, read.rack_id, member.client_id, member.client_host, read.topics, "",
            member.rebalance_timeout_ms, None, ClassicMember(member.session_timeout_ms, member.protocols),
        ),
        Current(generation, generation, assigned=with_epoch(assigned, generation)),
    )  # fmt: skip


def may_downgrade(group: ConsumerGroup, gone: Iterable[str], joining: int, terms: Terms) -> bool:
    """Whether the group is a classic one again once those have gone, and `joining` classic members have come."""
    out = tuple(gone)
    left = len(group.members) - len(out) + joining
    enabled = terms.config.migration_policy in (MigrationPolicy.DOWNGRADE, MigrationPolicy.BIDIRECTIONAL)
    return enabled and 0 < left <= terms.config.classic_size_max and group.uses_classic_alone_without(out)


def to_classic(
    group: ConsumerGroup, gone: Iterable[str], joining: ConsumerMember | None, terms: Terms, new_group: NewClassicGroup
) -> tuple[ClassicGroup, list[Record]]:
    """A stable classic group of the members that are left, with the targets they had, and the records that say so.
    `joining` takes the place of the static member that is gone. Raises GROUP_ID_NOT_FOUND."""
    out = frozenset(gone)
    left = [member for member_id, member in group.members.items() if member_id not in out]
    if joining is not None:
        left.append(joining)
    classic = new_group(group.group_id)
    for member in left:
        classic.members.add(_classic_member(member))
    classic.become_stable(group.group_epoch, CONSUMER_PROTOCOL)
    name = classic.protocol_name
    assert name is not None
    try:
        for found in classic.members.members.values():
            target = group.target_of(_target_owner(group, found, joining))
            found.assignment = embedded.write_assignment(target, terms.topics, found.metadata(name))
    except Corrupt as error:
        message = f"Cannot downgrade the classic group {group.group_id}: {error}."
        raise KafkaError(ErrorCode.group_id_not_found, message) from None
    assignments = {found.member_id: found.assignment for found in classic.members.members.values()}
    value = encode_group(classic.value(assignments))
    return classic, [*group.tombstones(), Record(group_key(group.group_id), value)]


def _target_owner(group: ConsumerGroup, member: Member, joining: ConsumerMember | None) -> str:
    if joining is not None and member.member_id == joining.member_id and joining.instance_id is not None:
        return group.static[joining.instance_id]
    return member.member_id


def _classic_member(member: ConsumerMember) -> Member:
    subscription, classic = member.subscription, member.subscription.classic
    assert classic is not None
    return Member(
        member.member_id, subscription.instance_id, subscription.client_id, subscription.client_host,
        subscription.rebalance_timeout_ms, classic.session_timeout_ms, classic.protocols,
    )  # fmt: skip
