"""The append's critical section, durability, failure: CORRECTNESS 4, 6, 15."""

from __future__ import annotations

import struct

import pytest
import structlog
import structlog.testing
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.partitions.opening import replay_buffer
from brokers.partitions.partition_log import READ_COMMITTED, PartitionLog
from brokers.partitions.pending import AppendOrigin
from brokers.partitions.producer_state import ProducerState, Verification
from brokers.records.batch import parse_header, stored_crc_is_right
from brokers.records.builder import RecordBatchBuilder, marker_batch
from brokers.records.record import EndMarker, iter_records
from s3stream.errors import Corrupt, Fenced, NotFound, Overloaded, Unavailable
from s3stream.types import StreamBatch
from tests.support.fake_stream import FakeStream
from tests.support.partitions import Answers, append, append_first, batch, fake, idempotent, make_log


def test_an_append_is_answered_when_it_is_durable_and_not_before() -> None:
    log = make_log()
    answers = append(log, batch(3))
    assert not answers and log.high_watermark == 0 and log.log_end_offset == 3
    fake(log).make_durable()
    assert answers.errors == [ErrorCode.none] and answers.offsets == [0]
    assert answers[0].log_append_time_ms == -1 and answers[0].log_start_offset == 0
    assert log.high_watermark == log.last_stable_offset == 3


def test_one_group_commit_answers_only_what_it_made_durable_in_order() -> None:
    log = make_log()
    answers = Answers()
    for count in (1, 2, 3):
        log.append(batch(count), AppendOrigin.CLIENT, answers)
    fake(log).make_durable(2)
    assert answers.offsets == [0, 1] and log.high_watermark == 3
    fake(log).make_durable()
    assert answers.offsets == [0, 1, 3] and log.high_watermark == 6


def test_the_stamp_is_there_before_the_stream_sees_the_buffer_and_nothing_is_copied() -> None:
    stream = FakeStream(epoch=5)
    log = make_log(stream)
    append(log, batch(4))
    records = batch(2)
    append(log, records)
    assert struct.unpack(">qii", stream.stamped[1])[::2] == (4, 5)
    payload = stream.given[1].payload
    assert isinstance(payload, memoryview) and payload.obj is records.obj
    assert stored_crc_is_right(payload)
    assert [record.offset for record in iter_records(payload)] == [4, 5]


def test_a_read_only_buffer_is_copied_not_written() -> None:
    log = make_log()
    append(log, batch(1))
    data = bytes(batch(1))
    append(log, memoryview(data))
    assert parse_header(data).base_offset == 0
    assert parse_header(fake(log).given[1].payload).base_offset == 1


def test_an_incomplete_rest_after_the_batch_is_left_out() -> None:
    log = make_log()
    whole = bytearray(batch(2))
    append(log, memoryview(whole + whole[:20]))
    assert len(fake(log).given[0].payload) == len(whole)


def test_a_failure_takes_back_offsets_appends_and_producer_state_together() -> None:
    log = make_log()
    first, lost, lost_too = (append(log, idempotent(sequence)) for sequence in (0, 1, 2))
    fake(log).make_durable(1)
    fake(log).fail(Unavailable("disk"))
    assert first.errors == [ErrorCode.none]
    assert lost.errors == lost_too.errors == [ErrorCode.kafka_storage_error]
    assert log.log_end_offset == log.high_watermark == 1 and log.pending_appends == 0
    # The client sends both again: nothing remembers them, and they follow what is durable.
    again = [append(log, idempotent(sequence)) for sequence in (1, 2)]
    fake(log).make_durable()
    assert [answers.offsets for answers in again] == [[1], [2]]


def test_an_append_refused_by_the_stream_leaves_no_trace() -> None:
    log = make_log()
    for error, code in ((Overloaded("full"), ErrorCode.request_timed_out), (Unavailable("wal"), 56), (Fenced("x"), 6)):
        fake(log).refuse = error
        assert append(log, idempotent(0)).errors == [ErrorCode(code)]
    fake(log).refuse = None
    answers = append(log, idempotent(0))
    fake(log).make_durable()
    assert answers.offsets == [0]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Fenced("epoch"), ErrorCode.not_leader_or_follower),
        (NotFound("deleted"), ErrorCode.unknown_topic_or_partition),
        (Unavailable("disk"), ErrorCode.kafka_storage_error),
    ],
)
def test_the_reason_of_a_failure_is_told(error: Exception, code: ErrorCode) -> None:
    log = make_log()
    answers = append(log, batch())
    fake(log).fail(error)
    assert answers.errors == [code]


