"""What of a batch survives a round of compaction: Kafka's cases, one by one (CORRECTNESS 14)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from brokers.compaction.batch_filter import BatchFilter, LastRecord, Round, delete_horizon
from brokers.compaction.offset_map import ENTRY_BYTES, OffsetMap, map_bytes
from brokers.compaction.scan import scan
from brokers.compaction.transactions import Aborted, CleanedTransactions
from brokers.records.batch import Compression, parse_header, stamp_in_place, stored_crc_is_right, write_crc
from brokers.records.builder import RecordBatchBuilder
from brokers.records.record import find_timestamp, iter_records
from s3stream.errors import Corrupt
from s3stream.types import NO_TIMESTAMP, StreamBatch
from tests.support.compacted_log import LogModel, compact, records_of

NOW_MS = 5_000_000


def keys(batches: list[StreamBatch]) -> list[tuple[int, bytes | None]]:
    return [(record.offset, record.key) for record in records_of(batches)]


def test_correctness_14_the_last_batch_of_a_round_survives_without_records() -> None:
    """So that the last offset is not lost, and a reader behind the hole gets on."""
    log = LogModel()
    log.append([(b"a", b"1")], 10)
    log.append([(None, b"no key")], 20)
    left, clean_end = compact(log.batches, 0, 2, NOW_MS)
    assert keys(left) == [(0, b"a")] and clean_end == 2
    header = parse_header(left[-1].payload)
    assert (header.base_offset, header.end_offset, header.record_count, header.size) == (1, 2, 0, 61)
    assert (left[-1].first_timestamp, left[-1].max_timestamp) == (NO_TIMESTAMP, NO_TIMESTAMP)
    # The next round ends elsewhere, and lets it go.
    log.append([(b"b", b"1")], 30)
    left, _ = compact([*left, log.batches[-1]], 2, 3, NOW_MS)
    assert [batch.base_offset for batch in left] == [0, 2]


def test_an_aborted_batch_at_the_end_of_a_round_survives_without_records() -> None:
    log = LogModel()
    log.append([(b"a", b"1")], 10, 1, True)
    log.end_transaction(1, False, 20)
    left, _ = compact(log.batches, 0, 1, NOW_MS, aborted=log.aborted)
    header = parse_header(left[0].payload)
    assert header.record_count == 0 and header.transactional and header.end_offset == 1


def test_correctness_14_the_last_sequence_of_a_living_producer_survives() -> None:
    log = LogModel()
    log.append([(b"a", b"1"), (b"a", b"2")], 10, 7)
    log.append([(b"a", b"3")], 20)
    log.append([(b"b", b"3")], 30)
    left, _ = compact(log.batches, 0, 4, NOW_MS, producers=log.producers)
    header = parse_header(left[0].payload)
    assert (header.record_count, header.producer_id, header.last_sequence) == (0, 7, 1)
    gone, _ = compact(log.batches, 0, 4, NOW_MS)
    assert [batch.base_offset for batch in gone] == [2, 3]


def test_the_only_marker_of_a_producer_without_records_survives() -> None:
    """It has the producer's last epoch, which fences the one before."""
    log = LogModel()
    log.end_transaction(3, True, 10)
    log.append([(b"a", b"1")], 20)
    producers = {3: LastRecord(-1, 0)}
    once, _ = compact(log.batches, 0, 2, NOW_MS, producers=producers)
    later, _ = compact(once, 0, 2, NOW_MS + 1, producers=producers)
    assert parse_header(later[0].payload).control and parse_header(later[0].payload).record_count == 0
    later, _ = compact(once, 0, 2, NOW_MS + 1)
    assert [batch.base_offset for batch in later] == [1]


