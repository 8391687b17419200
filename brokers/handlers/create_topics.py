"""CreateTopics: validates as Kafka's controller does, topic by topic; answers when the partitions are open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from kio.schema.create_topics.v7.response import CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse
from kio.schema.errors import ErrorCode
from kio.schema.types import TopicName
from kio.static.primitive import i8, i16, i32

from brokers.config_def import TOPIC_CONFIGS, ConfigError, validate_topic_configs
from brokers.controller.planner import Placer
from brokers.errors import KafkaError
from brokers.groups.config import OFFSETS_TOPIC
from brokers.handlers import placement, topic_rules
from brokers.handlers.admin import duplicates, fault_of
from brokers.handlers.config_view import topic_entries
from brokers.handlers.context import RequestContext
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME
from brokers.shares.config import SHARE_STATE_TOPIC
from brokers.transactions.config import TRANSACTIONS_TOPIC
from metadata.cluster_types import NewTopic
from s3stream.types import NodeId

PARTITIONS_PER_CREATION: Final = 2_000
"""That one transaction makes: it holds the cluster's row for a second on a busy machine, and openings wait for it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A topic that can be created."""

    name: str
    topic_id: UUID
    assignment: Sequence[Sequence[NodeId]]
    configs: dict[str, str]


async def handle(ctx: RequestContext, request: Any) -> CreateTopicsResponse:
    services = ctx.services
    try:
        _check_size(request, services.config.num_partitions)
    except KafkaError as error:
        refused = tuple(_refused(topic.name, error.code, error.message) for topic in request.topics)
        return CreateTopicsResponse(throttle_time=NO_TIME, topics=refused)
    repeated = duplicates(topic.name for topic in request.topics)
    placer = await placement.placer(services)
    outcomes: dict[str, Plan | Exception] = {}
    for topic in request.topics:
        if topic.name in repeated or topic.name == topic_rules.CLUSTER_METADATA_TOPIC:
            continue
        try:
            outcomes[topic.name] = _plan(topic, services, placer)
        except Exception as error:
            outcomes[topic.name] = error
    if not request.validate_only:
        outcomes |= await _create([plan for plan in outcomes.values() if isinstance(plan, Plan)], services)
    results: list[CreatableTopicResult] = []
    for name, outcome in outcomes.items():
        if isinstance(outcome, Plan):
            results.append(_created(outcome, services))
        else:
            results.append(_refused(name, *fault_of(outcome, f"create topic {name}")))
    results += [_refused(name, ErrorCode.invalid_request, "Duplicate topic name.") for name in sorted(repeated)]
    if any(topic.name == topic_rules.CLUSTER_METADATA_TOPIC for topic in request.topics) and (
        topic_rules.CLUSTER_METADATA_TOPIC not in repeated
    ):
        message = f"Creation of internal topic {topic_rules.CLUSTER_METADATA_TOPIC} is prohibited."
        results.append(_refused(topic_rules.CLUSTER_METADATA_TOPIC, ErrorCode.invalid_request, message))
    if not request.validate_only and any(result.error_code == ErrorCode.none for result in results):
        await services.refresh()
    return CreateTopicsResponse(throttle_time=NO_TIME, topics=tuple(results))


def _check_size(request: Any, default_partitions: int) -> None:
    """Raises POLICY_VIOLATION. Kafka bounds the partitions, and the metadata records: one for a topic, a config, a
    partition each."""
    total = sum(
        len(topic.assignments) or (default_partitions if topic.num_partitions == -1 else max(0, topic.num_partitions))
        for topic in request.topics
    )
    if total > topic_rules.PARTITIONS_PER_REQUEST_MAX:
        raise KafkaError(ErrorCode.policy_violation, "Excessively large number of partitions per request.")
    if total + sum(1 + len(topic.configs) for topic in request.topics) > topic_rules.PARTITIONS_PER_REQUEST_MAX:
        raise KafkaError(ErrorCode.policy_violation, "Unable to perform excessively large batch operation.")


