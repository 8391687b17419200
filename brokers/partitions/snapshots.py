"""A coordinator's own state inside its partition's checkpoint (CORRECTNESS 18). Only such partitions have one.

Invariant: `committed` hears an offset only when the snapshot that describes it is in a committed checkpoint: what
lies below that offset in the log is then superfluous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Snapshot: TypeAlias = tuple[bytes, int]
"""The coordinator's bytes, and the offset that they describe."""
SnapshotSource: TypeAlias = Callable[[int], bytes | None]
NO_SNAPSHOT = -1


class Snapshots:
    __slots__ = ("_committed", "_safe_offset", "_sent", "_source", "newest")

    def __init__(self, restored: Snapshot | None = None) -> None:
        self.newest = restored
        """Goes into every checkpoint that is made until the coordinator gives another."""
        self._safe_offset = NO_SNAPSHOT if restored is None else restored[1]
        """Of the newest snapshot that a committed checkpoint holds."""
        self._source: SnapshotSource | None = None
        self._committed: Callable[[int], None] | None = None
        self._sent: dict[int, int] = {}
        """Checkpoints on their way to be committed: offset → offset of the snapshot inside."""

    def attach(self, source: SnapshotSource, committed: Callable[[int], None] | None) -> None:
        self._source = source
        self._committed = committed

    def take(self, offset: int) -> Snapshot | None:
        """What a checkpoint at `offset` is to hold; `sent` tells that it is on its way."""
        data = None if self._source is None else self._source(offset)
        if data is not None:
            self.newest = (data, offset)
        return self.newest

    @property
    def safe(self) -> bool:
        """The newest snapshot is in a committed checkpoint: to write it again gains nothing (it may be large)."""
        return self.newest is not None and self.newest[1] == self._safe_offset

    @property
    def safe_offset(self) -> int:
        """Of the newest snapshot in a committed checkpoint, which an opening begins with; NO_SNAPSHOT."""
        return self._safe_offset

    def sent(self, offset: int) -> None:
        if self.newest is not None:
            self._sent[offset] = self.newest[1]

    def committed(self, checkpoint_offset: int) -> None:
        snapshot_offset = self._sent.get(checkpoint_offset)
        for offset in [offset for offset in self._sent if offset <= checkpoint_offset]:
            del self._sent[offset]
        if snapshot_offset is None:
            return
        self._safe_offset = max(self._safe_offset, snapshot_offset)
        if self._committed is not None:
            self._committed(snapshot_offset)
