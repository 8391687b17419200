"""Which objects of the WAL are still needed, and the deletion of the others (CORRECTNESS 2, 7).

Invariants: deletion names single numbers; never a seal; never an object that holds a record at or above the trim; and
never the newest durable object of the epoch that is written, so that whoever seals the log finds where it is even
when all of it is trimmed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from s3stream.errors import PonorError
from s3stream.seams import ObjectStore
from s3stream.types import WalPosition
from wal.object_metrics import ObjectWalMetrics
from wal.object_names import LogName

log = structlog.get_logger(__name__)


class RetainedObject(NamedTuple):
    node_epoch: int
    number: int
    end_position: WalPosition
    size: int


class RetainedObjects:
    """Durable objects that are not trimmed, in the log's order. Pure."""

    def __init__(self) -> None:
        self._objects: deque[RetainedObject] = deque()
        self.bytes = 0

    def add(self, node_epoch: int, number: int, end_position: WalPosition, size: int) -> None:
        self._objects.append(RetainedObject(node_epoch, number, end_position, size))
        self.bytes += size

    def trim(self, position: WalPosition) -> list[RetainedObject]:
        """Takes out, and returns, what holds nothing at or above `position`; the newest object stays."""
        objects = self._objects
        freed = []
        while len(objects) > 1 and objects[0].end_position <= position:
            gone = objects.popleft()
            self.bytes -= gone.size
            freed.append(gone)
        return freed


class Janitor:
    """Deletes by number; what could not be deleted is tried again with the next."""

    def __init__(self, store: ObjectStore, name: LogName, metrics: ObjectWalMetrics, kept: Sequence[str] = ()) -> None:
        self._store = store
        self._name = name
        self._metrics = metrics
        self._due: list[str] = list(kept)

    def owe(self, node_epoch: int, number: int) -> None:
        self._due.append(self._name.key(node_epoch, number))

    @property
    def due(self) -> int:
        return len(self._due)

    async def run(self) -> None:
        keys, self._due = self._due, []
        if not keys:
            return
        try:
            await self._store.delete(keys)
        except PonorError as error:
            self._due = keys + self._due
            self._metrics.maintenance_failures.inc()
            log.warning("trimmed WAL objects could not be deleted", count=len(keys), error=str(error))
