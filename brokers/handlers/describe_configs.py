"""DescribeConfigs: configs of topics, brokers, the log level, groups and client metrics subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kio.schema.describe_configs.v4.response import (
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)
from kio.schema.errors import ErrorCode
from kio.static.primitive import i8

from brokers import logs
from brokers.errors import KafkaError
from brokers.handlers import config_view, topic_rules
from brokers.handlers.admin import fault_of
from brokers.handlers.config_view import SOURCE_DYNAMIC_BROKER_LOGGER, Entry
from brokers.handlers.context import RequestContext
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME
from metadata.image import CLUSTER_DEFAULT

TOPIC: Final = 2
BROKER: Final = 4
BROKER_LOGGER: Final = 8
CLIENT_METRICS: Final = 16
GROUP: Final = 32
"""Resource types as on the wire (ConfigResource.Type)."""

ROOT_LOGGER: Final = "root"


async def handle(ctx: RequestContext, request: Any) -> DescribeConfigsResponse:
    results = []
    for resource in request.resources:
        try:
            configs = await _configs(resource, request, ctx.services)
            results.append(_result(resource, ErrorCode.none, "", configs))
        except Exception as error:
            code, message = fault_of(error, f"describe configs of {resource.resource_name}")
            results.append(_result(resource, code, message or ""))
    return DescribeConfigsResponse(throttle_time=NO_TIME, results=tuple(results))


async def _configs(resource: Any, request: Any, services: Services) -> tuple[DescribeConfigsResourceResult, ...]:
    wanted = resource.configuration_keys
    if resource.resource_type == BROKER_LOGGER:
        _check_own_id(resource.resource_name, services, empty_allowed=False)
        return tuple(logger for logger in (_root_logger(),) if not wanted or logger.name in wanted)
    entries = await _entries(resource, services)
    return tuple(
        _wire(entry, request.include_synonyms, request.include_documentation)
        for entry in entries
        if not wanted or entry.name in wanted
    )


async def _entries(resource: Any, services: Services) -> Sequence[Entry]:
    kind, name = resource.resource_type, resource.resource_name
    image, source = services.partitions.image, services.configs
    if kind == TOPIC:
        fault = topic_rules.name_fault(name)
        if fault is not None:
            raise KafkaError(ErrorCode.invalid_topic_exception, fault)
        topic = image.topics.get(name)
        if topic is None:
            raise KafkaError(ErrorCode.unknown_topic_or_partition)
        return config_view.topic_entries(source, topic.configs)
    if kind == BROKER:
        if not name:
            return config_view.cluster_default_entries(image.broker_configs.get(CLUSTER_DEFAULT, {}))
        _check_own_id(name, services)
        return config_view.broker_entries(source)
    if kind == CLIENT_METRICS:
        if not name:
            raise KafkaError(ErrorCode.invalid_request, "Client metrics subscription name must not be empty")
        return config_view.client_metrics_entries(await services.metadata.configs("client-metrics", name))
    if kind == GROUP:
        if not name:
            raise KafkaError(ErrorCode.invalid_request, "Group name must not be empty")
        return config_view.group_entries(source, await services.metadata.configs("group", name))
    raise KafkaError(ErrorCode.invalid_request, f"Unexpected resource type {kind} for resource {name}")


def _check_own_id(name: str, services: Services, empty_allowed: bool = True) -> None:
    """Only the broker itself knows its settings: clients send the request there."""
    if not name:
        raise KafkaError(ErrorCode.invalid_request, "Broker id must not be empty")
    try:
        number = int(name)
    except ValueError:
        raise KafkaError(ErrorCode.invalid_request, f"Broker id must be an integer, but it is: {name}") from None
    if number != services.node_id:
        or_empty = " or empty string," if empty_allowed else ""
        raise KafkaError(
            ErrorCode.invalid_request,
            f"Unexpected broker id, expected {services.node_id}{or_empty} but received {name}",
        )


def _root_logger() -> DescribeConfigsResourceResult:
    return DescribeConfigsResourceResult(
        name=ROOT_LOGGER,
        value=logs.LEVEL.kafka_name,
        read_only=False,
        config_source=i8(SOURCE_DYNAMIC_BROKER_LOGGER),
        is_sensitive=False,
        synonyms=(),
        documentation=None,
    )


def _wire(entry: Entry, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult:
    return DescribeConfigsResourceResult(
        name=entry.name,
        value=entry.value,
        read_only=entry.read_only,
        config_source=i8(entry.source),
        is_sensitive=entry.key.sensitive,
        synonyms=tuple(
            DescribeConfigsSynonym(name=synonym.name, value=synonym.value, source=i8(synonym.source))
            for synonym in entry.synonyms
        )
        if synonyms
        else (),
        config_type=i8(entry.key.type),
        documentation=entry.key.documentation if documentation else None,
    )


def _result(
    resource: Any, code: ErrorCode, message: str | None, configs: tuple[DescribeConfigsResourceResult, ...] = ()
) -> DescribeConfigsResult:
    return DescribeConfigsResult(
        error_code=code,
        error_message=message,
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
        configs=configs,
    )


def error_response(request: Any, code: ErrorCode, version: int) -> DescribeConfigsResponse:
    return DescribeConfigsResponse(
        throttle_time=NO_TIME, results=tuple(_result(resource, code, None) for resource in request.resources)
    )


API = Api(32, "DescribeConfigs", 1, 4, handle, error_response=error_response)