def test_a_callback_that_raises_keeps_nobody_else_from_being_answered() -> None:
    log = make_log()

    def broken(result: object) -> None:
        raise RuntimeError("the connection's own fault")

    log.append(batch(), AppendOrigin.CLIENT, broken)
    answers = append(log, batch())
    woken: list[int] = []
    log.add_waiter(lambda: woken.append(log.high_watermark))
    fake(log).make_durable()
    assert answers.offsets == [1] and woken == [2]


def test_state_has_moved_before_anyone_is_told_and_a_callback_may_append() -> None:
    log = make_log()
    seen: list[int] = []
    inner = Answers()

    def done(result: object) -> None:
        seen.append(log.high_watermark)
        log.append(batch(), AppendOrigin.CLIENT, inner)

    log.append(batch(), AppendOrigin.CLIENT, done)
    append(log, batch())
    fake(log).make_durable()
    assert seen == [2] and not inner
    fake(log).make_durable()
    assert inner.offsets == [2]


# --- rule 6: nothing is answered from state that is not durable -------------------------------------


def test_a_retry_on_a_second_connection_waits_for_the_original() -> None:
    log = make_log()
    original = append(log, idempotent(0, count=2))
    retry = append(log, idempotent(0, count=2))
    assert not original and not retry and log.log_end_offset == 2
    fake(log).make_durable()
    assert original.offsets == [0] and retry.offsets == [0]
    assert len(fake(log).durable) == 1


def test_a_retry_whose_original_fails_fails_too() -> None:
    log = make_log()
    original, retry = append(log, idempotent(0)), append(log, idempotent(0))
    fake(log).fail(Unavailable("disk"))
    assert original.errors == retry.errors == [ErrorCode.kafka_storage_error]
    answers = append(log, idempotent(0))
    fake(log).make_durable()
    assert answers.offsets == [0]


def test_a_retry_of_a_durable_batch_is_answered_at_once_and_not_stamped() -> None:
    log = make_log()
    append(log, idempotent(0))
    append(log, idempotent(1, count=3))
    fake(log).make_durable()
    records = idempotent(1, count=3)
    assert append(log, records).offsets == [1]
    assert parse_header(records).base_offset == 0 and log.log_end_offset == 4


# --- transactions, as far as the last stable offset needs them ---------------------------------------


def test_the_last_stable_offset_stays_below_an_open_transaction_until_its_marker_is_durable() -> None:
    log = make_log()
    append(log, batch(2))
    transactional = idempotent(0, count=2, transactional=True)
    append_first(log, transactional)
    append(log, batch(1))
    fake(log).make_durable()
    assert (log.last_stable_offset, log.high_watermark) == (2, 5)
    marker = marker_batch(9, 0, EndMarker(commit=False, coordinator_epoch=3), 1)
    append(log, memoryview(marker), AppendOrigin.COORDINATOR)
    assert log.last_stable_offset == 2
    fake(log).make_durable()
    assert log.last_stable_offset == log.high_watermark == 6
    assert [(txn.producer_id, txn.first_offset, txn.last_offset) for txn in log.aborted_transactions(0, 6)] == [
        (9, 2, 5)
    ]
    old = marker_batch(9, 0, EndMarker(commit=True, coordinator_epoch=2), 1)
    fenced = append(log, memoryview(old), AppendOrigin.COORDINATOR)
    assert fenced.errors == [ErrorCode.transaction_coordinator_fenced]


def test_a_client_cannot_write_outside_of_what_its_producer_has_open() -> None:
    log = make_log()
    assert append(log, idempotent(0, transactional=True)).errors == [ErrorCode.invalid_txn_state]
    append_first(log, idempotent(0, transactional=True))
    assert append(log, idempotent(1)).errors == [ErrorCode.invalid_txn_state]
    more = append(log, idempotent(1, transactional=True))
    fake(log).make_durable()
    assert more.errors == [ErrorCode.none]


def test_a_negative_producer_id_is_none_at_all() -> None:
    """As in Kafka, where only ids from 0 on are producers': nothing is remembered of one, here or by a replay."""
    records = RecordBatchBuilder(producer_id=-2, producer_epoch=0, base_sequence=0).append(1, b"k", b"v").build()
    log = make_log()
    first, second = append(log, memoryview(bytearray(records))), append(log, memoryview(bytearray(records)))
    fake(log).make_durable()
    assert first.errors + second.errors == [ErrorCode.none] * 2
    assert log.high_watermark == 2
    assert log.producers is None
    state = ProducerState()
    replay_buffer(records, 0, state)
    assert state.empty


# --- the first batch of a transaction (KIP-890) -----------------------------------------------------


def marker(epoch: int, commit: bool = True, coordinator_epoch: int = 1) -> memoryview:
    return memoryview(marker_batch(9, epoch, EndMarker(commit, coordinator_epoch), 1))


