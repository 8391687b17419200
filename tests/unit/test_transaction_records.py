"""Records of __transaction_state are Kafka's, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.coordinators.fields import INT64
from brokers.transactions.records import (
    Status,
    TransactionValue,
    decode_key,
    decode_value,
    encode_value,
    transaction_key,
)
from s3stream.errors import Corrupt

LINES = (Path(__file__).parents[1] / "golden" / "transaction_state.txt").read_text().splitlines()
GOLDEN = {name: bytes.fromhex(data) for name, data in (line.split(" ") for line in LINES if line[0] != "#")}
STAMP = 1_700_000_000_123
EMPTY = TransactionValue(1000, 0, 60_000, last_update_ms=STAMP)
ONGOING = TransactionValue(
    1000, 7, 60_000, Status.ONGOING, frozenset({("orders", 3)}), STAMP, STAMP - 50, 1000, client_version=2
)
ROTATING = ONGOING._replace(producer_epoch=32_767, status=Status.PREPARE_COMMIT, next_producer_id=2000)

values = st.builds(
    TransactionValue,
    st.integers(0, 2**62), st.integers(0, 32_767), st.integers(1, 2**31 - 1), st.sampled_from(Status),
    st.frozensets(st.tuples(st.text(max_size=9), st.integers(0, 2**31 - 1)), max_size=5),
    st.integers(-1, 2**62), st.integers(-1, 2**62), st.integers(-1, 2**62), st.integers(-1, 2**62), st.integers(0, 2),
)  # fmt: skip


def test_keys_are_kafkas_bytes() -> None:
    assert transaction_key("grüppe-tx") == GOLDEN["key"]
    assert decode_key(GOLDEN["key"]) == "grüppe-tx"
    assert decode_key(b"\x00\x09later") is None


def test_values_are_kafkas_bytes() -> None:
    assert encode_value(EMPTY) == GOLDEN["empty_v1"]
    assert encode_value(ONGOING) == GOLDEN["ongoing_v1"]
    assert encode_value(ROTATING) == GOLDEN["rotating_v1"]


def test_both_of_kafkas_versions_are_read() -> None:
    assert decode_value(GOLDEN["empty_v0"]) == decode_value(GOLDEN["empty_v1"]) == EMPTY
    assert decode_value(GOLDEN["ongoing_v0"]) == ONGOING._replace(previous_producer_id=-1, client_version=0)
    assert decode_value(GOLDEN["rotating_v1"]) == ROTATING


@given(values)
def test_round_trip(value: TransactionValue) -> None:
    kept = value._replace(last_epoch=-1)
    if value.status is Status.EMPTY:
        kept = kept._replace(partitions=frozenset())
    assert decode_value(encode_value(value)) == kept


def test_a_later_version_is_left_alone_and_a_cut_or_wrong_value_is_corrupt() -> None:
    assert decode_value(b"\x00\x02" + GOLDEN["ongoing_v1"][2:]) is None
    for end in range(2, len(GOLDEN["ongoing_v1"])):
        with pytest.raises(Corrupt):
            decode_value(GOLDEN["ongoing_v1"][:end])
    unknown = bytearray(GOLDEN["ongoing_v1"])
    unknown[16] = 9
    with pytest.raises(Corrupt):
        decode_value(bytes(unknown))
    short_tag = GOLDEN["empty_v1"][:-1] + b"\x01\x00\x04" + INT64.pack(5)[:4]
    with pytest.raises(Corrupt):
        decode_value(short_tag)
