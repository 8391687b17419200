"""APIs that have little to say on a broker without security, without disks and without a quorum: in every version an
answer, and Kafka's errors for what Kafka would refuse (tests/compatibility/scenarios/unsecured.py compares them)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers.cli.compatibility import IN_PART
from brokers.errors import KafkaError
from brokers.handlers import table
from brokers.protocol.apis import API_BY_NAME
from brokers.protocol.messages import encode, request_class
from tests.compatibility.messages import encode_request
from tests.support.admin_world import AdminWorld
from tests.support.kafka_wire import sample_message


@pytest.fixture
async def world() -> AsyncIterator[AdminWorld]:
    async with AdminWorld() as made:
        yield made


async def ask(world: AdminWorld, api: str, version: int, **values: Any) -> Any:
    return await world.send(API_BY_NAME[api].key, version, encode_request(api, version, values))


RAW = {"CreateDelegationToken", "RenewDelegationToken", "ExpireDelegationToken"}
"""kio has no class for their answers: tests/compatibility holds their bytes against Kafka's."""
VERSIONS = [
    (api.name, version)
    for api in API_BY_NAME.values()
    if api.name in IN_PART and api.name not in RAW
    for version in range(api.min, api.max + 1)
]


@pytest.mark.parametrize("name, version", VERSIONS)
async def test_every_version_has_an_answer(world: AdminWorld, name: str, version: int) -> None:
    key = API_BY_NAME[name].key
    cls = request_class(key, version)
    world.partitions.log = lambda *_: _unknown()
    answer = await world.send(key, version, encode(cls, sample_message(cls, Random(version))))
    assert answer is not None


def _unknown() -> None:
    raise KafkaError(ErrorCode.unknown_topic_or_partition)


FILTERS = {
    "an empty type": ([("", 0, "x")], "empty"),
    "a type twice": ([("user", 0, "x"), ("user", 1, None)], "more than once"),
    "an unknown type": ([("planet", 0, "x")], "Unsupported"),
    "no name": ([("user", 0, None)], "null"),
    "a name for the default": ([("user", 1, "x")], "DEFAULT"),
    "a name for any": ([("user", 2, "x")], "SPECIFIED"),
    "an unknown match": ([("user", 3, "x")], "Unknown match type 3"),
    "an address and a user": ([("ip", 2, None), ("user", 2, None)], "combination"),
}


@pytest.mark.parametrize("name", FILTERS)
async def test_a_filter_of_quotas_that_kafka_refuses(world: AdminWorld, name: str) -> None:
    components, words = FILTERS[name]
    rows = [{"entity_type": kind, "match_type": match, "match": value} for kind, match, value in components]
    answer = await ask(world, "DescribeClientQuotas", 1, components=rows, strict=False)
    assert answer.entries is None and words in answer.error_message
    wanted = ErrorCode.unsupported_version if name == "an unknown type" else ErrorCode.invalid_request
    assert answer.error_code is wanted


USER = [("user", "u")]
QUOTAS = {
    "nobody": ([], [("producer_byte_rate", 1.0)], "Invalid empty client quota entity"),
    "an unknown type": ([("planet", "earth")], [("producer_byte_rate", 1.0)], "Unhandled"),
    "an address and a user": ([("ip", "::1"), *USER], [("connection_creation_rate", 1.0)], "combination"),
    "a key twice": (USER, [("producer_byte_rate", 1.0), ("producer_byte_rate", 2.0)], "Duplicate quota key"),
    "an unknown key": (USER, [("connection_creation_rate", 1.0)], "Invalid configuration key"),
    "zero": (USER, [("request_percentage", 0.0)], "greater than 0"),
    "no number": (USER, [("request_percentage", float("nan"))], "greater than 0"),
    "half a byte": (USER, [("consumer_byte_rate", 1.5)], "fractional"),
    "half a percent": (USER, [("request_percentage", 1.5)], "not enforced"),
    "of an address": ([("ip", "::1")], [("connection_creation_rate", 3.0)], "not enforced"),
}


@pytest.mark.parametrize("name", QUOTAS)
async def test_a_quota_is_refused_with_the_reason(world: AdminWorld, name: str) -> None:
    entity, ops, words = QUOTAS[name]
    entry = {
        "entity": [{"entity_type": kind, "entity_name": value} for kind, value in entity],
        "ops": [{"key": key, "value": value, "remove": False} for key, value in ops],
    }
    answer = await ask(world, "AlterClientQuotas", 1, entries=[entry], validate_only=False)
    (found,) = answer.entries
    assert words in found.error_message
    wanted = ErrorCode.unsupported_version if words == "not enforced" else ErrorCode.invalid_request
    assert found.error_code is wanted


