"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs: sources, synonyms, what can be changed and what cannot."""

from __future__ import annotations

from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers import logs
from brokers.config_def import BROKER_CONFIGS, GROUP_CONFIGS, TOPIC_CONFIGS
from brokers.handlers.incremental_alter_configs import APPEND, DELETE, SET, SUBTRACT
from tests.support.admin_world import AdminWorld
from tests.unit.test_topic_handlers import create_one

TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32
TOPIC_SOURCE, BROKER_SOURCE, CLUSTER_SOURCE, STATIC, DEFAULT = 1, 2, 3, 4, 5


async def describe(world: AdminWorld, kind: int, name: str, *keys: str, version: int = 4, **more: bool) -> Any:
    module = __import__(f"kio.schema.describe_configs.v{version}.request", fromlist=["x"])
    resource = module.DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=keys or None)
    fields = {"include_synonyms": True} | more
    answer = await world.call("DescribeConfigs", version, resources=(resource,), **fields)
    (result,) = answer.results
    return result


async def one(world: AdminWorld, kind: int, name: str, key: str, **more: Any) -> Any:
    (config,) = (await describe(world, kind, name, key, **more)).configs
    return config


async def change(
    world: AdminWorld, kind: int, name: str, *changes: tuple[int, str, str | None], validate_only: bool = False
) -> Any:
    from kio.schema.incremental_alter_configs.v1.request import AlterableConfig, AlterConfigsResource

    configs = tuple(AlterableConfig(name=key, config_operation=op, value=value) for op, key, value in changes)  # type: ignore[arg-type]
    resource = AlterConfigsResource(resource_type=kind, resource_name=name, configs=configs)  # type: ignore[arg-type]
    answer = await world.call("IncrementalAlterConfigs", 1, resources=(resource,), validate_only=validate_only)
    (result,) = answer.responses
    return result


async def replace(world: AdminWorld, kind: int, name: str, version: int = 2, **configs: str | None) -> Any:
    module = __import__(f"kio.schema.alter_configs.v{version}.request", fromlist=["x"])
    rows = tuple(module.AlterableConfig(name=key.replace("__", "."), value=value) for key, value in configs.items())
    resource = module.AlterConfigsResource(resource_type=kind, resource_name=name, configs=rows)
    answer = await world.call("AlterConfigs", version, resources=(resource,), validate_only=False)
    (result,) = answer.responses
    return result


# --- describe ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(1, 5))
async def test_a_topic_shows_every_config_and_where_its_value_comes_from(version: int) -> None:
    async with AdminWorld(log__retention__hours="2") as world:
        await create_one(world, "t", configs={"max.message.bytes": "1000"})
        more = {"include_documentation": True} if version >= 3 else {}
        result = await describe(world, TOPIC, "t", version=version, **more)
        configs = {config.name: config for config in result.configs}
        assert set(configs) == set(TOPIC_CONFIGS)
        own, broker, plain = configs["max.message.bytes"], configs["retention.ms"], configs["segment.ms"]
        assert (own.value, own.config_source) == ("1000", TOPIC_SOURCE)
        assert [(s.name, s.value, s.source) for s in own.synonyms] == [
            ("max.message.bytes", "1000", TOPIC_SOURCE),
            ("message.max.bytes", "1048588", DEFAULT),
        ]
        # Kafka shows no synonym where only a coarser relative (hours) is set.
        assert (broker.value, broker.config_source, broker.synonyms) == ("7200000", DEFAULT, ())
        assert (plain.value, plain.config_source) == ("604800000", DEFAULT)
        if version >= 3:
            assert (own.config_type, configs["cleanup.policy"].config_type) == (3, 7)
            assert configs["preallocate"].documentation.startswith("Preallocate")


async def test_only_the_keys_asked_for_are_shown_and_synonyms_only_when_wanted() -> None:
    async with AdminWorld() as world:
        await create_one(world, "t")
        config = await one(world, TOPIC, "t", "retention.ms", include_synonyms=False)
        assert (config.name, config.synonyms, config.documentation) == ("retention.ms", (), None)


