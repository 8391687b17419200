"""CORRECTNESS 12, 15, 16 and 20 over the real engine, metadata and objects: through flushes, restarts and crashes."""

from __future__ import annotations

from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers.partitions.log_config import LogConfig
from brokers.partitions.partition_log import PartitionLog
from brokers.records.batch import Compression, parse_header, stored_crc_is_right
from brokers.records.record import iter_records
from tests.support.engine import World
from tests.support.holding_store import HoldingStore
from tests.support.partition_life import Life, everything
from tests.support.partitions import batch, idempotent
from tests.support.virtual_time import START_MS, virtual

# --- rule 12: a checkpoint may lag, and replay goes on from its boundary ------------------------------


@virtual
async def test_correctness_12_replay_from_a_checkpoint_that_lags_goes_through_objects_and_wal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checkpoint at 2, the committed end at 4, the log's end in the WAL at 6. The producer's batches since then lie
    in an object and in the WAL; a state without one of them would take a retry for a new batch."""
    world = await World.create(1)
    life = await Life(world).start()
    for sequence in range(6):
        if sequence in (2, 4):
            await life.engine.storage.flush()
        if sequence == 2:
            monkeypatch.setattr(PartitionLog, "checkpoint", lambda log, offset: None)
        assert (await life.produce(idempotent(sequence))).offsets == [sequence]
    await life.crash()
    monkeypatch.undo()
    life = await Life(world).start()
    stream = life.log().stream
    assert stream.checkpoint is not None
    assert (stream.checkpoint.offset, stream.committed_end, stream.durable_end) == (2, 4, 6)
    for sequence in range(1, 6):
        assert (await life.produce(idempotent(sequence))).offsets == [sequence], "a retry gets its original's offset"
    assert (await life.produce(idempotent(7))).errors == [ErrorCode.out_of_order_sequence_number]
    assert (await life.produce(idempotent(6))).offsets == [6]


# --- rule 15: what the slow paths make of a batch is what every copy holds ----------------------------


async def stored_bytes(log: PartitionLog) -> bytes:
    result = await log.read(log.log_start_offset, 1 << 20)
    return b"".join(bytes(buffer) for buffer in result.buffers)


SLOW: dict[str, dict[str, Any]] = {
    "LogAppendTime": {"message_timestamp_type": "LogAppendTime"},
    "recompressed": {"compression_type": "zstd"},
    "both": {"message_timestamp_type": "LogAppendTime", "compression_type": "gzip"},
    "compacted": {"cleanup_policy": ("compact",)},
    "neither": {},
}


@pytest.mark.parametrize("name", SLOW)
@virtual
async def test_correctness_15_a_batch_is_changed_before_the_wal_has_it_and_never_again(name: str) -> None:
    """WAL, memory, object, and what a crash leaves: the same bytes, also under later epochs."""
    world = await World.create(1)
    config = LogConfig(**SLOW[name])
    life = await Life(world, config).start()
    source = Compression.SNAPPY
    sent = batch(4, timestamps=[START_MS + n for n in (5, 9, 7, 1)], compression=source)
    records = [(record.key, record.value) for record in iter_records(sent)]
    now_ms = world.clock.now_ms()
    assert (await life.produce(sent)).offsets == [0]
    [in_wal] = [bytes(one.payload) for one in world.medium.batches]

    header = parse_header(in_wal)
    assert stored_crc_is_right(in_wal) and header.size == len(in_wal)
    assert (header.base_offset, header.leader_epoch, header.record_count) == (0, 0, 4)
    assert header.compression == (source if config.codec is None else config.codec)
    assert header.log_append_time == config.log_append_time
    times = [now_ms] * 4 if config.log_append_time else [START_MS + n for n in (5, 9, 7, 1)]
    assert [record.timestamp for record in iter_records(in_wal)] == times and header.max_timestamp == max(times)
    assert [(record.key, record.value) for record in iter_records(in_wal)] == records

    assert await stored_bytes(life.log()) == in_wal
    await life.crash()
    life = await Life(world, config).start()
    assert life.log().leader_epoch == 1 and await stored_bytes(life.log()) == in_wal
    await life.engine.storage.flush()
    life.engine.drop_cache()
    assert world.medium.batches == [] and await stored_bytes(life.log()) == in_wal


@virtual
async def test_correctness_15_a_refused_batch_reaches_neither_the_wal_nor_an_offset() -> None:
    world = await World.create(1)
    life = await Life(world, LogConfig(cleanup_policy=("compact",), compression_type="lz4")).start()
    refused = {
        ErrorCode.invalid_record: batch(2, key=None),
        ErrorCode.corrupt_message: memoryview(bytearray(bytes(batch())[:-1] + b"?")),
        ErrorCode.invalid_timestamp: batch(timestamps=[world.clock.now_ms() + 3_600_001]),
    }
    for code, records in refused.items():
        assert (await life.produce(records)).errors == [code]
    assert world.medium.batches == [] and life.log().log_end_offset == 0
    assert (await life.produce(batch())).offsets == [0]


# --- rule 16: lookups by time in a committed object ---------------------------------------------------


@pytest.mark.parametrize("codec", list(Compression))
@virtual
async def test_correctness_16_a_lookup_in_an_object_finds_the_record_with_one_read_of_one_block(
    codec: Compression,
) -> None:
    """Times neither ascend within a batch nor from batch to batch; the answer is the record, not its batch."""
    world = await World.create(2)
    store = HoldingStore(world.objects)
    life = await Life(world, objects=store).start()
    times = [[10, 30, 20], [25, 40, 5], [40, 15, 60, 60], [50]]
    for partition in range(2):
        for batch_times in times:
            stamps = [START_MS + time for time in batch_times]
            await life.produce(batch(len(stamps), timestamps=stamps, compression=codec), partition)
    await life.engine.storage.flush()
    log = life.log(1)
    flat = [time for one in times for time in one]
    for target in (0, 10, 11, 26, 40, 41, 60, 61):
        life.engine.drop_cache()
        store.reads.clear()
        expected = next(((offset, START_MS + t, 0) for offset, t in enumerate(flat) if t >= target), None)
        assert await log.offset_for_timestamp(START_MS + target) == expected
        blocks = len(store.reads) - 1  # the first read is the object's index
        assert blocks == (0 if expected is None else 1), store.reads
    life.engine.drop_cache()
    store.reads.clear()
    assert await log.max_timestamp() == (8, START_MS + 60, 0) and len(store.reads) == 2
    await log.delete_records(9)
    assert await log.offset_for_timestamp(START_MS) == (9, START_MS + 60, 0), "within a batch that the start cuts"
    assert await log.max_timestamp() == (9, START_MS + 60, 0)


@virtual
async def test_correctness_16_lookups_go_over_objects_and_on_in_memory() -> None:
    """Three objects and an uncommitted batch. The greatest time is in the first object, and again in the second."""
    world = await World.create(1)
    life = await Life(world).start()
    for times in ([10, 50], [50, 20], [5]):
        await life.produce(batch(len(times), timestamps=[START_MS + time for time in times]))
        await life.engine.storage.flush()
    await life.produce(batch(2, timestamps=[START_MS + 15, START_MS + 51]))
    log = life.log()
    life.engine.drop_cache()
    assert await log.offset_for_timestamp(START_MS + 51) == (6, START_MS + 51, 0)
    assert await log.offset_for_timestamp(START_MS + 15) == (1, START_MS + 50, 0)
    assert await log.max_timestamp() == (6, START_MS + 51, 0)
    await life.engine.storage.flush()
    life.engine.drop_cache()
    assert await log.max_timestamp() == (6, START_MS + 51, 0)
    await life.produce(batch(1, timestamps=[START_MS + 51]))
    assert await log.max_timestamp() == (6, START_MS + 51, 0), "the first of the newest"


# --- rule 20: OffsetForLeaderEpoch across restarts ----------------------------------------------------


def answers(log: PartitionLog) -> dict[int, tuple[int, int]]:
    return {epoch: log.end_offset_for_epoch(epoch) for epoch in range(log.leader_epoch + 2)}


@pytest.mark.parametrize("flushed", [False, True])
@virtual
async def test_correctness_20_epochs_without_records_are_answered_for_after_restarts(flushed: bool) -> None:
    """Epochs 0 and 3 have records, 1, 2 and 4 none. Each life answers for all before it as the one before did."""
    world = await World.create(1)
    written = {0: 2, 3: 1}
    before: dict[int, tuple[int, int]] = {}
    for epoch in range(5):
        life = await Life(world).start()
        log = life.log()
        assert log.leader_epoch == epoch, "each opening is an epoch, and they never go down"
        for _ in range(written.get(epoch, 0)):
            await life.produce(batch())
        if flushed:
            await life.engine.storage.flush()
        now = answers(log)
        for older, answer in before.items():
            # An epoch that had records, and one that is over, keep their answer for ever.
            assert now[older][1] == answer[1], (epoch, older)
        before = {older: answer for older, answer in now.items() if older <= epoch}
        await life.crash()
    assert before == {0: (0, 2), 1: (0, 2), 2: (0, 2), 3: (3, 3), 4: (4, 3)}


@virtual
async def test_correctness_20_an_epochs_start_is_stored_before_its_first_append() -> None:
    """An append of epoch 1 is never durable: the crash must not give epoch 2 a log in which epoch 1 goes on."""
    world = await World.create(1)
    life = await Life(world).start()
    await life.produce(batch(2))
    await life.crash()
    life = await Life(world).start()
    life.engine.wal.automatic = False
    await life.produce(batch(3))
    [row] = await world.metadata.streams([life.log().stream.stream_id])
    assert list(row.epochs) == [(0, 0), (1, 2)]
    assert life.log().end_offset_for_epoch(1) == (1, 2), "what is not durable is not told"
    await life.crash()
    life = await Life(world).start()
    await life.produce(batch(1))
    assert answers(life.log()) == {0: (0, 2), 1: (0, 2), 2: (2, 3), 3: (-1, -1)}
    assert [offset for offset, _ in await everything(life.log())] == [0, 1, 2]


@pytest.mark.parametrize("flushed", [False, True])
@virtual
async def test_correctness_20_epochs_below_the_log_start_are_answered_for_after_a_restart(flushed: bool) -> None:
    world = await World.create(1)
    for count in (2, 3):
        life = await Life(world).start()
        for _ in range(count):
            await life.produce(batch())
        await life.crash()
    life = await Life(world).start()
    await life.produce(batch())
    if flushed:
        await life.engine.storage.flush()
    await life.log().delete_records(4)
    told = answers(life.log())
    assert told == {0: (0, 4), 1: (1, 5), 2: (2, 6), 3: (-1, -1)}, "what 0 wrote is gone: it ends at the log start"
    await life.crash()
    again = await Life(world).start()
    assert {epoch: again.log().end_offset_for_epoch(epoch) for epoch in range(3)} == {e: told[e] for e in range(3)}
