"""Bytes that are shorter than they say, or null where there must be something: a clear error, from every reader.

What the checksums let through is a writer's fault or an attacker's work; the readers below meet it all the same.
"""

from __future__ import annotations

import struct
from uuid import UUID

import pytest
from crc32c import crc32c
from kio.schema.errors import ErrorCode

from brokers.coordinators.snapshot import DurableMap
from brokers.errors import KafkaError
from brokers.groups.messages import CONSUMER_PROTOCOL
from brokers.groups.records import decode_offset
from brokers.groups.subscription import subscribed_topics
from brokers.partitions.validation import only_batch
from brokers.protocol import offset_commit_codec
from brokers.protocol.fetch_codec import decode_fetch_request
from brokers.protocol.messages import decode_request, encode, milliseconds
from brokers.protocol.offset_commit_codec import decode_offset_commit_request
from brokers.protocol.primitives import MalformedRequest, read_tagged_fields, read_uuid, skip_tagged_fields
from brokers.protocol.produce_codec import decode_produce_request
from brokers.records.batch import HEADER_BYTES, LOG_OVERHEAD
from brokers.records.record import section_heads
from s3stream.errors import Corrupt
from tests.support.group_driver import subscription


def varint(value: int) -> bytes:
    """Zigzag, below 64."""
    return bytes([value << 1])


@pytest.mark.parametrize("body", [b"\x00", b"\x00\x00", b"\x00\x00\x80"], ids=("attributes", "time", "half an offset"))
def test_a_record_that_ends_inside_its_head_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt, match="ends too soon"):
        list(section_heads(varint(len(body)) + body, 1))


def test_a_record_whose_head_runs_into_the_next_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="runs into the next"):
        list(section_heads((varint(2) + b"\x00\x00") * 2, 2))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\x00\x00", b"\xff\xff" + bytes(4), struct.pack(">hi", 0, 1_000), struct.pack(">hih", 0, 1, -1)],
    ids=("nothing", "half a count", "a negative version", "a thousand topics", "a null name"),
)
def test_a_subscription_that_cannot_be_read_is_none_at_all(data: bytes) -> None:
    assert subscribed_topics(CONSUMER_PROTOCOL, [subscription("t"), data]) is None
    assert subscribed_topics(CONSUMER_PROTOCOL, [subscription("t", "u")]) == {"t", "u"}


@pytest.mark.parametrize("sizes", [(100, 0), (0, 100), None], ids=("key", "value", "another entry"))
def test_a_snapshot_whose_entries_run_over_its_end_is_corrupt(sizes: tuple[int, int] | None) -> None:
    """Its size and its checksum agree: it was written wrong."""
    blob = bytearray(DurableMap({b"key": b"value"}, 7).encode()[:-4])
    if sizes is None:
        struct.pack_into(">I", blob, 16, 2)
    else:
        struct.pack_into(">II", blob, struct.calcsize(">IHHqIQ"), *sizes)
    with pytest.raises(Corrupt, match="ends inside an entry"):
        DurableMap.decode(bytes(blob) + struct.pack(">I", crc32c(bytes(blob))))


def test_an_offset_record_with_a_wrong_topic_id_or_an_endless_number_is_corrupt() -> None:
    head = struct.pack(">hqi", 4, 5, 1) + b"\x01" + struct.pack(">q", 1_000)
    with pytest.raises(Corrupt, match="topic id of 3 bytes"):
        decode_offset(head + b"\x01\x00\x03abc")
    with pytest.raises(Corrupt, match="more than five bytes"):
        decode_offset(head + b"\xff" * 6)


def produce_body(name: bytes, flexible: bool) -> bytes:
    if flexible:
        return b"\x00" + struct.pack(">hi", -1, 1_000) + b"\x02" + name
    return b"\xff\xff" + struct.pack(">hii", -1, 1_000, 1) + name


def test_a_produce_for_no_topic_is_malformed() -> None:
    with pytest.raises(MalformedRequest, match="null topic"):
        decode_produce_request(memoryview(produce_body(b"\x00", True)), 9)
    with pytest.raises(MalformedRequest, match="null topic"):
        decode_produce_request(memoryview(produce_body(b"\xff\xff", False)), 7)


