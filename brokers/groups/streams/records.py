"""Records of streams groups (KIP-1071) in __consumer_offsets: Kafka's own, byte for byte.

Owns: keys' numbers, values' bytes (docs/formats/consumer-offsets.md). Does not own: what the records do (group.py).
Source: group-coordinator message definitions of Kafka 4.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from brokers.coordinators.fields import INT16, INT32, INT64, Reader
from brokers.groups.modern.assignments import gathered
from brokers.groups.modern.codec import (
    NO_TAGS,
    VERSION,
    array,
    compact,
    int32s,
    parts_with_epochs,
    read_array,
    read_parts_with_epochs,
    read_text,
    reader_of,
    tags,
)
from brokers.groups.streams.member import Current, Endpoint, Subscription
from brokers.groups.streams.tasks import HeldTasks, Tasks, TaskSets, TaskState, TasksWithEpochs
from brokers.groups.streams.topology import CopartitionGroup, Subtopology, TopicInfo, Topology

EPOCH: Final = 17
MEMBER: Final = 19
TARGET_EPOCH: Final = 20
TARGET: Final = 21
CURRENT: Final = 22
TOPOLOGY: Final = 23

_PORT_BYTES: Final = 2


class GroupEpoch(NamedTuple):
    """Value of StreamsGroupMetadata: the group epoch, and what it is the epoch of."""

    epoch: int
    metadata_hash: int
    validated_topology_epoch: int = -1
    """Of the topology whose topics were there as they should be; -1: of none."""
    assignment_configs: Mapping[str, str] = MappingProxyType({})
    """What the assignor was told besides."""


def encode_epoch(value: GroupEpoch) -> bytes:
    found = {}
    if value.validated_topology_epoch != -1:
        found[0] = INT32.pack(value.validated_topology_epoch)
    if value.assignment_configs:
        found[1] = _pairs(sorted(value.assignment_configs.items()))
    return VERSION + INT32.pack(value.epoch) + INT64.pack(value.metadata_hash) + tags(found)


def decode_epoch(data: bytes) -> GroupEpoch:
    reader = reader_of(data, "streams group epoch value")
    epoch, metadata_hash, found = reader.int32(), reader.int64(), reader.tags()
    configs = dict(_read_pairs(Reader(found[1]))) if 1 in found else {}
    validated = Reader(found[0]).int32() if 0 in found else -1
    return GroupEpoch(epoch, metadata_hash, validated, configs)


def encode_member(value: Subscription) -> bytes:
    return b"".join(
        (
            VERSION,
            compact(value.instance_id),
            compact(value.rack_id),
            compact(value.client_id),
            compact(value.client_host),
            INT32.pack(value.rebalance_timeout_ms),
            INT32.pack(value.topology_epoch),
            compact(value.process_id),
            b"\xff" if value.endpoint is None else _encode_endpoint(value.endpoint),
            _pairs(sorted(value.client_tags.items())),
            NO_TAGS,
        )
    )


def _encode_endpoint(endpoint: Endpoint) -> bytes:
    # A nullable struct begins with one byte that says that it is there.
    return b"\x01" + compact(endpoint.host) + endpoint.port.to_bytes(_PORT_BYTES, "big") + NO_TAGS


def decode_member(data: bytes) -> Subscription:
    reader = reader_of(data, "streams group member value")
    instance_id, rack_id = reader.compact_string(), reader.compact_string()
    client_id, client_host = read_text(reader), read_text(reader)
    rebalance_timeout, topology_epoch, process_id = reader.int32(), reader.int32(), read_text(reader)
    endpoint = _decode_endpoint(reader) if reader.take(1) == b"\x01" else None
    client_tags = dict(_read_pairs(reader))
    reader.tags()
    return Subscription(
        instance_id,
        rack_id,
        client_id,
        client_host,
        rebalance_timeout,
        topology_epoch,
        process_id,
        endpoint,
        client_tags,
    )


def _decode_endpoint(reader: Reader) -> Endpoint:
    found = Endpoint(read_text(reader), int.from_bytes(reader.take(_PORT_BYTES), "big"))
    reader.tags()
    return found


# --- tasks -------------------------------------------------------------------------------------


def encode_target(value: TaskSets) -> bytes:
    return VERSION + b"".join(map(_encode_tasks, value)) + NO_TAGS


def decode_target(data: bytes) -> TaskSets:
    reader = reader_of(data, "streams group target assignment value")
    found = TaskSets(_read_tasks(reader), _read_tasks(reader), _read_tasks(reader))
    reader.tags()
    return found


def encode_current(value: Current) -> bytes:
    head = VERSION + INT32.pack(value.epoch) + INT32.pack(value.previous_epoch) + bytes((value.state,))
    return head + _encode_held(value.assigned) + _encode_held(value.revoking) + NO_TAGS


def decode_current(data: bytes) -> Current:
    reader = reader_of(data, "streams group member assignment value")
    epoch, previous, state = reader.int32(), reader.int32(), TaskState(reader.take(1)[0])
    # Records from before 4.3 have no epochs: active tasks count from the member's.
    assigned, revoking = _read_held(reader, epoch), _read_held(reader, epoch)
    reader.tags()
    return Current(epoch, previous, state, assigned, revoking)


def _encode_tasks(tasks: Tasks) -> bytes:
    return array(
        [compact(subtopology) + int32s(sorted(parts)) + NO_TAGS for subtopology, parts in sorted(tasks.items())]
    )


def _read_tasks(reader: Reader) -> Tasks:
    return gathered(_read_with_epochs(reader, 0).items())


def _encode_held(held: HeldTasks) -> bytes:
    active = [compact(subtopology) + parts_with_epochs(parts) for subtopology, parts in sorted(held.active.items())]
    return array(active) + _encode_tasks(held.standby) + _encode_tasks(held.warmup)


def _read_held(reader: Reader, default: int) -> HeldTasks:
    return HeldTasks(_read_with_epochs(reader, default), _read_tasks(reader), _read_tasks(reader))


def _read_with_epochs(reader: Reader, default: int) -> TasksWithEpochs:
    def one(reader: Reader) -> tuple[str, dict[int, int]]:
        return read_text(reader), read_parts_with_epochs(reader, default)

    return {subtopology: parts for subtopology, parts in read_array(reader, one) if parts}


# --- topology ----------------------------------------------------------------------------------


def encode_topology(value: Topology) -> bytes:
    subtopologies = [_encode_subtopology(*item) for item in value.subtopologies.items()]
    return VERSION + INT32.pack(value.epoch) + array(subtopologies) + NO_TAGS


def decode_topology(data: bytes) -> Topology:
    reader = reader_of(data, "streams group topology value")
    found = Topology(reader.int32(), dict(read_array(reader, _read_subtopology)))
    reader.tags()
    return found


def _encode_subtopology(subtopology_id: str, value: Subtopology) -> bytes:
    return b"".join(
        (
            compact(subtopology_id),
            _texts(value.source_topics),
            _texts(value.source_topic_patterns),
            array(list(map(_encode_topic, value.changelog_topics))),
            _texts(value.repartition_sink_topics),
            array(list(map(_encode_topic, value.repartition_source_topics))),
            array([b"".join(map(_int16s, group)) + NO_TAGS for group in value.copartition_groups]),
            NO_TAGS,
        )
    )


def _read_subtopology(reader: Reader) -> tuple[str, Subtopology]:
    found = read_text(reader), Subtopology(
        source_topics=tuple(read_array(reader, read_text)),
        source_topic_patterns=tuple(read_array(reader, read_text)),
        changelog_topics=tuple(read_array(reader, _read_topic)),
        repartition_sink_topics=tuple(read_array(reader, read_text)),
        repartition_source_topics=tuple(read_array(reader, _read_topic)),
        copartition_groups=tuple(read_array(reader, _read_copartition_group)),
    )  # fmt: skip
    reader.tags()
    return found


def _encode_topic(topic: TopicInfo) -> bytes:
    numbers = INT32.pack(topic.partitions) + INT16.pack(topic.replication_factor)
    return compact(topic.name) + numbers + _pairs(topic.configs) + NO_TAGS


def _read_topic(reader: Reader) -> TopicInfo:
    found = TopicInfo(read_text(reader), reader.int32(), reader.int16(), tuple(_read_pairs(reader)))
    reader.tags()
    return found


def _read_copartition_group(reader: Reader) -> CopartitionGroup:
    found = CopartitionGroup(*(tuple(read_array(reader, Reader.int16)) for _ in CopartitionGroup._fields))
    reader.tags()
    return found


def _int16s(values: Iterable[int]) -> bytes:
    return array([INT16.pack(value) for value in values])


def _texts(values: Iterable[str]) -> bytes:
    return array([compact(value) for value in values])


def _pairs(pairs: Iterable[tuple[str, str]]) -> bytes:
    return array([compact(key) + compact(value) + NO_TAGS for key, value in pairs])


def _read_pairs(reader: Reader) -> list[tuple[str, str]]:
    def one(reader: Reader) -> tuple[str, str]:
        found = read_text(reader), read_text(reader)
        reader.tags()
        return found

    return read_array(reader, one)
