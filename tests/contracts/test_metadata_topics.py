"""Topics, configs and the cluster image, on every metadata engine."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from metadata import topics
from metadata.cluster_types import NewTopic
from metadata.image import CLUSTER_DEFAULT, NO_LEADER
from metadata.store import Metadata
from s3stream.errors import AlreadyExists, NotFound
from s3stream.limits import RANGES_PER_CHUNK
from s3stream.types import CommittedRange, OpenRequest, RangeOutcome
from tests.support.metadata import Node, clock, make_streams, marked, metadata

__all__ = ["clock", "metadata"]

ONE, TWO = UUID(int=1), UUID(int=2)


async def test_a_created_topic_is_in_the_image_as_asked_for(metadata: Metadata) -> None:
    made = await metadata.create_topic("a", ONE, [[0, 1], [1, 0]], {"retention.ms": "5"}, internal=True)
    image = await metadata.load_image()
    assert image.topics["a"] == image.topics_by_id[ONE] == made
    assert (made.internal, made.configs) == (True, {"retention.ms": "5"})
    assert [part.replicas for part in made.partitions] == [(0, 1), (1, 0)]
    assert [(part.partition, part.leader, part.leader_epoch) for part in made.partitions] == [
        (0, NO_LEADER, -1),
        (1, NO_LEADER, -1),
    ]
    assert image.cluster_id == metadata.cluster_id


async def test_a_name_is_taken_once_and_a_retry_is_a_success(metadata: Metadata) -> None:
    made = await metadata.create_topic("a", ONE, [[0]])
    assert await metadata.create_topic("a", ONE, [[0]]) == made
    with pytest.raises(AlreadyExists, match="'a'"):
        await metadata.create_topic("a", TWO, [[0]])
    assert len((await metadata.load_image()).topics_by_id) == 1


async def test_topics_made_together_are_one_version_and_none_where_the_name_is_taken(metadata: Metadata) -> None:
    await metadata.create_topic("taken", UUID(int=9), [[0]])
    before = await metadata.load_image()
    wanted = [
        NewTopic("a", ONE, [[0, 1], [1, 0]], {"retention.ms": "5"}),
        NewTopic("taken", UUID(int=8), [[0]], {}),
        NewTopic("b", TWO, [[1]], {}, internal=True),
    ]
    made = await metadata.create_topics(wanted)
    image = await metadata.load_image(before)
    assert image.version == before.version + 1
    assert made == [image.topics["a"], None, image.topics["b"]]
    assert [part.replicas for part in image.topics["a"].partitions] == [(0, 1), (1, 0)]
    assert image.topics["a"].configs == {"retention.ms": "5"} and image.topics["b"].internal
    streams = [part.stream_id for topic in image.topics.values() for part in topic.partitions]
    assert len(set(streams)) == len(streams)
    assert await metadata.create_topics(wanted) == made, "a retry after an unknown outcome"
    assert (await metadata.load_image()).topics == image.topics


async def test_partitions_are_added_behind_the_others(metadata: Metadata) -> None:
    made = await metadata.create_topic("a", ONE, [[0]])
    grown = await metadata.create_partitions(ONE, [[1], [0]])
    assert grown.partitions[0] == made.partitions[0]
    assert [(part.partition, part.replicas) for part in grown.partitions] == [(0, (0,)), (1, (1,)), (2, (0,))]
    assert len({part.stream_id for part in grown.partitions}) == 3
    with pytest.raises(NotFound):
        await metadata.create_partitions(TWO, [[0]])


async def test_an_image_is_the_same_object_until_something_changes(metadata: Metadata) -> None:
    await metadata.create_topic("a", ONE, [[0]])
    first = await metadata.load_image()
    assert await metadata.load_image(first) is first
    await metadata.create_topic("b", TWO, [[0]])
    second = await metadata.load_image(first)
    assert second.version > first.version
    assert second.topics["a"] is first.topics["a"]
    assert "b" not in first.topics
    assert second == await metadata.load_image(None)


async def test_commits_heartbeats_and_trims_do_not_touch_the_image(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    image = await metadata.load_image()
    await node.commit(CommittedRange(stream, 0, 0, 5, 1), trim=3)
    await metadata.heartbeat(node.identity)
    await metadata.trim_stream(node.identity, stream, 0, 2)
    await metadata.allocate_producer_ids(node.identity, 1)
    assert await metadata.load_image(image) is image


async def test_every_change_is_in_the_refreshed_image_as_in_a_whole_one(metadata: Metadata) -> None:
    image = await metadata.load_image()
    node = await Node.register(metadata)
    streams = await make_streams(metadata, 2, "a", 1)
    await metadata.create_topic("b", TWO, [[0]])

    async def refreshed() -> None:
        nonlocal image
        before = image
        image = await metadata.load_image(image)
        assert image.version > before.version
        assert image == await metadata.load_image(None)

    await refreshed()
    await metadata.open_streams(node.identity, [OpenRequest(stream, -1, 0) for stream in streams])
    await refreshed()
    assert [part.leader for part in image.topics["a"].partitions] == [0, 0]
    await metadata.close_streams(node.identity, {streams[0]: 0})
    await refreshed()
    assert [part.leader for part in image.topics["a"].partitions] == [NO_LEADER, 0]
    await metadata.alter_configs("topic", "a", {"x": "1", "y": "2"})
    await metadata.alter_configs("topic", "a", {"x": None, "y": "3", "z": "4"})
    await metadata.alter_configs("broker", CLUSTER_DEFAULT, {"k": "all"})
    await metadata.alter_configs("broker", "0", {"k": "zero"})
    await refreshed()
    assert image.topics["a"].configs == {"y": "3", "z": "4"}
    assert image.broker_configs == {CLUSTER_DEFAULT: {"k": "all"}, "0": {"k": "zero"}}
    await metadata.update_features({"metadata.version": 29, "share.version": 1})
    await metadata.update_features({"share.version": None})
    await refreshed()
    assert image.features == {"metadata.version": 29}
    await metadata.create_partitions(TWO, [[0]])
    await refreshed()
    await metadata.delete_topic(TWO)
    await refreshed()
    assert set(image.topics) == {"a"}
    # Deleted and made again under the same name, both since the last look.
    await metadata.delete_topic(UUID(int=1))
    await metadata.create_topic("a", UUID(int=3), [[0]])
    await refreshed()
    assert image.topics["a"].topic_id == UUID(int=3)
    assert set(image.topics_by_id) == {UUID(int=3)}
    assert image.topics["a"].configs == {}


async def test_configs_outside_the_image_are_kept_by_kind_and_name(metadata: Metadata) -> None:
    for kind in ("group", "client-metrics"):
        await metadata.alter_configs(kind, "g", {"a": kind})
        await metadata.alter_configs(kind, "other", {"a": "b"})
        assert await metadata.configs(kind, "g") == {"a": kind}
        assert await metadata.configs(kind, "none") == {}
    with pytest.raises(NotFound):
        await metadata.alter_configs("topic", "none", {"a": "b"})


async def test_a_deleted_topic_frees_its_objects_its_name_and_nothing_else(metadata: Metadata) -> None:
    node = await Node.register(metadata)
    [mine] = await make_streams(metadata, 1, "a", 1)
    [other] = await make_streams(metadata, 1, "b", 2)
    await metadata.open_streams(node.identity, [OpenRequest(stream, -1, 0) for stream in (mine, other)])
    alone, shared = await node.prepare(), await node.prepare()
    await metadata.commit(node.flush({alone: [CommittedRange(mine, 0, 0, 5, 1)]}))
    both = [CommittedRange(mine, 0, 5, 9, 1), CommittedRange(other, 0, 0, 3, 1)]
    await metadata.commit(node.flush({shared: both}))
    await metadata.delete_topic(ONE)
    assert await marked(metadata) == [alone]
    assert await metadata.streams([mine]) == []
    assert len(await metadata.object_ranges(other, 0, 10)) == 1
    with pytest.raises(NotFound):
        await metadata.object_ranges(mine, 0, 10)
    with pytest.raises(NotFound):
        await metadata.delete_topic(ONE)
    assert (await node.commit(CommittedRange(mine, 0, 9, 12, 1))).outcomes == {mine: RangeOutcome.DELETED}
    await metadata.close_streams(node.identity, {mine: 12})
    [again] = await make_streams(metadata, 1, "a", 4)
    assert again not in (mine, other)
    assert mine not in [row.stream_id for row in (await metadata.register_node(0, "file:///wal-0", {})).owned]


async def test_an_interrupted_deletion_is_finished_by_the_collector(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await Node.register(metadata)
    streams = await make_streams(metadata, 3)
    await metadata.open_streams(node.identity, [OpenRequest(stream, -1, 0) for stream in streams])
    for number in range(RANGES_PER_CHUNK + 5):
        await node.commit(*(CommittedRange(stream, 0, number, number + 1, 1) for stream in streams))

    def crash(_: object) -> bool:
        raise RuntimeError("killed between the two transactions")

    with monkeypatch.context() as patch:
        patch.setattr(topics, "drop_deleted", crash)
        with pytest.raises(RuntimeError):
            await metadata.delete_topic(ONE)
    assert (await metadata.load_image()).topics == {}
    assert await marked(metadata) == []
    monkeypatch.setattr("metadata.ranges.RANGES_DROPPED_PER_TRANSACTION", 1)  # several transactions
    monkeypatch.setattr("metadata.ranges.CHUNKS_PER_TRANSACTION", 1)
    await metadata.expire_prepared(0, 10)
    assert len(await marked(metadata)) == RANGES_PER_CHUNK + 5
    assert await metadata.streams(streams) == []


async def test_an_image_older_than_the_remembered_deletions_is_loaded_whole(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "TOPIC_TOMBSTONES_MAX", 2)
    for number in range(1, 7):
        await metadata.create_topic(f"t{number}", UUID(int=number), [[0]])
    old = await metadata.load_image()
    for number in range(1, 6):
        await metadata.delete_topic(UUID(int=number))
    assert await metadata.load_image(old) == await metadata.load_image(None)
    assert set((await metadata.load_image(old)).topics) == {"t6"}


async def test_a_waiter_is_woken_by_a_change_and_not_before(metadata: Metadata) -> None:
    image = await metadata.load_image()
    waiter = asyncio.ensure_future(metadata.changed(image.version))
    node = await Node.register(metadata)
    assert await waiter == image.version + 1
    waiter = asyncio.ensure_future(metadata.changed(image.version + 1))
    await metadata.heartbeat(node.identity)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiter.done()
    waiter.cancel()
    assert await metadata.changed(0) == image.version + 1


async def test_watching_yields_the_first_image_and_each_newer_one(metadata: Metadata) -> None:
    images = metadata.watch()
    first = await anext(images)
    await metadata.create_topic("a", ONE, [[0]])
    assert (await anext(images)).version == first.version + 1
    await metadata.create_topic("b", TWO, [[0]])
    assert set((await anext(images)).topics) == {"a", "b"}
