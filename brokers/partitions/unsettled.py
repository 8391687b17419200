"""What of the cluster image a broker has yet to act on: partitions to be looked at, topics to be configured.

Does not own: what a look finds, and what is done about it (manager.py).
Invariant: a partition whose place changed, in the image or here, since it was last looked at is among these, as is one
that was not then what the image wants. So a look costs what changed, not what there is: at ten thousand partitions a
look at all of them for each image held up the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.successors import Place
from metadata.image import ClusterImage, PartitionImage, TopicImage, changed_partitions, changed_topics


class Seen(NamedTuple):
    """A partition at a look at it."""

    topic: TopicImage
    part: PartitionImage
    log: PartitionLog | None
    """None when it is not open here."""


class Unsettled:
    def __init__(self) -> None:
        # Dictionaries, for their order.
        self._places: dict[Place, None] = {}
        self._topics: dict[UUID, None] = {}

    def show(self, before: ClusterImage, after: ClusterImage, here: Iterable[UUID]) -> list[Place]:
        """Add what changed between two images; `here`: topics with partitions here. Returns the partitions."""
        changed = [Place(topic.topic_id, part.partition) for topic, part in changed_partitions(before, after)]
        self._places.update(dict.fromkeys(changed))
        if before.broker_configs != after.broker_configs:
            self._topics.update(dict.fromkeys(here))
        for was, topic in changed_topics(before, after):
            if was is None or was.configs != topic.configs:
                self._topics[topic.topic_id] = None
        return changed

    def add(self, place: Place) -> None:
        """It was opened or closed here, or could not be."""
        self._places[place] = None

    def take(
        self,
        image: ClusterImage,
        logs: Mapping[UUID, Mapping[int, PartitionLog]],
        is_settled: Callable[[Seen], bool],
    ) -> list[Seen]:
        """All of them, as they are in `image`, the newest shown, and in `logs`. Those that are not settled stay."""
        places, self._places = self._places, {}
        found = []
        for place in places:
            topic = image.topics_by_id.get(place.topic_id)
            if topic is None or place.partition >= len(topic.partitions):
                continue
            log = logs.get(place.topic_id, {}).get(place.partition)
            seen = Seen(topic, topic.partitions[place.partition], log)
            if not is_settled(seen):
                self._places[place] = None
            found.append(seen)
        return found

    def take_topics(self, image: ClusterImage) -> list[TopicImage]:
        """Those of the image whose configs may have changed."""
        topics, self._topics = self._topics, {}
        return [topic for topic_id in topics if (topic := image.topics_by_id.get(topic_id)) is not None]
