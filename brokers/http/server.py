"""The HTTP listener: metrics, health, and the cluster as JSON. No request changes anything.

Owns: the listening socket, routes, bounds of a request. Does not own: what is shown (views.py, exposition.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from brokers.controller.controller import Controller
from brokers.dynamic_config import ConfigSource
from brokers.errors import KafkaError
from brokers.groups.coordinator import GroupCoordinator
from brokers.health import Health
from brokers.http import views
from brokers.http.exposition import CONTENT_TYPE, client_exposition, exposition
from brokers.telemetry.series import SeriesStore
from brokers.version import VERSION
from s3stream.errors import BadSetting
from s3stream.metrics import Metrics

REQUEST_BYTES_MAX: Final = 64 * 1024
HEADER_BYTES_MAX: Final = 8 * 1024
SHUTDOWN_SECONDS: Final = 1.0

Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class HttpSources:
    """What is shown."""

    node_id: int
    health: Health
    groups: GroupCoordinator
    configs: ConfigSource
    metrics: Metrics
    controller: Controller
    clients: SeriesStore
    """What clients have pushed of their metrics."""


class HttpServer:
    def __init__(self, sources: HttpSources, host: str, port: int) -> None:
        self._sources = sources
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises BadSetting when the address cannot be bound."""
        application = web.Application(client_max_size=REQUEST_BYTES_MAX)
        application.router.add_routes([web.get(path, handler) for path, handler in self._routes()])
        self._runner = web.AppRunner(
            application,
            access_log=None,
            shutdown_timeout=SHUTDOWN_SECONDS,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, backlog=128, reuse_address=True).start()
        except OSError as error:
            await self._runner.cleanup()
            raise BadSetting(
                f"ponor.http.port: cannot listen on {self._host}:{self._port}: {error.strerror or error}. "
                "Stop whoever has the port, or choose another"
            ) from error

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _routes(self) -> list[tuple[str, Handler]]:
        sources = self._sources
        health = sources.health
        return [
            ("/", _json(lambda _: self._index())),
            ("/metrics", self._metrics),
            ("/health/live", _checked(health.live, list)),
            ("/health/ready", _checked(health.ready, health.warnings)),
            (
                "/v1/cluster",
                _json(lambda _: views.cluster(health.partitions.image, sources.node_id, sources.controller)),
            ),
            ("/v1/topics", _json(lambda request: views.topics(health.partitions.image, _after(request)))),
            ("/v1/topics/{name}", _json(lambda request: views.topic(health, request.match_info["name"]))),
            ("/v1/groups", _json(lambda request: views.groups(sources.groups, _after(request)))),
            ("/v1/storage", _json(lambda _: views.storage(health))),
            ("/v1/config", _json(lambda _: views.config(sources.configs))),
        ]

    def _index(self) -> dict[str, Any]:
        """Where to go from here."""
        paths = [path for path, _ in self._routes() if path != "/"]
        return {"ponor": VERSION, "node_id": self._sources.node_id, "paths": paths}

    async def _metrics(self, _request: web.Request) -> web.Response:
        text = exposition(self._sources.metrics) + client_exposition(self._sources.clients.samples())
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def _after(request: web.Request) -> str:
    """Lists go on after this name."""
    return request.query.get("after", "")


def _checked(reasons: Callable[[], list[str]], warnings: Callable[[], list[str]]) -> Handler:
    """200 without reasons, 503 with; warnings are what an operator should look at meanwhile."""

    async def handler(_request: web.Request) -> web.Response:
        found = reasons()
        answer = {"status": "failing" if found else "ok", "reasons": found, "warnings": warnings()}
        return web.json_response(answer, status=503 if found else 200)

    return handler


def _json(view: Callable[[web.Request], dict[str, Any] | None]) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        try:
            found = view(request)
        except KafkaError as error:  # a coordinator that is loading
            return web.json_response({"error": str(error)}, status=503)
        if found is None:
            return web.json_response({"error": "not found"}, status=404)
        return web.json_response(found)

    return handler