def _plan(topic: Any, services: Services, placer: Placer) -> Plan:
    """Raises KafkaError with what Kafka would refuse, in the order Kafka checks."""
    image = services.partitions.image
    topic_rules.check_new_name(topic.name, image)
    configs = _configs(topic, services)
    return Plan(topic.name, topic_rules.new_topic_id(services.chance), _assignment(topic, services, placer), configs)


def _configs(topic: Any, services: Services) -> dict[str, str]:
    missing = [config.name for config in topic.configs if config.value is None]
    if missing:
        message = f"Null value not supported for topic configs: {','.join(missing)}"
        raise KafkaError(ErrorCode.invalid_config, message)
    configs = {config.name: config.value for config in topic.configs}
    try:
        validate_topic_configs(configs, services.configs.topic_defaults)
    except ConfigError as error:
        raise KafkaError(ErrorCode.invalid_config, str(error)) from None
    return configs


def _assignment(topic: Any, services: Services, placer: Placer) -> Sequence[Sequence[NodeId]]:
    if topic.assignments:
        return _manual_assignment(topic, services)
    if topic.replication_factor < -1 or topic.replication_factor == 0:
        raise KafkaError(
            ErrorCode.invalid_replication_factor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        )
    if topic.num_partitions < -1 or topic.num_partitions == 0:
        raise KafkaError(ErrorCode.invalid_partitions, "Number of partitions was set to an invalid non-positive value.")
    count = services.config.num_partitions if topic.num_partitions == -1 else topic.num_partitions
    default = services.config.default_replication_factor
    factor = default if topic.replication_factor == -1 else topic.replication_factor
    return placement.place(placer, count, factor)


def _manual_assignment(topic: Any, services: Services) -> Sequence[Sequence[NodeId]]:
    nodes = services.partitions.image.nodes
    if topic.replication_factor != -1:
        raise KafkaError(
            ErrorCode.invalid_request,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        )
    if topic.num_partitions != -1:
        raise KafkaError(
            ErrorCode.invalid_request,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        )
    found: dict[int, Sequence[NodeId]] = {}
    expected: int | None = None
    for entry in topic.assignments:
        if entry.partition_index in found:
            raise KafkaError(
                ErrorCode.invalid_replica_assignment,
                f"Found multiple manual partition assignments for partition {entry.partition_index}",
            )
        topic_rules.check_assignment(entry.broker_ids, expected, nodes)
        topic_rules.check_somebody_alive(entry.partition_index, entry.broker_ids, nodes)
        expected = len(entry.broker_ids)
        found[entry.partition_index] = list(entry.broker_ids)
    if sorted(found) != list(range(len(found))):
        raise KafkaError(
            ErrorCode.invalid_replica_assignment, "partitions should be a consecutive 0-based integer sequence"
        )
    return [found[partition] for partition in range(len(found))]


async def _create(plans: Sequence[Plan], services: Services) -> dict[str, Plan | Exception]:
    """Several topics in each transaction: all brokers then open their partitions in one go, not topic by topic."""
    outcomes: dict[str, Plan | Exception] = {}
    for some in _groups(plans):
        try:
            outcomes |= await _create_group(some, services)
        except Exception as error:
            outcomes |= {plan.name: error for plan in some}
    return outcomes


def _groups(plans: Sequence[Plan]) -> Iterator[list[Plan]]:
    """As many partitions each as one transaction may make; one topic at least."""
    group: list[Plan] = []
    room = PARTITIONS_PER_CREATION
    for plan in plans:
        if group and len(plan.assignment) > room:
            yield group
            group, room = [], PARTITIONS_PER_CREATION
        group.append(plan)
        room -= len(plan.assignment)
    if group:
        yield group


async def _create_group(plans: Sequence[Plan], services: Services) -> dict[str, Plan | Exception]:
    """Raises Unavailable: whether any was made is unknown."""
    made = await services.metadata.create_topics(
        [
            NewTopic(plan.name, plan.topic_id, plan.assignment, plan.configs, plan.name in topic_rules.INTERNAL_TOPICS)
            for plan in plans
        ]
    )
    await placement.settle(services, [part for topic in made if topic is not None for part in topic.partitions])
    return {
        plan.name: plan
        if topic is not None
        else KafkaError(ErrorCode.topic_already_exists, f"Topic '{plan.name}' already exists.")
        for plan, topic in zip(plans, made, strict=True)
    }


