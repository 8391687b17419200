"""A node's WAL is gone for good: what may be given up, what may not, and how its partitions go on (CORRECTNESS 10)."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from kio.schema.errors import ErrorCode
from sqlalchemy import delete, insert, select, update

from brokers import forgetting
from brokers.records.batch import iter_headers
from metadata.engine import Transaction
from metadata.forgetting import GivingUp
from metadata.image import NO_LEADER
from metadata.image_loader import CONTROLLER_LEASE
from metadata.schema import node_wals, stream_chunks, streams, tail_rows
from metadata.store import Metadata
from s3stream.errors import BadSetting, Corrupt, NotFound, Unavailable
from s3stream.limits import GIB, MIB, OFFSETS_PER_BATCH_MAX, RANGES_PER_CHUNK
from s3stream.objectstore.faulty import FaultyStore
from s3stream.seams import ObjectStore
from s3stream.types import ObjectRef, StreamState
from tests.support.survivor_partitions import Broker
from tests.support.survivors import KINDS, Cluster
from tests.support.virtual_time import virtual

LEASE_SECONDS = 3.0
WAL_BYTES = 4 * MIB
GAP = forgetting.gap_beyond(WAL_BYTES)


async def plan_of(cluster: Cluster, node_id: int = 0, store: ObjectStore | None = None) -> forgetting.Plan:
    access = cluster.access(store or cluster.store, cluster.process_files(), cluster._tasks)
    return await forgetting.plan(cluster.world.metadata, node_id, access, cluster.world.clock, LEASE_SECONDS, WAL_BYTES)


async def forget(cluster: Cluster, node_id: int = 0) -> list[tuple[int, int, int]]:
    losses = await forgetting.give_up(await plan_of(cluster, node_id), cluster.world.metadata, cluster.store)
    return [(loss.partition, loss.start, loss.end) for loss in losses]


def lose_volume(cluster: Cluster, node_id: int) -> None:
    for path in [path for path in cluster.disk.entries if path.startswith(f"/wal-{node_id}/")]:
        del cluster.disk.entries[path]


async def dead_owner(flushed: int, lost: int) -> tuple[Cluster, Broker]:
    """Of partition 0: `flushed` records in objects, `lost` more acknowledged; then it dies and its volume is gone."""
    cluster = await Cluster.create("files", 1)
    owner = Broker(await cluster.start(0))
    await owner.serves()
    for sequence in range(flushed + lost):
        if sequence == flushed:
            await owner.node.storage.flush()
        assert (await owner.produce(sequence)).offsets == [sequence]
    await owner.node.kill()
    lose_volume(cluster, 0)
    return cluster, owner


@virtual
async def test_10_a_partition_goes_on_behind_a_gap_that_no_offset_of_the_lost_wal_reaches() -> None:
    cluster, _ = await dead_owner(3, 2)
    metadata = cluster.world.metadata
    assert await forget(cluster) == [(0, 3, 3 + GAP)]
    [row] = await metadata.streams([1])
    assert (row.state, row.committed_end) == (StreamState.CLOSED, 3 + GAP)
    survivor = Broker(await cluster.start(1))
    await metadata.assign({1: 1})
    log = await survivor.serves()
    assert (log.leader_epoch, log.log_start_offset, log.high_watermark) == (1, 0, 3 + GAP)
    # Producers: state as it was at the committed end. A retry of what is there is known, what was lost is not.
    assert (await survivor.produce(2)).offsets == [2]
    assert (await survivor.produce(4)).errors == [ErrorCode.out_of_order_sequence_number]
    assert (await survivor.produce(3)).offsets == [3 + GAP]
    # Consumers: below, in the gap (where the lost records were, and further on), behind it.
    for offset, found in ((0, 0), (2, 2), (3, 3 + GAP), (4, 3 + GAP), (GAP, 3 + GAP), (3 + GAP, 3 + GAP)):
        result = await log.read(offset, 1)
        [first, *_] = iter_headers(b"".join(bytes(part) for part in result.buffers))
        assert (first[1].base_offset, result.start_offset) == (found, found), offset
    assert log.end_offset_for_epoch(0) == (0, 3 + GAP)
    assert log.end_offset_for_epoch(1) == (1, 4 + GAP)
    assert await log.read(4 + GAP, 1) is not None
    # It is there after the next restart too, and by time.
    await survivor.node.storage.flush()
    await survivor.node.kill()
    again = Broker(await cluster.start(1))
    log = await again.serves()
    assert (log.leader_epoch, log.high_watermark) == (2, 4 + GAP)
    assert (await again.produce(3)).offsets == [3 + GAP]
    batch = await log.stream.batch_for_timestamp(-1, log.high_watermark, 3)
    assert batch is not None and next(iter(iter_headers(batch)))[1].base_offset == 3 + GAP


@virtual
async def test_a_partition_of_which_nothing_was_ever_flushed_goes_on_too() -> None:
    cluster, _ = await dead_owner(0, 2)
    assert await forget(cluster) == [(0, 0, GAP)]
    survivor = Broker(await cluster.start(1))
    await cluster.world.metadata.assign({1: 1})
    log = await survivor.serves()
    result = await log.read(1, 1)
    assert (result.buffers, result.end_offset) == ([], GAP), "nothing there yet"
    assert (await survivor.produce(0)).offsets == [GAP]
    assert (await log.read(1, 1)).start_offset == GAP


@virtual
async def test_what_was_given_up_is_in_the_image_and_the_node_comes_back_with_an_empty_volume() -> None:
    cluster, _ = await dead_owner(3, 2)
    metadata = cluster.world.metadata
    await forget(cluster)
    image = await metadata.load_image()
    [loss] = image.losses
    assert (loss.topic, loss.partition, loss.node_id, loss.node_epoch, loss.leader_epoch) == ("t", 0, 0, 1, 1)
    assert not image.nodes[0].alive and image.nodes[0].node_epoch == 2
    back = Broker(await cluster.start(0))
    log = await back.serves()
    assert (back.node.identity.node_epoch, log.high_watermark) == (3, 3 + GAP)


@virtual
async def test_10_a_node_that_lives_is_not_forgotten() -> None:
    cluster, owner = await dead_owner(3, 2)
    metadata = cluster.world.metadata
    plan = await plan_of(cluster)
    identity = owner.node.identity

    async def beat() -> None:
        while True:
            await metadata.heartbeat(identity)
            await asyncio.sleep(0.5)

    beating = asyncio.ensure_future(beat())
    await asyncio.sleep(0)
    with pytest.raises(BadSetting, match="lives"):
        await plan_of(cluster)
    # It came to life after it was watched.
    with pytest.raises(Unavailable, match="lives"):
        await forgetting.give_up(plan, metadata, cluster.store)
    beating.cancel()
    [row] = await metadata.streams([1])
    assert (row.state, row.committed_end) == (StreamState.OPEN, 3)


@virtual
async def test_10_a_paused_owner_that_holds_its_lock_is_not_forgotten() -> None:
    cluster = await Cluster.create("files", 1)
    await (await cluster.start(0)).open([1])
    with pytest.raises(BadSetting, match="in use by process"):
        await plan_of(cluster)


@pytest.mark.parametrize("kind", KINDS)
@virtual
async def test_10_a_wal_that_can_be_read_is_not_given_up(kind: str) -> None:
    cluster = await Cluster.create(kind, 1)
    owner = Broker(await cluster.start(0))
    await owner.serves()
    await owner.produce(0)
    await owner.node.kill()
    with pytest.raises(BadSetting, match="can be read"):
        await plan_of(cluster)
    survivor = await cluster.start(1)
    wal = await cluster.fence(0, 1, survivor.identity)
    if kind == "objects":
        with pytest.raises(BadSetting, match="can be read"):
            await plan_of(cluster)
    await cluster.seal(wal)
    assert (await plan_of(cluster)).lost == [], "everything is there: it is for survivors to recover"


@pytest.mark.parametrize("fenced", [False, True], ids=["open", "sealing"])
@virtual
async def test_10_a_log_on_objects_whose_store_does_not_answer_is_not_given_up(fenced: bool) -> None:
    cluster = await Cluster.create("objects", 1)
    owner = Broker(await cluster.start(0))
    await owner.serves()
    await owner.produce(0)
    await owner.node.kill()
    if fenced:
        await cluster.fence(0, 1, (await cluster.start(1)).identity)
    store = FaultyStore(cluster.store, cluster.world.clock, Random(1), cluster._tasks)
    store.faults.storm = True
    with pytest.raises(Unavailable, match="503"):
        await plan_of(cluster, store=store)
    store.faults.storm = False
    with pytest.raises(BadSetting, match="can be read"):
        await plan_of(cluster, store=store)


@virtual
async def test_an_earlier_lifes_directory_is_for_its_node() -> None:
    """The owner died between its registration and writing its name: it alone can read what its last life left."""
    cluster = await Cluster.create("files", 1)
    owner = Broker(await cluster.start(0))
    await owner.serves()
    await owner.produce(0)
    await owner.node.kill()
    await cluster.world.metadata.register_node(0, cluster.uri(0), {"PLAINTEXT": "127.0.0.1:9092"})
    with pytest.raises(BadSetting, match="can be read"):
        await plan_of(cluster)


@virtual
async def test_an_earlier_lifes_directory_is_for_its_node_also_when_that_was_fenced() -> None:
    """Its streams name an incarnation that never wrote there: nobody else may say that they are lost."""
    cluster = await Cluster.create("files", 1)
    metadata = cluster.world.metadata
    owner, other = Broker(await cluster.start(0)), await cluster.start(1)
    await owner.serves()
    await owner.produce(0)
    await owner.node.kill()
    again = await metadata.register_node(0, cluster.uri(0), {"PLAINTEXT": "127.0.0.1:9092"})
    lease = await metadata.acquire_lease(CONTROLLER_LEASE, other.identity, None)
    assert lease is not None and await metadata.fence_node(lease, 0, again.identity.node_epoch, 0) is not None
    with pytest.raises(BadSetting, match="an earlier life's of the same node"):
        await plan_of(cluster)


@virtual
async def test_of_a_wal_that_lacks_offsets_only_the_streams_that_they_are_of_are_given_up() -> None:
    cluster = await Cluster.create("files", 2)
    owner, survivor = Broker(await cluster.start(0)), await cluster.start(1)
    for partition in (0, 1):
        await owner.serves(partition)
    for sequence in range(5):
        if sequence == 3:
            await owner.node.storage.flush()
        for partition in (0, 1):
            await owner.produce(sequence, partition)
    await owner.node.kill()
    await cluster.bury(owner.node, survivor)
    # As if what lies in the trimmed part of the WAL had never been committed.
    await write(cluster.world.metadata, update(streams).where(streams.c.stream_id == 1).values(committed_end=1), {})
    [lost] = (await plan_of(cluster)).lost
    assert (lost.stream.partition, lost.start) == (0, 1)
    assert lost.reason.startswith("offsets from 1 to 3 are missing")


async def with_a_hole() -> tuple[Cluster, Broker, Broker]:
    """A WAL on objects that lacks one of partition 1's first records; partition 0 is whole. Sealed."""
    cluster = await Cluster.create("objects", 2)
    owner, survivor = Broker(await cluster.start(0)), Broker(await cluster.start(1))
    for partition in (0, 1):
        await owner.serves(partition)
    for sequence in range(3):
        for partition in (0, 1):
            assert (await owner.produce(sequence, partition)).offsets == [sequence]
    await owner.node.kill()
    await cluster.bury(owner.node, survivor.node)
    damaged = 0
    async for info in cluster.store.list(""):
        data = bytearray(await cluster.store.get(info.key))
        at = data.find(b"PONOROWL")
        if at == 0 and int.from_bytes(data[10:12], "little") == 1 and int.from_bytes(data[80:88], "little") == 2:
            await cluster.store.delete([info.key])
            data[-1] ^= 1  # of partition 1's payload, the only one in this object
            await cluster.store.create(info.key, [bytes(data)])
            damaged += 1
    assert damaged
    return cluster, owner, survivor


