"""Where the state of an application can be asked for: which process answers at which address for which partitions."""

from __future__ import annotations

from brokers.groups.modern.topics import Topics
from brokers.groups.streams.configuration import ConfiguredTopology
from brokers.groups.streams.group import StreamsGroup
from brokers.groups.streams.member import StreamsMember
from brokers.groups.streams.messages import EndpointPartitions
from brokers.groups.streams.tasks import Tasks


def endpoints(
    group: StreamsGroup, updated: StreamsMember, configured: ConfiguredTopology, topics: Topics
) -> tuple[EndpointPartitions, ...]:
    """Of all members that have one; `updated` as it is now, and last."""
    others = [member for member_id, member in group.members.items() if member_id != updated.member_id]
    found = []
    for member in (*others, updated):
        if member.subscription.endpoint is not None:
            tasks = member.current.assigned.sets
            active, standby = (_partitions(tasks, configured, topics) for tasks in (tasks.active, tasks.standby))
            found.append(EndpointPartitions(member.subscription.endpoint, active, standby))
    return tuple(found)


def _partitions(tasks: Tasks, configured: ConfiguredTopology, topics: Topics) -> Tasks:
    """By topic. Of a topic with fewer partitions than its subtopology has tasks, as many as it has, from the lowest
    task on: Kafka's word. Kafka fails where a topic or its subtopology is not there; here nothing is told of it."""
    found = {}
    for name, parts in tasks.items():
        subtopology = configured.topology.subtopologies.get(name)
        for topic in () if subtopology is None else subtopology.read_topics:
            image = topics.named(topic)
            if image is not None:
                found[topic] = frozenset(sorted(parts)[: len(image.partitions)])
    return found