def append_marker(log: PartitionLog, epoch: int, version: int, coordinator_epoch: int = 1) -> list[ErrorCode]:
    answers = Answers()
    log.append(marker(epoch, coordinator_epoch=coordinator_epoch), AppendOrigin.COORDINATOR, answers, None, version)
    fake(log).make_durable()
    return answers.errors


def verified_append(log: PartitionLog, records: memoryview, verified: Verification | None) -> list[ErrorCode]:
    answers = Answers()
    log.append(records, AppendOrigin.CLIENT, answers, verified)
    fake(log).make_durable()
    return answers.errors


def test_a_transaction_begins_only_with_its_own_verification() -> None:
    log = make_log()
    first = idempotent(0, transactional=True)
    verified = log.begin_verification(9, 0, 0, False)
    assert verified is log.begin_verification(9, 0, 0, False), "one for all batches that wait"
    assert verified_append(log, first, Verification(0, 0, False, 0)) == [ErrorCode.invalid_txn_state]
    assert verified_append(log, first, verified) == [ErrorCode.none]
    assert log.begin_verification(9, 1, 0, False) is None, "it is open by now"


def test_a_marker_that_comes_first_makes_a_verification_void() -> None:
    """The transaction was ended between the coordinator's answer and the append."""
    log = make_log()
    verified = log.begin_verification(9, 0, 0, False)
    assert append_marker(log, 0, 0) == [ErrorCode.none]
    assert verified_append(log, idempotent(0, transactional=True), verified) == [ErrorCode.invalid_txn_state]


def test_the_marker_of_the_transaction_before_leaves_the_next_ones_verification_alone() -> None:
    """From transaction.version 2 on: the marker's epoch is that of the producer's next transaction."""
    log = make_log()
    append_first(log, idempotent(0, transactional=True))
    verified = log.begin_verification(9, 0, 1, True)
    assert append_marker(log, 1, 2) == [ErrorCode.none]
    assert verified_append(log, idempotent(0, transactional=True, epoch=1), verified) == [ErrorCode.none]


def test_correctness_6_a_marker_of_an_earlier_transaction_does_not_end_a_later_one() -> None:
    log = make_log()
    append_first(log, idempotent(0, transactional=True, epoch=4))
    for epoch in (3, 4):
        assert append_marker(log, epoch, 2) == [ErrorCode.invalid_producer_epoch]
    assert append_marker(log, 5, 2) == [ErrorCode.none]
    assert append_marker(log, 5, 2) == [ErrorCode.none], "the same marker once more"
    assert append_marker(log, 5, 2, coordinator_epoch=0) == [ErrorCode.transaction_coordinator_fenced]


def test_what_a_producer_sent_later_does_not_begin_its_transaction() -> None:
    out_of_order = [ErrorCode.out_of_order_sequence_number]
    log = make_log()
    log.begin_verification(9, 0, 0, False)
    later = log.begin_verification(9, 5, 0, False)
    assert verified_append(log, idempotent(5, transactional=True), later) == out_of_order
    unknown = make_log()
    alone = unknown.begin_verification(9, 5, 0, True)
    assert verified_append(unknown, idempotent(5, transactional=True), alone) == out_of_order


def test_an_older_epoch_is_refused_before_anybody_is_asked_and_verifications_are_bounded() -> None:
    log = make_log()
    append_first(log, idempotent(0, transactional=True, epoch=4))
    with pytest.raises(KafkaError) as caught:
        log.begin_verification(9, 0, 3, True)
    assert caught.value.code is ErrorCode.invalid_producer_epoch
    state = ProducerState(producers_max=2)
    kept = [state.begin_verification(producer, 0, 0, True, 0) for producer in (1, 2, 3)]
    assert state.begin_verification(3, 0, 0, True, 0) is kept[2]
    assert state.begin_verification(1, 0, 0, True, 0) is not kept[0]
    assert not state.empty
    state.expire(100, 100)
    assert state.empty


async def test_a_log_that_serves_no_more_verifies_nothing() -> None:
    log = make_log()
    log.retire(ErrorCode.not_leader_or_follower)
    with pytest.raises(KafkaError):
        log.begin_verification(9, 0, 0, False)


def test_those_who_came_after_go_on_in_order_once_the_first_is_decided() -> None:
    verified = Verification(0, 0, True, 0)
    assert verified.lead() and not verified.lead()
    went_on: list[int] = []
    assert verified.followers is not None
    verified.followers += [lambda: went_on.append(1), lambda: went_on.append(2)]
    verified.release()
    assert went_on == [1, 2] and verified.lead()


