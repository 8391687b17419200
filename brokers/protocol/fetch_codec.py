"""Fetch, versions 4 to 18: requests decoded by hand into one shape, answers encoded around the record buffers.

Invariant: a record buffer goes into the answer as it is, never copied; the answer's bytes are kio's
(property-tested).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias
from uuid import UUID

from brokers.protocol.primitives import (
    INT32,
    SHORT_OF_BYTES,
    MalformedRequest,
    array_length,
    read_array,
    read_string,
    read_tagged_fields,
    read_uuid,
    skip_tagged_fields,
    string,
    tagged_field,
    uvarint,
)
from brokers.protocol.tags import CurrentLeader, NodeEndpoint, encode_current_leader, encode_node_endpoints
from s3stream.types import Buffer

FLEXIBLE: Final = 12
TOPIC_IDS: Final = 13
REPLICA_STATE: Final = 15

Topic: TypeAlias = "str | UUID"
"""A name below version 13, an id from there on."""


class FetchPartition:
    """What is asked of one partition. A fetch session keeps it and updates it in place."""

    __slots__ = (
        "current_leader_epoch", "fetch_offset", "last_fetched_epoch", "log_start_offset", "max_bytes", "name",
        "partition", "sent_high_watermark", "sent_log_start_offset", "topic",
    )  # fmt: skip

    def __init__(
        self,
        topic: Topic,
        partition: int,
        fetch_offset: int,
        max_bytes: int,
        current_leader_epoch: int = -1,
        last_fetched_epoch: int = -1,
        log_start_offset: int = -1,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.fetch_offset = fetch_offset
        self.max_bytes = max_bytes
        self.current_leader_epoch = current_leader_epoch
        self.last_fetched_epoch = last_fetched_epoch
        self.log_start_offset = log_start_offset
        self.name: str | None = topic if isinstance(topic, str) else None
        """The topic's name, once its id was known here."""
        self.sent_high_watermark = -1
        self.sent_log_start_offset = -1

    @property
    def key(self) -> tuple[Topic, int]:
        return self.topic, self.partition


class FetchRequest:
    __slots__ = (
        "forgotten", "isolation_level", "max_bytes", "max_wait_ms", "min_bytes", "partitions", "rack_id",
        "replica_id", "session_epoch", "session_id",
    )  # fmt: skip

    def __init__(
        self,
        replica_id: int,
        max_wait_ms: int,
        min_bytes: int,
        max_bytes: int,
        isolation_level: int,
        session_id: int,
        session_epoch: int,
        partitions: list[FetchPartition],
        forgotten: list[tuple[Topic, int]],
        rack_id: str,
    ) -> None:
        self.replica_id = replica_id
        self.max_wait_ms = max_wait_ms
        self.min_bytes = min_bytes
        self.max_bytes = max_bytes
        self.isolation_level = isolation_level
        self.session_id = session_id
        self.session_epoch = session_epoch
        self.partitions = partitions
        self.forgotten = forgotten
        self.rack_id = rack_id


_SIZES: Final = struct.Struct(">iiib")
"""max wait, min bytes, max bytes, isolation level"""
_SESSION: Final = struct.Struct(">ii")
_PARTITION_4: Final = struct.Struct(">iqi")
_PARTITION_5: Final = struct.Struct(">iqqi")
_PARTITION_9: Final = struct.Struct(">iiqqi")
_PARTITION_12: Final = struct.Struct(">iiqiqi")


def decode_fetch_request(body: memoryview, version: int) -> FetchRequest:
    """Raises MalformedRequest."""
    try:
        return _decode(body, version)
    except SHORT_OF_BYTES as error:
        raise MalformedRequest(f"FetchRequest v{version}: {error!r}") from error


