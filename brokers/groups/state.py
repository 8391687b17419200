"""What a shard knows: durable records, and the groups and offsets made of them.

Owns: meaning of records. Does not own: appends (writer.py), waiting requests (shard.py).
Invariant: `durable` and `offsets` hold durable records only. A group's object may run ahead of its record; a classic
group that is not durable yet is `unseen`, one whose tombstone is in flight is dead, and neither shows to readers. What
readers are told of a modern group waits for what is in flight (admin.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import structlog

from brokers.coordinators.fields import Record
from brokers.coordinators.snapshot import DurableMap
from brokers.coordinators.writer import Written
from brokers.groups.classic_group import ClassicGroup
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.group import Group, GroupType
from brokers.groups.messages import GroupTimeouts
from brokers.groups.modern.change import Change, ModernKey
from brokers.groups.modern.group import ModernGroup
from brokers.groups.offsets import OffsetStore
from brokers.groups.record_types import RECORD_TYPES, decode_any_key
from brokers.groups.records import GroupKey, OffsetKey, decode_group, decode_key, decode_offset
from brokers.groups.share.group import ShareGroup
from brokers.groups.streams.group import StreamsGroup
from brokers.records.batch import NO_PRODUCER_ID

log = structlog.get_logger(__name__)

_MODERN: Final[dict[GroupType, type[ConsumerGroup | ShareGroup | StreamsGroup]]] = {
    GroupType.CONSUMER: ConsumerGroup,
    GroupType.SHARE: ShareGroup,
    GroupType.STREAMS: StreamsGroup,
}

BUILD_SLICE = 1_000
"""Records decoded before the event loop gets a turn: a few milliseconds."""


class State:
    def __init__(self, durable: DurableMap, timeouts: GroupTimeouts, new_id: Callable[[], str]) -> None:
        self.durable = durable
        self.groups: dict[str, Group] = {}
        self.unseen: set[str] = set()
        self.offsets = OffsetStore()
        self._timeouts = timeouts
        self._new_id = new_id

    def build(self, wall_ms: int) -> Iterator[None]:
        """Groups and offsets from the durable map; yields after every slice. Raises Corrupt."""
        for index, (key, value) in enumerate(self.durable.entries.items()):
            decoded = decode_any_key(key)
            if isinstance(decoded, OffsetKey):
                self._apply_offset(decoded, value, wall_ms)
            elif isinstance(decoded, ModernKey):
                self._modern(decoded).replay(decoded, RECORD_TYPES[decoded.kind].decode(value))
            elif isinstance(decoded, GroupKey):
                self.groups[decoded.group] = ClassicGroup.load(
                    decoded.group, decode_group(value), self._timeouts, self._new_id
                )
            else:
                log.warning("record of an unknown type is kept and not used", key=key[:64].hex())
            if index % BUILD_SLICE == BUILD_SLICE - 1:
                yield

        for producer_id, found in self.durable.open.items():
            for raw in found:
                self._open(raw, producer_id, wall_ms)
            yield

    def apply(self, written: Written, wall_ms: int) -> None:
        """Records of our own became durable, or a transaction's marker."""
        end, producer_id = written.end, written.producer_id
        if written.marker is not None:
            self._end_transaction(producer_id, written.marker.commit, wall_ms)
        elif producer_id != NO_PRODUCER_ID:
            for offset, record in enumerate(written.records, end - len(written.records)):
                assert record.value is not None, "no offset is deleted in a transaction"
                self.durable.apply_open(producer_id, record.key, record.value, offset)
                self._open(record.key, producer_id, wall_ms)
        else:
            self._apply_records(written.records, wall_ms)
        self.durable.end = end

    def _apply_records(self, records: Sequence[Record], wall_ms: int) -> None:
        for record in records:
            self.durable.apply(record.key, record.value)
            key = decode_any_key(record.key)
            if isinstance(key, OffsetKey):
                self._apply_offset(key, record.value, wall_ms)
            elif isinstance(key, GroupKey):
                self.unseen.discard(key.group)
                if record.value is None:
                    self._bury(key.group, GroupType.CLASSIC)
            elif isinstance(key, ModernKey) and record.value is None and RECORD_TYPES[key.kind].ends_group:
                self._bury(key.group, RECORD_TYPES[key.kind].group_type)

    def _bury(self, group_id: str, group_type: GroupType) -> None:
        """The group's last tombstone is durable; by now another of its name may be there, which it became."""
        group = self.groups.get(group_id)
        if group is not None and group.is_dead and group.group_type is group_type:
            del self.groups[group_id]

    def _open(self, raw: bytes, producer_id: int, wall_ms: int) -> None:
        """An offset is in an open transaction."""
        key = decode_key(raw)
        if isinstance(key, OffsetKey):
            self._ensure_group(key.group, wall_ms)
            self.offsets.open(key, producer_id)

    def _end_transaction(self, producer_id: int, commit: bool, wall_ms: int) -> None:
        keys, merged = self.durable.end_transaction(producer_id, commit)
        for raw in keys:
            key = decode_key(raw)
            if isinstance(key, OffsetKey):
                self.offsets.close(key, producer_id)
        for record in merged:
            key = decode_key(record.key)
            if isinstance(key, OffsetKey):
                self._apply_offset(key, record.value, wall_ms)

    def _apply_offset(self, key: OffsetKey, value: bytes | None, wall_ms: int) -> None:
        if value is not None:
            self._ensure_group(key.group, wall_ms)
        self.offsets.apply(key, None if value is None else decode_offset(value))

    def _ensure_group(self, group_id: str, wall_ms: int) -> None:
        self.unseen.discard(group_id)
        if group_id not in self.groups:
            # Offsets without a group: a simple consumer group, which has no record of its own.
            self.create(group_id, wall_ms)

    def _modern(self, key: ModernKey) -> ModernGroup[Any, Any]:
        """The group of a record that is loaded."""
        kind = _MODERN[RECORD_TYPES[key.kind].group_type]
        group = self.groups.get(key.group)
        if isinstance(group, kind):
            return group
        # Until now its offsets alone were known.
        made = self.groups[key.group] = kind(key.group)
        return made

    def take(self, group: Group, change: Change[object]) -> None:
        """The log has taken a change's records."""
        found = group if change.becomes is None else change.becomes
        if change.records or change.conversion:
            self.unseen.discard(found.group_id)
            self.groups[found.group_id] = found
        for record in change.records:
            assert isinstance(found, ModernGroup)
            found.replay(record.key, record.value)

    def create(self, group_id: str, wall_ms: int) -> ClassicGroup:
        group = self.groups[group_id] = ClassicGroup(group_id, self._timeouts, self._new_id, wall_ms)
        return group

    def visible(self) -> Iterator[Group]:
        """Groups that readers may see."""
        for group_id, group in self.groups.items():
            if group_id not in self.unseen:
                yield group

    def visible_group(self, group_id: str) -> Group | None:
        return None if group_id in self.unseen else self.groups.get(group_id)

    def sizes(self) -> Mapping[str, int]:
        return {"groups": len(self.groups), "offsets": self.offsets.count}

    def count(self, group_type: GroupType, state: str) -> int:
        return sum(group.group_type is group_type and group.shown_state == state for group in self.groups.values())