# --- reads, waiters, the end ------------------------------------------------------------------------


def sizes(log: PartitionLog, offset: int, isolation: int = 0) -> list[int]:
    result = log.read_recent(offset, 1 << 20, isolation)
    assert result is not None
    return [parse_header(buffer).record_count for buffer in result.buffers]


def test_reads_stop_at_the_high_watermark_and_at_the_last_stable_offset() -> None:
    log = make_log()
    append(log, batch(2))
    fake(log).make_durable()
    append(log, batch(3))
    assert sizes(log, 0) == [2] and sizes(log, 2) == [] and sizes(log, 5) == []
    append_first(log, idempotent(0, transactional=True))
    fake(log).make_durable()
    assert sizes(log, 0) == [2, 3, 1] and sizes(log, 0, READ_COMMITTED) == [2, 3]


async def test_offsets_outside_of_the_log_are_out_of_range_never_empty() -> None:
    log = make_log()
    append(log, batch(5))
    fake(log).make_durable()
    await log.delete_records(2)
    for offset in (1, 6, -1):
        with pytest.raises(KafkaError) as caught:
            log.read_recent(offset, 100)
        assert caught.value.code is ErrorCode.offset_out_of_range
        with pytest.raises(KafkaError):
            await log.read(offset, 100)


async def test_faults_below_become_kafka_errors_and_a_trim_meanwhile_is_what_is_told() -> None:
    log = make_log()
    append(log, batch(5))
    fake(log).make_durable()
    fake(log).read_error = Corrupt("block 3")
    with pytest.raises(KafkaError) as caught:
        await log.read(0, 100)
    assert caught.value.code is ErrorCode.kafka_storage_error

    async def trimmed_meanwhile(*args: object) -> None:
        fake(log).start_offset = 5
        raise NotFound("object gone")

    fake(log).read = trimmed_meanwhile  # type: ignore[assignment]
    with pytest.raises(KafkaError) as caught:
        await log.read(0, 100)
    assert caught.value.code is ErrorCode.offset_out_of_range


async def test_an_unreadable_object_is_named_in_the_log_however_often_clients_ask() -> None:
    log = make_log()
    append(log, batch(5))
    fake(log).make_durable()
    fake(log).read_error = Corrupt("object ab/12.obj at byte 7")
    with structlog.testing.capture_logs() as said:
        for _ in range(100):
            with pytest.raises(KafkaError):
                await log.read(0, 100)
    assert [(entry["log_level"], entry["partition"], entry["error"]) for entry in said] == [
        ("error", log.name, "object ab/12.obj at byte 7")
    ]


def test_waiters_are_woken_by_durability_failure_and_the_end_until_removed() -> None:
    log = make_log()
    woken: list[str] = []
    first = log.add_waiter(lambda: woken.append("first"))
    log.add_waiter(lambda: woken.append("second"))
    append(log, batch())
    assert woken == []
    fake(log).make_durable()
    assert woken == ["first", "second"]
    log.remove_waiter(first)
    log.remove_waiter(first)
    append(log, batch())
    fake(log).fail(Unavailable("disk"))
    log.shut(ErrorCode.unknown_topic_or_partition)
    assert woken == ["first", "second", "second", "second"]


def test_a_deleted_topic_answers_everything_that_waits_and_everything_that_comes() -> None:
    log = make_log()
    pending, retry = append(log, idempotent(0)), append(log, idempotent(0))
    seen: list[ErrorCode] = []

    def wake() -> None:
        try:
            log.read_recent(0, 100)
        except KafkaError as error:
            seen.append(error.code)

    log.add_waiter(wake)
    log.shut(ErrorCode.unknown_topic_or_partition)
    gone = [ErrorCode.unknown_topic_or_partition]
    assert pending.errors == retry.errors == seen == append(log, batch()).errors == gone
    fake(log).make_durable()  # the WAL may still finish it: nobody hears of it twice
    assert pending.errors == gone


def test_a_retired_log_refuses_appends_but_answers_what_was_pending() -> None:
    log = make_log()
    pending = append(log, batch())
    log.retire(ErrorCode.not_leader_or_follower)
    assert append(log, batch()).errors == [ErrorCode.not_leader_or_follower]
    fake(log).make_durable()
    assert pending.errors == [ErrorCode.none]


def test_a_stream_batch_carries_what_lookups_need() -> None:
    log = make_log()
    append(log, batch(3, timestamps=[50, 70, 60]))
    given: StreamBatch = fake(log).given[0]
    assert (given.stream_id, given.base_offset, given.count) == (1, 0, 3)
    assert (given.first_timestamp, given.max_timestamp) == (50, 70)