async def test_a_broker_describes_itself_and_no_other() -> None:
    async with AdminWorld(num__partitions="3") as world:
        result = await describe(world, BROKER, "1")
        configs = {config.name: config for config in result.configs}
        assert set(configs) == set(BROKER_CONFIGS)
        assert (configs["num.partitions"].value, configs["num.partitions"].config_source) == ("3", STATIC)
        assert configs["num.partitions"].read_only
        assert not configs["message.max.bytes"].read_only
        refused = await describe(world, BROKER, "2")
        assert refused.error_code == ErrorCode.invalid_request
        assert refused.error_message == "Unexpected broker id, expected 1 or empty string, but received 2"
        assert (await describe(world, BROKER, "x")).error_message == "Broker id must be an integer, but it is: x"


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (TOPIC, "nope", ErrorCode.unknown_topic_or_partition),
        (TOPIC, "b@d", ErrorCode.invalid_topic_exception),
        (GROUP, "", ErrorCode.invalid_request),
        (METRICS, "", ErrorCode.invalid_request),
        (LOGGER, "", ErrorCode.invalid_request),
        (3, "x", ErrorCode.invalid_request),
    ],
)
async def test_what_cannot_be_described_is_said_so(kind: int, name: str, code: ErrorCode) -> None:
    async with AdminWorld() as world:
        result = await describe(world, kind, name)
        assert (result.error_code, result.configs) == (code, ())


# --- alter topics --------------------------------------------------------------------------------


async def test_a_change_is_in_force_when_the_answer_comes() -> None:
    async with AdminWorld() as world:
        await create_one(world, "t")
        assert (await change(world, TOPIC, "t", (SET, "retention.ms", "5000"))).error_code == ErrorCode.none
        assert (await one(world, TOPIC, "t", "retention.ms")).value == "5000"
        assert world.configs.log_config(world.image.topics["t"], world.image).retention_ms == 5000
        assert (await change(world, TOPIC, "t", (DELETE, "retention.ms", None))).error_code == ErrorCode.none
        config = await one(world, TOPIC, "t", "retention.ms")
        assert (config.value, config.config_source) == ("604800000", DEFAULT)


async def test_lists_grow_from_what_is_in_force_and_shrink() -> None:
    async with AdminWorld() as world:
        await create_one(world, "t")
        await change(world, TOPIC, "t", (APPEND, "cleanup.policy", "compact,delete"))
        assert world.image.topics["t"].configs["cleanup.policy"] == "delete,compact"
        await change(world, TOPIC, "t", (SUBTRACT, "cleanup.policy", "delete"))
        assert world.image.topics["t"].configs["cleanup.policy"] == "compact"
        refused = await change(world, TOPIC, "t", (APPEND, "retention.ms", "1"))
        assert refused.error_code == ErrorCode.invalid_config
        assert refused.error_message == "Can't APPEND to key retention.ms because its type is not LIST."


@pytest.mark.parametrize(
    ("name", "changes", "code", "words"),
    [
        ("t", [(SET, "no.such", "1")], ErrorCode.invalid_config, "Unknown topic config name: no.such"),
        ("t", [(SET, "retention.ms", "soon")], ErrorCode.invalid_config, "Not a number of type LONG"),
        ("t", [(SET, "compression.type", "rar")], ErrorCode.invalid_config, "String must be one of: uncompressed"),
        ("t", [(SET, "cleanup.policy", "delete,delete")], ErrorCode.invalid_config, "must not be duplicated"),
        ("t", [(SET, "min.compaction.lag.ms", "9"), (SET, "max.compaction.lag.ms", "8")], ErrorCode.invalid_config,
         "conflict topic config setting min.compaction.lag.ms (9) > max.compaction.lag.ms (8)"),
        ("t", [(SET, "remote.storage.enable", "true")], ErrorCode.invalid_config, "Tiered Storage functionality"),
        ("t", [(SET, "retention.ms", None)], ErrorCode.invalid_request, "Null value not supported for : retention.ms"),
        ("t", [(SET, "retention.ms", "1"), (DELETE, "retention.ms", None)], ErrorCode.invalid_request, "duplicate"),
        ("t", [(9, "retention.ms", "1")], ErrorCode.invalid_request, "Unknown operations type 9"),
        ("t", [(SET, "leader.replication.throttled.replicas", "0:1," * 9000)], ErrorCode.invalid_config, "32767 bytes"),
        ("nope", [(SET, "retention.ms", "1")], ErrorCode.unknown_topic_or_partition, "The topic 'nope' does not exist"),
        ("", [(SET, "retention.ms", "1")], ErrorCode.invalid_request, "Default topic resources are not allowed."),
        ("b@d", [(SET, "retention.ms", "1")], ErrorCode.invalid_topic_exception, "other than ASCII"),
    ],
)  # fmt: skip
async def test_a_refused_change_changes_nothing(name: str, changes: Any, code: ErrorCode, words: str) -> None:
    async with AdminWorld() as world:
        await create_one(world, "t", configs={"retention.bytes": "7"})
        result = await change(world, TOPIC, name, *changes)
        assert result.error_code == code
        assert words in result.error_message
        assert dict(world.image.topics["t"].configs) == {"retention.bytes": "7"}


