"""Batches that are examined beside the event loop enter their log in the order they came, whatever happens meanwhile
(decision 0220)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers.partitions.inspection import RECORDS_PER_STEP
from brokers.partitions.inspector import EXAMINATIONS_MAX, Inspector
from brokers.partitions.log_config import LogConfig
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.pending import AppendOrigin
from brokers.records.batch import Compression, parse_header, write_crc
from brokers.records.record import iter_records
from s3stream.tasks import Tasks
from tests.support.fake_stream import FakeStream
from tests.support.partitions import (
    NOW_MS,
    Answers,
    FixedClock,
    append,
    append_first,
    batch,
    fake,
    idempotent,
    make_log,
)


class Bench:
    """Work beside the loop ends when the test says so."""

    def __init__(self) -> None:
        self.tasks = Tasks()
        self.clock = FixedClock()
        self.inspector = Inspector(self.tasks, self._run, self.clock)
        self.calls: list[asyncio.Event] = []
        self.free = False

    async def _run(self, function: Callable[..., Any], /, *args: object) -> Any:
        if not self.free:
            gate = asyncio.Event()
            self.calls.append(gate)
            await gate.wait()
        return function(*args)

    def log(self, **config: Any) -> PartitionLog:
        made = make_log(clock=self.clock, **config)
        self.inspector.opened(made)
        return made

    async def finish(self, log: PartitionLog) -> None:
        """Let everything that waits go on, to its end."""
        self.free = True
        for gate in self.calls:
            gate.set()
        for _ in range(2_000):
            if not log.examining:
                break
            await asyncio.sleep(0)
        assert not log.examining
        fake(log).make_durable()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.tasks.close()


async def test_a_batch_to_recompress_is_appended_when_that_is_done(bench: Bench) -> None:
    log = bench.log(compression_type="zstd")
    answers = append(log, batch(3))
    await turns()
    assert log.examining and not answers and log.log_end_offset == 0
    await bench.finish(log)
    assert answers.errors == [ErrorCode.none] and log.log_end_offset == 3
    stored = fake(log).durable[0].payload
    assert parse_header(stored).compression == Compression.ZSTD
    assert [record.value for record in iter_records(stored)] == [b"v"] * 3


async def test_what_comes_later_stands_in_line_whatever_it_is(bench: Bench) -> None:
    """The topic's config changes while the first is examined: the second could be stored as it is."""
    log = bench.log(compression_type="gzip")
    first = append(log, idempotent(0, 2))
    await turns()
    log.configure(LogConfig())
    second, third = append(log, idempotent(2, 1)), append(log, idempotent(3, 1))
    assert not first and not second and log.log_end_offset == 0
    await bench.finish(log)
    assert first.errors == second.errors == third.errors == [ErrorCode.none]
    assert first.offsets + second.offsets + third.offsets == [0, 2, 3]
    assert append(log, idempotent(4, 1)) == [] and log.log_end_offset == 5, "the line is empty: appended at once"


async def test_a_refused_batch_costs_only_itself(bench: Bench) -> None:
    log = bench.log(compression_type="zstd", cleanup_policy=("compact",))
    answers = [append(log, batch(2, key=key)) for key in (b"k", None, b"k")]
    await turns()
    await bench.finish(log)
    assert [each.errors[0] for each in answers] == [ErrorCode.none, ErrorCode.invalid_record, ErrorCode.none]
    assert [error.batch_index for error in answers[1][0].record_errors] == [0, 1]
    assert log.log_end_offset == 4


async def test_an_unforeseen_fault_costs_only_its_batch(bench: Bench) -> None:
    log = bench.log(compression_type="zstd")
    stream = fake(log)

    def broken(_: Any) -> None:
        stream.append = FakeStream.append.__get__(stream)  # type: ignore[method-assign]
        raise ZeroDivisionError

    stream.append = broken  # type: ignore[method-assign]
    first, second = append(log, batch()), append(log, batch())
    await turns()
    await bench.finish(log)
    assert first.errors == [ErrorCode.unknown_server_error] and second.errors == [ErrorCode.none]


async def test_a_log_that_retires_appends_nothing_any_more(bench: Bench) -> None:
    log = bench.log(compression_type="zstd")
    answers = append(log, batch())
    await turns()
    log.retire(ErrorCode.not_leader_or_follower)
    await bench.finish(log)
    assert answers.errors == [ErrorCode.not_leader_or_follower] and log.log_end_offset == 0


async def test_a_log_that_is_shut_answers_its_line_at_once_and_once(bench: Bench) -> None:
    log = bench.log(compression_type="zstd")
    answers = [append(log, batch()), append(log, batch())]
    await turns()
    log.shut(ErrorCode.unknown_topic_or_partition)
    assert [each.errors for each in answers] == [[ErrorCode.unknown_topic_or_partition]] * 2
    await bench.finish(log)
    await turns()
    assert [len(each) for each in answers] == [1, 1] and log.log_end_offset == 0


async def test_what_joins_after_a_line_was_refused_is_served(bench: Bench) -> None:
    log = bench.log(compression_type="zstd")
    append(log, batch())
    await turns()
    log.shut(ErrorCode.not_leader_or_follower)
    log.resume()
    again = append(log, batch())
    await turns()
    await bench.finish(log)
    assert again.errors == [ErrorCode.none] and log.log_end_offset == 1


async def test_a_stop_leaves_nobody_without_an_answer(bench: Bench) -> None:
    log = bench.log(compression_type="zstd")
    answers = [append(log, batch()), append(log, batch())]
    await turns()
    await bench.tasks.close()
    assert [each.errors for each in answers] == [[ErrorCode.not_leader_or_follower]] * 2


