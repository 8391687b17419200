"""The hand-written codecs against kio, in every version: the same bytes out, the same values in."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode
from kio.serial.readers import tz_aware_from_i64

from brokers.protocol import fetch_codec, metadata_codec, offset_commit_codec, produce_codec, share_fetch_codec
from brokers.protocol.messages import encode, milliseconds, request_class, response_class
from brokers.protocol.primitives import ZERO_UUID
from brokers.protocol.tags import CurrentLeader, NodeEndpoint

PRODUCE, FETCH, METADATA, OFFSET_COMMIT, SHARE_FETCH = 0, 1, 3, 8, 78
SETTINGS = settings(max_examples=25, deadline=None)

int16 = st.integers(-(2**15), 2**15 - 1)
int32 = st.integers(-(2**31), 2**31 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
millis = st.integers(0, 2**31 - 1)
text = st.text(max_size=200)
topic_ids = st.uuids().filter(lambda value: value != ZERO_UUID)
errors = st.sampled_from(list(ErrorCode))
payloads = st.one_of(st.binary(max_size=40), st.integers(100, 40_000).map(lambda size: b"r" * size))


def names_of(version: int, first_with_ids: int) -> st.SearchStrategy[Any]:
    return topic_ids if version >= first_with_ids else text


def module_of(cls: type) -> Any:
    return sys.modules[cls.__module__]


def fill(cls: type, **values: Any) -> Any:
    """`cls` with those of `values` that it has."""
    return cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__})


# --- produce -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(3, 14))
@SETTINGS
@given(data=st.data())
def test_produce_requests_decode_to_what_kio_wrote(version: int, data: st.DataObject) -> None:
    cls = request_class(PRODUCE, version)
    module = module_of(cls)
    topics = data.draw(
        st.lists(
            st.tuples(names_of(version, 13), st.lists(st.tuples(int32, st.none() | payloads), max_size=3)), max_size=3
        )
    )
    transactional_id, acks, timeout = data.draw(st.none() | text), data.draw(int16), data.draw(millis)
    entity = cls(
        transactional_id=transactional_id,
        acks=acks,
        timeout=milliseconds(timeout),
        topic_data=tuple(
            fill(
                module.TopicProduceData,
                name=topic,
                topic_id=topic,
                partition_data=tuple(
                    module.PartitionProduceData(index=index, records=records) for index, records in partitions
                ),
            )
            for topic, partitions in topics
        ),
    )
    body = memoryview(bytearray(encode(cls, entity)))
    request = produce_codec.decode_produce_request(body, version)
    assert (request.transactional_id, request.acks, request.timeout_ms) == (transactional_id, acks, timeout)
    assert request.topics == topics
    for _, partitions in request.topics:
        for _, records in partitions:
            assert records is None or records.obj is body.obj, "records are slices of the frame"


produce_answers = st.builds(
    produce_codec.PartitionAnswer,
    partition=int32,
    error_code=errors.map(int),
    base_offset=int64,
    log_append_time_ms=st.sampled_from([-1, 0, 1_700_000_000_123]),
    log_start_offset=int64,
    record_errors=st.lists(st.tuples(int32, st.none() | text), max_size=2),
    error_message=st.none() | text,
    current_leader=st.none() | st.builds(CurrentLeader, int32, st.integers(0, 2**31 - 1)),
)
endpoint_lists = st.lists(st.builds(NodeEndpoint, int32, text, int32, st.none() | text), max_size=3)


def leader_class_values(module: Any, leader: CurrentLeader | None, field: Any) -> dict[str, Any]:
    if leader is None or not hasattr(module, "LeaderIdAndEpoch"):
        return {}
    return {field: module.LeaderIdAndEpoch(leader_id=leader.leader_id, leader_epoch=leader.leader_epoch)}


def endpoints_of(module: Any, endpoints: list[NodeEndpoint]) -> tuple[Any, ...]:
    if not hasattr(module, "NodeEndpoint"):
        return ()
    return tuple(module.NodeEndpoint(node_id=e.node_id, host=e.host, port=e.port, rack=e.rack) for e in endpoints)


@pytest.mark.parametrize("version", range(3, 14))
@SETTINGS
@given(data=st.data())
def test_produce_answers_are_kios_bytes(version: int, data: st.DataObject) -> None:
    cls = response_class(PRODUCE, version)
    module = module_of(cls)
    topics = data.draw(st.lists(st.tuples(names_of(version, 13), st.lists(produce_answers, max_size=3)), max_size=3))
    throttle, endpoints = data.draw(millis), data.draw(endpoint_lists)

    def partition(answer: produce_codec.PartitionAnswer) -> Any:
        time = None if answer.log_append_time_ms == -1 else tz_aware_from_i64(answer.log_append_time_ms)
        error_class = getattr(module, "BatchIndexAndErrorMessage", None)
        return fill(
            module.PartitionProduceResponse,
            index=answer.partition,
            error_code=ErrorCode(answer.error_code),
            base_offset=answer.base_offset,
            log_append_time=time,
            log_start_offset=answer.log_start_offset,
            record_errors=tuple(
                error_class(batch_index=i, batch_index_error_message=m) for i, m in answer.record_errors
            )
            if error_class
            else (),
            error_message=answer.error_message,
            **leader_class_values(module, answer.current_leader, "current_leader"),
        )

    entity = fill(
        cls,
        responses=tuple(
            fill(
                module.TopicProduceResponse,
                name=topic,
                topic_id=topic,
                partition_responses=tuple(partition(answer) for answer in answers),
            )
            for topic, answers in topics
        ),
        throttle_time=milliseconds(throttle),
        node_endpoints=endpoints_of(module, endpoints),
    )
    assert produce_codec.encode_produce_response(version, topics, throttle, endpoints) == encode(cls, entity)


# --- fetch -------------------------------------------------------------------------------------

fetch_partitions = st.tuples(int32, int32, int64, int32, int64, int32)


@pytest.mark.parametrize("version", range(4, 19))
@SETTINGS
@given(data=st.data())
def test_fetch_requests_decode_to_what_kio_wrote(version: int, data: st.DataObject) -> None:
    cls = request_class(FETCH, version)
    module = module_of(cls)
    names = names_of(version, 13)
    topics = data.draw(st.lists(st.tuples(names, st.lists(fetch_partitions, max_size=3)), max_size=3))
    forgotten = data.draw(st.lists(st.tuples(names, st.lists(int32, max_size=3)), max_size=2)) if version >= 7 else []
    wait, minimum, maximum = data.draw(millis), data.draw(int32), data.draw(int32)
    isolation, session = data.draw(st.integers(-128, 127)), data.draw(st.tuples(int32, int32))
    rack, replica = data.draw(text), data.draw(int32)

    def partition(values: tuple[int, ...]) -> Any:
        index, leader_epoch, offset, fetched_epoch, start, size = values
        return fill(
            module.FetchPartition,
            partition=index,
            current_leader_epoch=leader_epoch,
            fetch_offset=offset,
            last_fetched_epoch=fetched_epoch,
            log_start_offset=start,
            partition_max_bytes=size,
            high_watermark=data.draw(int64),
            replica_directory_id=data.draw(topic_ids),
        )

    values: dict[str, Any] = {
        "cluster_id": data.draw(st.none() | text),
        "replica_id": replica,
        "max_wait": milliseconds(wait),
        "min_bytes": minimum,
        "max_bytes": maximum,
        "isolation_level": isolation,
        "session_id": session[0],
        "session_epoch": session[1],
        "topics": tuple(
            fill(module.FetchTopic, topic=topic, topic_id=topic, partitions=tuple(map(partition, partitions)))
            for topic, partitions in topics
        ),
        "rack_id": rack,
    }
    if version >= 7:
        values["forgotten_topics_data"] = tuple(
            fill(module.ForgottenTopic, topic=topic, topic_id=topic, partitions=tuple(indexes))
            for topic, indexes in forgotten
        )
    if version >= 15:
        values["replica_state"] = module.ReplicaState(replica_id=replica, replica_epoch=3)
    request = fetch_codec.decode_fetch_request(memoryview(encode(cls, fill(cls, **values))), version)

    assert (request.replica_id, request.max_wait_ms, request.min_bytes) == (replica, wait, minimum)
    assert (request.max_bytes, request.isolation_level) == (maximum, isolation)
    assert (request.session_id, request.session_epoch) == (session if version >= 7 else (0, -1))
    assert request.rack_id == (rack if version >= 11 else "")
    assert request.forgotten == [(topic, index) for topic, indexes in forgotten for index in indexes]
    assert [
        (p.topic, p.partition, p.current_leader_epoch, p.fetch_offset, p.last_fetched_epoch, p.log_start_offset,
         p.max_bytes)
        for p in request.partitions
    ] == [
        (topic, index, leader if version >= 9 else -1, offset, fetched if version >= 12 else -1,
         start if version >= 5 else -1, size)
        for topic, partitions in topics
        for index, leader, offset, fetched, start, size in partitions
    ]  # fmt: skip


@st.composite
def fetch_answer(draw: st.DrawFn, topic: Any) -> fetch_codec.PartitionAnswer:
    buffers = draw(st.lists(payloads, max_size=3))
    answer = fetch_codec.PartitionAnswer(
        topic, draw(int32), int(draw(errors)), draw(int64), draw(int64), draw(int64), buffers, sum(map(len, buffers))
    )
    answer.aborted = draw(st.none() | st.lists(st.tuples(int64, int64), max_size=2))
    answer.preferred_read_replica = draw(int32)
    answer.diverging_epoch = draw(st.none() | st.tuples(st.integers(0, 100), int64))
    answer.current_leader = draw(st.none() | st.builds(CurrentLeader, int32, st.integers(0, 100)))
    return answer


@pytest.mark.parametrize("version", range(4, 19))
@SETTINGS
@given(data=st.data())
def test_fetch_answers_are_kios_bytes_around_the_very_buffers(version: int, data: st.DataObject) -> None:
    cls = response_class(FETCH, version)
    module = module_of(cls)
    topics = data.draw(st.lists(names_of(version, 13), max_size=3, unique=True))
    groups = [(topic, data.draw(st.lists(fetch_answer(topic), min_size=1, max_size=3))) for topic in topics]
    error, session, throttle = data.draw(errors), data.draw(int32), data.draw(millis)
    endpoints = data.draw(endpoint_lists)

    def partition(answer: fetch_codec.PartitionAnswer) -> Any:
        aborted = answer.aborted
        values: dict[str, Any] = (
            leader_class_values(module, answer.current_leader, "current_leader") if (version >= 12) else {}
        )
        if answer.diverging_epoch is not None and version >= 12:
            epoch, end = answer.diverging_epoch
            values["diverging_epoch"] = module.EpochEndOffset(epoch=epoch, end_offset=end)
        return fill(
            module.PartitionData,
            partition_index=answer.partition,
            error_code=ErrorCode(answer.error_code),
            high_watermark=answer.high_watermark,
            last_stable_offset=answer.last_stable_offset,
            log_start_offset=answer.log_start_offset,
            aborted_transactions=None
            if aborted is None
            else tuple(module.AbortedTransaction(producer_id=p, first_offset=o) for p, o in aborted),
            preferred_read_replica=answer.preferred_read_replica,
            records=b"".join(answer.buffers),
            **values,
        )

    entity = fill(
        cls,
        throttle_time=milliseconds(throttle),
        error_code=error,
        session_id=session,
        responses=tuple(
            fill(module.FetchableTopicResponse, topic=topic, topic_id=topic, partitions=tuple(map(partition, answers)))
            for topic, answers in groups
        ),
        node_endpoints=endpoints_of(module, endpoints),
    )
    flat = [answer for _, answers in groups for answer in answers]
    out = fetch_codec.encode_fetch_response(version, flat, int(error), session, throttle, endpoints)
    assert b"".join(out) == encode(cls, entity)
    given_buffers = {id(buffer) for answer in flat if answer.size for buffer in answer.buffers}
    assert given_buffers <= {id(buffer) for buffer in out}


# --- share fetch -------------------------------------------------------------------------------

share_answers = st.builds(
    share_fetch_codec.SharePartitionAnswer, int32, errors.map(int), st.none() | text, int16, st.none() | text,
    st.builds(CurrentLeader, int32, int32), st.lists(payloads, max_size=3),
    st.lists(st.tuples(int64, int64, int16), max_size=3),
)  # fmt: skip


@pytest.mark.parametrize("version", (1, 2))
@SETTINGS
@given(data=st.data())
def test_share_fetch_answers_are_kios_bytes_around_the_very_buffers(version: int, data: st.DataObject) -> None:
    cls = response_class(SHARE_FETCH, version)
    module = module_of(cls)
    topics = data.draw(st.dictionaries(topic_ids, st.lists(share_answers, max_size=3), max_size=3))
    lock, endpoints = data.draw(millis), data.draw(endpoint_lists)

    def partition(answer: share_fetch_codec.SharePartitionAnswer) -> Any:
        return module.PartitionData(
            partition_index=answer.partition,
            error_code=ErrorCode(answer.error_code),
            error_message=answer.error_message,
            acknowledge_error_code=answer.acknowledge_error_code,
            acknowledge_error_message=answer.acknowledge_error_message,
            **leader_class_values(module, answer.current_leader, "current_leader"),
            records=b"".join(answer.buffers),
            acquired_records=tuple(
                module.AcquiredRecords(first_offset=first, last_offset=last, delivery_count=deliveries)
                for first, last, deliveries in answer.acquired
            ),
        )

    entity = cls(
        throttle_time=milliseconds(0),
        error_code=ErrorCode.none,
        error_message=None,
        acquisition_lock_timeout=milliseconds(lock),
        responses=tuple(
            module.ShareFetchableTopicResponse(topic_id=topic, partitions=tuple(map(partition, answers)))
            for topic, answers in topics.items()
        ),
        node_endpoints=endpoints_of(module, endpoints),
    )
    out = share_fetch_codec.encode_share_fetch_response(topics, lock, endpoints)
    assert b"".join(out) == encode(cls, entity)
    buffers = {id(buffer) for answers in topics.values() for answer in answers for buffer in answer.buffers}
    assert buffers <= {id(buffer) for buffer in out}


# --- metadata ----------------------------------------------------------------------------------

node_lists = st.lists(int32, max_size=4)
partition_metadata = st.builds(
    metadata_codec.PartitionMetadata, errors.map(int), int32, int32, int32, node_lists, node_lists, node_lists
)


@pytest.mark.parametrize("version", range(14))
@SETTINGS
@given(data=st.data())
def test_metadata_answers_are_kios_bytes(version: int, data: st.DataObject) -> None:
    cls = response_class(METADATA, version)
    module = module_of(cls)
    names = st.none() | text if version >= 12 else text
    topics = data.draw(
        st.lists(
            st.tuples(
                errors, names, st.none() | topic_ids, st.booleans(), st.lists(partition_metadata, max_size=3), int32
            ),
            max_size=3,
        )
    )
    brokers, cluster, controller = data.draw(endpoint_lists), data.draw(st.none() | text), data.draw(int32)
    throttle, operations, error = data.draw(millis), data.draw(int32), data.draw(errors)

    def partition(p: metadata_codec.PartitionMetadata) -> Any:
        return fill(
            module.MetadataResponsePartition,
            error_code=ErrorCode(p.error_code),
            partition_index=p.partition,
            leader_id=p.leader_id,
            leader_epoch=p.leader_epoch,
            replica_nodes=tuple(p.replicas),
            isr_nodes=tuple(p.isr),
            offline_replicas=tuple(p.offline_replicas),
        )

    entity = fill(
        cls,
        throttle_time=milliseconds(throttle),
        brokers=tuple(
            fill(module.MetadataResponseBroker, node_id=b.node_id, host=b.host, port=b.port, rack=b.rack)
            for b in brokers
        ),
        cluster_id=cluster,
        controller_id=controller,
        topics=tuple(
            fill(
                module.MetadataResponseTopic,
                error_code=code,
                name=name,
                topic_id=topic_id,
                is_internal=internal,
                partitions=tuple(map(partition, partitions)),
                topic_authorized_operations=allowed,
            )
            for code, name, topic_id, internal, partitions, allowed in topics
        ),
        cluster_authorized_operations=operations,
        error_code=error,
    )
    pieces = [
        metadata_codec.encode_topic(version, int(code), name, topic_id, internal, partitions, allowed)
        for code, name, topic_id, internal, partitions, allowed in topics
    ]
    assert metadata_codec.encode_metadata_response(
        version,
        brokers,
        cluster,
        controller,
        pieces,
        throttle_ms=throttle,
        cluster_authorized_operations=operations,
        error_code=int(error),
    ) == encode(cls, entity)


# --- offset commit -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(2, 11))
@SETTINGS
@given(data=st.data())
def test_offset_commits_decode_to_what_kio_wrote(version: int, data: st.DataObject) -> None:
    cls = request_class(OFFSET_COMMIT, version)
    module = module_of(cls)
    commits = st.lists(
        st.builds(offset_commit_codec.PartitionCommit, int32, int64, int32, st.none() | text), max_size=3
    )
    topics = data.draw(st.lists(st.tuples(names_of(version, 10), commits), max_size=3))
    group, member, instance = data.draw(text), data.draw(text), data.draw(st.none() | text)
    generation, retention = data.draw(int32), data.draw(millis)
    entity = fill(
        cls,
        group_id=group,
        generation_id_or_member_epoch=generation,
        member_id=member,
        group_instance_id=instance,
        retention_time=milliseconds(retention),
        topics=tuple(
            fill(
                module.OffsetCommitRequestTopic,
                name=topic,
                topic_id=topic,
                partitions=tuple(
                    fill(
                        module.OffsetCommitRequestPartition,
                        partition_index=each.partition,
                        committed_offset=each.offset,
                        committed_leader_epoch=each.leader_epoch,
                        committed_metadata=each.metadata,
                    )
                    for each in partitions
                ),
            )
            for topic, partitions in topics
        ),
    )
    if version < 6:
        topics = [(topic, [each._replace(leader_epoch=-1) for each in partitions]) for topic, partitions in topics]
    assert offset_commit_codec.decode_offset_commit_request(memoryview(encode(cls, entity)), version) == (
        group, generation, member, instance if version >= 7 else None, retention if version <= 4 else -1, topics,
    )  # fmt: skip


@pytest.mark.parametrize("version", range(2, 11))
@SETTINGS
@given(data=st.data())
def test_answers_to_offset_commits_are_kios_bytes(version: int, data: st.DataObject) -> None:
    cls = response_class(OFFSET_COMMIT, version)
    module = module_of(cls)
    results = st.lists(st.tuples(int32, errors), max_size=3)
    topics = data.draw(st.dictionaries(names_of(version, 10), results, max_size=3))
    entity = fill(
        cls,
        throttle_time=milliseconds(0),
        topics=tuple(
            fill(
                module.OffsetCommitResponseTopic,
                name=topic,
                topic_id=topic,
                partitions=tuple(
                    module.OffsetCommitResponsePartition(partition_index=partition, error_code=error)
                    for partition, error in of_topic
                ),
            )
            for topic, of_topic in topics.items()
        ),
    )
    assert offset_commit_codec.encode_offset_commit_response(version, topics) == encode(cls, entity)