async def test_validate_only_stores_nothing() -> None:
    async with AdminWorld() as world:
        await create_one(world, "t")
        result = await change(world, TOPIC, "t", (SET, "retention.ms", "1"), validate_only=True)
        assert result.error_code == ErrorCode.none
        assert not world.image.topics["t"].configs


@pytest.mark.parametrize("version", range(3))
async def test_the_old_way_replaces_all_configs(version: int) -> None:
    async with AdminWorld() as world:
        await create_one(world, "t", configs={"retention.bytes": "7", "retention.ms": "8"})
        result = await replace(world, TOPIC, "t", version, retention__ms="9", max__message__bytes="10")
        assert result.error_code == ErrorCode.none
        assert dict(world.image.topics["t"].configs) == {"retention.ms": "9", "max.message.bytes": "10"}


async def test_a_resource_named_twice_is_refused_both_times() -> None:
    from kio.schema.alter_configs.v2.request import AlterableConfig, AlterConfigsResource

    async with AdminWorld() as world:
        await create_one(world, "t")
        rows = (AlterableConfig(name="retention.ms", value="1"),)
        resource = AlterConfigsResource(resource_type=TOPIC, resource_name="t", configs=rows)  # type: ignore[arg-type]
        answer = await world.call("AlterConfigs", 2, resources=(resource, resource), validate_only=False)
        assert [result.error_code for result in answer.responses] == [ErrorCode.invalid_request] * 2
        assert not world.image.topics["t"].configs


# --- alter brokers -------------------------------------------------------------------------------


async def test_dynamic_broker_configs_go_before_those_at_start_and_reach_topics() -> None:
    async with AdminWorld(log__retention__ms="1000") as world:
        await create_one(world, "t")
        await change(world, BROKER, "", (SET, "log.retention.ms", "2000"))
        config = await one(world, TOPIC, "t", "retention.ms")
        assert (config.value, config.config_source) == ("2000", CLUSTER_SOURCE)
        await change(world, BROKER, "1", (SET, "log.retention.ms", "3000"))
        config = await one(world, TOPIC, "t", "retention.ms")
        assert (config.value, config.config_source) == ("3000", BROKER_SOURCE)
        assert [(s.value, s.source) for s in config.synonyms] == [
            ("3000", BROKER_SOURCE), ("2000", CLUSTER_SOURCE), ("1000", STATIC), ("168", DEFAULT),
        ]  # fmt: skip
        assert world.configs.log_config(world.image.topics["t"], world.image).retention_ms == 3000
        shared = await describe(world, BROKER, "")
        assert [(c.name, c.value, c.config_source) for c in shared.configs] == [
            ("log.retention.ms", "2000", CLUSTER_SOURCE)
        ]


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("1", "num.partitions", "2", "Cannot update these configs dynamically: [num.partitions]"),
        ("", "ponor.wal.url", "memory:", "Cannot update these configs dynamically: [ponor.wal.url]"),
        ("1", "message.max.bytes", "-1", "Value must be at least 0"),
        ("2", "message.max.bytes", "1", "Unexpected broker id, expected 1, but received 2"),
        ("x", "message.max.bytes", "1", "Node id must be an integer, but it is: x"),
    ],
)
async def test_broker_changes_that_cannot_be_are_invalid_requests(name: str, key: str, value: str, words: str) -> None:
    async with AdminWorld() as world:
        result = await change(world, BROKER, name, (SET, key, value))
        assert result.error_code == ErrorCode.invalid_request
        assert words in result.error_message
        assert not world.image.broker_configs


