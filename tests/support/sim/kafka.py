"""A Kafka client on the simulated network: connections, metadata, and requests tried again as Kafka's clients do.

Requests and answers are the bytes of the protocol. What a client believes is only what it was told: a leader is
another's until a newer leader epoch says so.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from functools import cache
from random import Random
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from kio.schema.errors import ErrorCode
from kio.serial import entity_reader

from brokers.protocol.apis import API_BY_NAME, APIS
from brokers.protocol.messages import encode, milliseconds, request_class, response_class
from tests.support.kafka_wire import request_frame
from tests.support.sim.processes import ProcessLoop

VERSIONS: Final[Mapping[str, int]] = {
    "Produce": 8, "Fetch": 11, "Metadata": 8, "InitProducerId": 1, "FindCoordinator": 2, "JoinGroup": 5, "SyncGroup": 3,
    "Heartbeat": 3, "OffsetCommit": 7, "OffsetFetch": 5, "CreateTopics": 4, "AlterPartitionReassignments": 0,
    "LeaveGroup": 2,
}  # fmt: skip
CONNECT_S = 2.0
NO_RACK: Final = ""
OF_GROUP: Final = 0
OF_TRANSACTION: Final = 1
Address = tuple[str, int]


class Gone(Exception):
    """The connection broke, or nobody answered in time: whatever was asked may have been done, or may be done yet."""


class Leader(NamedTuple):
    node_id: int
    epoch: int


def entity(**fields: Any) -> SimpleNamespace:
    """kio writes an entity by the names of its fields alone."""
    return SimpleNamespace(**fields)


@cache
def _reader(key: int, version: int) -> Any:
    return entity_reader(response_class(key, version))


class Link(asyncio.Protocol):
    """One connection to one broker."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.open = True
        self._waiting: dict[int, asyncio.Future[bytes | None]] = {}
        self._data = b""
        self._last_id = 0

    @property
    def server(self) -> str:
        """The process at the other end: what only the simulation knows."""
        return str(self.transport.peer.process)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= 8:
            size, correlation_id = struct.unpack_from(">ii", self._data)
            if len(self._data) < size + 4:
                return
            frame, self._data = self._data[4 : size + 4], self._data[size + 4 :]
            waiter = self._waiting.pop(correlation_id, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    def close(self) -> None:
        self.open = False
        self.transport.close()

    async def call(self, name: str, request: Any, timeout: float, version: int | None = None) -> Any:
        """Raises Gone; the connection is of no use then."""
        api = API_BY_NAME[name]
        version = VERSIONS[name] if version is None else version
        self._last_id += 1
        waiter: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting[self._last_id] = waiter
        body = encode(request_class(api.key, version), request)
        self.transport.write(request_frame(api.key, version, body, self._last_id, "simulated"))
        try:
            async with asyncio.timeout(timeout):
                frame = await waiter
        except TimeoutError:
            frame = None
        if frame is None:
            self.close()
            raise Gone(f"{name}: no answer")
        start = 5 if APIS[api.key].response_header_version(version) else 4
        answer, _ = _reader(api.key, version)(frame, start)
        return answer


class Client:
    """What one client knows of the cluster."""

    def __init__(self, loop: ProcessLoop, random: Random, bootstrap: list[Address], topic: str) -> None:
        self.loop = loop
        self.random = random
        self.topic = topic
        self.brokers: dict[int, Address] = {}
        self.leaders: dict[int, Leader] = {}
        self._bootstrap = bootstrap
        self._links: dict[Address, Link] = {}

    async def link(self, address: Address) -> Link:
        """Raises Gone."""
        found = self._links.get(address)
        if found is not None and found.open:
            return found
        try:
            async with asyncio.timeout(CONNECT_S):
                _, made = await self.loop.create_connection(Link, *address)
        except OSError as error:
            raise Gone(f"no connection to {address}: {error}") from error
        self._links[address] = made
        return made  # type: ignore[no-any-return]

    async def anybody(self) -> Link:
        return await self.link(self.random.choice([*self.brokers.values()] or self._bootstrap))

    async def leader(self, partition: int) -> tuple[Link, Leader] | None:
        found = self.leaders.get(partition)
        if found is None or found.node_id not in self.brokers:
            return None
        return await self.link(self.brokers[found.node_id]), found

    async def refresh(self) -> None:
        """Ask anybody; what is older than what is known is not believed. Never raises: the caller tries again."""
        try:
            link = await self.anybody()
            request = entity(
                topics=(entity(name=self.topic),), allow_auto_topic_creation=False,
                include_cluster_authorized_operations=False, include_topic_authorized_operations=False,
            )  # fmt: skip
            answer = await link.call("Metadata", request, 2.0)
        except Gone:
            self.brokers.clear()
            return
        self.brokers = {one.node_id: (one.host, one.port) for one in answer.brokers}
        for part in (part for topic in answer.topics for part in topic.partitions):
            self.told(part.partition_index, part.leader_id, part.leader_epoch)

    def told(self, partition: int, node_id: int, epoch: int) -> None:
        known = self.leaders.get(partition)
        if node_id >= 0 and (known is None or epoch >= known.epoch):
            self.leaders[partition] = Leader(node_id, epoch)

    async def call_any(self, name: str, request: Any, timeout: float = 5.0) -> Any:
        """Raises Gone."""
        return await (await self.anybody()).call(name, request, timeout)

    async def coordinator(self, key: str, key_type: int = OF_GROUP) -> Link | None:
        """None: nobody is, yet. Raises Gone."""
        answer = await self.call_any("FindCoordinator", entity(key=key, key_type=key_type))
        if answer.error_code is not ErrorCode.none:
            return None
        return await self.link((answer.host, answer.port))

    def close(self) -> None:
        for link in self._links.values():
            if link.open:
                link.close()


def produce_request(
    topic: str, partition: int, batch: bytes, timeout_ms: int, transactional_id: str | None = None
) -> Any:
    data = entity(index=partition, records=batch)
    return entity(
        transactional_id=transactional_id, acks=-1, timeout=milliseconds(timeout_ms),
        topic_data=(entity(name=topic, partition_data=(data,)),),
    )  # fmt: skip


def fetch_request(
    topic: str, partition: int, offset: int, leader_epoch: int, max_bytes: int, wait_ms: int, isolation_level: int
) -> Any:
    part = entity(
        partition=partition, current_leader_epoch=leader_epoch, fetch_offset=offset, log_start_offset=-1,
        partition_max_bytes=max_bytes,
    )  # fmt: skip
    return entity(
        replica_id=-1, max_wait=milliseconds(wait_ms), min_bytes=1, max_bytes=max_bytes,
        isolation_level=isolation_level, session_id=0, session_epoch=-1,
        topics=(entity(topic=topic, partitions=(part,)),), forgotten_topics_data=(), rack_id=NO_RACK,
    )  # fmt: skip
