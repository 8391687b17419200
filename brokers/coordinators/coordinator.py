"""What every coordinator over an internal topic does with the partitions of it that this broker leads.

Owns: shards' lives, which of them has a key. Does not own: what a shard keeps (the coordinator's own package), how it
is loaded (shard.py), where keys belong (location.py).
Invariant: a key has one coordinator, the leader of its partition; every other broker answers NOT_COORDINATOR.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from kio.schema.errors import ErrorCode

from brokers.coordinators.location import Location
from brokers.coordinators.log import CoordinatorLog
from brokers.coordinators.shard import CoordinatorShard, ShardState
from brokers.coordinators.timers import Timers
from brokers.errors import KafkaError
from metadata.image import NodeImage

S = TypeVar("S", bound=CoordinatorShard[Any, Any])


class Coordinator(Generic[S]):
    def __init__(self, location: Location, timers: Timers, make: Callable[[CoordinatorLog], S]) -> None:
        """`make(log)`: the shard of a partition that was opened here, not loaded yet."""
        self._location = location
        self._timers = timers
        self._make = make
        self._shards: dict[int, S] = {}

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        self._location.active = True

    def stop(self) -> None:
        """Whoever waits is told to find another coordinator."""
        self._location.active = False
        for partition in list(self._shards):
            self.resign(partition)
        self._timers.close()

    def lead(self, partition: int, source: CoordinatorLog) -> None:
        """A partition of the topic was opened here: load what it keeps."""
        self.resign(partition)
        shard = self._shards[partition] = self._make(source)
        shard.open()

    def resign(self, partition: int) -> None:
        shard = self._shards.pop(partition, None)
        if shard is not None:
            shard.close()

    # --- routing -------------------------------------------------------------------------------

    def partition_for(self, key: str) -> int:
        return self._location.partition_for(key)

    def find(self, key: str) -> NodeImage:
        """The broker that coordinates the key. Raises COORDINATOR_NOT_AVAILABLE while there is none."""
        return self._location.find(key)

    def _require_started(self) -> None:
        if not self._location.active:
            raise KafkaError(ErrorCode.coordinator_not_available)

    def _shard(self, key: str) -> S:
        """It may still be loading. Raises COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR."""
        self._require_started()
        shard = self._shards.get(self.partition_for(key))
        if shard is None:
            raise KafkaError(ErrorCode.not_coordinator)
        return shard

    def _active_shards(self) -> list[S]:
        """Those that are loaded."""
        return [shard for shard in self._shards.values() if shard.status is ShardState.ACTIVE]
