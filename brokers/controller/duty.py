"""A task that whoever holds the controller's lease runs for as long as it does (`controller.Upkeep`).

Does not own: what is done, nor how often.
Invariant: one task at a time; when `stop` has returned nothing of it runs any more.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from metadata.cluster_types import Lease
from s3stream.tasks import Tasks


class Duty(ABC):
    def __init__(self, tasks: Tasks, name: str) -> None:
        self._tasks = tasks
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self, lease: Lease) -> None:
        assert self._task is None
        self._task = self._tasks.spawn(self._run(lease), self._name)

    async def stop(self) -> None:
        """What was begun is in the database: whoever is the controller next goes on with it."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @abstractmethod
    async def _run(self, lease: Lease) -> None:
        """Until the lease is another's."""