def _created(plan: Plan, services: Services) -> CreatableTopicResult:
    return CreatableTopicResult(
        name=TopicName(plan.name),
        topic_id=plan.topic_id,
        error_code=ErrorCode.none,
        error_message=None,
        num_partitions=i32(len(plan.assignment)),
        replication_factor=i16(len(plan.assignment[0])),
        configs=tuple(
            CreatableTopicConfigs(
                name=entry.name,
                value=entry.value,
                read_only=False,
                config_source=i8(entry.source),
                is_sensitive=TOPIC_CONFIGS[entry.name].sensitive,
            )
            for entry in topic_entries(services.configs, plan.configs)
        ),
    )


def _refused(name: str, code: ErrorCode, message: str | None) -> CreatableTopicResult:
    return CreatableTopicResult(name=TopicName(name), topic_id=None, error_code=code, error_message=message, configs=())


def error_response(request: Any, code: ErrorCode, version: int) -> CreateTopicsResponse:
    """Every topic failed for the same reason."""
    return CreateTopicsResponse(
        throttle_time=NO_TIME, topics=tuple(_refused(topic.name, code, None) for topic in request.topics)
    )


async def auto_create(services: Services, names: Sequence[str]) -> dict[str, ErrorCode]:
    """Create topics with the broker's defaults (`Services.auto_create`); errors by topic name.

    The topics of coordinators get their own numbers of partitions. A topic that exists already is a success.
    """
    outcomes: dict[str, Plan | Exception] = {}
    placer: Placer | None = None
    for name in names:
        try:
            placer = placer or await placement.placer(services)
            outcomes[name] = _default_plan(name, services, placer)
        except Exception as error:
            outcomes[name] = error
    outcomes |= await _create([plan for plan in outcomes.values() if isinstance(plan, Plan)], services)
    await services.refresh()
    return {name: _auto_outcome(name, outcome) for name, outcome in outcomes.items()}


def _auto_outcome(name: str, outcome: Plan | Exception) -> ErrorCode:
    if isinstance(outcome, Plan):
        return ErrorCode.none
    code, _ = fault_of(outcome, f"create topic {name} on first use")
    return ErrorCode.none if code == ErrorCode.topic_already_exists else code


def _default_plan(name: str, services: Services, placer: Placer) -> Plan:
    image, config = services.partitions.image, services.config
    topic_rules.check_new_name(name, image)
    count, factor, configs = config.num_partitions, config.default_replication_factor, {}
    if name == OFFSETS_TOPIC:
        count, factor = config.offsets_topic_num_partitions, config.offsets_topic_replication_factor
        configs = {
            "cleanup.policy": "compact",
            "compression.type": "producer",
            "segment.bytes": str(config.values["offsets.topic.segment.bytes"]),
        }
    elif name == TRANSACTIONS_TOPIC:
        count, factor = config.transaction_state_log_num_partitions, config.transaction_state_log_replication_factor
        configs = {
            "unclean.leader.election.enable": "false",
            "compression.type": "uncompressed",
            "cleanup.policy": "compact",
            "min.insync.replicas": str(config.values["transaction.state.log.min.isr"]),
            "segment.bytes": str(config.values["transaction.state.log.segment.bytes"]),
        }
    elif name == SHARE_STATE_TOPIC:
        count = config.share_coordinator_state_topic_num_partitions
        factor = config.share_coordinator_state_topic_replication_factor
        configs = {
            "cleanup.policy": "delete",
            "compression.type": "producer",
            "segment.bytes": str(config.values["share.coordinator.state.topic.segment.bytes"]),
            "min.insync.replicas": str(config.values["share.coordinator.state.topic.min.isr"]),
            "retention.ms": "-1",
        }
    assignment = placement.place(placer, count, factor)
    return Plan(name, topic_rules.new_topic_id(services.chance), assignment, configs)


API = Api(19, "CreateTopics", 2, 7, handle, error_response=error_response)
