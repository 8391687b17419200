"""A second broker's lower half reads what the first one leads, through the real engine, metadata and objects, on
virtual time (CORRECTNESS 17)."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.limits import FOLLOWED_LOOKS_APART_S
from brokers.partitions.followed import FollowedLog
from brokers.partitions.partition_log import READ_COMMITTED
from brokers.partitions.pending import AppendOrigin
from brokers.records.batch import iter_headers
from brokers.records.builder import marker_batch
from brokers.records.record import EndMarker, iter_records
from s3stream.errors import Fenced, NotFound
from s3stream.limits import MIB
from s3stream.settings import EngineSettings
from tests.support.engine import World, append
from tests.support.followers import follow, second_engine
from tests.support.partition_life import Life, turns
from tests.support.partitions import append as append_batch
from tests.support.partitions import batch, idempotent
from tests.support.virtual_time import virtual


async def read_on(log: FollowedLog, offset: int, max_bytes: int = 200, isolation: int = 0) -> list[tuple[int, bytes]]:
    """From `offset` until the log says that its knowledge ends."""
    found: list[tuple[int, bytes]] = []
    while True:
        try:
            result = await log.read(offset, max_bytes, isolation)
        except KafkaError as error:
            assert error.code is ErrorCode.offset_not_available, error
            return found
        for buffer in result.buffers:
            for position, header in iter_headers(buffer):
                whole = memoryview(buffer)[position : position + header.size]
                found += [(record.offset, bytes(record.value or b"")) for record in iter_records(whole)]
        assert result.end_offset > offset
        offset = result.end_offset


async def refused(log: FollowedLog, offset: int) -> ErrorCode:
    with pytest.raises(KafkaError) as caught:
        await log.read(offset, 200)
    return caught.value.code


@virtual
async def test_17_a_follower_reads_every_committed_record_once_and_in_order_while_the_leader_goes_on() -> None:
    world = await World.create(1)
    leader = await Life(world).start()
    log = follow(await second_engine(world), world)
    found: list[tuple[int, bytes]] = []
    for number in range(40):
        await leader.produce(batch(1, value=b"%d" % number))
        if number % 7 == 6:
            await leader.engine.storage.flush()
            await asyncio.sleep(2 * FOLLOWED_LOOKS_APART_S)
            found += await read_on(log, len(found))
            assert len(found) == number + 1
    assert found == [(number, b"%d" % number) for number in range(35)]
    assert await refused(log, 36) is ErrorCode.offset_not_available, "only the leader has it"


@virtual
async def test_17_records_deleted_and_their_objects_gone_are_below_the_log_start_and_not_damage() -> None:
    world = await World.create(1)
    quick = EngineSettings(flush_interval_ms=10**9, collect_interval_ms=1_000, object_delete_grace_ms=0)
    leader = await Life(world, settings=quick).start()
    engine = await second_engine(world)
    log = follow(engine, world)
    for number in range(4):
        await leader.produce(batch(1, value=b"%d" % number))
        await leader.engine.storage.flush()
    await log.read(3, 200)
    await leader.log().delete_records(2)
    await asyncio.sleep(5)  # the objects below are deleted
    assert await refused(log, 0) is ErrorCode.offset_out_of_range
    assert log.log_start_offset == 2
    assert await read_on(log, 2) == [(2, b"2"), (3, b"3")]


@virtual
async def test_17_a_deleted_topic_is_unknown() -> None:
    world = await World.create(1)
    leader = await Life(world).start()
    log = follow(await second_engine(world), world)
    await leader.produce(batch(1))
    await leader.engine.storage.flush()
    await log.read(0, 200)
    await world.metadata.delete_topic(UUID(int=1))
    await asyncio.sleep(2 * FOLLOWED_LOOKS_APART_S)
    assert await refused(log, 1) is ErrorCode.unknown_topic_or_partition


@virtual
async def test_17_committed_reads_go_by_checkpoints_in_rows_and_in_objects() -> None:
    world = await World.create(1)
    leader = await Life(world, budget_bytes=256 * MIB).start()
    engine = await second_engine(world)
    log = follow(engine, world)
    for producer_id in range(1_500):  # a checkpoint above 64 KiB: it lies in an object
        append_batch(leader.log(), idempotent(0, producer_id=producer_id))
    await turns()
    append_batch(leader.log(), idempotent(1, transactional=True), AppendOrigin.COORDINATOR)
    append_batch(leader.log(), memoryview(marker_batch(9, 0, EndMarker(False, 0), 0)), AppendOrigin.COORDINATOR)
    append_batch(leader.log(), idempotent(2, transactional=True), AppendOrigin.COORDINATOR)
    await turns()
    await leader.engine.storage.flush()
    found = await read_on(log, 0, 1 << 20, READ_COMMITTED)
    assert len(found) == 1_502, "the marker is a record too; the open transaction is not read"
    assert log.last_stable_offset == 1_502
    assert [(a.producer_id, a.first_offset) for a in log.aborted_transactions(0, 1_502)] == [(9, 1_500)]


@virtual
async def test_a_view_takes_no_appends_and_streams_that_are_gone_have_none() -> None:
    world = await World.create(1)
    leader = await Life(world).start()
    await leader.produce(batch(1))
    await leader.engine.storage.flush()
    engine = await second_engine(world)
    stream_id = min(world.epochs)
    view = await engine.storage.view(stream_id)
    assert (view.start_offset, view.committed_end, view.durable_end) == (0, 1, 1)
    with pytest.raises(Fenced):
        append(view)
    with pytest.raises(NotFound):
        await engine.storage.view(99)
    await world.metadata.delete_topic(UUID(int=1))
    with pytest.raises(NotFound):
        await engine.storage.view(stream_id, view)
