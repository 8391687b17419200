"""Admin handlers over a real metadata store in memory: Kafka bytes in, Kafka bytes out, in any version."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from types import SimpleNamespace
from typing import Any

from brokers.config import broker_config
from brokers.dynamic_config import ConfigSource
from brokers.errors import KafkaError, error_code
from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.handlers.create_topics import auto_create
from brokers.protocol.apis import API_BY_NAME
from brokers.protocol.messages import (
    decode_latest_request,
    decode_request,
    encode,
    encode_response,
    request_class,
)
from metadata.image import NO_LEADER, ClusterImage
from metadata.store import Metadata, open_metadata
from s3stream.errors import PonorError
from s3stream.metrics import Metrics
from s3stream.types import NodeIdentity, OpenRequest
from tests.support.broker_services import make_services
from tests.support.kafka_wire import decode_response
from tests.support.metadata import ManualClock, inline


class AdminWorld:
    """Nodes 1 (this broker) and, if asked for, more; topics as the handlers make them."""

    metadata: Metadata
    node: NodeIdentity

    def __init__(self, nodes: int = 1, racks: Mapping[int, str] | None = None, **settings: str) -> None:
        self._nodes = nodes
        self._racks = racks or {}
        self.identities: dict[int, NodeIdentity] = {}
        config = broker_config({"node.id": "1"} | {name.replace("__", "."): text for name, text in settings.items()})
        self.configs = ConfigSource(config)
        self.partitions = SimpleNamespace(image=None)
        self.services = make_services(
            config=config,
            partitions=self.partitions,
            configs=self.configs,
            chance=Random(1),
            refresh=self.refresh,
            auto_create=self._auto_create,
        )

    async def __aenter__(self) -> AdminWorld:
        self.metadata = await open_metadata(
            "memory:", clock=ManualClock(), metrics=Metrics(), run_blocking=inline, chance=Random(2)
        )
        object.__setattr__(self.services, "metadata", self.metadata)
        for node_id in range(self._nodes, 0, -1):
            addresses = {"PLAINTEXT": f"node-{node_id}:{9091 + node_id}"}
            rack = self._racks.get(node_id)
            registration = await self.metadata.register_node(node_id, f"memory:{node_id}", addresses, rack)
            self.identities[node_id] = registration.identity
        self.node = registration.identity
        await self.refresh()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.metadata.close()

    @property
    def image(self) -> ClusterImage:
        image: ClusterImage = self.partitions.image
        return image

    async def refresh(self) -> None:
        self.partitions.image = await self.metadata.load_image(self.partitions.image)
        self.configs.apply(self.image)

    async def _auto_create(self, names: Any) -> Any:
        return await auto_create(self.services, names)

    async def open(self, topic: str) -> None:
        """What controller and partition manager do: open the topic's streams here."""
        parts = self.image.topics[topic].partitions
        await self.metadata.assign({part.stream_id: self.node.node_id for part in parts})
        await self.metadata.open_streams(self.node, [OpenRequest(p.stream_id, p.leader_epoch, 0) for p in parts])
        await self.refresh()

    async def open_where_assigned(self, topic: str) -> None:
        """What all brokers' partition managers do: each opens what is its own, after its owner has closed it."""
        for part in self.image.topics[topic].partitions:
            if part.leader == part.assigned:
                continue
            if part.leader != NO_LEADER:
                await self.metadata.close_streams(self.identities[part.leader], {part.stream_id: 0})
            request = OpenRequest(part.stream_id, part.leader_epoch, 0)
            await self.metadata.open_streams(self.identities[part.assigned], [request])
        await self.refresh()

    def leaders(self, topic: str) -> list[int]:
        return [self.image.leader_of(part) for part in self.image.topics[topic].partitions]

    async def call(self, api: str, version: int, **fields: Any) -> Any:
        """`fields` of that version's request; the decoded answer of that version."""
        key = API_BY_NAME[api].key
        cls = request_class(key, version)
        return await self.send(key, version, encode(cls, cls(**fields)))

    async def send(self, key: int, version: int, body: bytes) -> Any:
        handler = table.handler(key)
        answers: list[Any] = []
        context = RequestContext(self.services, key, version, 1, "test", memoryview(body), answers.append)
        if handler.kind == table.HOT:
            handler.handle(context)
            for task in list(self.services.tasks._tasks):
                await task
            (buffers,) = answers
            return decode_response(key, version, b"".join(map(bytes, buffers)))
        request = (decode_request if handler.raw else decode_latest_request)(key, version, body)
        try:
            response = await handler.handle(context, request)
        except (KafkaError, PonorError) as error:
            assert handler.error_response is not None
            response = handler.error_response(request, error_code(error), version)
        return decode_response(key, version, encode_response(key, version, response))
