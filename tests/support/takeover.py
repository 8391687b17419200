"""What contract tests of fencing and takeover do over and over: a controller, a dead node, its sealed WAL."""

from __future__ import annotations

from collections.abc import Sequence

from metadata.cluster_types import Lease
from metadata.image_loader import CONTROLLER_LEASE
from metadata.store import Metadata
from s3stream.types import CommitResult, CommittedRange, FencedWal, OpenRequest, StreamId, StreamSnapshot
from tests.support.metadata import Node


async def controller(metadata: Metadata, node: Node) -> Lease:
    """The controller's lease, taken from whoever has it."""
    lease = await metadata.acquire_lease(CONTROLLER_LEASE, node.identity, await metadata.lease(CONTROLLER_LEASE))
    assert lease is not None
    return lease


async def heartbeat_of(metadata: Metadata, node_id: int) -> int:
    [beat] = [beat for beat in await metadata.node_beats() if beat.node_id == node_id]
    return beat.heartbeat


async def fence(metadata: Metadata, lease: Lease, node: Node) -> FencedWal:
    node_id, node_epoch, _ = node.identity
    wal = await metadata.fence_node(lease, node_id, node_epoch, await heartbeat_of(metadata, node_id))
    assert wal is not None
    return wal


async def seal(metadata: Metadata, lease: Lease, node: Node, number: int = 100) -> FencedWal:
    """Fence and seal; the row as it is then."""
    await fence(metadata, lease, node)
    node_id, node_epoch, _ = node.identity
    await metadata.wal_sealed(lease, node_id, node_epoch, number)
    [wal] = [wal for wal in await metadata.fenced_wals() if wal[:2] == (node_id, node_epoch)]
    return wal


async def commit_tail(survivor: Node, stream_id: StreamId, stream_epoch: int, start: int, end: int) -> CommitResult:
    return await survivor.commit(CommittedRange(stream_id, stream_epoch, start, end, end - start))


async def open_from(
    survivor: Node, dead: Node, stream_id: StreamId, epoch: int, end: int, assign: bool = True
) -> StreamSnapshot:
    """Open a stream that was recovered from `dead`'s WAL."""
    if assign:
        await survivor.assign(stream_id)
    request = OpenRequest(stream_id, epoch, end, recovered_from=dead.identity[:2])
    opened: Sequence[StreamSnapshot] = await survivor.metadata.open_streams(survivor.identity, [request])
    return opened[0]
