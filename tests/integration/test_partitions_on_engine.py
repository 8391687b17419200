"""Partitions over the real engine, metadata and objects, on virtual time: restart, failure, deletion, retention."""

from __future__ import annotations

import asyncio

import pytest
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.partitions.log_config import LogConfig
from s3stream.metrics import Metrics
from s3stream.types import StreamState
from tests.support.engine import World
from tests.support.faulty_metadata import FaultyMetadata, answer_lost
from tests.support.partition_life import Life, everything
from tests.support.partitions import append, batch, idempotent
from tests.support.virtual_time import START_MS, virtual
from wal.memory_wal import MemoryMedium, MemoryWal
from wal.settings import WalSettings


@virtual
async def test_a_restart_finds_records_sequences_and_epochs_wherever_the_crash_came() -> None:
    for flush_after in range(5):
        world = await World.create(1)
        life = await Life(world).start()
        for sequence in range(4):
            if sequence == flush_after:
                await life.engine.storage.flush()
            answers = await life.produce(idempotent(sequence, value=b"%d" % sequence))
            assert answers.offsets == [sequence]
        await life.crash()
        life = await Life(world).start()
        log = life.log()
        assert (log.leader_epoch, log.high_watermark, log.log_end_offset) == (1, 4, 4)
        assert await everything(log) == [(offset, b"%d" % offset) for offset in range(4)]
        for sequence in range(4):
            assert (await life.produce(idempotent(sequence))).offsets == [sequence]
        assert (await life.produce(idempotent(6))).errors == [ErrorCode.out_of_order_sequence_number]
        assert (await life.produce(idempotent(4, value=b"4"))).offsets == [4]
        assert log.end_offset_for_epoch(0) == (0, 4) and log.end_offset_for_epoch(1) == (1, 5)
        await life.crash()


@pytest.mark.parametrize("why", ("restart", "unheard"))
@virtual
async def test_a_stream_that_the_database_has_open_here_is_closed_for_who_is_to_have_it(why: str) -> None:
    """CORRECTNESS 1: nobody else may open it while this node lives, and this node has it in no log: from before a
    restart, or by an opening whose answer was lost. Its home is another's by now."""
    world = await World.create(1)
    if why == "restart":
        life = await Life(world).start()
        assert (await life.produce(idempotent(0))).offsets == [0]
        await life.crash()
        await world.metadata.assign({1: 7})
        life = await Life(world).start()
    else:
        metadata = FaultyMetadata(world.metadata)
        metadata.faults["open_streams"] = [answer_lost]
        life = await Life(world, metadata=metadata).start()
        await world.metadata.assign({1: 7})
        await life.follow()
    for _ in range(50):
        await life.follow()
        await asyncio.sleep(0.1)
    [row] = await world.metadata.streams([1])
    assert row.state == StreamState.CLOSED
    assert row.committed_end == (1 if why == "restart" else 0)


@virtual
async def test_an_orderly_stop_leaves_a_checkpoint_that_needs_no_replay() -> None:
    world = await World.create(2)
    medium = MemoryMedium()
    life = await Life(world, wal=MemoryWal(settings=WalSettings(), metrics=Metrics(), medium=medium)).start()
    for sequence in range(3):
        await life.produce(idempotent(sequence), partition=1)
    await life.manager.close()
    await life.engine.storage.stop()
    assert life.manager.open_count == 0
    life = await Life(world, wal=MemoryWal(settings=WalSettings(), metrics=Metrics(), medium=medium)).start()
    log = life.log(1)
    checkpoint = log.stream.checkpoint
    assert checkpoint is not None and checkpoint.offset == log.high_watermark == 3
    assert (await life.produce(idempotent(1), partition=1)).offsets == [1]


