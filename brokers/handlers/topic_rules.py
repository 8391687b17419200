"""What Kafka accepts as a topic: names, replica placement, manual assignments. Pure; errors in Kafka's words.

Raises KafkaError with the code and text that CreateTopics, CreatePartitions and Metadata answer with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from metadata.image import ClusterImage, NodeImage
from s3stream.types import NodeId

INTERNAL_TOPICS: Final = frozenset({"__consumer_offsets", "__transaction_state", "__share_group_state"})
CLUSTER_METADATA_TOPIC: Final = "__cluster_metadata"
NAME_LENGTH_MAX: Final = 249
PARTITIONS_PER_REQUEST_MAX: Final = 10_000
"""Kafka's MAX_PARTITIONS_PER_BATCH."""

_DASH: Final = 62
"""Place of '-' in the alphabet of base64 for URLs."""
_LEGAL: Final = re.compile(r"[a-zA-Z0-9._-]+")


def name_fault(name: str) -> str | None:
    """Why `name` cannot be a topic's name, None when it can."""
    if not name:
        return "Topic name is invalid: the empty string is not allowed"
    if name in (".", ".."):
        return f"Topic name is invalid: '{name}' is not allowed"
    if len(name) > NAME_LENGTH_MAX:
        return f"Topic name is invalid: the length of '{name}' is longer than the max allowed length {NAME_LENGTH_MAX}"
    if not _LEGAL.fullmatch(name):
        return (
            f"Topic name is invalid: '{name}' contains one or more characters other than ASCII alphanumerics, "
            "'.', '_' and '-'"
        )
    return None


def new_topic_id(chance: Random) -> UUID:
    """A random id. As in Kafka, its text does not begin with a '-', which tools would take for an option."""
    while True:
        topic_id = UUID(int=chance.getrandbits(128), version=4)
        if topic_id.int >> 122 != _DASH:
            return topic_id


def check_new_name(name: str, image: ClusterImage) -> None:
    """Raises INVALID_TOPIC_EXCEPTION for a bad name or one that only differs in '.' and '_' from a topic's,
    TOPIC_ALREADY_EXISTS for a topic's."""
    fault = name_fault(name)
    if fault is not None:
        raise KafkaError(ErrorCode.invalid_topic_exception, fault)
    if name in image.topics:
        raise KafkaError(ErrorCode.topic_already_exists, f"Topic '{name}' already exists.")
    if "." in name or "_" in name:
        unified = name.replace(".", "_")
        for other in image.topics:
            if other.replace(".", "_") == unified:
                raise KafkaError(
                    ErrorCode.invalid_topic_exception, f"Topic '{name}' collides with existing topic: {other}"
                )


def check_assignment(replicas: Sequence[NodeId], expected: int | None, nodes: Mapping[NodeId, NodeImage]) -> None:
    """One partition of a manual assignment. `expected`: replicas of the partitions before it.

    Raises INVALID_REPLICA_ASSIGNMENT.
    """
    fault = _assignment_fault(replicas, expected, nodes)
    if fault is not None:
        raise KafkaError(ErrorCode.invalid_replica_assignment, fault)


def _assignment_fault(
    replicas: Sequence[NodeId], expected: int | None, nodes: Mapping[NodeId, NodeImage]
) -> str | None:
    if not replicas:
        return "The manual partition assignment includes an empty replica list."
    previous: NodeId | None = None
    for node in sorted(replicas):
        if node not in nodes:
            return f"The manual partition assignment includes broker {node}, but no such broker is registered."
        if node == previous:
            return f"The manual partition assignment includes the broker {node} more than once."
        previous = node
    if expected is not None and len(replicas) != expected:
        return (
            f"The manual partition assignment includes a partition with {len(replicas)} replica(s), but this is "
            f"not consistent with previous partitions, which have {expected} replica(s)."
        )
    return None


def check_somebody_alive(partition: int, replicas: Sequence[NodeId], nodes: Mapping[NodeId, NodeImage]) -> None:
    if not any(nodes[node].alive for node in replicas):
        raise KafkaError(
            ErrorCode.invalid_replica_assignment,
            f"All brokers specified in the manual partition assignment for partition {partition} are fenced or in "
            "controlled shutdown.",
        )
