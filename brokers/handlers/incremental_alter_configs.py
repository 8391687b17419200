"""IncrementalAlterConfigs: set, delete, append to and subtract from single configs (KIP-339)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode
from kio.schema.incremental_alter_configs.v1.response import (
    AlterConfigsResourceResponse,
    IncrementalAlterConfigsResponse,
)

from brokers.config_def import ConfigType, render
from brokers.errors import KafkaError
from brokers.handlers import config_change
from brokers.handlers.context import RequestContext
from brokers.handlers.describe_configs import BROKER, BROKER_LOGGER, TOPIC
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME

SET: Final = 0
DELETE: Final = 1
APPEND: Final = 2
SUBTRACT: Final = 3
NAMES: Final = {APPEND: "APPEND", SUBTRACT: "SUBTRACT"}


async def handle(ctx: RequestContext, request: Any) -> IncrementalAlterConfigsResponse:
    responses = await config_change.change_each(ctx.services, request, _change, _result)
    return IncrementalAlterConfigsResponse(throttle_time=NO_TIME, responses=responses)


async def _change(resource: Any, validate_only: bool, services: Services) -> None:
    kind, name = resource.resource_type, resource.resource_name
    deletions = frozenset(index for index, c in enumerate(resource.configs) if c.config_operation == DELETE)
    config_change.check_entries(resource, deletions)
    config_change.check_resource(kind, name, services, logger_allowed=True)
    for config in resource.configs:
        if config.config_operation not in (SET, DELETE, APPEND, SUBTRACT):
            raise config_change.invalid_request(f"Unknown operations type {config.config_operation}")
    if kind == BROKER_LOGGER:
        _change_log_level(resource, validate_only)
        return
    before = await config_change.current(kind, name, services)
    changes = {config.name: _new_value(kind, config, before, services) for config in resource.configs}
    wanted = {key: value for key, value in {**before, **changes}.items() if value is not None}
    config_change.validate(kind, name, wanted, changes, services)
    if not validate_only:
        await config_change.store(kind, name, changes, services)


def _change_log_level(resource: Any, validate_only: bool) -> None:
    for config in resource.configs:
        if config.config_operation in NAMES:
            raise config_change.invalid_request(
                f"{NAMES[config.config_operation]} operation is not allowed for the BROKER_LOGGER resource"
            )
        level = None if config.config_operation == DELETE else config.value
        config_change.set_log_level(config.name, level, validate_only)


def _new_value(kind: int, config: Any, before: Mapping[str, str], services: Services) -> str | None:
    operation: int = config.config_operation
    if operation == SET:
        value: str = config.value
        return value
    if operation == DELETE:
        return None
    key = config_change.TABLES[kind].get(config.name)
    if key is None or key.type is not ConfigType.LIST:
        raise KafkaError(
            ErrorCode.invalid_config,
            f"Can't {NAMES[operation]} to key {config.name} because its type is not LIST.",
        )
    text = before.get(config.name)
    if text is None:
        text = _default(kind, config.name, services) or ""
    parts = text.split(",") if text else []
    given = config.value.split(",")
    if operation == APPEND:
        parts += [value for value in dict.fromkeys(given) if value not in parts]
    else:
        parts = [value for value in parts if value not in given]
    return ",".join(parts)


def _default(kind: int, name: str, services: Services) -> str | None:
    """What the resource has without a config of its own: lists grow from it and shrink from it."""
    if kind == TOPIC:
        return render(services.configs.topic_defaults[name])
    if kind == BROKER:
        return render(services.configs.broker_values()[name])
    return render(config_change.TABLES[kind][name].default)


def _result(resource: Any, code: ErrorCode, message: str | None = None) -> AlterConfigsResourceResponse:
    return AlterConfigsResourceResponse(
        error_code=code,
        error_message=message,
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
    )


def error_response(request: Any, code: ErrorCode, version: int) -> IncrementalAlterConfigsResponse:
    return IncrementalAlterConfigsResponse(
        throttle_time=NO_TIME, responses=tuple(_result(resource, code) for resource in request.resources)
    )


API = Api(44, "IncrementalAlterConfigs", 0, 1, handle, error_response=error_response)
