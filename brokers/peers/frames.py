"""What brokers say to each other (CORRECTNESS 19), as bytes. Pure.

Kafka's framing and request header; API keys of our own above the public range, which the clients' listener neither
offers nor answers. Big-endian; strings as in Kafka (i16 length).

Request: size i32, API key i16, version i16, correlation id i32, client id string, body.
Answer: size i32, correlation id i32, error i16 (Kafka's codes), body.

HELLO, first on each connection: cluster id string, node id i32, node epoch i64 of who asks; answered with node id i32
and node epoch i64 of who answers.
FETCH_TAILS: bytes_max i32, count i32, then for each tail stream i64, start i64, end i64. Answered, in that order and as
far as the bound reaches, with stream i64 and count i32 of batches (0: not here), then for each batch stream epoch i32,
base offset i64, offsets i32, first and max timestamp i64, length i32, payload.
TELL_CLOSED: for each partition topic id (16 bytes), partition i32, stream i64, stream epoch i32, start i64, committed
end i64, end i64, length i32 (0: not told) and bytes of its state at that end (as a checkpoint), and its tail as above.
TELL_OPENED: for each topic id, partition i32, stream i64, stream epoch i32. Both answered with nothing, at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from brokers.partitions.successors import Place
from brokers.partitions.words import WORD_BYTES_MAX, Closed, Opened
from s3stream.errors import Corrupt
from s3stream.limits import BATCH_BYTES_MAX, TAIL_FRAME_BYTES
from s3stream.types import Buffer, StreamBatch, StreamId

# Kafka's keys are below 100, and grow by one or two a release.
HELLO: Final = 20_000
FETCH_TAILS: Final = 20_001
TELL_CLOSED: Final = 20_002
TELL_OPENED: Final = 20_003
VERSION: Final = 0

NONE: Final = 0
CLUSTER_AUTHORIZATION_FAILED: Final = 31
UNSUPPORTED_VERSION: Final = 35
INCONSISTENT_CLUSTER_ID: Final = 104

TAILS_PER_REQUEST_MAX: Final = 10_000
PARTITIONS_PER_WORD_MAX: Final = 5_000
REQUEST_BYTES_MAX: Final = 1 << 20
ANSWER_BYTES_MAX: Final = BATCH_BYTES_MAX + TAIL_FRAME_BYTES + REQUEST_BYTES_MAX
"""At most TAIL_FRAME_BYTES, or one batch, and the tails' own headers."""
SIZE: Final = struct.Struct(">i")
_HEADER = struct.Struct(">hhi")
_ANSWER = struct.Struct(">ih")
_IDENTITY = struct.Struct(">iq")
_FETCH = struct.Struct(">ii")
_TAIL = struct.Struct(">qqq")
_CLOSED = struct.Struct(">16siqiqqqi")
_OPENED = struct.Struct(">16siqi")
_FOUND = struct.Struct(">qi")
_BATCH = struct.Struct(">iqiqqi")
assert WORD_BYTES_MAX + PARTITIONS_PER_WORD_MAX * (_CLOSED.size + _FOUND.size) < REQUEST_BYTES_MAX
assert TAILS_PER_REQUEST_MAX * _TAIL.size < REQUEST_BYTES_MAX


class Request(NamedTuple):
    api_key: int
    version: int
    correlation_id: int
    body: memoryview


class Wanted(NamedTuple):
    stream_id: StreamId
    start: int
    end: int


def request(api_key: int, correlation_id: int, body: bytes) -> bytes:
    framed = _HEADER.pack(api_key, VERSION, correlation_id) + _string("ponor") + body
    return SIZE.pack(len(framed)) + framed


def read_request(frame: Buffer) -> Request:
    """A frame without its size. Raises Corrupt."""
    try:
        api_key, version, correlation_id = _HEADER.unpack_from(frame)
        _, position = _read_string(frame, _HEADER.size)
    except struct.error as error:
        raise Corrupt(f"a broker's request is torn: {error}") from error
    return Request(api_key, version, correlation_id, memoryview(frame)[position:])


def answer(correlation_id: int, error: int, body: Sequence[Buffer] = ()) -> list[Buffer]:
    size = _ANSWER.size + sum(len(part) for part in body)
    return [SIZE.pack(size) + _ANSWER.pack(correlation_id, error), *body]


def read_answer(frame: Buffer) -> tuple[int, int, memoryview]:
    """(correlation id, error, body). Raises Corrupt."""
    try:
        correlation_id, error = _ANSWER.unpack_from(frame)
    except struct.error as torn:
        raise Corrupt(f"a broker's answer is torn: {torn}") from torn
    return correlation_id, error, memoryview(frame)[_ANSWER.size :]


def hello(cluster_id: str, node_id: int, node_epoch: int) -> bytes:
    return _string(cluster_id) + _IDENTITY.pack(node_id, node_epoch)


def read_hello(body: Buffer) -> tuple[str, int, int]:
    try:
        cluster_id, position = _read_string(body, 0)
        node_id, node_epoch = _IDENTITY.unpack_from(body, position)
    except (struct.error, UnicodeDecodeError) as error:
        raise Corrupt(f"a broker's greeting is torn: {error}") from error
    return cluster_id, node_id, node_epoch


