"""Whether this broker lives and whether it serves, with the reasons when it does not.

Live: the process can still do its work, perhaps later; restart it when not. Ready: clients are served now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from brokers.partitions.manager import PartitionManager
from metadata.store import Metadata
from s3stream.storage import Storage

STARTING = "starting"
STOPPING = "stopping"
RUNNING = "running"
FENCED = "fenced: others have this broker's partitions; it registers again"


@dataclass
class Health:
    storage: Storage
    partitions: PartitionManager
    crashed: Mapping[str, str]
    """Background tasks that ended with an error, by name: bugs, shown until the restart."""
    metadata: Metadata
    silent_seconds: Callable[[], float] = lambda: 0.0
    """Since the database last took a heartbeat."""
    lease_seconds: float = 3.0
    waiting: Callable[[], Mapping[tuple[int, int], str]] = dict
    """As the controller: brokers taken for dead that keep their partitions, and why."""
    phase: str = STARTING

    def live(self) -> list[str]:
        """Why this process should be restarted; empty when it should not."""
        return [f"background task {name} failed: {error}" for name, error in self.crashed.items()]

    def ready(self) -> list[str]:
        """Why clients are not, or not fully, served; empty when all is well."""
        reasons = self.live()
        if self.storage.fenced:
            reasons.append(FENCED)
        elif self.phase != RUNNING:
            reasons.append(self.phase)
        if self.metadata.rolled_back:
            reasons.append(self.metadata.rolled_back)
        state = self.storage.health()
        if state["wal_failure"]:
            reasons.append(f"the write-ahead log takes no appends: {state['wal_failure']}")
        if self.storage.throttled:
            reasons.append(f"producers are throttled: memory or WAL at {state['pressure']} of its bound")
        return reasons

    def warnings(self) -> list[str]:
        """What an operator should look at though clients are served."""
        state = self.storage.health()
        found = []
        if state["flush_failure"]:
            found.append(f"flushes to object storage fail: {state['flush_failure']}")
        if self.metadata.failure:
            found.append(f"the metadata database does not answer, what is open goes on: {self.metadata.failure}")
        elif self.silent_seconds() > self.lease_seconds:
            found.append(f"no heartbeat has reached the database for {self.silent_seconds():.0f} s")
        for (node_id, node_epoch), reason in self.waiting().items():
            found.append(f"broker {node_id} (epoch {node_epoch}) is taken for dead and keeps its partitions: {reason}")
        offline = self.partitions.offline()
        if offline:
            found.append(f"{len(offline)} partitions could not be opened")
        return found
