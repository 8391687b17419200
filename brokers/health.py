"""Whether this broker lives and whether it serves, with the reasons when it does not.

Live: the process can still do its work, perhaps later; restart it when not. Ready: clients are served now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from brokers.partitions.manager import PartitionManager
from metadata.store import Metadata
from s3stream.storage import Storage

STARTING = "starting"
STOPPING = "stopping"
RUNNING = "running"


@dataclass
class Health:
    storage: Storage
    partitions: PartitionManager
    crashed: Mapping[str, str]
    """Background tasks that ended with an error, by name: bugs, shown until the restart."""
    metadata: Metadata
    phase: str = STARTING

    def live(self) -> list[str]:
        """Why this process should be restarted; empty when it should not."""
        reasons = [f"background task {name} failed: {error}" for name, error in self.crashed.items()]
        if self.storage.fenced:
            reasons.append("fenced: another process has taken over this node's WAL")
        return reasons

    def ready(self) -> list[str]:
        """Why clients are not, or not fully, served; empty when all is well."""
        reasons = self.live()
        if self.phase != RUNNING:
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
        offline = self.partitions.offline()
        if offline:
            found.append(f"{len(offline)} partitions could not be opened")
        return found
