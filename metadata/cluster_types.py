"""What is asked of the metadata besides what the engine asks: nodes, leases, places, topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from s3stream.types import NodeId, StreamId


class NodeBeat(NamedTuple):
    """A node's row, as a failure detector watches it: what counts is whether `heartbeat` changes."""

    node_id: NodeId
    node_epoch: int
    heartbeat: int
    """Counts since this node epoch's registration."""
    alive: bool
    """False after an orderly stop, and once fenced."""
    wal_uri: str
    """Of this node epoch's WAL; empty when the epoch was raised by a fence."""
    draining: bool
    rack: str | None


class Lease(NamedTuple):
    """A lease that a node holds."""

    name: str
    holder: NodeId
    lease_epoch: int
    """Raised by each taking: what is done under an older one is refused."""
    renewals: int
    """Counts while it is held; whoever sees it stand still for a lease period, by its own clock, may take it."""


class Placement(NamedTuple):
    """What a user asks for of one partition."""

    replicas: tuple[NodeId, ...]
    assigned: NodeId
    """Who is to have it open."""


class NewTopic(NamedTuple):
    name: str
    topic_id: UUID
    assignment: Sequence[Sequence[NodeId]]
    """One partition for each entry: its replicas."""
    configs: Mapping[str, str]
    internal: bool = False


class LoadReport(NamedTuple):
    """What a node last said of its load; the text is its broker's."""

    node_id: NodeId
    node_epoch: int
    reported_ms: int
    report: str


class Loss(NamedTuple):
    """Offsets [start, end) of a partition that were given up with a node's WAL: `start` is where its records end, at
    `end` it goes on. Nobody is ever given an offset in between."""

    topic: str
    partition: int
    stream_id: StreamId
    node_id: NodeId
    """Whose WAL was lost, and of which epoch."""
    node_epoch: int
    leader_epoch: int
    """Under which the partition goes on."""
    start: int
    end: int
    given_up_ms: int