@virtual
async def test_of_a_wal_with_damage_only_the_partitions_that_it_concerns_are_given_up() -> None:
    cluster, _, survivor = await with_a_hole()
    metadata = cluster.world.metadata
    await metadata.assign({1: 1, 2: 1})
    whole = await survivor.serves(0)
    assert whole.high_watermark == 3
    for _ in range(20):
        await survivor.manager.apply_image(await metadata.load_image())
        await asyncio.sleep(0.1)
    assert list(survivor.manager.offline()) == [2]
    plan = await plan_of(cluster)
    assert [(one.stream.partition, one.reason.split(":")[0]) for one in plan.lost] == [(1, "damaged")]
    [(partition, start, end)] = await forget(cluster)
    assert (partition, end - start) == (1, GAP)
    # The survivor that had found the damage opens it, without a restart.
    log = await survivor.serves(1)
    assert (log.leader_epoch, log.high_watermark) == (1, end)
    assert survivor.manager.offline() == {}
    assert (await metadata.load_image()).fenced_wals == ()
    [wal] = (await metadata.holdings(0)).wals.values()
    assert wal.seal_number is not None, "the sealed log's row stays, to be cleaned up"


@virtual
async def test_a_lost_corner_of_a_node_that_came_back_elsewhere_is_given_up_though_it_lives() -> None:
    cluster, _, survivor = await with_a_hole()
    metadata = cluster.world.metadata
    await metadata.assign({1: 1, 2: 1})
    await survivor.serves(0)
    await metadata.register_node(0, "s3://elsewhere/wal", {"PLAINTEXT": "127.0.0.1:9092"})
    assert [partition for partition, *_ in await forget(cluster)] == [1]
    assert (await metadata.load_image()).nodes[0].alive


