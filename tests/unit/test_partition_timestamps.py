"""Lookups by time are exact to the record (CORRECTNESS 16), and offsets by epoch."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.partitions.partition_log import HIGH_WATERMARK, READ_COMMITTED, PartitionLog
from brokers.partitions.pending import AppendOrigin
from brokers.records.batch import Compression, write_crc
from brokers.records.builder import marker_batch
from brokers.records.record import EndMarker
from s3stream.errors import NotFound, PonorError, Unavailable
from tests.support.fake_stream import FakeStream
from tests.support.partitions import append, append_first, batch, fake, idempotent, make_log, reopen

times = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=6)


def written(batches: list[list[int]], codec: Compression = Compression.NONE) -> PartitionLog:
    log = make_log()
    for timestamps in batches:
        append(log, batch(len(timestamps), timestamps=timestamps, compression=codec))
    fake(log).make_durable()
    return log


@given(times, st.integers(0, 13), st.integers(0, 24), st.sampled_from(list(Compression)))
@settings(max_examples=80, deadline=None)
async def test_the_first_record_at_or_after_a_time(
    batches: list[list[int]], target: int, start: int, codec: Compression
) -> None:
    log = written(batches, codec)
    start = min(start, log.high_watermark)
    await log.trim(start)
    records = [(offset, time) for offset, time in enumerate(chain.from_iterable(batches)) if offset >= start]
    expected = next(((offset, time, 0) for offset, time in records if time >= target), None)
    assert await log.offset_for_timestamp(target) == expected


@given(times)
@settings(max_examples=50, deadline=None)
async def test_the_first_record_with_the_greatest_time(batches: list[list[int]]) -> None:
    log = written(batches)
    flat = list(chain.from_iterable(batches))
    assert await log.max_timestamp() == (flat.index(max(flat)), max(flat), 0)


async def test_what_readers_cannot_see_is_not_found() -> None:
    log = written([[5]])
    append_first(log, idempotent(0, transactional=True, timestamps=[9]))
    fake(log).make_durable()
    append(log, batch(1, timestamps=[20]))
    assert await log.offset_for_timestamp(10) is None
    assert await log.offset_for_timestamp(6) == (1, 9, 0)
    assert await log.offset_for_timestamp(6, READ_COMMITTED) is None
    assert await log.max_timestamp(READ_COMMITTED) is None and await log.max_timestamp() == (1, 9, 0)
    assert log.latest_offset() == (2, -1, 0) and log.latest_offset(READ_COMMITTED) == (1, -1, 0)


async def test_a_batch_that_cannot_be_decoded_is_found_by_its_header() -> None:
    broken = bytearray(batch(3, timestamps=[5, 6, 7], compression=Compression.GZIP))
    broken[62] ^= 0xFF  # gzip's own magic
    write_crc(broken)
    log = written([[1]])
    append(log, memoryview(broken))
    append(log, batch(1, timestamps=[9]))
    fake(log).make_durable()
    assert await log.offset_for_timestamp(6) == (1, 7, 0)
    assert await log.offset_for_timestamp(8) == (4, 9, 0)


async def test_an_empty_log_has_ends_and_no_times() -> None:
    log = make_log()
    assert log.earliest_offset() == log.latest_offset() == (0, -1, 0)
    assert await log.offset_for_timestamp(0) is None and await log.max_timestamp() is None


async def test_epochs_are_told_with_offsets_and_end_where_the_next_began() -> None:
    log = written([[1, 2]])
    second = await reopen(fake(log).reopened())
    append(second, batch(1, timestamps=[3]))
    fake(second).make_durable()
    append(second, batch(1, timestamps=[4]))
    assert second.end_offset_for_epoch(0) == (0, 2)
    assert second.end_offset_for_epoch(1) == (1, 3)  # the durable end: the rest may yet be given to other records
    assert second.end_offset_for_epoch(2) == second.end_offset_for_epoch(-1) == (-1, -1)
    assert await second.offset_for_timestamp(1) == (0, 1, 0)
    assert await second.offset_for_timestamp(3) == (2, 3, 1)
    assert second.earliest_offset() == (0, -1, 0) and second.latest_offset() == (3, -1, 1)
    await second.delete_records(2)
    assert second.earliest_offset() == (2, -1, 1)
    assert second.end_offset_for_epoch(0) == (0, 2)
    third = await reopen(fake(second).reopened())  # epoch 2 has no record
    assert third.end_offset_for_epoch(2) == (2, 3) and third.end_offset_for_epoch(1) == (1, 3)


async def test_delete_records() -> None:
    log = written([[1], [2], [3]])
    append(log, batch())
    woken: list[int] = []
    log.add_waiter(lambda: woken.append(log.log_start_offset))
    assert await log.delete_records(1) == 1 and woken == [1]
    assert await log.delete_records(0) == 1 and woken == [1]
    for offset in (4, -2):
        with pytest.raises(KafkaError) as caught:
            await log.delete_records(offset)
        assert caught.value.code is ErrorCode.offset_out_of_range
    assert await log.delete_records(HIGH_WATERMARK) == 3
    for policy, allowed in ((("compact",), False), (("compact", "delete"), True), ((), True)):
        other = make_log(FakeStream(), cleanup_policy=policy)
        if allowed:
            assert await other.delete_records(HIGH_WATERMARK) == 0
        else:
            with pytest.raises(KafkaError) as caught:
                await other.delete_records(HIGH_WATERMARK)
            assert caught.value.code is ErrorCode.policy_violation


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("the database does not answer"), ErrorCode.request_timed_out),  # as changes of topics are told
        (NotFound("the topic is gone"), ErrorCode.unknown_topic_or_partition),
    ],
)
async def test_records_are_not_deleted_without_the_database_and_the_client_is_told_to_ask_again(
    error: PonorError, code: ErrorCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = written([[1], [2], [3]])

    async def trim(start_offset: int) -> None:
        raise error

    monkeypatch.setattr(fake(log), "trim", trim)
    with pytest.raises(KafkaError) as caught:
        await log.delete_records(1)
    assert caught.value.code is code and log.log_start_offset == 0


async def test_aborted_transactions_are_forgotten_below_the_log_start() -> None:
    log = make_log()
    append_first(log, idempotent(0, transactional=True))
    append(log, memoryview(marker_batch(9, 0, EndMarker(False, 0), 1)), AppendOrigin.COORDINATOR)
    append(log, batch())
    fake(log).make_durable()
    assert len(log.aborted_transactions(0, 3)) == 1 and log.aborted_transactions(2, 3) == []
    await log.delete_records(2)
    assert log.aborted_transactions(0, 3) == []
