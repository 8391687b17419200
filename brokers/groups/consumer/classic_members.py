"""Members of the classic protocol in a consumer group, while it migrates: join, sync, heartbeat, leave (KIP-848).

Such a member rejoins to learn of a new assignment and to report what it gave up; its generation is its member epoch,
and nobody leads. Pure, as heartbeat.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.consumer import embedded, migration
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.consumer.heartbeat import check_instance, check_size, replace_static
from brokers.groups.consumer.member import ClassicMember, ConsumerMember
from brokers.groups.consumer.update import MemberUpdate, Replacement
from brokers.groups.messages import (
    CONSUMER_PROTOCOL,
    UNKNOWN_MEMBER_ID,
    Effects,
    JoinAnswer,
    JoinRequest,
    LeaveAnswer,
    LeaveMember,
    SyncAnswer,
    SyncRequest,
)
from brokers.groups.modern.assignments import MemberState, without_epochs
from brokers.groups.modern.change import Change
from brokers.groups.modern.deadlines import Wait
from brokers.groups.modern.terms import Terms
from s3stream.errors import Corrupt


def join(
    group: ConsumerGroup, request: JoinRequest, new_id: str, terms: Terms, new_group: migration.NewClassicGroup
) -> Change[JoinAnswer]:
    """Raises KafkaError. `new_id`: for a member that has none."""
    is_unknown = request.member_id == UNKNOWN_MEMBER_ID
    member_id = new_id if is_unknown else request.member_id
    check_size(group, member_id, terms.config.max_size)
    if not _supports(group, request):
        raise KafkaError(ErrorCode.inconsistent_group_protocol, f"Member {member_id}'s protocols are not supported.")
    if is_unknown and request.needs_member_id and request.group_instance_id is None:
        return Change(JoinAnswer(ErrorCode.member_id_required, member_id), [])
    before = _admit(group, request, member_id, is_unknown)
    try:
        read = embedded.read_subscription(request.protocols[0].metadata, terms.topics)
    except Corrupt as error:
        raise KafkaError(ErrorCode.unknown_server_error, str(error)) from None
    subscription = before.member.subscription
    update = MemberUpdate(
        group, terms, before,
        subscription._replace(
            instance_id=request.group_instance_id or subscription.instance_id,
            rack_id=read.rack_id or subscription.rack_id,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            topics=read.topics, pattern="", client_id=request.client_id, client_host=request.client_host,
            classic=ClassicMember(request.session_timeout_ms, request.protocols),
        ),
    )  # fmt: skip
    existing = group.static_member(request.group_instance_id)
    if existing is not None and not existing.is_classic:
        gone = (existing.member_id,)
        if migration.may_downgrade(group, gone, 1, terms):
            return _downgrade(update, existing, read, terms, new_group)
    epoch, target = update.target()
    update.reconcile(epoch, target, read.owned, update.subscription_changed)
    member = update.member

    def accepted() -> None:
        group.topics_seen = terms.topics.version
        now, deadlines = terms.now.ticks, group.deadlines
        deadlines.cancel(member.member_id, Wait.JOIN)
        deadlines.set(member.member_id, Wait.SESSION, now + request.session_timeout_ms)
        deadlines.set(member.member_id, Wait.SYNC, now + request.rebalance_timeout_ms)

    return Change(_joined(member, request), update.records, accepted)


def _joined(member: ConsumerMember, request: JoinRequest) -> JoinAnswer:
    return JoinAnswer(
        ErrorCode.none, member.member_id, member.member_epoch, CONSUMER_PROTOCOL, request.protocols[0].name
    )


def _downgrade(
    update: MemberUpdate,
    existing: ConsumerMember,
    read: embedded.EmbeddedSubscription,
    terms: Terms,
    new_group: migration.NewClassicGroup,
) -> Change[JoinAnswer]:
    """The last member of the consumer protocol comes back, under its instance id, as one of the classic protocol."""
    group = update.group
    stale = group.assignment_epoch < update.group_epoch
    if not stale:
        target = group.target_of(existing.member_id)
        update.reconcile(group.assignment_epoch, target, read.owned, update.subscription_changed)
    classic, records = migration.to_classic(group, (existing.member_id,), update.member, terms, new_group)
    joined = classic.members.members[update.member.member_id]

    def accepted() -> Effects:
        return classic.take_over(terms.now, stale)

    answer = JoinAnswer(
        ErrorCode.none, joined.member_id, update.member.member_epoch, CONSUMER_PROTOCOL, joined.protocols[0].name
    )
    return Change(answer, [], accepted, classic, records)


def _supports(group: ConsumerGroup, request: JoinRequest) -> bool:
    """Whether one of its protocols is spoken by all classic members that are there."""
    if request.protocol_type != CONSUMER_PROTOCOL:
        return False
    spoken = [
        {protocol.name for protocol in member.subscription.classic.protocols}
        for member in group.members.values()
        if member.subscription.classic is not None
    ]
    return any(all(protocol.name in names for names in spoken) for protocol in request.protocols)


def _admit(group: ConsumerGroup, request: JoinRequest, member_id: str, is_unknown: bool) -> Replacement:
    instance_id = request.group_instance_id
    if instance_id is None:
        return Replacement(group.members.get(member_id) or ConsumerMember(member_id))
    existing = group.static_member(instance_id)
    if not is_unknown:
        return Replacement(check_instance(existing, member_id, instance_id))
    if existing is None:
        return Replacement(ConsumerMember(member_id))
    return replace_static(existing, member_id)


def sync(group: ConsumerGroup, request: SyncRequest, terms: Terms) -> Change[SyncAnswer]:
    """Raises KafkaError."""
    member, classic = _member(group, request.member_id, request.group_instance_id)
    _check_generation(member, request.generation)
    name = classic.protocols[0].name
    if request.protocol_type not in (None, CONSUMER_PROTOCOL) or request.protocol_name not in (None, name):
        raise KafkaError(ErrorCode.inconsistent_group_protocol)
    if group.assignment_epoch > member.member_epoch and member.current.state is not MemberState.UNREVOKED_PARTITIONS:
        answer = SyncAnswer(ErrorCode.rebalance_in_progress)
        return Change(answer, [], lambda: _await_join(group, member, terms))
    try:
        assignment = embedded.write_assignment(
            without_epochs(member.current.assigned), terms.topics, classic.protocols[0].metadata
        )
    except Corrupt as error:
        raise KafkaError(ErrorCode.unknown_server_error, str(error)) from None

    def accepted() -> None:
        group.deadlines.cancel(member.member_id, Wait.SYNC)
        group.deadlines.set(member.member_id, Wait.SESSION, terms.now.ticks + classic.session_timeout_ms)

    return Change(SyncAnswer(ErrorCode.none, request.protocol_type, request.protocol_name, assignment), [], accepted)


def heartbeat(
    group: ConsumerGroup, member_id: str, generation: int, instance_id: str | None, terms: Terms
) -> Change[ErrorCode]:
    """Raises KafkaError. REBALANCE_IN_PROGRESS tells the member to join again: there is something to learn."""
    member, classic = _member(group, member_id, instance_id)
    _check_generation(member, generation)
    state = member.current.state
    rejoin = (
        member.member_epoch < group.assignment_epoch
        or state is MemberState.UNREVOKED_PARTITIONS
        or (state is MemberState.UNRELEASED_PARTITIONS and not group.waits_for_others(member))
    )

    def accepted() -> None:
        group.deadlines.set(member_id, Wait.SESSION, terms.now.ticks + classic.session_timeout_ms)
        if rejoin:
            _await_join(group, member, terms)

    return Change(ErrorCode.rebalance_in_progress if rejoin else ErrorCode.none, [], accepted)


def leaving(group: ConsumerGroup, members: Sequence[LeaveMember]) -> tuple[list[LeaveAnswer], list[ConsumerMember]]:
    """Each member on its own; who of them is there."""
    answers: list[LeaveAnswer] = []
    found: dict[str, ConsumerMember] = {}
    for leaver in members:
        error = ErrorCode.none
        try:
            member = _leaver(group, leaver)
            found[member.member_id] = member
        except KafkaError as refusal:
            error = refusal.code
        answers.append(LeaveAnswer(leaver.member_id, leaver.group_instance_id, error))
    return answers, list(found.values())


def _leaver(group: ConsumerGroup, leaver: LeaveMember) -> ConsumerMember:
    instance_id = leaver.group_instance_id
    if instance_id is None:
        return group.member(leaver.member_id)
    existing = group.static_member(instance_id)
    # An operator removes a static member by its instance id alone.
    member_id = leaver.member_id or (existing.member_id if existing is not None else "")
    return check_instance(existing, member_id, instance_id)


def _member(group: ConsumerGroup, member_id: str, instance_id: str | None) -> tuple[ConsumerMember, ClassicMember]:
    if instance_id is None:
        member = group.member(member_id)
    else:
        member = check_instance(group.static_member(instance_id), member_id, instance_id)
    if member.subscription.classic is None:
        raise KafkaError(ErrorCode.unknown_member_id, f"Member {member_id} does not use the classic protocol.")
    return member, member.subscription.classic


def _check_generation(member: ConsumerMember, generation: int) -> None:
    if member.member_epoch != generation:
        raise KafkaError(ErrorCode.illegal_generation)


def _await_join(group: ConsumerGroup, member: ConsumerMember, terms: Terms) -> None:
    at = terms.now.ticks + member.subscription.rebalance_timeout_ms
    group.deadlines.set_if_absent(member.member_id, Wait.JOIN, at)
