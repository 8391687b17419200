"""Configs: what there is and what it is set to, and what changes are refused."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.compatibility.broker import Broker, frame, versions_of

TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3


def resource(kind: int, name: str, *keys: str) -> dict[str, Any]:
    return {"resource_type": kind, "resource_name": name, "configuration_keys": list(keys) or None}


async def describe_configs(broker: Broker) -> None:
    full = await broker.topic("t", max_message_bytes="1234", cleanup_policy="compact,delete")
    node = str(broker.node)
    for version in versions_of("DescribeConfigs"):

        async def ask(label: str, *resources: dict[str, Any], version: int = version, **more: Any) -> Any:
            return await broker.ask(label, "DescribeConfigs", version, resources=list(resources), **more)

        answer = await broker.call("DescribeConfigs", version, resources=[resource(TOPIC, full)], include_synonyms=True)
        for entry in answer.results[0].configs:
            broker.note(f"topic config {entry.name}", version, entry)
        await ask("one key", resource(TOPIC, full, "retention.ms"))
        await ask("unknown key", resource(TOPIC, full, "no.such", "retention.ms"))
        await ask("no keys", {"resource_type": TOPIC, "resource_name": full, "configuration_keys": []})
        await ask("unknown topic", resource(TOPIC, broker.named("gone"), "retention.ms"))
        await ask("invalid topic", resource(TOPIC, "no/slash", "retention.ms"))
        await ask("empty topic", resource(TOPIC, "", "retention.ms"))
        await ask("same twice", resource(TOPIC, full, "retention.ms"), resource(TOPIC, full, "retention.ms"))
        await ask("broker", resource(BROKER, node, "num.io.threads", "log.retention.ms", "message.max.bytes"))
        await ask("cluster", resource(BROKER, "", "message.max.bytes"))
        await ask("unknown broker", resource(BROKER, "4711", "message.max.bytes"))
        await ask("no broker", resource(BROKER, "abc", "message.max.bytes"))
        await ask("type 0", resource(0, "x"))
        await ask("type 1", resource(1, "x"))
        await ask("type 64", resource(64, "x"))
        await ask("group", resource(GROUP, broker.named("g")))
        await ask("empty group", resource(GROUP, ""))
        await ask("client metrics", resource(CLIENT_METRICS, broker.named("m")))
        await ask("empty client metrics", resource(CLIENT_METRICS, ""))
        await ask("nothing")
        if version >= 3:
            await ask("documented", resource(TOPIC, full, "retention.ms"), include_documentation=True)


def change(kind: int, name: str, *changes: tuple[str, int, str | None]) -> dict[str, Any]:
    rows = [{"name": key, "config_operation": operation, "value": value} for key, operation, value in changes]
    return {"resource_type": kind, "resource_name": name, "configs": rows}


async def incremental_alter_configs(broker: Broker) -> None:
    for version in versions_of("IncrementalAlterConfigs"):
        name = f"t{version}"
        full = await broker.topic(name)

        async def ask(label: str, *resources: dict[str, Any], check: bool = False, version: int = version) -> None:
            await broker.ask(label, "IncrementalAlterConfigs", version, resources=list(resources), validate_only=check)

        async def alter(label: str, *changes: tuple[str, int, str | None], full: str = full) -> None:
            await ask(label, change(TOPIC, full, *changes))

        await alter("set", ("max.message.bytes", SET, "100000"))
        await alter("set two", ("max.message.bytes", SET, "100001"), ("cleanup.policy", SET, "compact"))
        await alter("same key twice", ("max.message.bytes", SET, "1"), ("max.message.bytes", DELETE, None))
        await alter("unknown key", ("no.such", SET, "1"))
        await alter("unknown key deleted", ("no.such", DELETE, None))
        await alter("not a number", ("max.message.bytes", SET, "many"))
        await alter("out of bounds", ("max.message.bytes", SET, "-5"))
        await alter("not one of", ("compression.type", SET, "middle-out"))
        await alter("null value", ("max.message.bytes", SET, None))
        await alter("one good, one bad", ("retention.ms", SET, "77"), ("segment.ms", SET, "x"))
        await alter("append", ("cleanup.policy", APPEND, "delete"))
        await alter("append what is there", ("cleanup.policy", APPEND, "delete"))
        await alter("append nonsense", ("cleanup.policy", APPEND, "eat"))
        await alter("subtract", ("cleanup.policy", SUBTRACT, "compact"))
        await alter("subtract what is not there", ("cleanup.policy", SUBTRACT, "compact"))
        await alter("subtract the last", ("cleanup.policy", SUBTRACT, "delete"))
        await alter("append to no list", ("retention.ms", APPEND, "5"))
        await alter("unknown operation", ("retention.ms", 9, "5"))
        await alter("negative operation", ("retention.ms", -1, "5"))
        await alter("delete", ("max.message.bytes", DELETE, None))
        await alter("delete again", ("max.message.bytes", DELETE, None))
        await alter("tiering", ("remote.storage.enable", SET, "true"))
        await alter("compaction lags", ("min.compaction.lag.ms", SET, "10"), ("max.compaction.lag.ms", SET, "5"))
        await alter("empty key", ("", SET, "5"))
        await alter("nothing")
        await ask("only checked", change(TOPIC, full, ("retention.ms", SET, "55")), check=True)
        await ask("only checked, bad", change(TOPIC, full, ("retention.ms", SET, "x")), check=True)
        await ask("unknown topic", change(TOPIC, broker.named("gone"), ("retention.ms", SET, "5")))
        await ask("invalid topic", change(TOPIC, "no/slash", ("retention.ms", SET, "5")))
        await ask("empty topic", change(TOPIC, "", ("retention.ms", SET, "5")))
        one, two = (change(TOPIC, full, ("retention.ms", SET, value)) for value in ("5", "6"))
        await ask("same resource twice", one, two)
        await ask("type 0", change(0, "x", ("retention.ms", SET, "5")))
        await ask("type 64", change(64, "x", ("retention.ms", SET, "5")))
        await ask("unknown broker", change(BROKER, "4711", ("message.max.bytes", SET, "5")))
        await ask("no broker", change(BROKER, "abc", ("message.max.bytes", SET, "5")))
        await ask("read-only broker config", change(BROKER, "", ("num.partitions", SET, "5")))
        await ask("broker config", change(BROKER, "", ("message.max.bytes", SET, "x")))
        await ask("group", change(GROUP, broker.named("g"), ("consumer.session.timeout.ms", SET, "46000")))
        await ask("group, unknown", change(GROUP, broker.named("g"), ("no.such", SET, "46000")))
        await ask("group, out of bounds", change(GROUP, broker.named("g"), ("consumer.session.timeout.ms", SET, "1")))
        await ask("empty group", change(GROUP, "", ("consumer.session.timeout.ms", SET, "46000")))
        await ask("client metrics", change(CLIENT_METRICS, broker.named("m"), ("interval.ms", SET, "60000")))
        await ask("client metrics, unknown", change(CLIENT_METRICS, broker.named("m"), ("no.such", SET, "1")))
        await ask("client metrics, bad", change(CLIENT_METRICS, broker.named("m"), ("interval.ms", SET, "1")))
        await ask("empty client metrics", change(CLIENT_METRICS, "", ("interval.ms", SET, "60000")))
        await ask("no resources")
        await _settled(broker, full, version, {"cleanup.policy": "", "retention.ms": "-1"})


async def alter_configs(broker: Broker) -> None:
    """The older API replaces everything that is set."""
    for version in versions_of("AlterConfigs"):
        full = await broker.topic(f"t{version}", max_message_bytes="1234")

        async def ask(label: str, *resources: dict[str, Any], check: bool = False, version: int = version) -> None:
            await broker.ask(label, "AlterConfigs", version, resources=list(resources), validate_only=check)

        def to(name: str, kind: int = TOPIC, **values: str | None) -> dict[str, Any]:
            rows = [{"name": key.replace("_", "."), "value": value} for key, value in values.items()]
            return {"resource_type": kind, "resource_name": name, "configs": rows}

        await ask("unknown key", to(full, no_such="1"))
        await ask("bad value", to(full, retention_ms="x"))
        await ask("null value", to(full, retention_ms=None))
        await ask("unknown topic", to(broker.named("gone"), retention_ms="1"))
        await ask("invalid topic", to("no/slash", retention_ms="1"))
        await ask("type 0", to("x", 0, retention_ms="1"))
        await ask("only checked", to(full, retention_ms="5"), check=True)
        await ask("nothing")
        twice = to(full)
        twice["configs"] = [{"name": "retention.ms", "value": "1"}, {"name": "retention.ms", "value": "2"}]
        await ask("same key twice", twice, check=True)
        await ask("replaced", to(full, retention_ms="-1", segment_ms="1000"))
        await _settled(broker, full, version, {"retention.ms": "-1", "segment.ms": "1000"})

    twice = [to(broker.named("x"), retention_ms=value) for value in ("1", "2")]
    await broker.outcome("same resource twice", 2, frame("AlterConfigs", 2, resources=twice, validate_only=False))


async def _settled(broker: Broker, full: str, version: int, wanted: dict[str, str]) -> None:
    """What is set at the end; Kafka's broker hears of it a moment after the answer."""
    for _ in range(100):
        answer = await broker.call("DescribeConfigs", 4, resources=[resource(TOPIC, full)])
        found = {entry.name: entry.value for entry in answer.results[0].configs if entry.config_source == 1}
        if found == wanted:
            break
        await asyncio.sleep(0.02)
    broker.note("set at the end", version, found)


SCENARIOS = (describe_configs, incremental_alter_configs, alter_configs)
