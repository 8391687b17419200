"""Keeps this broker's cluster image the newest: loads it when it changes, and has everyone act on it.

Invariant: images are applied one after another, in version order; `refresh` returns when whatever was committed
before its call is applied.
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
