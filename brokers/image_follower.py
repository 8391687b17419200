"""Keeps this broker's cluster image the newest: loads it when it changes, and has everyone act on it.

Invariant: images are applied one after another, in version order; `refresh` returns when whatever was committed
before its call is applied. What other brokers have to do about it is waited for only as long as it is worth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from brokers.partitions.manager import PartitionManager
from metadata.image import ClusterImage
from metadata.store import Metadata
from s3stream.errors import PonorError
from s3stream.seams import Clock
from s3stream.tasks import Tasks

log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0
OTHERS_SECONDS_MAX = 3.0
"""What a request waits for another broker to open a new partition; then its clients look for it themselves."""
OPENINGS_MAX = 3
"""Opening streams makes a newer image itself (leaders, leader epochs); a second look then changes nothing."""

ImageListener = Callable[[ClusterImage, ClusterImage], None]
"""(before, after), after the partitions follow it."""


class ImageFollower:
    def __init__(self, metadata: Metadata, partitions: PartitionManager, clock: Clock) -> None:
        self._metadata = metadata
        self._partitions = partitions
        self._clock = clock
        self._turn = asyncio.Lock()
        self._listeners: list[ImageListener] = []
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._applied: list[asyncio.Future[None]] = []
        """Woken by the next image."""

    def on_change(self, listener: ImageListener) -> None:
        self._listeners.append(listener)

    async def refresh(self) -> None:
        """Raises Unavailable when the database does not answer; the image is then as it was."""
        async with self._turn:
            for _ in range(OPENINGS_MAX):
                before = self._partitions.image
                image = await self._metadata.load_image(before if before.version >= 0 else None)
                if image is before or self._stopped:
                    return
                await self._partitions.apply_image(image)
                for listener in self._listeners:
                    listener(before, image)
                applied, self._applied = self._applied, []
                for waiter in applied:
                    if not waiter.done():
                        waiter.set_result(None)

    async def refresh_everywhere(self) -> None:
        """As `refresh`, and new partitions are open on the live brokers that they were given to, if that takes no
        longer than it is worth."""
        await self.refresh()
        deadline = self._clock.monotonic() + OTHERS_SECONDS_MAX
        while (left := deadline - self._clock.monotonic()) > 0 and _being_made(self._partitions.image):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._applied.append(waiter)
            timer = asyncio.ensure_future(self._clock.sleep(left))
            try:
                await asyncio.wait((waiter, timer), return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()

    def start(self, tasks: Tasks) -> None:
        self._task = tasks.spawn(self._run(), "follow the cluster image")

    async def stop(self) -> None:
        """Act on no further image: a stopping broker closes its streams, and must not open them again for it."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        async with self._turn:
            pass

    async def _run(self) -> None:
        """Follow changes, for ever. An outage of the database is waited out: what is open stays open."""
        while True:
            try:
                await self._metadata.changed(self._partitions.image.version)
                await self.refresh()
            except PonorError as error:
                log.warning("cluster image not refreshed", error=str(error))
                await self._clock.sleep(RETRY_SECONDS)


def _being_made(image: ClusterImage) -> bool:
    """Whether a live broker has yet to open a partition that never was."""
    return any(
        part.leader_epoch < 0 and (node := image.nodes.get(part.assigned)) is not None and node.alive
        for topic in image.topics.values()
        for part in topic.partitions
    )
