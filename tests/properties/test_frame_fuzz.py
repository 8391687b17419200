"""Bytes that no client sends: nothing but their own connection ends, and nothing fails unforeseen."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.config import broker_config
from brokers.dynamic_config import ConfigSource
from brokers.handlers import admin, produce_appends
from brokers.handlers.producer_ids import ProducerIds
from brokers.handlers.table import SERVED
from brokers.partitions.partition_log import PartitionLog
from brokers.protocol import fetch_codec, header, offset_commit_codec, produce_codec
from brokers.protocol.apis import APIS
from brokers.protocol.messages import decode_request, encode, milliseconds, request_class
from brokers.protocol.primitives import MalformedRequest
from brokers.server.kafka_server import KafkaServer
from brokers.server.settings import ServerSettings
from brokers.telemetry.service import Telemetry
from brokers.transactions.enlistment import Enlistment
from metadata.store import open_metadata
from s3stream.clock import SystemClock
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks
from tests.support.coordinator import CoordinatorRig
from tests.support.handler_world import World
from tests.support.kafka_wire import WireClient, request_frame, sample_message
from tests.support.metadata import ManualClock, inline
from tests.support.partitions import batch, idempotent
from tests.support.share_world import TOPIC_ID, MemoryPersister, shares_over
from tests.support.shares import ShareRig
from tests.support.transactions import TransactionRig

SECONDS = 0.4
"""Of mutation for each API."""


PLAUSIBLE: dict[str, Any] = {
    "name": lambda chance: chance.choice(["t", "gone"]),
    "topic": lambda chance: chance.choice(["t", "gone"]),
    "records": lambda chance: bytes(chance.choice([batch(2), idempotent(0, 3)])),
    "transactional_id": lambda chance: chance.choice(["x", "y", "z" * 30_000]),
    "v3_and_below_transactional_id": lambda chance: chance.choice(["x", "y"]),
    "transactional_ids": lambda chance: ("x", "z" * 30_000),
    "group_id": lambda chance: chance.choice(["g", ""]),
    "client_software_name": lambda chance: "fuzz",
    "client_software_version": lambda chance: "1.0",
    "max_wait": lambda chance: milliseconds(chance.choice([0, 1])),
    "timeout": lambda chance: milliseconds(chance.choice([0, 1])),
    "acks": lambda chance: chance.choice([-1, 0, 1]),
    "partition": lambda chance: chance.randint(0, 2),
    "index": lambda chance: chance.randint(0, 2),
    "partition_index": lambda chance: chance.randint(0, 2),
    "topic_id": lambda chance: chance.choice([TOPIC_ID, UUID(int=99)]),
    "share_session_epoch": lambda chance: chance.choice([0, 1, -1]),
}


def mutate(data: bytes, chance: Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        if not out:
            break
        position = chance.randrange(len(out))
        kind = chance.randrange(5)
        if kind == 0:
            out[position] = chance.randrange(256)
        elif kind == 1:
            out[position] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del out[position:]
        elif kind == 3:
            out[position:position] = chance.randbytes(chance.randint(1, 8))
        else:
            out[position : position + 4] = chance.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)])
    return bytes(out)


async def nothing(*_: Any) -> None:
    return None


class EveryLog:
    """What the partition manager can be asked besides the lookups."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.partitions, name)

    def logs(self) -> Iterator[PartitionLog]:
        return iter(self._world.partitions.logs.values())


PROTOCOLS = ("group.version", "share.version", "streams.version")


