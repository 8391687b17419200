"""Subscriptions by pattern: when topic names are matched, and what comes of it.

Owns: when patterns are resolved, the records of that. Does not own: the matching's course (shard.py).
Invariant: a pattern's topics are stored as long as a member subscribes to it, and what a group is assigned follows
from what is stored: names are matched outside of requests, and a new topic is seen at the next refresh.

Source: KIP-848, SubscribedTopicRegex; RE2's syntax, in linear time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.consumer import records
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.consumer.member import ConsumerMember
from brokers.groups.consumer.records import Resolved
from brokers.groups.modern.change import Change, GroupRecord
from brokers.groups.modern.terms import Terms
from brokers.regular_expressions import compile_pattern

REFRESH_INTERVAL_MIN_MS: Final = 10_000
"""No two matchings of a group within this time, as in Kafka."""


class PatternChange(NamedTuple):
    records: list[GroupRecord]
    changed: bool = False
    is_resolved: bool = False
    """It changed, and its topics are known: the group's epoch grows now, not when they are."""
    to_resolve: frozenset[str] = frozenset()
    """Patterns to match with the topics' names now."""


def of_member(group: ConsumerGroup, terms: Terms, before: ConsumerMember, after: ConsumerMember) -> PatternChange:
    """What a member's subscription does to the group's patterns. Raises INVALID_REGULAR_EXPRESSION."""
    found: list[GroupRecord] = []
    old, new = before.pattern, after.pattern
    changed = old != new
    is_resolved = is_new = False
    if changed:
        if old and group.patterns[old] == 1:
            found.append(group.record(records.PATTERN, None, old))
        if not new:
            is_resolved = True
        elif new not in group.patterns:
            compile_pattern(new, f"SubscribedTopicRegex `{new}`")
            is_new = True
        else:
            is_resolved = new in group.resolved
    patterns = Counter(group.patterns)
    patterns[old] -= 1
    patterns[new] += 1
    wanted = frozenset(pattern for pattern, count in patterns.items() if pattern and count > 0)
    refresh = wanted and _is_due(group, terms, wanted, is_new)
    return PatternChange(found, changed, is_resolved, wanted if refresh else frozenset())


def _is_due(group: ConsumerGroup, terms: Terms, wanted: frozenset[str], is_new: bool) -> bool:
    if group.resolving or not (is_new or group.patterns):
        return False
    last = next(iter(group.resolved.values()), None)
    if last is None:
        return True
    now = terms.now.wall_ms
    if now <= last.timestamp + REFRESH_INTERVAL_MIN_MS:
        return False
    return (
        is_new
        or len(wanted) != len(group.resolved)
        or last.version < terms.topics.created_version
        or now > last.timestamp + terms.config.regex_refresh_interval_ms
    )


def resolved(group: ConsumerGroup, terms: Terms, found: Mapping[str, Resolved]) -> Change[None]:
    """Topic names were matched: stored, and the group's epoch grows where they are others than before."""
    changes: list[GroupRecord] = []
    bump = False
    now = dict(group.resolved)
    for pattern, value in found.items():
        if pattern not in group.patterns:
            continue  # nobody subscribes to it any more
        bump = bump or now.get(pattern, Resolved()).topics != value.topics
        now[pattern] = value
        changes.append(group.record(records.PATTERN, value, pattern))
    names = frozenset(group.counts_after((), None)).union(*(value.topics for value in now.values()))
    metadata_hash = terms.topics.metadata_hash(names)
    if bump or metadata_hash != group.metadata_hash:
        changes.append(group.record(records.EPOCH, (group.group_epoch + 1, metadata_hash)))

    def accepted() -> None:
        group.topics_seen = terms.topics.version

    return Change(None, changes, accepted)


def matcher(patterns: Iterable[str]) -> Mapping[str, Any]:
    """Compiled patterns; one that cannot be compiled, which an older release took, matches nothing."""
    found = {}
    for pattern in patterns:
        try:
            found[pattern] = compile_pattern(pattern, pattern)
        except KafkaError as error:
            assert error.code is ErrorCode.invalid_regular_expression
    return found
