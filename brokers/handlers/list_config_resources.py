"""ListConfigResources (KIP-1142): what has configs, by its kind. Version 0 was ListClientMetricsResources."""

from __future__ import annotations

from typing import Any, Final

from kio.schema.errors import ErrorCode
from kio.schema.list_config_resources.v1.response import ConfigResource, ListConfigResourcesResponse
from kio.static.primitive import i8

from brokers.handlers.config_change import KINDS
from brokers.handlers.context import RequestContext
from brokers.handlers.describe_configs import BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME

SUPPORTED: Final = (TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP)


async def handle(ctx: RequestContext, request: Any) -> ListConfigResourcesResponse:
    supported = SUPPORTED if ctx.api_version else (CLIENT_METRICS,)
    asked = request.resource_types or supported
    if any(kind not in supported for kind in asked):
        return _response(ErrorCode.unsupported_version)
    found = [
        ConfigResource(resource_name=name, resource_type=i8(kind))
        for kind in dict.fromkeys(asked)
        for name in await _names(kind, ctx.services)
    ]
    return _response(ErrorCode.none, tuple(found))


async def _names(kind: int, services: Services) -> list[str]:
    image = services.partitions.image
    if kind == TOPIC:
        return list(image.topics)
    if kind in (BROKER, BROKER_LOGGER):
        return [str(node.node_id) for node in image.nodes.values() if node.alive]
    return list(await services.metadata.configs_by_name(KINDS[kind]))


def _response(code: ErrorCode, resources: tuple[ConfigResource, ...] = ()) -> ListConfigResourcesResponse:
    return ListConfigResourcesResponse(throttle_time=NO_TIME, error_code=code, config_resources=resources)


def error_response(request: Any, code: ErrorCode, version: int) -> ListConfigResourcesResponse:
    return _response(code)


API = Api(74, "ListConfigResources", 0, 1, handle, error_response=error_response)
