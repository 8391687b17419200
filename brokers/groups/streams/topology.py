"""The topology of a Kafka Streams application as a group's members send it (KIP-1071). Values only.

A subtopology is what one task runs: it reads source topics and repartition topics, writes repartition topics, and keeps
state in changelog topics. What becomes of it with the topics that there are is `configuration.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class TopicInfo(NamedTuple):
    """A topic that belongs to the application itself."""

    name: str
    partitions: int = 0
    """0: as many as follows from its sources."""
    replication_factor: int = 0
    """0: the broker's default."""
    configs: tuple[tuple[str, str], ...] = ()


class CopartitionGroup(NamedTuple):
    """Topics that must have the same number of partitions, by their places in the subtopology's tuples."""

    source_topics: tuple[int, ...] = ()
    source_topic_patterns: tuple[int, ...] = ()
    repartition_source_topics: tuple[int, ...] = ()


class Subtopology(NamedTuple):
    source_topics: tuple[str, ...] = ()
    source_topic_patterns: tuple[str, ...] = ()
    """4.3 refuses them."""
    changelog_topics: tuple[TopicInfo, ...] = ()
    repartition_sink_topics: tuple[str, ...] = ()
    repartition_source_topics: tuple[TopicInfo, ...] = ()
    copartition_groups: tuple[CopartitionGroup, ...] = ()

    @property
    def is_stateful(self) -> bool:
        return bool(self.changelog_topics)

    @property
    def read_topics(self) -> tuple[str, ...]:
        return self.source_topics + tuple(topic.name for topic in self.repartition_source_topics)


class Topology(NamedTuple):
    epoch: int
    subtopologies: Mapping[str, Subtopology] = MappingProxyType({})
    """By id."""

    @property
    def required_topics(self) -> frozenset[str]:
        """What the application reads and keeps its state in."""
        return frozenset(
            name
            for subtopology in self.subtopologies.values()
            for name in (*subtopology.read_topics, *(topic.name for topic in subtopology.changelog_topics))
        )
