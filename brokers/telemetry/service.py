"""Client metrics (KIP-714): who may push when, and what becomes of it. Kafka's ClientMetricsManager.

Owns: client instances, their rules of time, the subscriptions in force. Does not own: bytes (otlp.py), values
(series.py), which client is asked for what (subscriptions.py).
A client is forgotten with the connection that it last asked or pushed on, or when it has been silent for long.
Bounds: INSTANCES_MAX clients, the one silent longest is forgotten first; `telemetry.max.bytes` a push and
UNFOLDED_BYTES_MAX of it unfolded; POINTS_PER_TURN points without a turn of the event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.protocol.primitives import uuid_text
from brokers.records.batch import Compression
from brokers.records.compression import decompress
from brokers.telemetry import subscriptions
from brokers.telemetry.otlp import points
from brokers.telemetry.series import SeriesStore
from brokers.telemetry.subscriptions import Subscription, Wanted
from s3stream.errors import Corrupt, PonorError
from s3stream.metrics import Metrics
from s3stream.seams import Clock

INSTANCES_MAX: Final = 16_384
"""Kafka's bound."""
EXPIRY_S: Final = 60.0
"""A client is forgotten after this time, or three of its intervals."""
MAX_BYTES: Final = 1024 * 1024
"""Kafka's default of telemetry.max.bytes."""
UNFOLDED_BYTES_MAX: Final = 8 * MAX_BYTES
POINTS_PER_TURN: Final = 100
"""Some 20 us each."""
RELOAD_APART_S: Final = 1.0
NO_CONNECTION: Final = -1
COMPRESSIONS: Final = (Compression.ZSTD, Compression.LZ4, Compression.GZIP, Compression.SNAPPY)
"""In the order in which clients are to prefer them."""
RESERVED: Final = frozenset({UUID(int=0), UUID(int=1)})
"""Kafka's reserved ids: none, and that of the metadata topic."""


class ConfigStore(Protocol):
    async def configs_by_name(self, kind: str) -> dict[str, dict[str, str]]: ...


class _Instance:
    __slots__ = (
        "client", "connection_id", "failed", "got_at", "pushed_at", "seen_at", "terminating", "version", "wanted",
    )  # fmt: skip

    def __init__(self, client: Mapping[str, str | None], wanted: Wanted, version: int) -> None:
        self.client = client
        self.connection_id = NO_CONNECTION
        """Its last request's."""
        self.wanted = wanted
        self.version = version
        """Of the subscriptions that `wanted` was made from."""
        self.got_at = float("-inf")
        self.pushed_at = float("-inf")
        self.seen_at = 0.0
        self.terminating = False
        self.failed: ErrorCode = ErrorCode.none
        """What its last push was answered: after some errors it may ask for its subscription at once."""


