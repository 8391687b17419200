"""`ponor node drain`: says in the database that a broker's partitions are to leave it. The controller does the rest.

Owns: the words for people. Does not own: which partition goes where (controller/balancing.py).
Invariant: nothing but the one mark is changed; a database that is not there is not made.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from brokers.config import broker_config
from metadata.image import ClusterImage
from metadata.store import Metadata, connections, open_metadata
from s3stream.clock import SystemClock
from s3stream.errors import BadSetting, NotFound
from s3stream.metrics import Metrics
from s3stream.types import NodeId

POLL_SECONDS: Final = 0.25
_FILE: Final = "sqlite:///"


def drain(settings: Mapping[str, str], node_id: NodeId, draining: bool, wait_seconds: float) -> int:
    """Exit code: 0 done, or begun when nobody waits; 1: partitions are still there. Raises PonorError."""
    url = broker_config({**settings, "node.id": str(node_id)}).metadata_url
    path = url.removeprefix(_FILE).partition("?")[0]
    if url.startswith(_FILE) and not Path(path).exists():
        raise BadSetting(f"ponor.metadata.url: there is no database {path}; name the cluster's with --metadata")
    return asyncio.run(_drain(url, node_id, draining, wait_seconds))


async def _drain(url: str, node_id: NodeId, draining: bool, wait_seconds: float) -> int:
    from brokers.threads import Threads

    threads = Threads()
    try:
        metadata = await open_metadata(
            url,
            clock=SystemClock(),
            metrics=Metrics(),
            run_blocking=threads.runner("metadata", connections(url)),
        )
        try:
            return await _mark(metadata, node_id, draining, wait_seconds)
        finally:
            await metadata.close()
    finally:
        threads.close()


async def _mark(metadata: Metadata, node_id: NodeId, draining: bool, wait_seconds: float) -> int:
    image = await metadata.load_image()
    node = image.nodes.get(node_id)
    if node is None or not node.alive:
        raise NotFound(f"broker {node_id} does not run; there are {', '.join(map(str, _alive(image))) or 'none'}")
    if draining and not any(other != node_id and not image.nodes[other].draining for other in _alive(image)):
        raise BadSetting(f"broker {node_id} is the only one that could have partitions: start another one first")
    await metadata.set_draining(node_id, draining)
    if not draining:
        _say(f"broker {node_id} takes partitions again")
        return 0
    return await _await_empty(metadata, image, node_id, wait_seconds, time.monotonic)


async def _await_empty(
    metadata: Metadata, image: ClusterImage, node_id: NodeId, wait_seconds: float, now: Callable[[], float]
) -> int:
    deadline = now() + wait_seconds
    left = _held(image, node_id)
    _say(f"broker {node_id} is draining: {left} partitions are to leave it")
    while left and now() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        image = await metadata.load_image(image)
        left = _held(image, node_id)
    if wait_seconds <= 0:
        return 0
    _say(f"broker {node_id} has {left} partitions")
    return 1 if left else 0


def _held(image: ClusterImage, node_id: NodeId) -> int:
    return sum(node_id in (part.assigned, part.leader) for topic in image.topics.values() for part in topic.partitions)


def _alive(image: ClusterImage) -> list[NodeId]:
    return sorted(node.node_id for node in image.nodes.values() if node.alive)


def _say(line: str) -> None:
    print(line, flush=True, file=sys.stdout)