async def test_a_credential_named_twice_is_refused_once(world: AdminWorld) -> None:
    one = {"name": "u", "mechanism": 1, "iterations": 4096, "salt": b"s", "salted_password": b"p"}
    gone = {"name": "u", "mechanism": 1}
    answer = await ask(world, "AlterUserScramCredentials", 0, deletions=[gone], upsertions=[one])
    assert [(found.user, found.error_code) for found in answer.results] == [("u", ErrorCode.duplicate_resource)]


@pytest.mark.parametrize("api", ["AddRaftVoter", "RemoveRaftVoter"])
async def test_another_clusters_voter(world: AdminWorld, api: str) -> None:
    answer = await ask(world, api, 0, cluster_id="of somebody else")
    assert answer.error_code is ErrorCode.inconsistent_cluster_id
    answer = await ask(world, api, 0, cluster_id=world.image.cluster_id)
    assert answer.error_code is not ErrorCode.inconsistent_cluster_id and "Raft" in answer.error_message


async def test_a_broker_that_is_registered_is_not_unregistered(world: AdminWorld) -> None:
    answer = await ask(world, "UnregisterBroker", 0, broker_id=1)
    assert answer.error_code is ErrorCode.invalid_request and "ponor node forget" in answer.error_message
    answer = await ask(world, "UnregisterBroker", 0, broker_id=2)
    assert answer.error_code is ErrorCode.broker_id_not_registered


async def test_a_feature_has_the_level_that_is_built(world: AdminWorld) -> None:
    name, level = "transaction.version", 2
    await world.metadata.update_features({name: level})
    await world.refresh()

    async def update(version: int, level: int, **more: Any) -> Any:
        row = {"feature": name, "max_version_level": level} | more
        return await ask(world, "UpdateFeatures", version, timeout=1, feature_updates=[row])

    for version in (0, 1, 2):
        more: dict[str, Any] = {"upgrade_type": 1} if version else {"allow_downgrade": False}
        assert (await update(version, level, **more)).error_code is ErrorCode.none
        for wrong in (level + 1, level - 1, -1):
            answer = await update(version, wrong, **more)
            assert answer.error_code is ErrorCode.invalid_update_version and name in answer.error_message
    assert [result.feature for result in (await update(1, level, upgrade_type=1)).results] == [name]
    assert (await update(0, level, allow_downgrade=True)).error_code is ErrorCode.none
    assert "upgrade type" in (await update(2, level, upgrade_type=7)).error_message


async def test_config_resources_are_listed_by_kind(world: AdminWorld) -> None:
    await world.metadata.alter_configs("group", "g", {"consumer.session.timeout.ms": "46000"})
    await world.metadata.alter_configs("client-metrics", "m", {"interval.ms": "1000", "metrics": ""})
    for version, kinds, found in (
        (0, None, [("m", None)]),
        (1, [], [("1", 4), ("1", 8), ("m", 16), ("g", 32)]),
        (1, [32, 32], [("g", 32)]),
        (1, [2], []),
    ):
        more = {} if kinds is None else {"resource_types": kinds}
        answer = await ask(world, "ListConfigResources", version, **more)
        rows = [(row.resource_name, getattr(row, "resource_type", None)) for row in answer.config_resources]
        assert (answer.error_code, rows) == (ErrorCode.none, found)
    answer = await ask(world, "ListConfigResources", 1, resource_types=[2, 3])
    assert answer.error_code is ErrorCode.unsupported_version


async def test_a_replica_is_in_the_object_store_and_stays_there(world: AdminWorld) -> None:
    store = world.services.config.object_store_url
    world.partitions.log = lambda topic, partition: None if topic == "t" else _unknown()

    async def put(path: str, topic: str) -> ErrorCode:
        answer = await ask(
            world, "AlterReplicaLogDirs", 2, dirs=[{"path": path, "topics": [{"name": topic, "partitions": [0]}]}]
        )
        code: ErrorCode = answer.results[0].partitions[0].error_code
        return code

    assert await put(store, "t") is ErrorCode.none
    assert await put(store, "gone") is ErrorCode.unknown_topic_or_partition
    assert await put("/elsewhere", "t") is ErrorCode.log_dir_not_found


ALL_FAIL = ["AlterClientQuotas", "AlterReplicaLogDirs", "UpdateFeatures", "ListConfigResources"]


@pytest.mark.parametrize("api", ALL_FAIL)
def test_a_fault_of_the_whole_request_is_an_answer_too(api: str) -> None:
    key = API_BY_NAME[api].key
    handler = table.handler(key)
    assert handler.error_response is not None
    request = sample_message(request_class(key, handler.max), Random(1))
    assert handler.error_response(request, ErrorCode.unknown_server_error, handler.max) is not None
