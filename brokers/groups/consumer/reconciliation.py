"""How a member gets from what it has to its target: give up first, then take what others have given up.

Invariant: no partition is given to a member while another one has it, assigned or still giving it up: `held_elsewhere`
decides. A member goes on to the target's epoch only when it has said that it holds nothing it was to give up.

Source: Kafka 4.3's reconciliation of KIP-848.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.consumer.member import Current
from brokers.groups.modern.assignments import MemberState, Owned, Partitions


class Aim(NamedTuple):
    """Where a member is to get, and what it says it has."""

    epoch: int
    """Of the target assignment."""
    target: Partitions
    subscribed: Set[UUID]
    """Ids of topics that the member subscribes to now; of its target, nothing else counts."""
    held_elsewhere: Callable[[UUID, int], bool]
    """Whether another member has the partition, assigned or being given up."""
    owned: Partitions | None
    """What it says it has; None: it said nothing, and is taken to have all it was given."""
    subscription_changed: bool = False


def reconcile(current: Current, aim: Aim) -> Current:
    """The member's next step; `current` itself when there is none yet. Raises FENCED_MEMBER_EPOCH."""
    if current.state is MemberState.STABLE:
        if current.epoch != aim.epoch:
            return _next(current, current.epoch, aim)
        return _drop_unsubscribed(current, aim) if aim.subscription_changed else current
    if current.state is MemberState.UNREVOKED_PARTITIONS and _still_has(aim.owned, current.revoking):
        return _drop_unsubscribed(current, aim) if aim.subscription_changed else current
    if current.state is MemberState.UNKNOWN:
        if aim.owned is None or aim.owned:
            raise KafkaError(ErrorCode.fenced_member_epoch, "The consumer group member is in a unknown state. "
                             "The member must abandon all its partitions and rejoin.")  # fmt: skip
        return _next(current, aim.epoch, aim)
    return _next(current, current.epoch, aim)


def _next(current: Current, epoch: int, aim: Aim) -> Current:
    kept: dict[UUID, dict[int, int]] = {}
    excess: dict[UUID, dict[int, int]] = {}
    for topic, parts in current.assigned.items():
        wanted = aim.target.get(topic, frozenset()) if topic in aim.subscribed else frozenset()
        for part, assigned_in in parts.items():
            (kept if part in wanted else excess).setdefault(topic, {})[part] = assigned_in
    if excess and _still_has(aim.owned, excess):
        return current.moved(epoch, MemberState.UNREVOKED_PARTITIONS, kept, excess)
    unreleased = False
    assigned = {topic: dict(parts) for topic, parts in kept.items()}
    for topic, wanted in aim.target.items():
        if topic not in aim.subscribed:
            continue
        for part in sorted(wanted.difference(kept.get(topic, ()))):
            if aim.held_elsewhere(topic, part):
                unreleased = True
            else:
                assigned.setdefault(topic, {})[part] = aim.epoch
    state = MemberState.UNRELEASED_PARTITIONS if unreleased else MemberState.STABLE
    return current.moved(aim.epoch, state, assigned)


def _drop_unsubscribed(current: Current, aim: Aim) -> Current:
    """It is where it should be, but wants less than before: what it no longer subscribes to goes at once."""
    gone = {topic: parts for topic, parts in current.assigned.items() if topic not in aim.subscribed}
    if not gone:
        return current
    kept = {topic: parts for topic, parts in current.assigned.items() if topic in aim.subscribed}
    revoking: dict[UUID, dict[int, int]] = {topic: dict(parts) for topic, parts in current.revoking.items()}
    for topic, parts in gone.items():
        revoking.setdefault(topic, {}).update(parts)
    if _still_has(aim.owned, revoking):
        return current.moved(current.epoch, MemberState.UNREVOKED_PARTITIONS, kept, revoking)
    return current.moved(current.epoch, current.state, kept, current.revoking)


def _still_has(owned: Partitions | None, revoking: Owned) -> bool:
    if owned is None:
        return True
    return any(part in revoking.get(topic, ()) for topic, parts in owned.items() for part in parts)