def _decode(body: memoryview, version: int) -> FetchRequest:
    flexible = version >= FLEXIBLE
    position = 0
    replica_id = -1
    if version < REPLICA_STATE:
        (replica_id,) = INT32.unpack_from(body, 0)
        position = 4
    max_wait, min_bytes, max_bytes, isolation = _SIZES.unpack_from(body, position)
    position += _SIZES.size
    session_id, session_epoch = 0, -1
    if version >= 7:
        session_id, session_epoch = _SESSION.unpack_from(body, position)
        position += _SESSION.size
    partitions, position = _read_partitions(body, position, version)
    forgotten: list[tuple[Topic, int]] = []
    if version >= 7:
        forgotten, position = _read_forgotten(body, position, version)
    rack_id: str | None = ""
    if version >= 11:
        rack_id, position = read_string(body, position, flexible)
    if flexible:
        tags, position = read_tagged_fields(body, position)
        if version >= REPLICA_STATE and 1 in tags:
            (replica_id,) = INT32.unpack_from(tags[1])
    if rack_id is None:
        raise MalformedRequest("null rack id")
    return FetchRequest(
        replica_id, max_wait, min_bytes, max_bytes, isolation, session_id, session_epoch, partitions, forgotten, rack_id
    )


def _read_topic(body: memoryview, position: int, version: int) -> tuple[Topic, int]:
    if version >= TOPIC_IDS:
        return read_uuid(body, position)
    name, position = read_string(body, position, version >= FLEXIBLE)
    if name is None:
        raise MalformedRequest("null topic name")
    return name, position


def _read_partitions(body: memoryview, position: int, version: int) -> tuple[list[FetchPartition], int]:
    flexible = version >= FLEXIBLE
    found: list[FetchPartition] = []
    topic_count, position = read_array(body, position, flexible)
    for _ in range(topic_count):
        topic, position = _read_topic(body, position, version)
        count, position = read_array(body, position, flexible)
        for _ in range(count):
            partition, position = _read_partition(body, position, version, topic)
            found.append(partition)
        if flexible:
            position = skip_tagged_fields(body, position)
    return found, position


def _read_partition(body: memoryview, position: int, version: int, topic: Topic) -> tuple[FetchPartition, int]:
    leader_epoch = fetched_epoch = log_start = -1
    if version >= 12:
        index, leader_epoch, offset, fetched_epoch, log_start, size = _PARTITION_12.unpack_from(body, position)
        position = skip_tagged_fields(body, position + _PARTITION_12.size)
    elif version >= 9:
        index, leader_epoch, offset, log_start, size = _PARTITION_9.unpack_from(body, position)
        position += _PARTITION_9.size
    elif version >= 5:
        index, offset, log_start, size = _PARTITION_5.unpack_from(body, position)
        position += _PARTITION_5.size
    else:
        index, offset, size = _PARTITION_4.unpack_from(body, position)
        position += _PARTITION_4.size
    return FetchPartition(topic, index, offset, size, leader_epoch, fetched_epoch, log_start), position


def _read_forgotten(body: memoryview, position: int, version: int) -> tuple[list[tuple[Topic, int]], int]:
    flexible = version >= FLEXIBLE
    found: list[tuple[Topic, int]] = []
    topic_count, position = read_array(body, position, flexible)
    for _ in range(topic_count):
        topic, position = _read_topic(body, position, version)
        count, position = read_array(body, position, flexible)
        for _ in range(count):
            (index,) = INT32.unpack_from(body, position)
            position += 4
            found.append((topic, index))
        if flexible:
            position = skip_tagged_fields(body, position)
    return found, position


# --- answers -----------------------------------------------------------------------------------


