"""New homes by load: each partition without one goes to the broker that carries least (planner.py)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from brokers.controller.load import LoadBook, read_reports
from brokers.controller.planner import reassign_dead
from brokers.controller.snapshot import snapshot
from metadata.cluster_types import LoadReport
from metadata.image import ClusterImage, PartitionImage
from s3stream.seams import Clock
from s3stream.types import NodeId, StreamId


class Reports(Protocol):
    async def load_reports(self) -> list[LoadReport]: ...


class ByLoad:
    """The controller's `Place`."""

    def __init__(self, metadata: Reports, clock: Clock) -> None:
        self._metadata = metadata
        self._clock = clock

    async def __call__(
        self, strays: Sequence[PartitionImage], others: Collection[NodeId], image: ClusterImage
    ) -> Mapping[StreamId, NodeId]:
        """Raises Unavailable."""
        now = self._clock.monotonic()
        book = LoadBook(keep_s=1.0)
        book.update(read_reports(await self._metadata.load_reports()), now)
        shown = snapshot(image, book, now)
        shown = shown._replace(nodes=tuple(node for node in shown.nodes if node.node_id in others))
        wanted = {part.stream_id for part in strays}
        return reassign_dead([part for part in shown.partitions if part.stream_id in wanted], shown)
