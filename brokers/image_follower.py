"""Keeps this broker's cluster image the newest: loads it when it changes, and has everyone act on it.

Invariant: images are shown one after another, in version order, each as soon as it is known; what is still being done
for an older one keeps nobody from being told the newest. `refresh` returns when whatever was committed before its call
is acted on. What other brokers have to do about it is waited for only as long as it is worth.
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
"""(before, after), when clients are answered by it; partitions follow."""


class ImageFollower:
    def __init__(self, metadata: Metadata, partitions: PartitionManager, clock: Clock) -> None:
        self._metadata = metadata
        self._partitions = partitions
        self._clock = clock
        self._turn = asyncio.Lock()
        self._listeners: list[ImageListener] = []
        self._running: list[asyncio.Task[None]] = []
        self._shown = asyncio.Event()
        """There may be an image that was not acted on yet."""
        self._acted_on = -1
        """Version up to which partitions follow."""
        self._stopped = False
        self._applied: list[asyncio.Future[None]] = []
        """Woken by the next image that is acted on."""

    def on_change(self, listener: ImageListener) -> None:
        self._listeners.append(listener)

    async def refresh(self) -> None:
        """Raises Unavailable when the database does not answer; the image is then as it was."""
        for _ in range(OPENINGS_MAX):
            await self._look()
            if self._acted_on >= self._partitions.image.version:
                return
            await self._act()

    async def _look(self) -> bool:
        """Show the newest image, if there is a newer one."""
        async with self._turn:
            before = self._partitions.image
            image = await self._metadata.load_image(before if before.version >= 0 else None)
            if image is before or self._stopped:
                return False
            self._partitions.show(image)
            for listener in self._listeners:
                listener(before, image)
            return True

    async def _act(self) -> None:
        version = self._partitions.image.version
        await self._partitions.follow()
        self._acted_on = max(self._acted_on, version)
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
        self._running = [
            tasks.spawn(self._keep_looking(), "follow the cluster image"),
            tasks.spawn(self._keep_acting(), "act on the cluster image"),
        ]

    async def stop(self) -> None:
        """Act on no further image: a stopping broker closes its streams, and must not open them again for it."""
        self._stopped = True
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        async with self._turn:
            pass
        await self._partitions.settled()

    async def _keep_looking(self) -> None:
        """Follow changes, for ever. An outage of the database is waited out: what is open stays open."""
        while True:
            try:
                await self._metadata.changed(self._partitions.image.version)
                if await self._look():
                    self._shown.set()
            except PonorError as error:
                log.warning("cluster image not refreshed", error=str(error))
                await self._clock.sleep(RETRY_SECONDS)

    async def _keep_acting(self) -> None:
        """A task of its own: opening partitions may take seconds, and clients are to hear of new leaders meanwhile."""
        while True:
            await self._shown.wait()
            self._shown.clear()
            await self._act()


def _being_made(image: ClusterImage) -> bool:
    """Whether a live broker has yet to open a partition that never was."""
    return any(
        part.leader_epoch < 0 and (node := image.nodes.get(part.assigned)) is not None and node.alive
        for topic in image.topics.values()
        for part in topic.partitions
    )