@virtual
async def test_giving_up_is_all_or_nothing_and_refuses_what_has_changed() -> None:
    cluster, _ = await dead_owner(3, 2)
    metadata = cluster.world.metadata
    plan = await plan_of(cluster)
    await forget(cluster)
    with pytest.raises(Unavailable):
        await forgetting.give_up(plan, metadata, cluster.store)
    [row] = await metadata.streams([1])
    assert row.committed_end == 3 + GAP, "once"
    assert len((await metadata.load_image()).losses) == 1
    with pytest.raises(NotFound):
        await plan_of(cluster, 7)
    assert (await plan_of(cluster)).lost == []


@virtual
async def test_10_a_stream_that_a_survivor_has_opened_meanwhile_is_not_given_up() -> None:
    cluster = await Cluster.create("files", 2)
    metadata = cluster.world.metadata
    owner, survivor = await cluster.start(0), await cluster.start(1)
    await owner.open([1, 2])
    await owner.kill()
    wal = await cluster.bury(owner, survivor)
    found = await metadata.holdings(0)
    await survivor.storage.take_over(wal, [1])
    await survivor.open([1])
    hole = await forgetting.upload_hole(metadata, cluster.store)
    what = GivingUp(0, found.node_epoch, found.heartbeat, dict.fromkeys([1, 2], wal.node_epoch), GAP, hole)
    with pytest.raises(Unavailable, match="stream 1 is not node 0's any more"):
        await metadata.give_up(what)
    rows = await metadata.streams([1, 2])
    assert [(row.state, row.owner) for row in rows] == [(StreamState.OPEN, 1), (StreamState.OPEN, 0)]
    image = await metadata.load_image()
    assert [loss.stream_id for loss in await metadata.give_up(what._replace(streams={2: wal.node_epoch}))] == [2]
    [topic] = (await metadata.load_image(image)).topics.values()
    assert [part.leader for part in topic.partitions] == [1, NO_LEADER], "whoever follows the image hears of it"


