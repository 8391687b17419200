"""Produce: acks, timeouts, errors by partition, what old and new versions are told."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers.partitions.successors import PATIENCE_SECONDS, Place
from brokers.protocol.messages import milliseconds, request_class
from brokers.records.batch import Compression
from metadata.image import NO_LEADER
from s3stream.errors import Overloaded, Unavailable
from tests.support.handler_world import Call, World
from tests.support.partitions import batch, idempotent

PRODUCE = 0


def request(
    version: int,
    parts: list[tuple[Any, int, bytes | None]],
    acks: int = -1,
    timeout_ms: int = 30_000,
    transactional_id: str | None = None,
) -> Any:
    """One topic entry for each (topic, partition, records)."""
    cls = request_class(PRODUCE, version)
    module = sys.modules[cls.__module__]
    key = "topic_id" if version >= 13 else "name"
    return cls(
        transactional_id=transactional_id,
        acks=acks,
        timeout=milliseconds(timeout_ms),
        topic_data=tuple(
            module.TopicProduceData(
                **{key: topic},
                partition_data=(module.PartitionProduceData(index=index, records=records),),
            )
            for topic, index, records in parts
        ),
    )


def errors(call: Call) -> list[str]:
    return [p.error_code.name for topic in call.answer.responses for p in topic.partition_responses]


def one(count: int = 1, **more: Any) -> bytes:
    return bytes(batch(count, **more))


@pytest.fixture
def world() -> World:
    world = World()
    world.topic("t", 3, elsewhere=(2,))
    return world


@pytest.mark.parametrize("version", range(3, 13))
@pytest.mark.parametrize("acks", [1, -1])
async def test_the_answer_waits_for_durability(world: World, version: int, acks: int) -> None:
    first = world.hot(PRODUCE, version, request(version, [("t", 0, one(3))], acks))
    second = world.hot(PRODUCE, version, request(version, [("t", 0, one(2))], acks))
    assert not first.done and not second.done
    world.stream("t").make_durable()
    (topic,) = second.answer.responses
    (partition,) = topic.partition_responses
    assert (topic.name, partition.index, partition.error_code) == ("t", 0, 0)
    assert partition.base_offset == 3
    assert errors(first) == ["none"]


@pytest.mark.parametrize("version", [3, 6, 7])
async def test_zstd_is_refused_from_clients_that_do_not_know_it(world: World, version: int) -> None:
    call = world.hot(PRODUCE, version, request(version, [("t", 0, one(compression=Compression.ZSTD))]))
    world.stream("t").make_durable()
    assert errors(call) == ["none" if version >= 7 else "unsupported_compression_type"]


async def test_what_is_not_one_batch_is_answered_without_a_log_start(world: World) -> None:
    corrupt = bytearray(one())
    corrupt[-1] ^= 1
    for records, start in ((b"", -1), (one() + one(), -1), (one()[:-1], -1), (bytes(corrupt), -1), (patched(), 0)):
        call = world.hot(PRODUCE, 9, request(9, [("t", 0, records)]))
        (partition,) = call.answer.responses[0].partition_responses
        assert partition.error_code != ErrorCode.none
        assert partition.log_start_offset == start, records


def patched() -> bytes:
    """One batch whose base offset is not 0."""
    records = bytearray(one())
    records[7] = 5
    return bytes(records)


async def test_topics_are_named_by_id_from_version_13(world: World) -> None:
    topic = world.partitions.image.topics["t"]
    from uuid import UUID

    call = world.hot(PRODUCE, 13, request(13, [(topic.topic_id, 0, one()), (UUID(int=99), 0, one())]))
    world.stream("t").make_durable()
    assert errors(call) == ["none", "unknown_topic_id"]
    assert call.answer.responses[0].topic_id == topic.topic_id


async def test_one_partitions_error_is_its_own_and_the_order_is_the_requests(world: World) -> None:
    corrupt = bytearray(one())
    corrupt[-1] ^= 1
    call = world.hot(
        PRODUCE,
        9,
        request(9, [("t", 1, one()), ("gone", 0, one()), ("t", 2, one()), ("t", 0, bytes(corrupt)), ("t", 9, one()),
                    ("t", 0, None)]),
    )  # fmt: skip
    assert not call.done
    world.stream("t", 1).make_durable()
    assert errors(call) == [
        "none", "unknown_topic_or_partition", "not_leader_or_follower", "corrupt_message",
        "unknown_topic_or_partition", "invalid_record",
    ]  # fmt: skip
    counted = world.metrics.counter("ponor_request_errors_total", "", api="Produce", error="corrupt_message")
    assert counted.value == 1


@pytest.mark.parametrize("version", [9, 10])
async def test_the_new_leader_is_named_from_version_10(world: World, version: int) -> None:
    answer = world.hot(PRODUCE, version, request(version, [("t", 2, one())])).answer
    partition = answer.responses[0].partition_responses[0]
    if version < 10:
        assert not hasattr(partition, "current_leader")
        return
    assert (partition.current_leader.leader_id, partition.current_leader.leader_epoch) == (2, 5)
    assert [(n.node_id, n.host, n.port, n.rack) for n in answer.node_endpoints] == [(2, "there", 9093, "r2")]


async def test_a_refusal_waits_for_the_new_leaders_name(world: World) -> None:
    """A partition that left this broker a moment ago: its producer goes to the new leader without asking around."""
    world.hand_over("t", 0)
    moved = world.hot(PRODUCE, 10, request(10, [("t", 0, one()), ("t", 1, one())]))
    world.stream("t", 1).make_durable()
    fire_and_forget = world.hot(PRODUCE, 10, request(10, [("t", 0, one())], acks=0))
    assert not moved.done and fire_and_forget.closed
    world.opened_elsewhere("t", 0)
    assert errors(moved) == ["not_leader_or_follower", "none"]
    leader = moved.answer.responses[0].partition_responses[0].current_leader
    assert (leader.leader_id, leader.leader_epoch) == (2, 6)
    assert [node.node_id for node in moved.answer.node_endpoints] == [2]
    assert errors(world.hot(PRODUCE, 10, request(10, [("t", 0, one())]))) == ["not_leader_or_follower"]


async def test_a_client_that_comes_while_a_partition_is_opened_here_is_told_when_it_is(world: World) -> None:
    topic = world.partitions.image.topics["t"]
    world.partitions.successors.expect([Place(topic.topic_id, 2)])
    early = world.hot(PRODUCE, 10, request(10, [("t", 2, one())]))
    assert not early.done
    world.open_here("t", 2, epoch=7)
    leader = early.answer.responses[0].partition_responses[0].current_leader
    assert errors(early) == ["not_leader_or_follower"] and (leader.leader_id, leader.leader_epoch) == (1, 7)


@pytest.mark.parametrize("shown", [NO_LEADER, 1])
async def test_nobody_waits_long_for_a_leader_that_nobody_knows(world: World, shown: int) -> None:
    """Nor is sent back here by an image that does not know yet that it left."""
    world.hand_over("t", 0, leader=shown)
    call = world.hot(PRODUCE, 10, request(10, [("t", 0, one())]))
    await world.partitions.clock.advance(PATIENCE_SECONDS - 0.01)
    assert not call.done
    await world.partitions.clock.advance(0.01)
    assert errors(call) == ["not_leader_or_follower"]
    assert call.answer.responses[0].partition_responses[0].current_leader.leader_id == NO_LEADER
    assert world.hot(PRODUCE, 10, request(10, [("t", 0, one())])).done


async def test_a_timeout_leaves_the_append_pending(world: World) -> None:
    call = world.hot(PRODUCE, 9, request(9, [("t", 0, one()), ("t", 1, one())], timeout_ms=20))
    world.stream("t", 1).make_durable()
    assert not call.done
    async with asyncio.timeout(5):
        while not call.done:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert errors(call) == ["request_timed_out", "none"]
    world.stream("t", 0).make_durable()
    assert call.answers == 1, "nothing is said twice"
    assert world.log("t").high_watermark == 1, "the append went on"


async def test_a_retry_of_a_timed_out_batch_answers_with_its_original(world: World) -> None:
    records = bytes(idempotent(0, 2))
    world.hot(PRODUCE, 9, request(9, [("t", 0, records)], timeout_ms=1))
    retry = world.hot(PRODUCE, 9, request(9, [("t", 0, records)]))
    assert not retry.done, "not before the original is durable"
    world.stream("t").make_durable()
    assert errors(retry) == ["none"]
    assert retry.answer.responses[0].partition_responses[0].base_offset == 0
    assert world.log("t").log_end_offset == 2


async def test_failed_appends_are_told(world: World) -> None:
    call = world.hot(PRODUCE, 9, request(9, [("t", 0, one())]))
    world.stream("t").fail(Unavailable("disk"))
    assert errors(call) == ["kafka_storage_error"]
    world.stream("t").refuse = Overloaded("full")
    assert errors(world.hot(PRODUCE, 9, request(9, [("t", 0, one())]))) == ["request_timed_out"]


async def test_without_acks_nothing_is_answered_and_errors_close(world: World) -> None:
    good = world.hot(PRODUCE, 9, request(9, [("t", 0, one())], acks=0))
    world.stream("t").make_durable()
    assert (good.answers, good.buffers, good.closed) == (1, None, False)
    bad = world.hot(PRODUCE, 9, request(9, [("t", 2, one())], acks=0))
    assert (bad.answers, bad.closed) == (0, True)


@pytest.mark.parametrize("acks", [2, -2, 100])
async def test_unknown_acks_are_refused_and_nothing_is_appended(world: World, acks: int) -> None:
    assert errors(world.hot(PRODUCE, 9, request(9, [("t", 0, one())], acks))) == ["invalid_required_acks"]
    assert world.log("t").log_end_offset == 0


async def test_transactional_batches_name_their_transaction(world: World) -> None:
    records = bytes(idempotent(0, transactional=True))
    without = world.hot(PRODUCE, 9, request(9, [("t", 0, records)]))
    assert errors(without) == ["transactional_id_authorization_failed"]
    assert world.log("t").log_end_offset == 0


async def test_internal_topics_take_only_the_admin_client(world: World) -> None:
    world.topic("__consumer_offsets")
    body = request(9, [("__consumer_offsets", 0, one())])
    assert errors(world.hot(PRODUCE, 9, body)) == ["invalid_topic_exception"]
    allowed = world.hot(PRODUCE, 9, body, client_id="__admin_client")
    world.stream("__consumer_offsets").make_durable()
    assert errors(allowed) == ["none"]


async def test_a_full_broker_throttles_in_the_answer_and_at_the_socket() -> None:
    world = World(storage=SimpleNamespace(throttled=True))
    world.topic("t")
    call = world.hot(PRODUCE, 9, request(9, [("t", 0, one())]))
    world.stream("t").make_durable()
    assert call.answer.throttle_time == milliseconds(100)
    assert world.muted == [0.1]


async def test_batch_bytes_reach_the_stream_uncopied(world: World) -> None:
    world.hot(PRODUCE, 9, request(9, [("t", 0, one(2))]))
    payload = world.stream("t").given[0].payload
    assert isinstance(payload, memoryview) and isinstance(payload.obj, bytearray)
    assert payload.nbytes < len(payload.obj), "a slice of the frame"


async def test_an_empty_request_is_answered(world: World) -> None:
    assert world.hot(PRODUCE, 9, request(9, [])).answer.responses == ()


async def test_an_unforeseen_fault_of_one_partition_stays_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = world.log("t", 0)

    def broken(*args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(type(log.stream), "append", broken)
    call = world.hot(PRODUCE, 9, request(9, [("t", 0, one())]))
    assert errors(call) == [ErrorCode.unknown_server_error.name]