@virtual
async def test_a_failed_group_fails_its_appends_and_the_retries_follow_what_is_durable() -> None:
    world = await World.create(1)
    life = await Life(world).start()
    wal = life.engine.wal
    await life.produce(idempotent(0))
    wal.automatic = False
    kept, lost = append(life.log(), idempotent(1)), append(life.log(), idempotent(2))
    retry = append(life.log(), idempotent(2))
    wal.fail(durable=1)
    assert kept.offsets == [1]
    assert lost.errors == retry.errors == [ErrorCode.kafka_storage_error]
    assert life.log().log_end_offset == life.log().high_watermark == 2
    wal.automatic = True
    await asyncio.sleep(60)  # the engine repairs the WAL in its own time
    assert (await life.produce(idempotent(2))).offsets == [2]
    assert [offset for offset, _ in await everything(life.log())] == [0, 1, 2]


@virtual
async def test_a_topic_deleted_under_load_answers_appends_and_waiters_and_never_hangs() -> None:
    world = await World.create(1)
    life = await Life(world).start()
    log = life.log()
    await life.produce(batch(2))
    life.engine.wal.automatic = False
    pending = append(log, batch())
    woken: list[ErrorCode] = []

    def wake() -> None:
        try:
            log.read_recent(2, 100)
        except KafkaError as error:
            woken.append(error.code)

    log.add_waiter(wake)
    await world.metadata.delete_topic(log.topic_id)
    await life.follow()
    gone = ErrorCode.unknown_topic_or_partition
    assert pending.errors == [gone] and gone in woken
    with pytest.raises(KafkaError) as caught:
        life.log()
    assert caught.value.code is gone
    assert append(log, batch()).errors == [gone]
    with pytest.raises(KafkaError):
        await log.read(0, 100)
    life.engine.wal.sync()
    assert pending.errors == [gone]


@virtual
async def test_lookups_by_time_before_and_after_the_flush() -> None:
    world = await World.create(1)
    life = await Life(world).start()
    for timestamps in ([10, 30, 20], [25, 40], [40, 15]):
        await life.produce(batch(len(timestamps), timestamps=[START_MS + time for time in timestamps]))
    await life.log().delete_records(2)
    for _ in range(2):
        log = life.log()
        for target, expected in ((0, 2), (21, 3), (26, 4), (40, 4), (41, None)):
            found = await log.offset_for_timestamp(START_MS + target)
            assert (None if found is None else found.offset) == expected, target
        newest = await log.max_timestamp()
        assert newest is not None and newest.offset == 4
        await life.engine.storage.flush()
        life.engine.drop_cache()


@virtual
async def test_retention_moves_the_log_start_in_objects_and_in_memory() -> None:
    world = await World.create(1)
    config = LogConfig(retention_ms=1000, retention_bytes=-1)
    life = await Life(world, config).start()
    for time in (0, 500, 3000):
        await life.produce(batch(1, timestamps=[START_MS + time]))
        await life.engine.storage.flush()
    await life.produce(batch(1, timestamps=[START_MS + 3001]))
    await asyncio.sleep(3.5)
    await life.manager.enforce_retention()
    assert life.log().log_start_offset == 2
    size = len(batch(1, timestamps=[START_MS]))
    life.config = LogConfig(retention_ms=-1, retention_bytes=size)
    life.log().configure(life.config)
    await life.manager.enforce_retention()
    assert life.log().log_start_offset == 3  # the uncommitted batch is enough to keep
    assert [offset for offset, _ in await everything(life.log())] == [3]
    await life.crash()
    assert (await Life(world).start()).log().log_start_offset == 3


@virtual
async def test_a_coordinators_snapshot_is_confirmed_by_the_flush_and_found_after_a_crash() -> None:
    world = await World.create(1)
    life = await Life(world).start()
    log = life.log()
    confirmed: list[int] = []
    log.attach(lambda offset: b"state at %d" % offset, confirmed.append)
    for _ in range(3):
        await life.produce(batch())
    await life.engine.storage.flush()
    assert confirmed == [3]
    await log.trim(3)
    await life.produce(batch())
    await life.crash()
    again = (await Life(world).start()).log()
    assert again.restored_snapshot == (b"state at 3", 3)
    assert (again.log_start_offset, again.high_watermark) == (3, 4)