@virtual
async def test_10_a_node_that_has_registered_anew_lives_though_its_heartbeats_count_from_the_start() -> None:
    cluster, owner = await dead_owner(3, 2)
    metadata = cluster.world.metadata
    plan = await plan_of(cluster)
    again = await metadata.register_node(0, cluster.uri(0), {})
    assert plan.holdings.heartbeat == 0 and again.identity.node_epoch > owner.node.identity.node_epoch
    with pytest.raises(Unavailable, match="lives: it has beaten, or registered"):
        await forgetting.give_up(plan, metadata, cluster.store)


@virtual
async def test_of_records_that_were_deleted_before_they_were_in_objects_none_are_lost() -> None:
    cluster, _ = await dead_owner(3, 2)
    await write(cluster.world.metadata, update(streams).values(start_offset=5), {})
    assert await forget(cluster) == [(0, 5, 5 + GAP)]


@virtual
async def test_3_a_node_in_whose_wal_a_tail_lies_is_not_forgotten() -> None:
    cluster, _ = await dead_owner(3, 2)
    metadata = cluster.world.metadata
    plan = await plan_of(cluster)
    await write(metadata, insert(tail_rows), {"stream_id": 9, "start_offset": 0, "end_offset": 5, "node_id": 0,
                                              "node_epoch": 1, "stream_epoch": 0})  # fmt: skip
    with pytest.raises(Unavailable, match="moved away"):
        await forgetting.give_up(plan, metadata, cluster.store)


