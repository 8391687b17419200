"""AlterConfigs: the old way, which replaces all configs of a resource at once (KIP-133)."""

from __future__ import annotations

from typing import Any

from kio.schema.alter_configs.v2.response import AlterConfigsResourceResponse, AlterConfigsResponse
from kio.schema.errors import ErrorCode

from brokers.handlers import config_change
from brokers.handlers.context import RequestContext
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> AlterConfigsResponse:
    responses = await config_change.change_each(ctx.services, request, _replace, _result)
    return AlterConfigsResponse(throttle_time=NO_TIME, responses=responses)


async def _replace(resource: Any, validate_only: bool, services: Services) -> None:
    kind, name = resource.resource_type, resource.resource_name
    config_change.check_entries(resource)
    config_change.check_resource(kind, name, services)
    wanted = {config.name: config.value for config in resource.configs}
    before = await config_change.current(kind, name, services)
    changes: dict[str, str | None] = {key: value for key, value in wanted.items() if before.get(key) != value}
    config_change.validate(kind, name, wanted, changes, services)
    changes.update({key: None for key in before if key not in wanted})
    if not validate_only:
        await config_change.store(kind, name, changes, services)


def _result(resource: Any, code: ErrorCode, message: str | None = None) -> AlterConfigsResourceResponse:
    return AlterConfigsResourceResponse(
        error_code=code,
        error_message=message,
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
    )


def error_response(request: Any, code: ErrorCode, version: int) -> AlterConfigsResponse:
    return AlterConfigsResponse(
        throttle_time=NO_TIME, responses=tuple(_result(resource, code) for resource in request.resources)
    )


API = Api(33, "AlterConfigs", 0, 2, handle, error_response=error_response)
