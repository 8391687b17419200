"""Tagged structures that several answers share: the current leader of a partition, and where nodes are reached."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from brokers.protocol.primitives import INT32, compact_string, uvarint

_LEADER: Final = struct.Struct(">iib")


class CurrentLeader(NamedTuple):
    """Goes with NOT_LEADER_OR_FOLLOWER and FENCED_LEADER_EPOCH, so that a client need not ask for metadata."""

    leader_id: int
    leader_epoch: int


class NodeEndpoint(NamedTuple):
    node_id: int
    host: str
    port: int
    rack: str | None


def encode_current_leader(leader: CurrentLeader) -> bytes:
    return _LEADER.pack(leader.leader_id, leader.leader_epoch, 0)


def encode_node_endpoints(endpoints: Sequence[NodeEndpoint]) -> bytes:
    parts = [uvarint(len(endpoints) + 1)]
    for node_id, host, port, rack in endpoints:
        parts += (INT32.pack(node_id), compact_string(host), INT32.pack(port), compact_string(rack), b"\x00")
    return b"".join(parts)
