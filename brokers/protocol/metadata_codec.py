"""Metadata answers, versions 0 to 13, in pieces: a topic's bytes can be kept as long as its image does.

Measured: kio needs 6.7 ms for 10 topics of 100 partitions; joining kept bytes needs microseconds.
Invariant: the answer's bytes are kio's (property-tested).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from brokers.protocol.primitives import INT16, INT32, ZERO_UUID, array_length, string
from brokers.protocol.tags import NodeEndpoint

FLEXIBLE: Final = 9
OPERATIONS_OMITTED: Final = -(2**31)
"""Authorized operations were not asked for."""
_PARTITION_7: Final = struct.Struct(">hiii")
_PARTITION_0: Final = struct.Struct(">hii")


class PartitionMetadata(NamedTuple):
    error_code: int
    partition: int
    leader_id: int
    leader_epoch: int
    replicas: Sequence[int]
    isr: Sequence[int]
    offline_replicas: Sequence[int]


def encode_topic(
    version: int,
    error_code: int,
    name: str | None,
    topic_id: UUID | None,
    internal: bool,
    partitions: Sequence[PartitionMetadata],
    authorized_operations: int = OPERATIONS_OMITTED,
) -> bytes:
    """One topic's entry. `name` may be None from version 12 on (asked for by an id that is not known)."""
    flexible = version >= FLEXIBLE
    parts = [INT16.pack(error_code), string(name, flexible)]
    if version >= 10:
        parts.append((topic_id or ZERO_UUID).bytes)
    if version >= 1:
        parts.append(b"\x01" if internal else b"\x00")
    parts.append(array_length(len(partitions), flexible))
    parts += [_partition(partition, version, flexible) for partition in partitions]
    if version >= 8:
        parts.append(INT32.pack(authorized_operations))
    if flexible:
        parts.append(b"\x00")
    return b"".join(parts)


def _partition(partition: PartitionMetadata, version: int, flexible: bool) -> bytes:
    error_code, index, leader, leader_epoch, replicas, isr, offline = partition
    if version >= 7:
        head = _PARTITION_7.pack(error_code, index, leader, leader_epoch)
    else:
        head = _PARTITION_0.pack(error_code, index, leader)
    parts = [head, _nodes(replicas, flexible), _nodes(isr, flexible)]
    if version >= 5:
        parts.append(_nodes(offline, flexible))
    if flexible:
        parts.append(b"\x00")
    return b"".join(parts)


def _nodes(nodes: Sequence[int], flexible: bool) -> bytes:
    return array_length(len(nodes), flexible) + struct.pack(f">{len(nodes)}i", *nodes)


def encode_metadata_response(
    version: int,
    brokers: Sequence[NodeEndpoint],
    cluster_id: str | None,
    controller_id: int,
    topics: Sequence[bytes],
    *,
    throttle_ms: int = 0,
    cluster_authorized_operations: int = OPERATIONS_OMITTED,
    error_code: int = 0,
) -> bytes:
    """The whole body around `topics`, each made by `encode_topic` for the same version."""
    flexible = version >= FLEXIBLE
    parts = [INT32.pack(throttle_ms)] if version >= 3 else []
    parts.append(array_length(len(brokers), flexible))
    for node_id, host, port, rack in brokers:
        parts += (INT32.pack(node_id), string(host, flexible), INT32.pack(port))
        if version >= 1:
            parts.append(string(rack, flexible))
        if flexible:
            parts.append(b"\x00")
    if version >= 2:
        parts.append(string(cluster_id, flexible))
    if version >= 1:
        parts.append(INT32.pack(controller_id))
    parts.append(array_length(len(topics), flexible))
    parts += topics
    if 8 <= version <= 10:
        parts.append(INT32.pack(cluster_authorized_operations))
    if version >= 13:
        parts.append(INT16.pack(error_code))
    if flexible:
        parts.append(b"\x00")
    return b"".join(parts)
