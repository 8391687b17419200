"""All share-partitions of this broker: those of partitions that it leads, which some member fetches.

Owns: when one begins and ends. Does not own: what it does (leader.py), who fetches (sessions.py).
Invariant: one for a group and partition at a time. It ends with the partition's leadership here, when storing says that
it is over, and when no member of its group fetches from this broker: what is begun next starts from what is stored.
"""

from __future__ import annotations

from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.coordinators.timers import Timers
from brokers.errors import KafkaError
from brokers.partitions.partition_log import PartitionLog
from brokers.shares.leader import LeaderContext, LedPartition
from brokers.shares.persister import Persister
from brokers.shares.records import SharePartitionKey
from brokers.shares.settings import GroupSettings
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.tasks import Tasks


class ShareLeaders:
    def __init__(
        self, persister: Persister, settings: GroupSettings, clock: Clock, tasks: Tasks, metrics: Metrics
    ) -> None:
        self._timers = Timers(clock, tasks)
        expired = metrics.counter("ponor_share_locks_expired_total", "Acquired records whose lock ended.")
        self._context = LeaderContext(persister, settings, clock, tasks, self._timers, expired)
        self._tasks = tasks
        self._led: dict[SharePartitionKey, LedPartition] = {}
        self._by_partition: dict[tuple[UUID, int], dict[SharePartitionKey, LedPartition]] = {}
        metrics.gauge("ponor_share_partitions", "Share-partitions served here.", read=lambda: float(len(self._led)))

    def get(self, key: SharePartitionKey) -> LedPartition | None:
        return self._led.get(key)

    def begin(self, key: SharePartitionKey, source: PartitionLog) -> LedPartition:
        """The share-partition over the log, loaded soon if it was not there."""
        led = self.get(key)
        if led is not None and led.log is source:
            return led
        if led is not None:
            self._end(led)
        led = self._led[key] = LedPartition(key, source, self._context, self._forget)
        self._by_partition.setdefault((key.topic_id, key.partition), {})[key] = led
        self._tasks.spawn(led.load(), f"load {key}")
        return led

    def partition_closed(self, closing: PartitionLog) -> None:
        """It is no longer led here."""
        for led in list(self._by_partition.get((closing.topic_id, closing.partition), {}).values()):
            self._end(led)

    def end_group(self, group: str) -> None:
        """Nobody of the group fetches here any more. What is still being stored keeps its share-partition."""
        for led in list(self._led.values()):
            if led.key.group == group and led.idle:
                self._end(led)

    def stop(self) -> None:
        for led in list(self._led.values()):
            self._end(led)
        self._timers.close()

    def _end(self, led: LedPartition) -> None:
        led.close(KafkaError(ErrorCode.not_leader_or_follower))

    def _forget(self, led: LedPartition) -> None:
        key = led.key
        if self._led.get(key) is led:
            del self._led[key]
        place = (key.topic_id, key.partition)
        of_place = self._by_partition.get(place)
        if of_place is not None and of_place.get(key) is led:
            del of_place[key]
            if not of_place:
                del self._by_partition[place]
