"""Changing configs: what AlterConfigs and IncrementalAlterConfigs share.

Owns: which resources there are, validation of the configs a change would leave, the write. One resource is
changed whole or not at all; its neighbours in the request are not touched by its failure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from kio.schema.errors import ErrorCode

from brokers import logs
from brokers.config_def import (
    BROKER_CONFIGS,
    CLIENT_METRICS_CONFIGS,
    GROUP_CONFIGS,
    TOPIC_CONFIGS,
    ConfigError,
    Table,
    Update,
    validate_client_metrics_configs,
    validate_group_configs,
    validate_topic_configs,
)
from brokers.config_def.group import IllegalMatch
from brokers.errors import KafkaError
from brokers.handlers import topic_rules
from brokers.handlers.admin import duplicates, fault_of
from brokers.handlers.describe_configs import BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, ROOT_LOGGER, TOPIC
from brokers.handlers.services import Services
from metadata.image import CLUSTER_DEFAULT

R = TypeVar("R")

KINDS: Final = {TOPIC: "topic", BROKER: "broker", GROUP: "group", CLIENT_METRICS: "client-metrics"}
TABLES: Final[Mapping[int, Table]] = {
    TOPIC: TOPIC_CONFIGS,
    BROKER: BROKER_CONFIGS,
    GROUP: GROUP_CONFIGS,
    CLIENT_METRICS: CLIENT_METRICS_CONFIGS,
}
VALUE_LENGTH_MAX: Final = 32_767
"""Kafka's bound of one value (Short.MAX_VALUE)."""


async def change_each(
    services: Services,
    request: Any,
    change: Callable[[Any, bool, Services], Awaitable[None]],
    result: Callable[[Any, ErrorCode, str | None], R],
) -> tuple[R, ...]:
    """Carry out `change` for each resource of a request, one's fault not touching the others; `result` of each."""
    repeated = repeated_resources(request)
    results = []
    for resource in request.resources:
        try:
            if resource_key(resource) in repeated:
                raise invalid_request("Each resource must appear at most once.")
            await change(resource, request.validate_only, services)
            results.append(result(resource, ErrorCode.none, None))
        except Exception as error:
            results.append(result(resource, *fault_of(error, f"alter configs of {resource.resource_name}")))
    if not request.validate_only:
        await services.refresh()
    return tuple(results)


def invalid_request(message: str) -> KafkaError:
    return KafkaError(ErrorCode.invalid_request, message)


def repeated_resources(request: Any) -> set[str]:
    return duplicates(resource_key(resource) for resource in request.resources)


def resource_key(resource: Any) -> str:
    return f"{resource.resource_type} {resource.resource_name}"


def check_entries(resource: Any, deletions: frozenset[int] = frozenset()) -> None:
    """Each key once, each with a value; `deletions` are indexes of entries that need none."""
    if duplicates(config.name for config in resource.configs):
        raise invalid_request("Error due to duplicate config keys")
    missing = [c.name for index, c in enumerate(resource.configs) if c.value is None and index not in deletions]
    if missing:
        raise invalid_request(f"Null value not supported for : {', '.join(missing)}")


async def current(kind: int, name: str, services: Services) -> Mapping[str, str]:
    """What is set on the resource now. A topic that does not exist has nothing: `validate` refuses it."""
    image = services.partitions.image
    if kind == TOPIC:
        topic = image.topics.get(name)
        return topic.configs if topic else {}
    if kind == BROKER:
        return image.broker_configs.get(name or CLUSTER_DEFAULT, {})
    return await services.metadata.configs(KINDS[kind], name)


def check_resource(kind: int, name: str, services: Services, logger_allowed: bool = False) -> None:
    """Raises INVALID_REQUEST for a type that cannot be changed or another broker's own settings."""
    if kind not in KINDS and not (logger_allowed and kind == BROKER_LOGGER):
        raise invalid_request(f"Unknown resource type {kind}")
    if kind == BROKER_LOGGER or (kind == BROKER and name):
        try:
            number = int(name)
        except ValueError:
            raise invalid_request(f"Node id must be an integer, but it is: {name}") from None
        if number != services.node_id:
            raise invalid_request(f"Unexpected broker id, expected {services.node_id}, but received {name}")


def validate(
    kind: int, name: str, wanted: Mapping[str, str], changed: Mapping[str, str | None], services: Services
) -> None:
    """`wanted`: the configs the resource would have. Raises as Kafka's controller does."""
    if any(value is not None and len(value) > VALUE_LENGTH_MAX for value in changed.values()):
        raise KafkaError(
            ErrorCode.invalid_config,
            "The configuration value cannot be added because it exceeds the maximum value size of "
            f"{VALUE_LENGTH_MAX} bytes.",
        )
    try:
        if kind == TOPIC:
            _validate_topic(name, wanted, services)
        elif kind == BROKER:
            _validate_broker(changed)
        elif kind == GROUP:
            if not name:
                raise invalid_request("Default group resources are not allowed.")
            validate_group_configs(wanted, services.configs.broker_values())
        else:
            if not name:
                raise invalid_request("Subscription name can't be empty")
            validate_client_metrics_configs(wanted)
    except ConfigError as error:
        # Kafka answers a broker's and a subscription's bad value with INVALID_REQUEST (KAFKA-13609).
        by_config = kind in (TOPIC, GROUP) or isinstance(error, IllegalMatch)
        code = ErrorCode.invalid_config if by_config else ErrorCode.invalid_request
        raise KafkaError(code, str(error)) from None


def _validate_topic(name: str, wanted: Mapping[str, str], services: Services) -> None:
    if not name:
        raise invalid_request("Default topic resources are not allowed.")
    fault = topic_rules.name_fault(name)
    if fault is not None:
        raise KafkaError(ErrorCode.invalid_topic_exception, fault)
    validate_topic_configs(wanted, services.configs.topic_defaults)
    if name not in services.partitions.image.topics:
        raise KafkaError(ErrorCode.unknown_topic_or_partition, f"The topic '{name}' does not exist.")


def _validate_broker(changed: Mapping[str, str | None]) -> None:
    known = {name: value for name, value in changed.items() if name in BROKER_CONFIGS}
    fixed = sorted(name for name in known if BROKER_CONFIGS[name].update is Update.READ_ONLY)
    if fixed:
        raise ConfigError(f"Cannot update these configs dynamically: [{', '.join(fixed)}]")
    for name, value in known.items():
        if value is not None:
            BROKER_CONFIGS[name].parse(value)


async def store(kind: int, name: str, changes: Mapping[str, str | None], services: Services) -> None:
    """Write the changes. The caller refreshes the image once for the whole request."""
    if changes:
        await services.metadata.alter_configs(KINDS[kind], name, changes)


def set_log_level(logger: str, level: str | None, validate_only: bool) -> None:
    """One logger, `root`, for the whole process; None puts it back to INFO."""
    if logger != ROOT_LOGGER:
        raise KafkaError(ErrorCode.invalid_config, f"Logger {logger} does not exist!")
    if level is not None and level not in logs.KAFKA_LEVELS:
        raise KafkaError(
            ErrorCode.invalid_config,
            f"Cannot set the log level of {logger} to {level} as it is not a supported log level. "
            f"Valid log levels are {', '.join(logs.KAFKA_LEVELS)}",
        )
    if not validate_only:
        logs.LEVEL.set("info" if level is None else logs.KAFKA_LEVELS[level])