def identity(node_id: int, node_epoch: int) -> bytes:
    return _IDENTITY.pack(node_id, node_epoch)


def read_identity(body: Buffer) -> tuple[int, int]:
    try:
        node_id, node_epoch = _IDENTITY.unpack_from(body)
    except struct.error as error:
        raise Corrupt(f"a broker's identity is torn: {error}") from error
    return node_id, node_epoch


def fetch(wanted: Sequence[Wanted], bytes_max: int) -> bytes:
    return _FETCH.pack(bytes_max, len(wanted)) + b"".join(_TAIL.pack(*one) for one in wanted)


def read_fetch(body: Buffer) -> tuple[list[Wanted], int]:
    try:
        bytes_max, count = _FETCH.unpack_from(body)
        if not 0 <= count <= TAILS_PER_REQUEST_MAX:
            raise Corrupt(f"a broker asks for {count} tails at once")
        found = [Wanted(*_TAIL.unpack_from(body, _FETCH.size + number * _TAIL.size)) for number in range(count)]
    except struct.error as error:
        raise Corrupt(f"a broker's request for tails is torn: {error}") from error
    return found, bytes_max


def found(stream_id: StreamId, batches: Sequence[StreamBatch]) -> list[Buffer]:
    parts: list[Buffer] = [_FOUND.pack(stream_id, len(batches))]
    for batch in batches:
        header = _BATCH.pack(
            batch.stream_epoch, batch.base_offset, batch.count, batch.first_timestamp, batch.max_timestamp,
            len(batch.payload),
        )  # fmt: skip
        parts += [header, batch.payload]
    return parts


def read_found(body: memoryview) -> list[tuple[StreamId, list[StreamBatch]]]:
    """Payloads are copies: a batch that is kept does not pin the frame that it came in."""
    tails: list[tuple[StreamId, list[StreamBatch]]] = []
    position = 0
    try:
        while position < len(body):
            stream_id, batches, position = _read_tail(body, position)
            tails.append((stream_id, batches))
    except struct.error as error:
        raise Corrupt(f"a broker's tails are torn: {error}") from error
    return tails


def _read_tail(body: memoryview, position: int) -> tuple[StreamId, list[StreamBatch], int]:
    stream_id, count = _FOUND.unpack_from(body, position)
    position += _FOUND.size
    batches = []
    for _ in range(count):
        epoch, base, offsets, first, last, size = _BATCH.unpack_from(body, position)
        position += _BATCH.size
        if size < 0 or offsets <= 0 or position + size > len(body):
            raise Corrupt(f"a broker's batch of {size} bytes does not fit its frame")
        payload = bytes(body[position : position + size])
        batches.append(StreamBatch(stream_id, epoch, base, offsets, payload, first, last))
        position += size
    return stream_id, batches, position


def closed(told: Sequence[Closed]) -> bytes:
    parts: list[Buffer] = []
    for one in told:
        (topic_id, partition), *numbers = one[:6]
        parts.append(_CLOSED.pack(topic_id.bytes, partition, *numbers, len(one.state)))
        parts += [one.state, *found(one.stream_id, one.tail)]
    return b"".join(parts)


def read_closed(body: memoryview) -> list[Closed]:
    told: list[Closed] = []
    position = 0
    try:
        while position < len(body):
            topic_id, partition, stream_id, epoch, start, committed, end, size = _CLOSED.unpack_from(body, position)
            position += _CLOSED.size
            if not 0 <= size <= len(body) - position:
                raise Corrupt(f"a broker's state of {size} bytes does not fit its frame")
            state = bytes(body[position : position + size])
            of_stream, tail, position = _read_tail(body, position + size)
            if of_stream != stream_id:
                raise Corrupt(f"a broker tells of stream {stream_id} with a tail of {of_stream}")
            place = Place(UUID(bytes=topic_id), partition)
            told.append(Closed(place, stream_id, epoch, start, committed, end, state, tail))
    except struct.error as error:
        raise Corrupt(f"a broker's word is torn: {error}") from error
    return told


def opened(told: Sequence[Opened]) -> bytes:
    return b"".join(_OPENED.pack(one.place.topic_id.bytes, one.place.partition, *one[1:]) for one in told)


def read_opened(body: memoryview) -> list[Opened]:
    try:
        rows = list(_OPENED.iter_unpack(body))
    except struct.error as error:
        raise Corrupt(f"a broker's word is torn: {error}") from error
    return [Opened(Place(UUID(bytes=topic_id), partition), *rest) for topic_id, partition, *rest in rows]


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


def _read_string(buffer: Buffer, position: int) -> tuple[str, int]:
    [size] = struct.unpack_from(">h", buffer, position)
    end = position + 2 + max(0, size)
    if end > len(buffer):
        raise struct.error("string goes past its frame")
    return bytes(memoryview(buffer)[position + 2 : end]).decode(), end
