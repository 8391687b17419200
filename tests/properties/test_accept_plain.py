"""The fast acceptance of a produced batch and the checks one by one agree, whatever field of the header is wrong."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from brokers.errors import KafkaError
from brokers.partitions.inspection import examine
from brokers.partitions.log_config import LogConfig
from brokers.partitions.pending import AppendOrigin
from brokers.partitions.validation import accept_plain
from brokers.records.batch import HEADER, parse_header, write_crc
from tests.support.partitions import NOW_MS, batch

FIELDS = len(HEADER.unpack(bytes(HEADER.size)))
CRC = 4
CONFIGS = [
    LogConfig(),
    LogConfig(max_message_bytes=120),
    LogConfig(segment_bytes=100),
    LogConfig(message_timestamp_after_max_ms=10),
    LogConfig(message_timestamp_type="LogAppendTime"),
    LogConfig(cleanup_policy=("compact",)),
    LogConfig(compression_type="gzip"),
]
edges = st.sampled_from([-2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 20, 32, 64, 128, 49, NOW_MS, NOW_MS + 11, 1 << 30])


def changed(records: memoryview, field: int, value: int, right_crc: bool) -> memoryview:
    fields = list(HEADER.unpack_from(records))
    low, high = {"b": (-128, 127), "h": (-(1 << 15), (1 << 15) - 1), "i": (-(1 << 31), (1 << 31) - 1)}.get(
        "qiibIhiqqqhii"[field], (-(1 << 63), (1 << 63) - 1)
    )
    fields[field] = value % (1 << 32) if field == CRC else min(max(value, low), high)
    copy = bytearray(records)
    HEADER.pack_into(copy, 0, *fields)
    if right_crc:
        write_crc(copy)
    return memoryview(copy)


@given(
    count=st.integers(1, 3),
    field=st.integers(0, FIELDS - 1),
    value=edges,
    right_crc=st.booleans(),
    config=st.sampled_from(CONFIGS),
    cut=st.sampled_from([0, 0, 0, 1, 30]),
    more=st.sampled_from([b"", b"", b"x", bytes(70)]),
)
@example(count=1, field=0, value=0, right_crc=True, config=CONFIGS[0], cut=0, more=b"")
def test_what_is_accepted_at_once_is_what_the_checks_leave_as_it_is(
    count: int, field: int, value: int, right_crc: bool, config: LogConfig, cut: int, more: bytes
) -> None:
    records = changed(batch(count), field, value, right_crc)
    records = memoryview(bytearray(bytes(records[: len(records) - cut]) + more))
    before = bytes(records)
    accepted = accept_plain(records, config, NOW_MS)
    assert bytes(records) == before
    try:
        stored, header = examine(records, "t-0", config, AppendOrigin.CLIENT, NOW_MS)
    except KafkaError:
        assert accepted is None
        return
    unchanged = config.plain and bytes(stored) == before
    if accepted is not None:
        assert unchanged and accepted == header == parse_header(memoryview(before))
    elif unchanged:
        # Only bits that no client sets may send a good batch the long way round.
        assert header.attributes & ~0x57


def test_the_common_batch_is_accepted_at_once() -> None:
    assert accept_plain(batch(3), LogConfig(), NOW_MS) is not None
    assert accept_plain(batch(3).toreadonly(), LogConfig(), NOW_MS) is None, "it could not be stamped"