def test_a_tombstone_is_told_when_it_may_go_and_its_batch_keeps_its_times() -> None:
    log = LogModel()
    log.append([(b"a", b"1"), (b"b", None)], 1_000, compression=Compression.ZSTD)
    left, _ = compact(log.batches, 0, 2, NOW_MS, delete_retention_ms=500)
    [batch] = left
    header = parse_header(batch.payload)
    assert delete_horizon(header) == NOW_MS + 500
    assert [(record.offset, record.timestamp) for record in iter_records(batch.payload)] == [(0, 1_000), (1, 1_001)]
    assert (header.max_timestamp, batch.first_timestamp, batch.max_timestamp) == (1_001, 1_000, 1_001)
    assert header.compression == Compression.ZSTD and stored_crc_is_right(batch.payload)
    assert find_timestamp(batch.payload, 1_001, 0) == (1, 1_001)
    # A later round does not move the time, and the tombstone goes when it has come.
    again, _ = compact(left, 0, 2, NOW_MS + 499, delete_retention_ms=500)
    assert again[0].payload is batch.payload
    gone, _ = compact(left, 0, 2, NOW_MS + 500, delete_retention_ms=500)
    assert keys(gone) == [(0, b"a")]
    assert delete_horizon(parse_header(gone[0].payload)) == NOW_MS + 500


def test_what_is_left_of_a_batch_has_the_times_of_its_records() -> None:
    log = LogModel()
    log.append([(b"a", b"1"), (b"b", b"1"), (b"c", b"1")], 1_000)
    log.append([(b"a", b"2"), (b"c", b"2")], 2_000)
    left, _ = compact(log.batches, 0, 5, NOW_MS)
    assert (left[0].first_timestamp, left[0].max_timestamp) == (1_001, 1_001)
    assert parse_header(left[0].payload).max_timestamp == 1_001
    assert find_timestamp(left[0].payload, 0, 0) == (1, 1_001)


def test_log_append_time_stays_through_a_new_horizon() -> None:
    builder = RecordBatchBuilder()
    builder.append(5, b"a", None).append(9, b"b", b"1")
    payload = builder.build()
    payload[22] |= 0x08
    payload[35:43] = (7_777).to_bytes(8, "big")
    write_crc(payload)
    batch = StreamBatch(7, 5, 0, 2, payload, 7_777, 7_777)
    [left], _ = compact([batch], 0, 2, NOW_MS)
    header = parse_header(left.payload)
    assert header.log_append_time and header.max_timestamp == 7_777 and delete_horizon(header) == NOW_MS
    assert {record.timestamp for record in iter_records(left.payload)} == {7_777}


def test_nothing_above_the_end_of_a_round_is_touched() -> None:
    log = LogModel()
    log.append([(b"a", b"1"), (b"a", b"2")], 10)
    log.append([(b"a", None), (None, b"x"), (b"a", b"3")], 20)
    log.end_transaction(1, True, 30)
    left, _ = compact(log.batches, 0, 2, NOW_MS)
    assert keys(left[:1]) == [(1, b"a")]
    assert [batch.payload for batch in left[1:]] == [batch.payload for batch in log.batches[1:]]


def test_a_batch_whose_records_cannot_be_read_is_kept_and_replaces_nothing() -> None:
    log = LogModel()
    log.append([(b"a", b"1")], 10)
    log.append([(b"a", b"2")], 20)
    broken = log.batches[1]
    broken.payload[61] = 0x7F
    write_crc(broken.payload)
    log.append([(b"b", b"2")], 30)
    left, clean_end = compact(log.batches, 0, 3, NOW_MS)
    assert [batch.base_offset for batch in left] == [0, 1, 2] and clean_end == 3
    assert left[1].payload is broken.payload


def test_a_round_ends_before_the_batch_that_the_map_has_no_room_for() -> None:
    log = LogModel()
    for number in range(20):
        log.append([(b"%d" % number, b"1"), (b"x", b"1")], 10)
    left, clean_end = compact(log.batches, 0, 40, NOW_MS, entries_max=8)
    assert 2 <= clean_end < 40
    records = keys(left)
    assert [offset for offset, key in records if key == b"x" and offset < clean_end] in ([], [clean_end - 1])
    assert [offset for offset, _ in records if offset >= clean_end] == list(range(clean_end, 40))


