"""What a shard of the share coordinator knows: the stored states of one __share_group_state partition.

An update's key says nothing of the updates before it: the topic is not compacted, and what is kept of it is each
share-partition's snapshot with its updates laid over (`FoldedMap`).
Invariant: `partitions` is what the log says when all that is in flight is durable; `durable` what it says now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from uuid import UUID

import structlog

from brokers.coordinators.fields import INT16
from brokers.coordinators.snapshot import DurableMap
from brokers.coordinators.writer import Written
from brokers.shares.batches import merge
from brokers.shares.records import (
    NO_EPOCH,
    SNAPSHOT_KEY,
    UPDATE_KEY,
    SharePartitionKey,
    ShareState,
    ShareUpdate,
    decode_key,
    decode_snapshot,
    decode_update,
    encode_snapshot,
)

log = structlog.get_logger(__name__)

BUILD_SLICE = 1_000
"""Records decoded before the event loop gets a turn: a few milliseconds."""

_SNAPSHOT = INT16.pack(SNAPSHOT_KEY)
_UPDATE = INT16.pack(UPDATE_KEY)


def updated(value: ShareState | None, update: ShareUpdate) -> ShareState:
    """A state with an update laid over it. Its start offset never goes back while its state epoch stands: what came
    below it was complete, and a write that comes twice must not bring it back."""
    if value is None:
        return ShareState(
            update.snapshot_epoch, NO_EPOCH, update.leader_epoch, update.start_offset, update.complete_count,
            update.batches,
        )  # fmt: skip
    start = max(value.start_offset, update.start_offset)
    return value._replace(
        leader_epoch=value.leader_epoch if update.leader_epoch == NO_EPOCH else update.leader_epoch,
        start_offset=start,
        complete_count=update.complete_count,
        batches=merge(value.batches, update.batches, start),
    )


class FoldedMap(DurableMap):
    """A durable map whose updates are laid over their snapshots as they come."""

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Raises Corrupt."""
        update = decode_update(value) if value is not None and key[:2] == _UPDATE else None
        if update is None:
            super().apply(key, value)
            return
        key = _SNAPSHOT + key[2:]
        known = self.entries.get(key)
        super().apply(key, encode_snapshot(updated(None if known is None else decode_snapshot(known), update)))


class ShareStates:
    def __init__(self, durable: DurableMap) -> None:
        self.durable = durable
        self.partitions: dict[SharePartitionKey, ShareState] = {}
        self.updates: dict[SharePartitionKey, int] = defaultdict(int)
        """Since the last snapshot, as far as this coordinator wrote them."""
        self.by_topic: dict[UUID, set[SharePartitionKey]] = defaultdict(set)

    def build(self, wall_ms: int) -> Iterator[None]:
        """From the durable map; yields after every slice. Raises Corrupt."""
        for index, (key, data) in enumerate(self.durable.entries.items()):
            known = decode_key(key)
            value = decode_snapshot(data) if known is not None and known[0] == SNAPSHOT_KEY else None
            if known is None or value is None:
                log.warning("record of an unknown type is kept and not used", key=key[:64].hex())
            else:
                self.set(known[1], value)
            if index % BUILD_SLICE == BUILD_SLICE - 1:
                yield

    def set(self, key: SharePartitionKey, value: ShareState | None) -> None:
        """What the share-partition's state is from now on; None: it has none."""
        if value is not None:
            self.partitions[key] = value
            self.by_topic[key.topic_id].add(key)
            return
        self.partitions.pop(key, None)
        self.updates.pop(key, None)
        of_topic = self.by_topic.get(key.topic_id)
        if of_topic is not None:
            of_topic.discard(key)
            if not of_topic:
                del self.by_topic[key.topic_id]

    def apply(self, written: Written, wall_ms: int) -> None:
        """Records of our own became durable."""
        for record in written.records:
            self.durable.apply(record.key, record.value)
        self.durable.end = written.end

    def sizes(self) -> Mapping[str, int]:
        return {"share_partitions": len(self.partitions)}
