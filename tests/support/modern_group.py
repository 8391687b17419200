"""A modern group driven without a log: what is asked is taken at once, time and topics are the test's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Generic, TypeVar
from uuid import UUID

from brokers.coordinators.fields import Record
from brokers.groups.messages import Instant
from brokers.groups.modern.change import Change, ModernKey
from brokers.groups.modern.group import ModernGroup
from brokers.groups.modern.topics import Topics
from brokers.groups.record_types import RECORD_TYPES, decode_any_key, encode
from metadata.image import ClusterImage
from tests.support.broker_services import empty_image
from tests.support.coordinator import topic_image

G = TypeVar("G", bound=ModernGroup[Any, Any])


class World:
    """Topics that come, go and grow."""

    def __init__(self, **counts: int) -> None:
        self.image: ClusterImage = empty_image(version=1)
        self.topics = Topics(self.image)
        self._ids = 100
        self.set(**counts)

    def set(self, **counts: int) -> None:
        """Topics by their new count of partitions; 0: deleted."""
        before = self.image
        by_name = dict(before.topics)
        for name, count in counts.items():
            old = by_name.pop(name, None)
            if count:
                if old is None:
                    self._ids += 1
                by_name[name] = topic_image(name, UUID(int=self._ids) if old is None else old.topic_id, count)
        by_id = {topic.topic_id: topic for topic in by_name.values()}
        self.image = replace(before, version=before.version + 1, topics=by_name, topics_by_id=by_id)
        self.topics = self.topics.after(before, self.image)

    def id_of(self, name: str) -> UUID:
        return self.image.topics[name].topic_id

    def count(self, name: str) -> int:
        topic = self.image.topics.get(name)
        return 0 if topic is None else len(topic.partitions)


class ModernDriver(Generic[G]):
    def __init__(self, world: World, kind: type[G]) -> None:
        self.world = world
        self.kind = kind
        self.group = kind("g")
        self.ticks = 0.0
        self.stored: dict[bytes, bytes] = {}
        """What the log holds, compacted."""

    @property
    def now(self) -> Instant:
        return Instant(self.ticks, 1_700_000_000_000 + int(self.ticks))

    def take(self, change: Change[Any]) -> Any:
        """The log took it."""
        for record in change.records:
            self._store(encode(record))
            self.group.replay(record.key, record.value)
        change.accepted()
        return change.answer

    def _store(self, record: Record) -> None:
        if record.value is None:
            self.stored.pop(record.key, None)
        else:
            self.stored[record.key] = record.value

    def reload(self, order: list[bytes] | None = None) -> G:
        """The group as another coordinator loads it."""
        group = self.kind("g")
        for raw in order or list(self.stored):
            key = decode_any_key(raw)
            assert isinstance(key, ModernKey)
            group.replay(key, RECORD_TYPES[key.kind].decode(self.stored[raw]))
        return group
