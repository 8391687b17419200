"""Topics as bytes of a Metadata answer, kept as long as nothing they show has changed.

Invariant: an entry is used only for the same topic object and equal nodes; entries of topics that are gone go with
the next image that is seen.
"""

from __future__ import annotations

from kio.schema.errors import ErrorCode

from brokers.handlers.topic_view import Racks, partition_view, racks_of
from brokers.protocol.metadata_codec import PartitionMetadata, encode_topic
from metadata.image import ClusterImage, TopicImage


class MetadataAnswers:
    def __init__(self, by_rack: bool = False) -> None:
        """`by_rack`: consumers may read in their own (replica.selector.class)."""
        self._by_rack = by_rack
        self._image: ClusterImage | None = None
        self._kept: dict[int, dict[str, tuple[TopicImage, bytes]]] = {}

    def topic(self, version: int, image: ClusterImage, topic: TopicImage) -> bytes:
        """The topic's entry in an answer of that version, without authorized operations."""
        if image is not self._image:
            self._follow(image)
        kept = self._kept.setdefault(version, {})
        found = kept.get(topic.name)
        if found is None or found[0] is not topic:
            found = kept[topic.name] = (topic, self.encode(version, image, topic))
        return found[1]

    def kept(self, version: int, image: ClusterImage, topic: TopicImage) -> bool:
        """Whether `topic` costs no more than a lookup."""
        found = self._kept.get(version, {}).get(topic.name)
        return found is not None and found[0] is topic and image is self._image

    def _follow(self, image: ClusterImage) -> None:
        before, self._image = self._image, image
        if before is None or before.nodes != image.nodes:
            self._kept.clear()
            return
        for version, kept in self._kept.items():
            self._kept[version] = {name: entry for name, entry in kept.items() if image.topics.get(name) is entry[0]}

    def encode(self, version: int, image: ClusterImage, topic: TopicImage, operations: int | None = None) -> bytes:
        """As `topic`, made anew; `operations`: the authorized ones."""
        racks = racks_of(image) if self._by_rack else None
        partitions = [_partition(version, image, topic, number, racks) for number in range(len(topic.partitions))]
        extra = () if operations is None else (operations,)
        return encode_topic(version, 0, topic.name, topic.topic_id, topic.internal, partitions, *extra)


def _partition(
    version: int, image: ClusterImage, topic: TopicImage, number: int, racks: Racks | None
) -> PartitionMetadata:
    view = partition_view(image, topic.partitions[number], racks)
    error, replicas = view.error, view.replicas
    if version == 0 and view.offline:
        # Version 0 has no offline replicas: brokers that are away are left out, and that is an error.
        replicas = view.in_sync
        if error == ErrorCode.none:
            error = ErrorCode.replica_not_available
    return PartitionMetadata(error, number, view.leader, view.leader_epoch, replicas, view.in_sync, view.offline)