@pytest.mark.parametrize("key", SERVED, ids=lambda key: APIS[key].name)
async def test_mutated_requests_end_their_own_connection_at_most(key: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every API that is served: one that comes is fuzzed by itself."""
    name = APIS[key].name
    seed = 20_240
    chance = Random(f"{name}{seed}")
    block = iter(range(0, 1 << 40, 1000))

    async def allocate(count: int) -> tuple[int, int]:
        start = next(block)
        return start, start + count

    rig, groups, shares = TransactionRig(), CoordinatorRig(), ShareRig()
    await rig.start()
    await shares.start()
    await groups.start()
    await rig.coordinator.initialize("x", 60_000, None)
    metadata = await open_metadata(
        "memory:", clock=ManualClock(), metrics=Metrics(), run_blocking=inline, chance=Random(2)
    )
    await metadata.register_node(1, "memory:1", {"PLAINTEXT": "here:9092"}, None)
    config = broker_config({"node.id": "1"})
    world = World(
        producer_ids=ProducerIds(allocate, Tasks()), transactions=rig.coordinator, groups=groups.coordinator,
        enlistment=Enlistment(1, rig.coordinator, nobody, Tasks()), metadata=metadata, config=config,
        configs=ConfigSource(config), refresh=nothing, auto_create=nothing, chance=Random(3),
        telemetry=Telemetry(metadata, lambda: 1, ManualClock(), Metrics(), lambda: UUID(int=9)),
    )  # fmt: skip
    world.topic("t", 2, topic_id=TOPIC_ID.int)
    world.partitions.image = replace(world.partitions.image, features=dict.fromkeys(PROTOCOLS, 1))
    tasks = Tasks()
    group_shares = shares_over(MemoryPersister(), world.partitions, SystemClock(), tasks, shares.coordinator)
    object.__setattr__(world.services, "shares", group_shares)
    object.__setattr__(world.services, "partitions", EveryLog(world))
    server = KafkaServer(world.services, ServerSettings(port=0))
    await server.start()
    good = await WireClient.connect(server.port)
    deadline = time.monotonic() + SECONDS
    sent = 0
    unforeseen: list[str] = []
    for log, level in ((admin.log, "error"), (produce_appends.logger, "exception")):
        monkeypatch.setattr(log, level, lambda event, **more: unforeseen.append(f"{event}: {more}"))
    while time.monotonic() < deadline:
        bad = await WireClient.connect(server.port)
        for _ in range(20):
            version = chance.randint(APIS[key].min, APIS[key].max)
            body = encode(request_class(key, version), sample_message(request_class(key, version), chance, **PLAUSIBLE))
            frame = request_frame(key, version, body, chance.randrange(1 << 20))
            payload = mutate(frame[4:], chance)
            bad.writer.write(struct.pack(">i", len(payload)) + payload)
            sent += 1
        await asyncio.sleep(0.002)
        for partition in (0, 1):
            world.stream("t", partition).make_durable()
        bad.writer.transport.abort()
        assert (await good.call(18, 0, b"")).error_code == 0
    failed = world.metrics.counter("ponor_failed_requests_total", "").value
    assert failed == 0, f"{failed} of {sent} requests failed unforeseen (seed {seed})"
    assert not unforeseen, unforeseen[:3]
    assert sent
    await server.close()
    await rig.close()
    await groups.close()
    group_shares.stop()
    await tasks.close()
    await shares.close()
    await metadata.close()


async def nobody(*_: Any) -> Any:
    raise AssertionError("no other broker coordinates")


def raises_only_malformed(decode: Any, *args: Any) -> None:
    try:
        decode(*args)
    except MalformedRequest:
        pass


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), version=st.integers(3, 18))
def test_decoders_raise_nothing_but_malformed(data: bytes, version: int) -> None:
    view = memoryview(data)
    raises_only_malformed(header.parse_request_header, view)
    raises_only_malformed(produce_codec.decode_produce_request, view, min(version, 13))
    raises_only_malformed(fetch_codec.decode_fetch_request, view, max(version, 4))
    raises_only_malformed(offset_commit_codec.decode_offset_commit_request, view, min(version, 10))
    raises_only_malformed(decode_request, 2, min(version, 11), view)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 2**31 - 1), st.none() | st.text(max_size=20), st.sampled_from([8, 9]))
def test_request_headers_are_read_as_written(body: bytes, correlation: int, client: str | None, version: int) -> None:
    frame = memoryview(request_frame(0, version, body, correlation, client)[4:])
    parsed = header.parse_request_header(frame)
    assert parsed[:4] == (0, version, correlation, client)
    assert frame[parsed.size :] == body