async def test_no_more_than_so_many_are_examined_at_a_time(bench: Bench) -> None:
    logs = [bench.log(compression_type="zstd") for _ in range(EXAMINATIONS_MAX + 3)]
    answers = [append(log, batch()) for log in logs]
    await turns(20)
    assert len(bench.calls) == EXAMINATIONS_MAX
    for log in logs:
        await bench.finish(log)
    assert all(each.errors == [ErrorCode.none] for each in answers)


async def test_many_records_are_looked_at_in_steps(bench: Bench) -> None:
    """Nothing to decompress, and still others have their turn."""
    bench.free = True
    log = bench.log(cleanup_policy=("compact",))
    light = append(log, batch(RECORDS_PER_STEP))
    assert log.log_end_offset == RECORDS_PER_STEP and not light, "a look at so many is short enough"
    heavy = append(log, batch(10 * RECORDS_PER_STEP))
    assert log.examining
    seen = 0
    while log.examining:
        seen += 1
        await asyncio.sleep(0)
    assert seen >= 10
    fake(log).make_durable()
    assert heavy.errors == [ErrorCode.none]


async def test_a_plain_topic_never_waits(bench: Bench) -> None:
    log = bench.log()
    for records in (batch(2), batch(5, compression=Compression.GZIP), batch(4 * RECORDS_PER_STEP)):
        append(log, records)
        assert not log.examining
    assert len(fake(log).given) == 3 and log.line is not None


async def test_a_coordinators_batch_passes_the_line(bench: Bench) -> None:
    """A marker comes after what it ends was answered: nothing of its transaction stands in line."""
    log = bench.log(compression_type="zstd")
    waiting = append(log, batch())
    append(log, batch(), AppendOrigin.COORDINATOR)
    assert log.log_end_offset == 1 and not waiting
    await bench.finish(log)
    assert waiting.offsets == [1]


async def test_a_transactions_first_batches_keep_their_order(bench: Bench) -> None:
    log = bench.log(compression_type="zstd")
    first = append_first(log, idempotent(0, 2, transactional=True))
    second = append_first(log, idempotent(2, 1, transactional=True))
    await turns()
    await bench.finish(log)
    assert first.errors == second.errors == [ErrorCode.none] and first.offsets + second.offsets == [0, 2]


async def test_times_in_line_are_those_of_the_examination(bench: Bench) -> None:
    log = bench.log(compression_type="zstd", message_timestamp_type="LogAppendTime")
    answers = Answers()
    log.append(batch(2), AppendOrigin.CLIENT, answers)
    bench.clock.ms = NOW_MS + 5
    await turns()
    await bench.finish(log)
    assert [result.log_append_time_ms for result in answers] == [NOW_MS + 5]
    assert parse_header(fake(log).durable[0].payload).max_timestamp == NOW_MS + 5


async def test_bytes_behind_the_last_record_are_no_records(bench: Bench) -> None:
    bench.free = True
    log = bench.log(cleanup_policy=("compact",))
    spoiled = bytearray(batch(2))
    spoiled += b"\x00"
    struct.pack_into(">i", spoiled, 8, len(spoiled) - 12)
    write_crc(spoiled)
    answers = append(log, memoryview(spoiled))
    assert answers.errors == [ErrorCode.invalid_record] and "1 bytes after" in (answers[0].error_message or "")


async def test_all_records_at_fault_are_named_and_three_are_shown(bench: Bench) -> None:
    log = bench.log(cleanup_policy=("compact",))
    answers = append(log, batch(4 * RECORDS_PER_STEP, key=None))
    await bench.finish(log)
    (result,) = answers
    assert len(result.record_errors) == 4 * RECORDS_PER_STEP
    assert result.record_errors[7].message == "Compacted topic cannot accept message without key in topic partition t-0"
    assert result.error_message == (
        f"One or more records have been rejected due to {4 * RECORDS_PER_STEP} record errors in total, and only "
        "showing the first three errors at most: ["
        + ", ".join(
            f"RecordError(batchIndex={index}, message='Compacted topic cannot accept message without key in topic "
            "partition t-0')"
            for index in range(3)
        )
        + "]"
    )


async def test_untimely_records_are_told_as_kafka_does(bench: Bench) -> None:
    log = bench.log(message_timestamp_before_max_ms=10, message_timestamp_after_max_ms=20)
    answers = append(log, batch(3, timestamps=[NOW_MS, NOW_MS - 11, NOW_MS + 21]))
    (result,) = answers
    assert result.error is ErrorCode.invalid_timestamp
    assert result.error_message == "One or more records have been rejected due to invalid timestamp"
    bounds = f"The timestamp should be within [{NOW_MS - 10}, {NOW_MS + 20}]"
    assert [(error.batch_index, error.message) for error in result.record_errors] == [
        (1, f"Timestamp {NOW_MS - 11} of message with offset 1 is out of range. {bounds}"),
        (2, f"Timestamp {NOW_MS + 21} of message with offset 2 is out of range. {bounds}"),
    ]


@pytest.mark.parametrize("refused", [1, 2])
async def test_a_refused_lines_end_touches_nothing_of_the_next(bench: Bench, refused: int) -> None:
    log = bench.log(compression_type="zstd")
    for _ in range(refused):
        append(log, batch())
    await turns()
    log.shut(ErrorCode.not_leader_or_follower)
    log.resume()
    again = append(log, batch())
    await turns()
    assert len(bench.calls) == 2
    bench.calls[0].set()
    await turns()
    assert len(bench.calls) == 3, "what is left of the first examination: its compression"
    bench.calls[2].set()
    await turns()
    assert len(bench.calls) == 3, "nothing more is done for who was refused"
    assert log.examining and not again, "the new batch is still being examined"
    await bench.finish(log)
    assert again.errors == [ErrorCode.none] and log.log_end_offset == 1