class Telemetry:
    def __init__(
        self, configs: ConfigStore, image_version: Callable[[], int], clock: Clock, metrics: Metrics,
        new_id: Callable[[], UUID],
    ) -> None:  # fmt: skip
        """`image_version` moves whenever a config may have changed."""
        self._configs = configs
        self._image_version = image_version
        self._clock = clock
        self._new_id = new_id
        self._subscriptions: list[Subscription] = []
        self._loaded_version = -1
        self._version = 0
        """Of the subscriptions: grows with each change."""
        self._raw: dict[str, dict[str, str]] = {}
        self._reloaded_at = float("-inf")
        self._instances: OrderedDict[UUID, _Instance] = OrderedDict()
        """The one silent longest first."""
        self._of_connection: dict[int, UUID] = {}
        """The instance that a connection's last such request was of. As many as instances at most."""
        self._software: OrderedDict[int, tuple[str, str]] = OrderedDict()
        self.series = SeriesStore()
        metrics.gauge("ponor_client_instances", "Clients whose metrics are known", lambda: float(len(self._instances)))
        metrics.gauge("ponor_client_series", "Series of all clients' metrics", lambda: float(self.series.count))
        metrics.gauge(
            "ponor_client_series_refused", "Points that clients pushed beyond the bounds of series",
            lambda: float(self.series.refused),
        )  # fmt: skip
        self._pushes = metrics.counter("ponor_client_pushes_total", "Pushes of clients' metrics that were taken")

    def introduced(self, connection_id: int, name: str, version: str) -> None:
        """A client has said what it is (ApiVersions)."""
        self._software[connection_id] = name, version
        if len(self._software) > INSTANCES_MAX:
            self._software.popitem(last=False)

    def connection_gone(self, connection_id: int) -> None:
        """Its client is not heard of again on it: it is forgotten, and its series go."""
        self._software.pop(connection_id, None)
        instance_id = self._of_connection.get(connection_id)
        if instance_id is not None:
            self._forget(instance_id)

    # --- requests ------------------------------------------------------------------------------

    async def subscribe(self, instance_id: UUID | None, ctx: Any) -> tuple[UUID, Wanted]:
        """What a client is to push, and the id it is to use. Raises KafkaError."""
        await self._reload()
        if instance_id is None or instance_id.int == 0:
            instance_id = self._new_id()
        instance = self._instance(instance_id, ctx)
        now = self._clock.monotonic()
        early = now - max(instance.got_at, instance.pushed_at) < instance.wanted.interval_ms / 1000
        if early and instance.failed not in (
            ErrorCode.unknown_subscription_id, ErrorCode.unsupported_compression_type
        ):  # fmt: skip
            raise KafkaError(ErrorCode.throttling_quota_exceeded)
        if not early:
            instance.got_at = now
        instance.failed = ErrorCode.none
        return instance_id, instance.wanted

    async def push(self, request: Any, ctx: Any) -> None:
        """Take what a client pushes. Raises KafkaError."""
        instance_id = request.client_instance_id
        if instance_id is None or instance_id in RESERVED:
            raise KafkaError(ErrorCode.invalid_request)
        await self._reload()
        instance = self._instance(instance_id, ctx)
        try:
            self._check_push(instance, request)
            if len(request.metrics):
                await self._take(instance_id, instance, request)
        except KafkaError as error:
            instance.failed = error.code
            raise
        finally:
            instance.terminating = instance.terminating or request.terminating
        instance.failed = ErrorCode.none
        self._pushes.inc()

    def _check_push(self, instance: _Instance, request: Any) -> None:
        if instance.terminating:
            raise KafkaError(ErrorCode.invalid_request)
        now = self._clock.monotonic()
        early = now - instance.pushed_at < instance.wanted.interval_ms / 1000
        if early and not request.terminating:
            raise KafkaError(ErrorCode.throttling_quota_exceeded)
        if not early:
            instance.pushed_at = now
        if request.subscription_id != instance.wanted.subscription_id:
            raise KafkaError(ErrorCode.unknown_subscription_id)
        if request.compression_type not in (Compression.NONE, *COMPRESSIONS):
            raise KafkaError(ErrorCode.unsupported_compression_type)
        if len(request.metrics) > MAX_BYTES:
            raise KafkaError(ErrorCode.telemetry_too_large)

    async def _take(self, instance_id: UUID, instance: _Instance, request: Any) -> None:
        try:
            data = decompress(request.compression_type, request.metrics, UNFOLDED_BYTES_MAX)
            for number, point in enumerate(points(memoryview(data)), 1):
                if instance.wanted.wants(point.name):
                    self.series.take(instance_id, instance.client, point)
                if not number % POINTS_PER_TURN:
                    await asyncio.sleep(0)
                    if instance_id not in self._instances:
                        self.series.forget(instance_id)  # pushed out meanwhile
                        return
        except Corrupt as error:
            raise KafkaError(ErrorCode.invalid_record, str(error)) from error

    # --- instances -----------------------------------------------------------------------------

    def _instance(self, instance_id: UUID, ctx: Any) -> _Instance:
        self._expire()
        found = self._instances.get(instance_id)
        if found is None or found.version != self._version:
            # As in Kafka, one whose subscriptions may have changed begins anew: it may ask, and push, at once.
            client = self._client(instance_id, ctx) if found is None else found.client
            if found is not None:
                self._is_off(instance_id, found)
            wanted = subscriptions.wanted(self._subscriptions, client, instance_id)
            found = self._instances[instance_id] = _Instance(client, wanted, self._version)
        self._instances.move_to_end(instance_id)
        found.seen_at = self._clock.monotonic()
        self._is_on(instance_id, found, ctx.connection_id)
        if len(self._instances) > INSTANCES_MAX:
            self._forget(next(iter(self._instances)))
        return found

    def _is_on(self, instance_id: UUID, instance: _Instance, connection_id: int) -> None:
        self._is_off(instance_id, instance)
        instance.connection_id = connection_id
        self._of_connection[connection_id] = instance_id

    def _is_off(self, instance_id: UUID, instance: _Instance) -> None:
        if self._of_connection.get(instance.connection_id) == instance_id:
            del self._of_connection[instance.connection_id]

    def _client(self, instance_id: UUID, ctx: Any) -> dict[str, str | None]:
        name, version = self._software.get(ctx.connection_id, (None, None))
        return {
            "client_instance_id": uuid_text(instance_id),
            "client_id": ctx.client_id,
            "client_software_name": name,
            "client_software_version": version,
            "client_source_address": ctx.client_host or None,
            "client_source_port": str(ctx.client_port) if ctx.client_port else None,
        }

    def _expire(self) -> None:
        now = self._clock.monotonic()
        while self._instances:
            instance_id, oldest = next(iter(self._instances.items()))
            if now - oldest.seen_at <= max(EXPIRY_S, 3 * oldest.wanted.interval_ms / 1000):
                return
            self._forget(instance_id)

    def _forget(self, instance_id: UUID) -> None:
        instance = self._instances.pop(instance_id, None)
        if instance is not None:
            self._is_off(instance_id, instance)
        self.series.forget(instance_id)

    async def _reload(self) -> None:
        """Read the subscriptions again where they may have changed. A database that does not answer changes none."""
        now, version = self._clock.monotonic(), self._image_version()
        if version == self._loaded_version or now - self._reloaded_at < RELOAD_APART_S:
            return
        self._reloaded_at = now
        try:
            raw = await self._configs.configs_by_name("client-metrics")
        except PonorError:
            return
        self._loaded_version = version
        if raw != self._raw:
            self._raw, self._subscriptions = raw, subscriptions.parse(raw)
            self._version += 1