async def test_a_stored_value_that_no_longer_parses_does_not_stop_the_broker() -> None:
    async with AdminWorld() as world:
        await create_one(world, "t")
        await world.metadata.alter_configs("topic", "t", {"retention.ms": "soon", "gone.by": "1"})
        await world.metadata.alter_configs("broker", "1", {"message.max.bytes": "many"})
        await world.refresh()
        log_config = world.configs.log_config(world.image.topics["t"], world.image)
        assert (log_config.retention_ms, log_config.max_message_bytes) == (604_800_000, 1_048_588)
        assert (await one(world, TOPIC, "t", "retention.ms")).value == "soon"


# --- groups, client metrics, the log level -------------------------------------------------------


async def test_groups_keep_configs_of_their_own() -> None:
    async with AdminWorld() as world:
        assert {c.name for c in (await describe(world, GROUP, "g")).configs} == set(GROUP_CONFIGS)
        await change(world, GROUP, "g", (SET, "consumer.session.timeout.ms", "50000"))
        config = await one(world, GROUP, "g", "consumer.session.timeout.ms")
        assert (config.value, config.config_source) == ("50000", 8)
        refused = await change(world, GROUP, "g", (SET, "consumer.session.timeout.ms", "0"))
        assert refused.error_code == ErrorCode.invalid_config


async def test_a_group_shows_what_the_broker_is_told() -> None:
    told = {"session__timeout__ms": "50000", "assignment__interval__ms": "2000"}
    async with AdminWorld(**{f"group__consumer__{name}": value for name, value in told.items()}) as world:
        session = await one(world, GROUP, "g", "consumer.session.timeout.ms")
        assert (session.value, session.config_source) == ("50000", 4)
        assert [(s.name, s.value, s.source) for s in session.synonyms] == [
            ("group.consumer.session.timeout.ms", "50000", 4), ("group.consumer.session.timeout.ms", "45000", 5),
        ]  # fmt: skip
        interval = await one(world, GROUP, "g", "consumer.assignment.interval.ms")
        assert (interval.value, interval.config_source) == ("2000", 4)
        await change(world, GROUP, "g", (SET, "consumer.session.timeout.ms", "46000"))
        own = await one(world, GROUP, "g", "consumer.session.timeout.ms")
        assert (own.value, own.config_source, len(own.synonyms)) == ("46000", 8, 3)
        reset = await one(world, GROUP, "g", "share.auto.offset.reset")
        assert [(s.name, s.value, s.source) for s in reset.synonyms] == [("share.auto.offset.reset", "latest", 5)]


async def test_the_broker_says_how_far_a_share_groups_configs_go() -> None:
    async with AdminWorld(group__share__max__delivery__count__limit="25") as world:
        assert (await change(world, GROUP, "g", (SET, "share.delivery.count.limit", "25"))).error_code == 0
        refused = await change(world, GROUP, "g", (SET, "share.delivery.count.limit", "26"))
        assert refused.error_code == ErrorCode.invalid_config


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("consumer.session.timeout.ms", "44999", "greater than or equal to group.consumer.min.session.timeout.ms"),
        ("consumer.session.timeout.ms", "60001", "less than or equal to group.consumer.max.session.timeout.ms"),
        ("consumer.heartbeat.interval.ms", "4999", "greater than or equal to group.consumer.min.heartbeat.interval.ms"),
        ("share.session.timeout.ms", "44999", "greater than or equal to group.share.min.session.timeout.ms"),
        ("share.heartbeat.interval.ms", "15001", "less than or equal to group.share.max.heartbeat.interval.ms"),
        ("share.assignment.interval.ms", "15001", "less than or equal to group.share.max.assignment.interval.ms"),
        ("share.record.lock.duration.ms", "14999", "greater than or equal to group.share.min.record.lock.duration.ms"),
        ("share.delivery.count.limit", "11", "less than or equal to group.share.max.delivery.count.limit"),
        (
            "share.partition.max.record.locks",
            "9999",
            "less than or equal to group.share.max.partition.max.record.locks",
        ),
        ("streams.num.standby.replicas", "3", "less than or equal to group.streams.max.standby.replicas"),
    ],
)
async def test_group_configs_keep_within_kafkas_bounds(key: str, value: str, words: str) -> None:
    async with AdminWorld() as world:
        result = await change(world, GROUP, "g", (SET, key, value))
        assert result.error_code == ErrorCode.invalid_config
        assert result.error_message == f"{key} must be {words}"