def test_a_fetch_for_no_topic_or_from_no_rack_is_malformed() -> None:
    head = struct.pack(">iiiibii", -1, 500, 1, 1 << 20, 0, 0, -1)
    with pytest.raises(MalformedRequest, match="null topic"):
        decode_fetch_request(memoryview(head + b"\x02\x00"), 12)
    with pytest.raises(MalformedRequest, match="null rack"):
        decode_fetch_request(memoryview(head + b"\x01\x01\x00\x00"), 12)
    whole = decode_fetch_request(memoryview(head + b"\x01\x01\x01\x00"), 12)
    assert (whole.rack_id, whole.partitions) == ("", [])
    assert decode_fetch_request(memoryview(head[4:] + b"\x02" + UUID(int=7).bytes + b"\x01\x00\x01\x01\x00"), 15)


def test_an_offset_commit_of_no_group_of_too_much_or_cut_short_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = b"\x02g" + struct.pack(">i", -1) + b"\x01\x00"
    topics = b"\x03" + b"\x02t\x02" + struct.pack(">iqi", 0, 5, -1) + b"\x01\x00\x00" + b"\x02u\x01\x00"
    found = decode_offset_commit_request(memoryview(group + topics + b"\x00"), 9)
    assert found.topics == [("t", [(0, 5, -1, "")]), ("u", [])]
    with pytest.raises(MalformedRequest, match="null where a string"):
        decode_offset_commit_request(memoryview(b"\x00" + group[2:] + topics + b"\x00"), 9)
    with pytest.raises(MalformedRequest, match="OffsetCommitRequest v9"):
        decode_offset_commit_request(memoryview(group + topics), 9)
    monkeypatch.setattr(offset_commit_codec, "REQUEST_ELEMENTS_MAX", 2)
    with pytest.raises(MalformedRequest, match="more than 2 elements"):
        decode_offset_commit_request(memoryview(group + topics + b"\x00"), 9)


def test_bytes_that_must_be_there_and_are_null_are_malformed() -> None:
    """A member's metadata in JoinGroup, the last field of its body."""
    module = __import__("kio.schema.join_group.v5.request", fromlist=["x"])
    protocol = module.JoinGroupRequestProtocol(name="range", metadata=b"")
    request = module.JoinGroupRequest(
        group_id="g", session_timeout=milliseconds(10_000), rebalance_timeout=milliseconds(10_000), member_id="",
        group_instance_id=None, protocol_type="consumer", protocols=(protocol,),
    )  # fmt: skip
    body = encode(type(request), request)
    assert body.endswith(bytes(4))
    decode_request(11, 5, memoryview(body))
    with pytest.raises(MalformedRequest, match="non-nullable bytes are null"):
        decode_request(11, 5, memoryview(body[:-4] + b"\xff" * 4))


def test_records_that_end_beyond_their_request_are_malformed() -> None:
    flexible = produce_body(b"\x02t" + b"\x02" + struct.pack(">i", 0) + varint_unsigned(100), True)
    legacy = produce_body(b"\x00\x01t" + struct.pack(">iii", 1, 0, 100), False)
    for body, version in ((flexible, 9), (legacy, 7)):
        with pytest.raises(MalformedRequest, match=r"records end at \d+ of \d+ bytes"):
            decode_produce_request(memoryview(body + b"abc"), version)


def varint_unsigned(value: int) -> bytes:
    """Below 128."""
    return bytes([value])


def test_what_ends_inside_an_id_or_a_tag_section_is_malformed() -> None:
    with pytest.raises(MalformedRequest, match="truncated uuid"):
        read_uuid(memoryview(bytes(15)), 0)
    assert read_uuid(memoryview(bytes(17)), 1) == (UUID(int=0), 17)
    # One field, of tag 0 and 3 bytes.
    whole = memoryview(b"\x01\x00\x03abc")
    assert skip_tagged_fields(whole, 0) == 6 and read_tagged_fields(whole, 0) == ({0: whole[3:6]}, 6)
    for read in (skip_tagged_fields, read_tagged_fields):
        with pytest.raises(MalformedRequest, match="tagged field past the end"):
            read(whole[:5], 0)


def test_a_produced_batch_shorter_than_its_header_is_a_corrupt_message() -> None:
    """Its length says so itself: it lacks no bytes."""
    batch = struct.pack(">qi", 0, HEADER_BYTES - LOG_OVERHEAD - 1) + struct.pack(">ib", 0, 2)
    batch += bytes(HEADER_BYTES - 1 - len(batch))
    with pytest.raises(KafkaError, match="smaller than its header") as refused:
        only_batch(memoryview(batch))
    assert refused.value.code is ErrorCode.corrupt_message
