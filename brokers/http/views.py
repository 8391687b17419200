"""The cluster as JSON (`/v1/…`): for people, scripts and dashboards. Read-only; from memory, never from the database.

Invariant: an answer is bounded: lists are cut at a number of entries, and say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from brokers.config_def import BROKER_CONFIGS
from brokers.controller.controller import Controller
from brokers.dynamic_config import ConfigSource
from brokers.groups.coordinator import GroupCoordinator
from brokers.handlers.config_view import broker_entries
from brokers.handlers.topic_view import partition_view
from brokers.health import Health
from metadata.image import NO_LEADER, ClusterImage, TopicImage

ENTRIES_MAX: Final = 1_000
SOURCES: Final = {1: "topic", 2: "broker", 3: "cluster", 4: "start", 5: "default"}


def cut(items: Iterable[Any], after: str) -> tuple[list[Any], str | None]:
    """Names above `after`, at most ENTRIES_MAX, and the name to go on after."""
    names = sorted(item for item in items if item > after)
    return names[:ENTRIES_MAX], names[ENTRIES_MAX - 1] if len(names) > ENTRIES_MAX else None


def cluster(image: ClusterImage, node_id: int, controller: Controller) -> dict[str, Any]:
    leads = Counter(image.leader_of(part) for topic in image.topics.values() for part in topic.partitions)
    assigned = Counter(part.assigned for topic in image.topics.values() for part in topic.partitions)
    return {
        "cluster_id": image.cluster_id,
        "node_id": node_id,
        "image_version": image.version,
        "features": dict(image.features),
        "topics": len(image.topics),
        "partitions": assigned.total(),
        "partitions_without_leader": leads[NO_LEADER],
        "brokers": [
            {
                "node_id": node.node_id,
                "node_epoch": node.node_epoch,
                "host": node.host,
                "port": node.port,
                "rack": node.rack,
                "alive": node.alive,
                "draining": node.draining,
                "leads": leads[node.node_id],
                "assigned": assigned[node.node_id],
            }
            for node in image.nodes.values()
        ],
        "controller": image.controller,
        "takeovers": [
            {
                "node_id": wal.node_id,
                "node_epoch": wal.node_epoch,
                "wal": wal.wal_uri,
                "state": wal.state.name.lower(),
                "partitions": sum(
                    (part.leader, part.owner_epoch) == (wal.node_id, wal.node_epoch)
                    for topic in image.topics.values()
                    for part in topic.partitions
                ),
            }
            for wal in image.fenced_wals
        ],
        "movements": _movements(image),
        "given_up": [loss._asdict() for loss in image.losses],
        "as_controller": controller.status(),
    }


def _movements(image: ClusterImage) -> list[dict[str, Any]]:
    """Partitions that are not open where they are assigned."""
    found = [
        {"topic": topic.name, "partition": part.partition, "from": image.leader_of(part), "to": part.assigned}
        for topic in image.topics.values()
        for part in topic.partitions
        if part.assigned not in (NO_LEADER, image.leader_of(part))
    ]
    return found[:ENTRIES_MAX]


def topics(image: ClusterImage, after: str) -> dict[str, Any]:
    names, following = cut(image.topics, after)
    shown = [image.topics[name] for name in names]
    return {"topics": [_topic_line(topic) for topic in shown], "next": following}


def _topic_line(topic: TopicImage) -> dict[str, Any]:
    return {
        "name": topic.name,
        "topic_id": str(topic.topic_id),
        "internal": topic.internal,
        "partitions": len(topic.partitions),
    }


def topic(health: Health, name: str) -> dict[str, Any] | None:
    """One topic with its partitions; offsets of those served here. None when there is no such topic."""
    image = health.partitions.image
    found = image.topics.get(name)
    if found is None:
        return None
    logs = {log.partition: log for log in health.partitions.logs() if log.topic_id == found.topic_id}
    partitions = []
    for part in found.partitions[:ENTRIES_MAX]:
        view = partition_view(image, part)
        line: dict[str, Any] = {
            "partition": part.partition,
            "leader": view.leader,
            "leader_epoch": view.leader_epoch,
            "replicas": view.replicas,
            "in_sync": view.in_sync,
        }
        log = logs.get(part.partition)
        if log is not None:
            line |= {
                "log_start_offset": log.log_start_offset,
                "committed_end": log.stream.committed_end,
                "high_watermark": log.high_watermark,
                "log_end_offset": log.log_end_offset,
                "bytes": log.stream.size_bytes,
            }
        partitions.append(line)
    more = len(found.partitions) > ENTRIES_MAX
    return _topic_line(found) | {"configs": dict(found.configs), "partition_list": partitions, "cut": more}


def groups(coordinator: GroupCoordinator, after: str) -> dict[str, Any]:
    listed = {group.group_id: group for group in coordinator.list_groups(frozenset(), frozenset())}
    names, following = cut(listed, after)
    shown = [listed[name] for name in names]
    return {
        "groups": [
            {"group_id": group.group_id, "state": group.state, "protocol_type": group.protocol_type} for group in shown
        ],
        "next": following,
    }


def storage(health: Health) -> dict[str, Any]:
    return {
        "phase": health.phase,
        "live": health.live(),
        "ready": health.ready(),
        "warnings": health.warnings(),
        "engine": health.storage.health(),
        "partitions_open": health.partitions.open_count,
        "partitions_offline": {
            str(stream): str(error) for stream, error in list(health.partitions.offline().items())[:ENTRIES_MAX]
        },
    }


def config(source: ConfigSource) -> dict[str, Any]:
    """Every broker setting, with where its value comes from. Secrets are left out."""
    return {
        "settings": {
            entry.name: {
                "value": entry.value,
                "source": SOURCES[entry.source],
                "dynamic": not entry.read_only,
                "has_effect": not BROKER_CONFIGS[entry.name].inert,
            }
            for entry in broker_entries(source)
        }
    }
