"""The topics of the cluster as groups see them: ids, partition counts, and whether any of it changed.

Invariant: one view is one image. `version` grows when a topic came, went or got partitions, and not for what moves
between brokers: a group compares one number to know that its subscription metadata may be another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from uuid import UUID

from metadata.image import ClusterImage, TopicImage, changed_topics


class Topics:
    def __init__(self, image: ClusterImage, version: int | None = None, created_version: int | None = None) -> None:
        self._image = image
        self.version = image.version if version is None else version
        """Of the image that last changed what an assignment depends on."""
        self.created_version = image.version if created_version is None else created_version
        """Of the image in which a topic was last created: patterns are matched again after that."""

    def after(self, before: ClusterImage, image: ClusterImage) -> Topics:
        """The view of the image that comes next."""
        changed = list(changed_topics(before, image))
        created = any(was is None for was, _ in changed)
        grown = any(was is not None and len(was.partitions) != len(topic.partitions) for was, topic in changed)
        gone = any(topic_id not in image.topics_by_id for topic_id in before.topics_by_id)
        version = image.version if created or grown or gone else self.version
        return Topics(image, version, image.version if created else self.created_version)

    @property
    def image_version(self) -> int:
        return self._image.version

    def names(self) -> Iterator[str]:
        return iter(self._image.topics)

    def named(self, name: str) -> TopicImage | None:
        return self._image.topics.get(name)

    def name_of(self, topic_id: UUID) -> str | None:
        topic = self._image.topics_by_id.get(topic_id)
        return None if topic is None else topic.name

    def ids(self, names: Iterable[str]) -> frozenset[UUID]:
        """Of those that exist."""
        known = self._image.topics
        return frozenset(known[name].topic_id for name in names if name in known)

    def partition_count(self, topic_id: UUID) -> int:
        topic = self._image.topics_by_id.get(topic_id)
        return 0 if topic is None else len(topic.partitions)

    def metadata_hash(self, names: Iterable[str]) -> int:
        """Of what an assignment depends on: which of these topics exist, their ids and partition counts. 0 for none;
        else a signed 64-bit number, as the records hold it. Two groups compare theirs with nobody (decision 0200)."""
        known = self._image.topics
        hasher = blake2b(digest_size=8)
        found = False
        for name in sorted(names):
            topic = known.get(name)
            if topic is not None:
                found = True
                hasher.update(topic.topic_id.bytes + len(topic.partitions).to_bytes(4, "big"))
        return int.from_bytes(hasher.digest(), "big", signed=True) if found else 0
