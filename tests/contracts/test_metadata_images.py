"""An image is brought up to date with what changed, whoever did it: brokers of the schema before mark no partitions."""

from __future__ import annotations

import random
from uuid import UUID

import pytest
from sqlalchemy import update

from metadata import cluster, image_loader
from metadata.cluster_types import Placement
from metadata.engine import Transaction
from metadata.image import ClusterImage, changed_partitions
from metadata.schema import partitions, topics
from metadata.store import Metadata
from s3stream.types import OpenRequest, StreamId
from tests.support.metadata import Node, clock, make_streams, metadata

__all__ = ["clock", "metadata"]

TOPICS, PARTITIONS, STEPS = 3, 4, 60


def as_before(tx: Transaction, stream_id: StreamId, node_id: int) -> None:
    """A broker of schema 0004 assigns a partition."""
    version = cluster.bump_version(tx)
    moved = update(partitions).where(partitions.c.stream_id == stream_id).values(assigned=node_id)
    topic_id = tx.connection.execute(moved.returning(partitions.c.topic_id)).scalar_one()
    tx.connection.execute(update(topics).where(topics.c.topic_id == topic_id).values(version=version))


def changed(before: ClusterImage, after: ClusterImage) -> list[tuple[str, int]]:
    return [(topic.name, part.partition) for topic, part in changed_partitions(before, after)]


async def test_only_the_partitions_that_changed_are_read(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await make_streams(metadata, 50, "a", 1)
    second = await make_streams(metadata, 50, "b", 2)
    node = await Node.register(metadata)
    read: list[StreamId] = []
    of_row = image_loader._partition
    monkeypatch.setattr(image_loader, "_partition", lambda *row: read.append(row[1]) or of_row(*row))  # type: ignore[func-returns-value]
    image = await metadata.load_image()
    assert sorted(read) == sorted(first + second)

    async def refreshed(*streams: StreamId) -> list[tuple[str, int]]:
        nonlocal image
        read.clear()
        before, image = image, await metadata.load_image(image)
        assert sorted(read) == sorted(streams)
        return changed(before, image)

    await metadata.open_streams(node.identity, [OpenRequest(stream, -1, 0) for stream in (first[3], second[4])])
    assert await refreshed(first[3], second[4]) == [("a", 3), ("b", 4)]
    await metadata.close_streams(node.identity, {first[3]: 0})
    assert await refreshed(first[3]) == [("a", 3)]
    await metadata.assign({first[0]: 7, second[49]: 8})
    assert await refreshed(first[0], second[49]) == [("a", 0), ("b", 49)]
    await metadata.place({second[1]: Placement((7, 0), 7)})
    assert await refreshed(second[1]) == [("b", 1)]
    await metadata.update_features({"metadata.version": 29})
    assert await refreshed() == []
    await metadata.alter_configs("topic", "a", {"x": "1"})
    assert await refreshed(*first) == [], "read whole, and found to be as they were"
    assert image.topics["a"].configs == {"x": "1"}


async def test_what_a_broker_of_the_schema_before_changes_is_seen(metadata: Metadata) -> None:
    """By who looks at once, and by who looks only after a newer broker has changed the same topic."""
    streams = await make_streams(metadata, 3, "a", 1)
    early = late = await metadata.load_image()
    await metadata._write("as before", as_before, streams[0], 7)
    before, early = early, await metadata.load_image(early)
    assert changed(before, early) == [("a", 0)]
    await metadata.assign({streams[1]: 8})
    before, early = early, await metadata.load_image(early)
    assert changed(before, early) == [("a", 1)]
    before, late = late, await metadata.load_image(late)
    assert changed(before, late) == [("a", 0), ("a", 1)]
    assert early == late == await metadata.load_image()


@pytest.mark.parametrize("seed", range(4))
async def test_images_of_brokers_old_and_new_are_whole(metadata: Metadata, seed: int) -> None:
    chance = random.Random(seed)
    nodes = [await Node.register(metadata, number) for number in range(2)]
    streams = [
        stream
        for number in range(TOPICS)
        for stream in await make_streams(metadata, PARTITIONS, f"t{number}", 1 + number)
    ]
    epochs = dict.fromkeys(streams, -1)
    opened: dict[StreamId, Node] = {}
    readers = [await metadata.load_image() for _ in range(3)]
    for _ in range(STEPS):
        stream, node = chance.choice(streams), chance.choice(nodes)
        topic = UUID(int=1 + chance.randrange(TOPICS))
        match chance.randrange(7):
            case 0 | 1 if stream in opened:
                await metadata.close_streams(opened.pop(stream).identity, {stream: 0})
            case 0 | 1:
                await metadata.assign({stream: node.identity.node_id})
                await metadata.open_streams(node.identity, [OpenRequest(stream, epochs[stream], 0)])
                opened[stream], epochs[stream] = node, epochs[stream] + 1
            case 2:
                await metadata.assign({other: chance.randrange(9) for other in chance.sample(streams, 3)})
            case 3 | 4:
                await metadata._write("as before", as_before, stream, chance.randrange(9))
            case 5:
                await metadata.alter_configs("topic", f"t{topic.int - 1}", {"x": str(chance.random())})
            case _:
                await metadata.create_partitions(topic, [[chance.randrange(9)]])
        for number in range(len(readers)):
            if chance.random() < 0.4:
                readers[number] = await metadata.load_image(readers[number])
                assert readers[number] == await metadata.load_image(), f"seed {seed}"
