"""The partition checkpoint: its bytes, what it must not hold, and opening from a damaged one."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from crc32c import crc32c

from brokers.partitions import checkpoint
from brokers.partitions.checkpoint import PartitionCheckpoint
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.producer_state import AbortedTransaction, DurableBatch, ProducerEntry, ProducerState
from s3stream.errors import Corrupt, Unavailable
from s3stream.types import Checkpoint
from tests.support.fake_stream import FakeStream
from tests.support.partitions import FixedClock, append, batch, fake, idempotent, make_log, reopen

GOLDEN = Path(__file__).parent.parent / "golden" / "partition_checkpoint_v1.bin"


def example() -> tuple[ProducerState, PartitionCheckpoint]:
    first, second = ProducerEntry(3), ProducerEntry(0)
    first.coordinator_epoch, first.last_timestamp = 7, 1_700_000_000_123
    first.batches = [DurableBatch(2_147_483_647, 99, 4, 1_700_000_000_000), DurableBatch(0, 100, 0, 1_700_000_000_123)]
    second.last_timestamp, second.transaction_start = -1, 90
    aborted = [AbortedTransaction(1, 10, 20, 21)]
    state = ProducerState()
    state.restore({1 << 40: first, 5: second}, aborted)
    expected = PartitionCheckpoint(101, {1 << 40: first, 5: second}, aborted, [(0, 0), (4, 50)], (b"groups", 80))
    return state, expected


def facts(found: PartitionCheckpoint) -> object:
    producers = [
        (key, one.epoch, one.coordinator_epoch, one.last_timestamp, one.transaction_start, one.batches)
        for key, one in found.producers.items()
    ]
    return found.offset, producers, found.aborted, found.epochs, found.snapshot


def test_version_1_keeps_its_bytes() -> None:
    state, expected = example()
    blob = checkpoint.encode(101, state, [(0, 0), (4, 50)], (b"groups", 80))
    assert blob == GOLDEN.read_bytes()
    assert facts(checkpoint.decode(blob)) == facts(expected)


def test_an_empty_state_has_a_checkpoint_too() -> None:
    found = checkpoint.decode(checkpoint.encode(12, None, [(0, 0)], None))
    assert facts(found) == facts(PartitionCheckpoint(12, epochs=[(0, 0)]))


def test_every_flipped_bit_and_every_cut_is_seen() -> None:
    blob = GOLDEN.read_bytes()
    for position in range(len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= 0x10
        with pytest.raises(Corrupt):
            checkpoint.decode(bytes(damaged))
        with pytest.raises(Corrupt):
            checkpoint.decode(blob[:position])


def with_right_crc(body: bytes) -> bytes:
    return body + struct.pack(">I", crc32c(body))


def test_counts_that_do_not_fit_and_newer_versions_are_refused() -> None:
    blob = GOLDEN.read_bytes()
    for position, value in ((4, 2), (19, 9), (23, 9), (27, 9), (39, 9)):
        body = bytearray(blob[:-4])
        body[position + (1 if position == 4 else 0)] = value
        with pytest.raises(Corrupt):
            checkpoint.decode(with_right_crc(bytes(body)))


def test_what_is_pending_is_not_in_a_checkpoint() -> None:
    log = make_log()
    append(log, idempotent(0))
    fake(log).make_durable()
    append(log, idempotent(1))
    found = fake(log).take_checkpoint()
    assert found is not None and found.offset == 1
    (entry,) = checkpoint.decode(found.blob).producers.values()
    assert [one.last_sequence for one in entry.batches] == [0]


def test_a_checkpoint_is_only_made_at_the_durable_end() -> None:
    log = make_log()
    append(log, batch(3))
    fake(log).make_durable()
    assert log.checkpoint(2) is None and log.checkpoint(4) is None and log.checkpoint(3) is not None


async def test_a_damaged_checkpoint_of_a_whole_log_is_replaced_by_replay() -> None:
    log = make_log()
    append(log, idempotent(0))
    fake(log).make_durable()
    for bad in (Checkpoint(1, b"nonsense"), Checkpoint(0, checkpoint.encode(1, None, [], None))):
        restored = await reopen(fake(log).reopened(bad))
        assert append(restored, idempotent(0)).offsets == [0]


async def test_a_damaged_checkpoint_of_a_trimmed_log_is_refused() -> None:
    log = make_log()
    append(log, idempotent(0))
    append(log, idempotent(1))
    fake(log).make_durable()
    await log.delete_records(1)
    with pytest.raises(Corrupt):
        await reopen(fake(log).reopened(Checkpoint(2, b"nonsense")))


async def test_a_checkpoint_ahead_of_the_log_is_refused() -> None:
    stream = FakeStream()
    stream.start_offset = stream.durable_end = stream.next_offset = 5
    stream.checkpoint = Checkpoint(6, checkpoint.encode(6, None, [], None))
    with pytest.raises(Corrupt):
        await reopen(stream)


async def test_a_log_whose_batches_are_not_there_stays_closed() -> None:
    log = make_log()
    append(log, idempotent(0))
    append(log, idempotent(1))
    fake(log).make_durable()
    stream = fake(log).reopened()
    del stream.durable[1]
    with pytest.raises(Corrupt, match="stream 1 has no batch at 1, below its end 2"):
        await reopen(stream)


async def test_state_below_the_log_start_is_kept_and_replay_begins_at_the_log_start() -> None:
    log = make_log()
    append(log, idempotent(0))
    fake(log).make_durable()
    fake(log).take_checkpoint()
    append(log, batch(4))
    fake(log).make_durable()
    await log.delete_records(3)
    restored = await reopen(fake(log).reopened(fake(log).checkpoint))
    assert (restored.log_start_offset, restored.high_watermark, restored.leader_epoch) == (3, 5, 1)
    assert append(restored, idempotent(0)).offsets == [0]


async def test_an_expired_producer_is_not_restored() -> None:
    log = make_log()
    append(log, idempotent(0))
    fake(log).make_durable()
    restored = await reopen(fake(log).reopened(), clock=FixedClock(1 << 63))
    assert restored.producers is None


async def test_an_unreadable_log_is_not_opened() -> None:
    log = make_log()
    append(log, batch())
    fake(log).make_durable()
    stream = fake(log).reopened()
    stream.read_error = Unavailable("store")
    with pytest.raises(Unavailable):
        await reopen(stream)


# --- the state that a log's last broker tells --------------------------------------------------------


def closed_log() -> tuple[PartitionLog, bytes]:
    log = make_log()
    append(log, idempotent(0))
    fake(log).make_durable()
    told = log.final_state()
    assert told is not None
    return log, told


async def test_a_log_whose_state_was_told_at_its_end_is_not_read() -> None:
    log, told = closed_log()
    stream = fake(log).reopened()
    stream.read_error = Unavailable("store")
    restored = await reopen(stream, told=told)
    assert append(restored, idempotent(0)).offsets == [0], "it knows the batch"
    assert restored.high_watermark == 1


async def test_a_state_of_another_end_and_one_that_is_damaged_are_not_used() -> None:
    log, _ = closed_log()
    append(log, idempotent(1))
    fake(log).make_durable()
    for state in (log.final_state(), b"nonsense"):
        restored = await reopen(fake(log).reopened(end=1), told=state)
        assert append(restored, idempotent(1)).errors == [], "it has only read the first"
        assert append(restored, idempotent(0)).offsets == [0]


def test_a_log_with_more_than_it_has_heard_of_and_a_coordinators_tell_no_state() -> None:
    log, _ = closed_log()
    fake(log).durable_end += 1
    assert log.final_state() is None
    log, _ = closed_log()
    log.attach(lambda offset: None)
    assert log.final_state() is None


async def test_the_state_that_is_told_has_forgotten_aborts_until_every_stored_checkpoint_is_without_them() -> None:
    log, _ = closed_log()
    assert log.producers is not None
    first, second = AbortedTransaction(1, 10, 20, 21), AbortedTransaction(2, 5, 30, 31)
    log.producers.restore(dict(log.producers.entries()), [first, second])
    log.forget_aborted([first])
    told = log.final_state()
    assert told is not None and log.aborted_transactions(0, 100) == [second]
    restored = await reopen(fake(log).reopened(), told=told)
    assert restored.aborted_transactions(0, 100) == [first, second], "in the order of their markers"
    stored = log.checkpoint(1)
    assert stored is not None and checkpoint.decode(stored).aborted == [second]


# --- coordinator snapshots ---------------------------------------------------------------------------


async def test_a_coordinators_snapshot_travels_with_the_checkpoint_and_is_confirmed_when_committed() -> None:
    log = make_log()
    confirmed: list[int] = []
    state: dict[int, bytes | None] = {1: b"one", 2: None, 3: b"three"}
    log.attach(lambda offset: state[offset], confirmed.append)
    for _ in range(2):
        append(log, batch())
        fake(log).make_durable()
        fake(log).take_checkpoint()
    log.committed(1)
    assert confirmed == [1]
    log.committed(2)  # holds the snapshot of offset 1 still
    log.committed(None)
    assert confirmed == [1, 1]
    restored = await reopen(fake(log).reopened(fake(log).checkpoint))
    assert restored.restored_snapshot == (b"one", 1)


async def test_a_snapshot_that_is_safe_is_not_written_again_and_again() -> None:
    """It may have megabytes, and the partition is flushed every few seconds."""
    log = make_log()
    state: dict[int, bytes | None] = {1: b"one", 3: b"three"}
    log.attach(state.get)
    append(log, batch())
    fake(log).make_durable()
    assert log.checkpoint(1) is not None
    log.committed(1)
    append(log, batch())
    fake(log).make_durable()
    assert log.checkpoint(2) is None, "the stored one stands, the log has the rest"
    append(log, batch())
    fake(log).make_durable()
    blob = log.checkpoint(3)
    assert blob is not None and checkpoint.decode(blob).snapshot == (b"three", 3)
    assert log.checkpoint(3) is not None, "on its way is not safe"

    restored = await reopen(fake(log).reopened(Checkpoint(3, blob)))
    restored.attach(lambda offset: None)
    append(restored, batch())
    fake(restored).make_durable()
    assert restored.checkpoint(4) is None, "what was restored is safe"
    append(restored, idempotent(0))
    fake(restored).make_durable()
    found = restored.checkpoint(5)
    assert found is not None and checkpoint.decode(found).snapshot == (b"three", 3), "producers need a checkpoint"
