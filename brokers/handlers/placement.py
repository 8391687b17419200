"""Replicas for new partitions, chosen from what this broker knows of the cluster and of its load.

Any broker answers requests that place partitions, and writes the metadata itself: nothing is forwarded to a controller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kio.schema.errors import ErrorCode

from brokers.controller.load import LoadBook, read_reports
from brokers.controller.planner import Placer
from brokers.controller.snapshot import snapshot
from brokers.errors import KafkaError
from brokers.handlers.services import Services
from metadata.image import ClusterImage, PartitionImage
from s3stream.types import NodeId, StreamId


async def placer(services: Services) -> Placer:
    """For all topics of one request. Raises Unavailable."""
    now = services.clock.monotonic()
    book = LoadBook(keep_s=1.0)
    book.update(read_reports(await services.metadata.load_reports()), now)
    found = snapshot(services.partitions.image, book, now)
    if all(node.draining for node in found.nodes):  # the last broker, about to stop: better placed there than nowhere
        found = found._replace(nodes=tuple(node._replace(draining=False) for node in found.nodes))
    return Placer(found)


def place(placer: Placer, count: int, replication_factor: int) -> Sequence[Sequence[NodeId]]:
    """Raises INVALID_REPLICATION_FACTOR when there are fewer brokers than replicas."""
    available = len(placer.nodes)
    if 0 < replication_factor <= available:
        return placer.place(count, replication_factor)
    fault = (
        f"The target replication factor of {replication_factor} cannot be reached because only "
        f"{available} broker(s) are registered or some brokers have all their log directories cordoned."
        if available
        else "All brokers are currently fenced, or have all their log directories cordoned."
    )
    raise KafkaError(
        ErrorCode.invalid_replication_factor,
        f"Unable to replicate the partition {replication_factor} time(s): {fault}",
    )


def home(image: ClusterImage, replicas: Sequence[NodeId]) -> NodeId | None:
    """Who of the list is to have the partition open: the first that lives and is not about to stop; None: nobody."""
    for node_id in replicas:
        node = image.nodes.get(node_id)
        if node is not None and node.alive and not node.draining:
            return node_id
    return None


async def settle(services: Services, made: Iterable[PartitionImage]) -> None:
    """New partitions are given to the first of their list: to the first that lives, where that is another."""
    moves: dict[StreamId, NodeId] = {}
    for part in made:
        found = home(services.partitions.image, part.replicas)
        if found is not None and found != part.assigned:
            moves[part.stream_id] = found
    if moves:
        await services.metadata.assign(moves)