@virtual
async def test_a_wal_that_was_never_sealed_is_given_up_whole() -> None:
    cluster = await Cluster.create("files", 2)
    node = await cluster.start(0)
    await node.open([1, 2])
    await node.kill()
    lose_volume(cluster, 0)
    plan = await plan_of(cluster)
    with pytest.raises(Unavailable, match="more partitions open"):
        await forgetting.give_up(plan._replace(lost=plan.lost[:1]), cluster.world.metadata, cluster.store)
    assert len(await forget(cluster)) == 2


@virtual
async def test_a_stream_whose_owner_has_no_wal_row_is_damage() -> None:
    cluster, _ = await dead_owner(1, 1)
    await write(cluster.world.metadata, delete(node_wals), {})
    with pytest.raises(Corrupt, match="no WAL row"):
        await plan_of(cluster)


async def write(metadata: Metadata, statement: Any, values: dict[str, int]) -> None:
    def run(tx: Transaction) -> None:
        tx.connection.execute(statement, values)

    await metadata._write("test", run)


@virtual
async def test_an_object_for_the_gap_whose_preparation_ran_out_is_not_referred_to() -> None:
    cluster, _ = await dead_owner(3, 2)
    metadata = cluster.world.metadata
    plan = await plan_of(cluster)
    found = plan.holdings
    what = GivingUp(0, found.node_epoch, found.heartbeat, {1: 1}, GAP, ObjectRef(99, 1, 56))
    with pytest.raises(Unavailable, match="ran out"):
        await metadata.give_up(what)
    [row] = await metadata.streams([1])
    assert (row.state, row.committed_end) == (StreamState.OPEN, 3)


@virtual
async def test_a_gap_may_fill_a_chunk_of_ranges() -> None:
    cluster = await Cluster.create("files", 1)
    owner = Broker(await cluster.start(0))
    await owner.serves()
    for sequence in range(RANGES_PER_CHUNK - 1):
        await owner.produce(sequence)
        await owner.node.storage.flush()
    await owner.produce(RANGES_PER_CHUNK - 1)
    await owner.node.kill()
    lose_volume(cluster, 0)
    [(_, start, end)] = await forget(cluster)
    ranges = await cluster.world.metadata.object_ranges(1, 0, 1000)
    assert [(part.start, part.end) for part in ranges[-2:]] == [(start - 1, start), (start, end)]
    # A full chunk is a row of its own: the one that each commit rewrites stays small.
    query = select(stream_chunks.c.start_offset, stream_chunks.c.end_offset)
    chunks = await cluster.world.metadata._read("test", lambda tx: tx.connection.execute(query).all())
    assert [tuple(row) for row in chunks] == [(0, end)]


@virtual
async def test_there_have_to_be_offsets_left() -> None:
    cluster, _ = await dead_owner(1, 1)
    access = cluster.access(cluster.store, cluster.process_files(), cluster._tasks)
    with pytest.raises(BadSetting, match="not enough offsets"):
        await forgetting.plan(cluster.world.metadata, 0, access, cluster.world.clock, 3.0, 1 << 40)


def test_10_the_gap_is_larger_than_a_full_wal_can_hold() -> None:
    """As many of the smallest records as fit, each of as many offsets as a batch's header can say."""
    for wal_bytes in (512 * MIB, 4 * GIB, 64 * GIB):
        assert forgetting.gap_beyond(wal_bytes) > wal_bytes // (48 + 61) * OFFSETS_PER_BATCH_MAX
    assert forgetting.gap_beyond(4 * GIB) < forgetting.OFFSET_MAX // 50, "fifty times for one partition"
