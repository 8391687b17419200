"""A thousand offset commits a second, of a group of a hundred members: what they cost the broker, in both protocols.

Each member has its connection and commits one offset each 100 ms, whether or not the commit before is answered; members
begin 1 ms after each other. What a broker uses meanwhile counts, uploads included: a window is longer than the interval
of flushes. The first round is a warm-up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Final, NamedTuple

from brokers.protocol.apis import API_BY_NAME
from tests.benchmarks.group_join import MEMBERS, PARTITIONS, TOPIC
from tests.benchmarks.members import PROTOCOLS, Formed, Member, formed
from tests.benchmarks.systems import System
from tests.benchmarks.workloads import Samples, Scale
from tests.compatibility.messages import encode_request, plain
from tests.support.kafka_wire import decode_response, response_body

API: Final = "OffsetCommit"
VERSION: Final = 9
EACH_S: Final = 0.1
RATE: Final = round(MEMBERS / EACH_S)


class Load(NamedTuple):
    cpu_share: float
    """CPU-seconds of the broker for what was to be committed in a second."""
    latencies_ms: Sequence[float]


def row(protocol: str) -> str:
    return f"{RATE:,} offset commits/s, {protocol} members"


def offset_commits(systems: Sequence[System], scale: Scale, samples: Samples) -> None:
    """The systems run, and have the topic that group_join.py makes."""
    for number in range(scale.rounds + 1):
        for protocol in PROTOCOLS:
            for system in systems if number % 2 else reversed(systems):
                load = asyncio.run(_load(system, protocol, scale.commit_seconds))
                print(
                    f"offset commits, round {number} of {scale.rounds}: {protocol}, {system.name}: "
                    f"{load.cpu_share:.3f} CPU-s/s",
                    flush=True,
                )
                if number:
                    _note(samples, row(protocol), system.name, load)


def _note(samples: Samples, name: str, system: str, load: Load) -> None:
    samples.add(name, "CPU-s/s", system, load.cpu_share)
    samples.add(name, "p50 ms", system, median(load.latencies_ms))
    samples.add(name, "p99 ms", system, quantiles(load.latencies_ms, n=100)[98])


async def _load(system: System, protocol: str, seconds: float) -> Load:
    count = round(seconds / EACH_S)
    async with formed(system, TOPIC, protocol, MEMBERS, PARTITIONS) as group:
        cpu, begin = system.cpu_seconds(), time.monotonic()
        found = await asyncio.gather(
            *(_commits(group, member, index, begin + index / RATE, count) for index, member in enumerate(group.members))
        )
        took = time.monotonic() - begin
        used = system.cpu_seconds() - cpu
    if took > seconds * 2:
        raise RuntimeError(f"{count * MEMBERS} commits took {took:.1f} s instead of {seconds:.1f}")
    return Load(used / seconds, [latency * 1000 for of_member in found for latency in of_member])


async def _commits(group: Formed, member: Member, index: int, begin: float, count: int) -> list[float]:
    """Seconds from each commit's own time until its answer. The sender does not wait for answers."""
    client, key = member.client, API_BY_NAME[API].key
    bodies = [_request(group, member, index, offset) for offset in range(2)]

    async def send() -> None:
        for number in range(count):
            await asyncio.sleep(begin + number * EACH_S - time.monotonic())
            client.send(key, VERSION, bodies[number % 2])

    async def receive() -> list[float]:
        latencies, first = [], b""
        for number in range(count):
            body = response_body(key, VERSION, await client.receive())[1]
            latencies.append(time.monotonic() - begin - number * EACH_S)
            first = first or _accepted(body)
            assert body == first, body
        return latencies

    _, latencies = await asyncio.gather(send(), receive())
    return latencies


def _request(group: Formed, member: Member, partition: int, offset: int) -> bytes:
    committed = {"partition_index": partition, "committed_offset": offset, "committed_leader_epoch": -1}
    who = {"group_id": group.group, "member_id": member.member_id, "group_instance_id": None}
    topics = [{"name": TOPIC, "partitions": [committed | {"committed_metadata": ""}]}]
    return encode_request(API, VERSION, who | {"generation_id_or_member_epoch": member.generation, "topics": topics})


def _accepted(body: bytes) -> bytes:
    answer = decode_response(API_BY_NAME[API].key, VERSION, body)
    assert plain(answer.topics[0].partitions[0].error_code) == "none", answer
    return body