class PartitionAnswer:
    """One partition's share of the answer. The defaults are those of an answer that is an error."""

    __slots__ = (
        "aborted", "buffers", "current_leader", "diverging_epoch", "error_code", "high_watermark",
        "last_stable_offset", "log_start_offset", "partition", "preferred_read_replica", "size", "topic",
    )  # fmt: skip

    def __init__(
        self,
        topic: Topic,
        partition: int,
        error_code: int = 0,
        high_watermark: int = -1,
        last_stable_offset: int = -1,
        log_start_offset: int = -1,
        buffers: Sequence[Buffer] = (),
        size: int = 0,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.error_code = error_code
        self.high_watermark = high_watermark
        self.last_stable_offset = last_stable_offset
        self.log_start_offset = log_start_offset
        self.buffers = buffers
        self.size = size
        """Bytes in `buffers`."""
        self.aborted: Sequence[tuple[int, int]] | None = None
        """(producer id, first offset); None under READ_UNCOMMITTED."""
        self.preferred_read_replica = -1
        self.diverging_epoch: tuple[int, int] | None = None
        """(epoch, end offset)"""
        self.current_leader: CurrentLeader | None = None


_HEAD_7: Final = struct.Struct(">ihi")
_ANSWER_4: Final = struct.Struct(">ihqq")
_ANSWER_5: Final = struct.Struct(">ihqqq")
_ABORTED: Final = struct.Struct(">qq")
_DIVERGING: Final = struct.Struct(">iqb")


def encode_fetch_response(
    version: int,
    answers: Sequence[PartitionAnswer],
    error_code: int = 0,
    session_id: int = 0,
    throttle_ms: int = 0,
    endpoints: Sequence[NodeEndpoint] = (),
) -> list[Buffer]:
    """The body as buffers. Consecutive answers of one topic share its entry, as in Kafka."""
    flexible = version >= FLEXIBLE
    groups = _by_topic(answers)
    out: list[Buffer] = []
    meta = bytearray(_HEAD_7.pack(throttle_ms, error_code, session_id) if version >= 7 else INT32.pack(throttle_ms))
    meta += array_length(len(groups), flexible)
    for group in groups:
        topic = group[0].topic
        meta += topic.bytes if isinstance(topic, UUID) else string(topic, flexible)
        meta += array_length(len(group), flexible)
        for answer in group:
            meta += _partition_head(answer, version)
            if answer.size:
                out.append(meta)
                out += answer.buffers
                meta = bytearray()
            if flexible:
                meta += _partition_tags(answer)
        if flexible:
            meta += b"\x00"
    if flexible:
        if endpoints and version >= 16:
            meta += b"\x01" + tagged_field(0, encode_node_endpoints(endpoints))
        else:
            meta += b"\x00"
    if meta:
        out.append(meta)
    return out


def _by_topic(answers: Sequence[PartitionAnswer]) -> list[list[PartitionAnswer]]:
    groups: list[list[PartitionAnswer]] = []
    last: Topic | None = None
    for answer in answers:
        if groups and answer.topic == last:
            groups[-1].append(answer)
        else:
            groups.append([answer])
            last = answer.topic
    return groups


def _partition_head(answer: PartitionAnswer, version: int) -> bytes:
    """Everything before the records, their length included."""
    flexible = version >= FLEXIBLE
    parts = [
        _ANSWER_5.pack(
            answer.partition,
            answer.error_code,
            answer.high_watermark,
            answer.last_stable_offset,
            answer.log_start_offset,
        )
        if version >= 5
        else _ANSWER_4.pack(answer.partition, answer.error_code, answer.high_watermark, answer.last_stable_offset)
    ]
    aborted = answer.aborted
    parts.append(array_length(-1 if aborted is None else len(aborted), flexible))
    for entry in aborted or ():
        parts.append(_ABORTED.pack(*entry))
        if flexible:
            parts.append(b"\x00")
    if version >= 11:
        parts.append(INT32.pack(answer.preferred_read_replica))
    parts.append(uvarint(answer.size + 1) if flexible else INT32.pack(answer.size))
    return b"".join(parts)


def _partition_tags(answer: PartitionAnswer) -> bytes:
    diverging, leader = answer.diverging_epoch, answer.current_leader
    if diverging is None and leader is None:
        return b"\x00"
    fields = []
    if diverging is not None:
        fields.append(tagged_field(0, _DIVERGING.pack(*diverging, 0)))
    if leader is not None:
        fields.append(tagged_field(1, encode_current_leader(leader)))
    return uvarint(len(fields)) + b"".join(fields)