def test_an_abort_marker_outlives_who_counts_its_transaction_as_aborted() -> None:
    """A consumer that is told of an aborted transaction drops the producer's records until its marker comes."""
    log = LogModel()
    log.append([(b"a", b"1")], 10, 1, True)
    log.end_transaction(1, False, 20)
    log.append([(b"b", b"1")], 30, 1, True)
    log.end_transaction(1, True, 40)
    log.append([(b"c", b"1")], 50)
    left = log.batches
    for round_number in range(4):
        left, _ = compact(left, 0, log.end, NOW_MS + round_number, aborted=log.aborted)
    assert 1 in [batch.base_offset for batch in left]
    for round_number in range(4, 7):
        left, _ = compact(left, 0, log.end, NOW_MS + round_number)
    assert [batch.base_offset for batch in left] == [2, 3, 4]


def test_aborted_transactions_with_batches_left_are_told() -> None:
    log = LogModel()
    log.append([(b"a", b"1")], 10, 1, True)
    log.end_transaction(1, False, 20)
    transactions = CleanedTransactions([*log.aborted, Aborted(1, 50, 60)])
    one = BatchFilter(Round(2, NOW_MS, 0, {}), OffsetMap(1000), transactions)
    one._offsets.latest_offset = 1
    assert [one.filter(batch) for batch in log.batches] == [None, log.batches[1]]
    assert transactions.observed == {log.aborted[0]}


def test_the_map_takes_what_it_was_made_for_and_finds_all_of_it() -> None:
    offsets = OffsetMap(1_000 * ENTRY_BYTES)
    number = 0
    while not offsets.full:
        offsets.put(b"key %d" % number, number)
        number += 1
    assert offsets.size == number == offsets.entries_max >= 890
    offsets.put(b"key 5", 2_000)
    assert offsets.size == number
    assert [offsets.get(b"key %d" % one) for one in range(number)] == [0, 1, 2, 3, 4, 2_000, *range(6, number)]
    assert offsets.get(b"another") == -1


def test_a_map_for_few_offsets_is_small() -> None:
    assert map_bytes(10**9, 100) < 10_000
    assert map_bytes(10_000, 10**9) == 10_000
    assert OffsetMap(map_bytes(10**9, 100)).entries_max >= 100


@pytest.mark.parametrize(
    ("section", "count"),
    [
        (b"", 1),
        (b"\x02", 1),
        (b"\x10\x00\x00\x00", 1),  # ends before its size
        (b"\x01\x00\x00\x00\x02a", 1),  # a negative size
        (b"\x0a\x00\x00\x00\x14abcdef", 1),  # a key that runs out of the record
        (b"\x0e\x00\x00\x00\x02a\x02b\x00", 2),  # one record, two claimed
        (b"\x0e\x00\x00\x00\x02a\x02b\x00!", 1),  # bytes behind the last
    ],
)
def test_records_that_are_none_are_refused(section: bytes, count: int) -> None:
    with pytest.raises(Corrupt):
        scan(section, count)


def test_records_are_walked_as_they_are_decoded() -> None:
    builder = RecordBatchBuilder()
    for number in range(200):
        key = None if number == 3 else b"k" * (number * 7)
        builder.append(1_000_000 + number * 1000, key, None if number % 5 == 0 else b"v" * number)
    payload = builder.build()
    stamp_in_place(payload, 0, 0)
    spans = scan(bytes(payload[61:]), 200)
    records = list(iter_records(payload))
    assert [(delta, key, has_value) for _, _, delta, key, has_value in spans] == [
        (record.offset, record.key, record.value is not None) for record in records
    ]
    assert spans[0][0] == 0 and all(one[1] == two[0] for one, two in pairwise(spans))