@pytest.mark.parametrize(
    ("kind", "name", "change_of", "code", "words"),
    [
        (GROUP, "", (SET, "consumer.session.timeout.ms", "50000"), ErrorCode.invalid_request, "Default group"),
        (GROUP, "g", (SET, "no.such", "1"), ErrorCode.invalid_config, "Unknown group config name: no.such"),
        (METRICS, "", (SET, "interval.ms", "1000"), ErrorCode.invalid_request, "Subscription name can't be empty"),
        (3, "x", (SET, "interval.ms", "1000"), ErrorCode.invalid_request, "Unknown resource type 3"),
    ],
)
async def test_changes_of_what_has_no_configs_are_refused_and_store_nothing(
    kind: int, name: str, change_of: tuple[int, str, str], code: ErrorCode, words: str
) -> None:
    async with AdminWorld() as world:
        result = await change(world, kind, name, change_of)
        assert (result.error_code, words in result.error_message) == (code, True), result.error_message
        assert not any([await world.metadata.configs(kind, name) for kind in ("group", "client-metrics")])


async def test_what_is_described_without_error_has_an_empty_message() -> None:
    async with AdminWorld() as world:
        await create_one(world, "t")
        assert (await describe(world, TOPIC, "t")).error_message == ""
        assert (await describe(world, TOPIC, "nope")).error_message == ""


async def test_client_metrics_subscriptions_are_kept() -> None:
    async with AdminWorld() as world:
        await change(world, METRICS, "sub", (SET, "interval.ms", "1000"), (SET, "metrics", "org.apache,a.b"))
        configs = {c.name: (c.value, c.config_source) for c in (await describe(world, METRICS, "sub")).configs}
        assert configs == {"interval.ms": ("1000", 7), "metrics": ("org.apache,a.b", 7), "match": ("", DEFAULT)}
        for key, value in (("interval.ms", "99"), ("match", "nonsense"), ("other", "1")):
            refused = await change(world, METRICS, "sub", (SET, key, value))
            assert refused.error_code == (ErrorCode.invalid_config if key == "match" else ErrorCode.invalid_request)


async def test_the_log_level_is_a_broker_logger() -> None:
    before = logs.LEVEL.name
    try:
        async with AdminWorld() as world:
            assert (await change(world, LOGGER, "1", (SET, "root", "ERROR"))).error_code == ErrorCode.none
            assert logs.LEVEL.name == "error"
            assert (await one(world, LOGGER, "1", "root")).value == "ERROR"
            bad = await change(world, LOGGER, "1", (SET, "root", "LOUD"))
            assert (bad.error_code, logs.LEVEL.name) == (ErrorCode.invalid_config, "error")
            unknown = await change(world, LOGGER, "1", (SET, "kafka.server", "INFO"))
            assert unknown.error_code == ErrorCode.invalid_config
            for operation, word in ((APPEND, "APPEND"), (SUBTRACT, "SUBTRACT")):
                refused = await change(world, LOGGER, "1", (operation, "root", "INFO"))
                assert (refused.error_code, logs.LEVEL.name) == (ErrorCode.invalid_request, "error")
                assert refused.error_message == f"{word} operation is not allowed for the BROKER_LOGGER resource"
            await change(world, LOGGER, "1", (DELETE, "root", None))
            assert logs.LEVEL.name == "info"
    finally:
        logs.LEVEL.set(before)


async def test_a_groups_session_outlasts_its_heartbeats() -> None:
    """Where the broker allows values that would not; the heartbeats are the broker's."""
    settings = {"group__consumer__min__session__timeout__ms": "100", "group__consumer__heartbeat__interval__ms": "6000"}
    async with AdminWorld(**settings) as world:
        assert (await change(world, GROUP, "g", (SET, "consumer.session.timeout.ms", "6001"))).error_code == 0
        refused = await change(world, GROUP, "g", (SET, "consumer.session.timeout.ms", "6000"))
        assert refused.error_code == ErrorCode.invalid_config
        assert "must be greater than consumer.heartbeat.interval.ms" in refused.error_message
