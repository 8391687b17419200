"""What a topology comes to with the topics that there are: its tasks, and the topics of its own that are to be made.

Owns: how many partitions the application's own topics have, and what is wrong with those that exist.
Does not own: making topics (the handler), who runs a task (assignors/sticky_tasks.py).
Invariant: a configuration without a fault has a task count for each subtopology, and every required topic exists with
as many partitions as it says.

Source: Kafka 4.3's InternalTopicManager, RepartitionTopics, CopartitionedTopicsEnforcer and ChangelogTopics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias, TypeVar

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.streams.messages import Status, StatusCode
from brokers.groups.streams.topology import CopartitionGroup, Subtopology, TopicInfo, Topology

T = TypeVar("T")

Existing: TypeAlias = Callable[[str], int | None]
"""Partition count of the topic of a name; None: there is none."""

SHOWN_MAX: Final = 3
"""Names of topics in a status; of the rest only their number is told."""


class ConfiguredTopology(NamedTuple):
    topology: Topology
    """With partition counts, unless a fault kept them from being known."""
    task_counts: Mapping[str, int] = MappingProxyType({})
    """By subtopology id."""
    to_create: tuple[TopicInfo, ...] = ()
    fault: Status | None = None

    @property
    def is_ready(self) -> bool:
        return self.fault is None


class _Fault(Exception):
    def __init__(self, code: StatusCode, detail: str) -> None:
        super().__init__(detail)
        self.status = Status(code, detail)


def configure(topology: Topology, existing: Existing) -> ConfiguredTopology:
    """Raises KafkaError for a topology that no topics could make right: STREAMS_INVALID_TOPOLOGY, or
    UNKNOWN_SERVER_ERROR where Kafka breaks over it."""
    try:
        return _configure(topology, existing)
    except _Fault as fault:
        return ConfiguredTopology(topology, fault=fault.status)


def _configure(topology: Topology, existing: Existing) -> ConfiguredTopology:
    # Kafka takes subtopologies in the order of a hash map; what depends on the order at all goes by their ids here.
    ids = sorted(topology.subtopologies)
    subtopologies = [topology.subtopologies[name] for name in ids]
    groups = [_names(subtopology, group) for subtopology in subtopologies for group in subtopology.copartition_groups]
    _check_sources(subtopologies, existing)
    counts = _Counts(existing, _repartition_counts(subtopologies, existing))
    _enforce_copartitions(subtopologies, groups, counts)
    task_counts = {}
    for name, subtopology in zip(ids, subtopologies, strict=True):
        if not subtopology.read_topics:
            raise _invalid(f"No source topics found for subtopology {name}")
        task_counts[name] = max(map(counts.of, subtopology.read_topics))
        counts.decided.update((topic.name, task_counts[name]) for topic in subtopology.changelog_topics)
    configured = {name: _with_counts(topology.subtopologies[name], counts.decided) for name in ids}
    missing = _missing(configured.values(), topology, existing)
    fault = None
    if missing:
        detail = f"Internal topics are missing: {summarized([topic.name for topic in missing])}"
        fault = Status(StatusCode.MISSING_INTERNAL_TOPICS, detail)
    return ConfiguredTopology(topology._replace(subtopologies=configured), task_counts, missing, fault)


class _Counts:
    """Partition counts: of topics that exist, else as decided."""

    def __init__(self, existing: Existing, decided: dict[str, int]) -> None:
        self._existing = existing
        self.decided = decided

    def of(self, name: str) -> int:
        found = self._existing(name)
        return self.decided[name] if found is None else found


def _names(subtopology: Subtopology, group: CopartitionGroup) -> frozenset[str]:
    sources = [_at(subtopology.source_topics, place) for place in group.source_topics]
    repartition = [_at(subtopology.repartition_source_topics, place).name for place in group.repartition_source_topics]
    return frozenset((*sources, *repartition))


def _at(items: Sequence[T], place: int) -> T:
    if not 0 <= place < len(items):
        raise KafkaError(ErrorCode.unknown_server_error)
    return items[place]


def _check_sources(subtopologies: Iterable[Subtopology], existing: Existing) -> None:
    missing = {name for subtopology in subtopologies for name in subtopology.source_topics if existing(name) is None}
    if missing:
        raise _Fault(StatusCode.MISSING_SOURCE_TOPICS, f"Source topics {summarized(sorted(missing))} are missing.")


def _repartition_counts(subtopologies: Sequence[Subtopology], existing: Existing) -> dict[str, int]:
    """Of repartition topics: what the application says, else as many as the most that is known of what is read by the
    subtopology that writes them. Kafka does not wait for the rest of what that reads."""
    decided = {
        topic.name: topic.partitions
        for subtopology in subtopologies
        for topic in subtopology.repartition_source_topics
        if topic.partitions
    }
    left = [(sink, subtopology) for subtopology in subtopologies for sink in subtopology.repartition_sink_topics]
    while left:
        unknown = []
        for sink, subtopology in left:
            if sink in decided:
                continue
            sources = (existing(name) for name in subtopology.source_topics)
            repartition = (decided.get(topic.name) for topic in subtopology.repartition_source_topics)
            known = [count for count in (*sources, *repartition) if count is not None]
            if known:
                decided[sink] = max(known)
            else:
                unknown.append((sink, subtopology))
        if len(unknown) == len(left):
            raise _invalid(
                "Failed to compute number of partitions for all repartition topics. There may be loops in the topology "
                "that cannot be resolved."
            )
        left = unknown
    if any(topic.name not in decided for s in subtopologies for topic in s.repartition_source_topics):
        raise _invalid(
            "Failed to compute number of partitions for all repartition topics, because a repartition source topic is "
            "never used as a sink topic."
        )
    return decided


def _enforce_copartitions(
    subtopologies: Sequence[Subtopology], groups: Iterable[frozenset[str]], counts: _Counts
) -> None:
    """Repartition topics get as many partitions as the topics that they are joined with."""
    topics = [topic for subtopology in subtopologies for topic in subtopology.repartition_source_topics]
    fixed = {topic.name for topic in topics if topic.partitions}
    internal = {topic.name for topic in topics}
    for group in groups:
        repartition = {name: counts.of(name) for name in sorted(group & internal)}
        others = {name: counts.of(name) for name in sorted(group - internal)}
        if others:
            count = _same(others, others)
        elif fixed:
            # All that are fixed, in this group or not: Kafka's word.
            count = _same({name: counts.of(name) for name in fixed}, repartition)
        else:
            count = max(repartition.values(), default=0)
        for name, had in repartition.items():
            counts.decided[name] = count
            if name in fixed and had != count:
                raise _Fault(
                    StatusCode.INCORRECTLY_PARTITIONED_TOPICS,
                    f"Number of partitions [{had}] of repartition topic [{name}] doesn't match number of partitions "
                    f"[{count}] of the source topic.",
                )


def _same(counts: Mapping[str, int], shown: Mapping[str, int]) -> int:
    found = set(counts.values())
    if len(found) > 1:
        names = ", ".join(f"{name}={count}" for name, count in shown.items())
        detail = f"Following topics do not have the same number of partitions: [{{{names}}}]"
        raise _Fault(StatusCode.INCORRECTLY_PARTITIONED_TOPICS, detail)
    return found.pop()


def _with_counts(subtopology: Subtopology, decided: Mapping[str, int]) -> Subtopology:
    def counted(topic: TopicInfo) -> TopicInfo:
        count = topic.partitions or decided[topic.name]
        if count < 1:
            raise KafkaError(ErrorCode.unknown_server_error)
        return topic._replace(partitions=count)

    return subtopology._replace(
        changelog_topics=tuple(map(counted, subtopology.changelog_topics)),
        repartition_source_topics=tuple(map(counted, subtopology.repartition_source_topics)),
    )


def _missing(subtopologies: Iterable[Subtopology], topology: Topology, existing: Existing) -> tuple[TopicInfo, ...]:
    """The application's own topics that are not there. Raises _Fault for one of another partition count."""
    wanted = {topic.name: topic for s in subtopologies for topic in (*s.repartition_source_topics, *s.changelog_topics)}
    for name in sorted(topology.required_topics & wanted.keys()):
        found = existing(name)
        if found is None:
            continue
        expected = wanted.pop(name)
        if found != expected.partitions:
            raise _Fault(
                StatusCode.INCORRECTLY_PARTITIONED_TOPICS,
                f"Existing topic {name} has different number of partitions: expected {expected.partitions}, "
                f"found {found}",
            )
    return tuple(wanted[name] for name in sorted(wanted))


def summarized(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN_MAX])
    more = len(names) - SHOWN_MAX
    return f"{shown} and {more} additional topics" if more > 0 else shown


def _invalid(message: str) -> KafkaError:
    return KafkaError(ErrorCode.streams_invalid_topology, message)
