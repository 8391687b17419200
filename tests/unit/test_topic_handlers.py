"""What is said of topics and what changes them: in every version, with Kafka's codes and words."""

from __future__ import annotations

import base64
from dataclasses import replace
from random import Random
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.handlers import create_topics
from brokers.handlers.topic_rules import INTERNAL_TOPICS, new_topic_id
from brokers.protocol.messages import NO_TIME, request_class
from s3stream.errors import Unavailable
from tests.support.admin_world import AdminWorld

CREATE, DELETE, PARTITIONS = 19, 20, 37


def topic_of(version: int, name: str, partitions: int = 1, factor: int = 1, **more: Any) -> Any:
    module = __import__(f"kio.schema.create_topics.v{version}.request", fromlist=["x"])
    configs = tuple(
        module.CreatableTopicConfig(name=key, value=value) for key, value in more.get("configs", {}).items()
    )
    assignments = tuple(
        module.CreatableReplicaAssignment(partition_index=index, broker_ids=tuple(nodes))
        for index, nodes in more.get("assignments", ())
    )
    return module.CreatableTopic(
        name=name, num_partitions=partitions, replication_factor=factor, assignments=assignments, configs=configs
    )


async def create(world: AdminWorld, *topics: Any, version: int = 7, validate_only: bool = False) -> list[Any]:
    answer = await world.call("CreateTopics", version, topics=topics, timeout=NO_TIME, validate_only=validate_only)
    return list(answer.topics)


async def create_one(world: AdminWorld, name: str, partitions: int = 1, factor: int = 1, **more: Any) -> Any:
    (result,) = await create(world, topic_of(7, name, partitions, factor, **more))
    return result


# --- CreateTopics --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(2, 8))
async def test_a_created_topic_is_in_the_image_when_the_answer_comes(version: int) -> None:
    async with AdminWorld() as world:
        (result,) = await create(world, topic_of(version, "orders", 3), version=version)
        assert (result.name, result.error_code) == ("orders", ErrorCode.none)
        assert len(world.image.topics["orders"].partitions) == 3
        if version >= 5:
            assert (result.num_partitions, result.replication_factor) == (3, 1)
            shown = {config.name: (config.value, config.config_source) for config in result.configs}
            assert shown["retention.ms"] == ("604800000", 5)
            assert list(shown) == sorted(shown)
        if version >= 7:
            assert result.topic_id == world.image.topics["orders"].topic_id


async def test_defaults_of_the_broker_fill_minus_one() -> None:
    async with AdminWorld(nodes=2, num__partitions="4", default__replication__factor="2") as world:
        result = await create_one(world, "orders", -1, -1)
        assert (result.num_partitions, result.replication_factor) == (4, 2)
        leaders = [partition.replicas[0] for partition in world.image.topics["orders"].partitions]
        assert sorted(leaders) == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("topic", "code", "words"),
    [
        (topic_of(7, ""), ErrorCode.invalid_topic_exception, "the empty string is not allowed"),
        (topic_of(7, ".."), ErrorCode.invalid_topic_exception, "'..' is not allowed"),
        (topic_of(7, "x" * 250), ErrorCode.invalid_topic_exception, "longer than the max allowed length 249"),
        (topic_of(7, "a b"), ErrorCode.invalid_topic_exception, "other than ASCII alphanumerics"),
        (topic_of(7, "there"), ErrorCode.topic_already_exists, "Topic 'there' already exists."),
        (topic_of(7, "dot_ted"), ErrorCode.invalid_topic_exception, "collides with existing topic: dot.ted"),
        (topic_of(7, "p", 0), ErrorCode.invalid_partitions, "invalid non-positive value"),
        (topic_of(7, "p", -2), ErrorCode.invalid_partitions, "invalid non-positive value"),
        (topic_of(7, "p", 1, 0), ErrorCode.invalid_replication_factor, "larger than 0, or -1"),
        (topic_of(7, "p", 1, 2), ErrorCode.invalid_replication_factor, "only 1 broker(s) are registered"),
        (topic_of(7, "p", configs={"no.such": "1"}), ErrorCode.invalid_config, "Unknown topic config name: no.such"),
        (topic_of(7, "p", configs={"retention.ms": None}), ErrorCode.invalid_config, "Null value not supported"),
        (topic_of(7, "p", configs={"retention.ms": "-2"}), ErrorCode.invalid_config, "Value must be at least -1"),
        (topic_of(7, "p", configs={"segment.bytes": "1e3"}), ErrorCode.invalid_config, "Not a number of type INT"),
        (topic_of(7, "p", 1, -1, assignments=[(0, [1])]), ErrorCode.invalid_request, "numPartitions was not set"),
        (topic_of(7, "p", -1, 1, assignments=[(0, [1])]), ErrorCode.invalid_request, "factor was not set to -1"),
        (topic_of(7, "p", -1, -1, assignments=[(0, [9])]), ErrorCode.invalid_replica_assignment, "broker 9"),
        (topic_of(7, "p", -1, -1, assignments=[(0, [])]), ErrorCode.invalid_replica_assignment, "empty replica list"),
        (topic_of(7, "p", -1, -1, assignments=[(0, [1, 1])]), ErrorCode.invalid_replica_assignment, "than once"),
        (topic_of(7, "p", -1, -1, assignments=[(1, [1])]), ErrorCode.invalid_replica_assignment, "consecutive 0-based"),
        (
            topic_of(7, "p", -1, -1, assignments=[(0, [1]), (0, [1])]),
            ErrorCode.invalid_replica_assignment,
            "multiple manual partition assignments for partition 0",
        ),
        (topic_of(7, "__cluster_metadata"), ErrorCode.invalid_request, "is prohibited"),
    ],
)
async def test_what_kafka_refuses_is_refused_in_its_words(topic: Any, code: ErrorCode, words: str) -> None:
    async with AdminWorld() as world:
        await create(world, topic_of(7, "there"), topic_of(7, "dot.ted"))
        (result,) = await create(world, topic)
        assert result.error_code == code
        assert words in result.error_message
        assert set(world.image.topics) == {"there", "dot.ted"}


async def test_one_bad_topic_does_not_cost_the_others_and_a_name_twice_is_refused() -> None:
    async with AdminWorld() as world:
        results = await create(
            world, topic_of(7, "good"), topic_of(7, "b@d"), topic_of(7, "twice"), topic_of(7, "twice", 2)
        )
        assert [(result.name, result.error_code) for result in results] == [
            ("good", ErrorCode.none),
            ("b@d", ErrorCode.invalid_topic_exception),
            ("twice", ErrorCode.invalid_request),
        ]
        assert set(world.image.topics) == {"good"}


async def test_validate_only_creates_nothing() -> None:
    async with AdminWorld() as world:
        (result,) = await create(world, topic_of(7, "orders"), validate_only=True)
        assert (result.error_code, result.num_partitions) == (ErrorCode.none, 1)
        assert not world.image.topics


async def test_too_many_partitions_refuse_the_whole_request() -> None:
    async with AdminWorld() as world:
        results = await create(world, topic_of(7, "a"), topic_of(7, "b", 10_000))
        assert {result.error_code for result in results} == {ErrorCode.policy_violation}
        assert not world.image.topics


async def test_metadata_records_are_bounded_as_in_kafka() -> None:
    async with AdminWorld() as world:
        (most,) = await create(world, topic_of(7, "t", 9_999), validate_only=True)
        (all_but_one,) = await create(world, topic_of(7, "t", 9_999, configs={"a": "b"}), validate_only=True)
        (beyond,) = await create(world, topic_of(7, "t", 10_000), validate_only=True)
        assert most.error_code == ErrorCode.none
        for refused in (all_but_one, beyond):
            assert refused.error_code == ErrorCode.policy_violation
            assert refused.error_message


async def test_a_database_that_does_not_answer_is_retriable() -> None:
    async with AdminWorld() as world:

        async def away(*_: object, **__: object) -> None:
            raise Unavailable("locked")

        world.metadata.create_topics = away  # type: ignore[method-assign, assignment]
        result = await create_one(world, "orders")
        assert result.error_code == ErrorCode.request_timed_out
        assert "did not answer" in result.error_message


async def test_topics_of_one_request_are_made_together_and_one_that_is_taken_costs_the_others_nothing() -> None:
    async with AdminWorld() as world:
        await create_one(world, "taken")
        before = world.image
        # As for a request that was checked before another broker made the topic.
        world.partitions.image = replace(before, topics={}, topics_by_id={})
        results = await create(world, *(topic_of(7, name, 2, 1) for name in ("a", "taken", "b")))
        codes = {result.name: result.error_code for result in results}
        assert codes == {"a": ErrorCode.none, "b": ErrorCode.none, "taken": ErrorCode.topic_already_exists}
        image = await world.metadata.load_image()
        assert image.version == before.version + 1, "brokers follow one image, not one for each topic"
        assert image.topics["taken"].topic_id == before.topics["taken"].topic_id
        assert [len(image.topics[name].partitions) for name in ("a", "b")] == [2, 2]


async def test_many_partitions_are_made_a_bounded_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create_topics, "PARTITIONS_PER_CREATION", 5)
    async with AdminWorld() as world:
        before = world.image.version
        results = await create(world, *(topic_of(7, f"t{number}", 2, 1) for number in range(5)))
        assert [result.error_code for result in results] == [ErrorCode.none] * 5
        assert world.image.version == before + 3, "two topics in each transaction, the fifth alone"
        (large,) = await create(world, topic_of(7, "large", 11, 1))
        assert large.error_code == ErrorCode.none, "a topic is not divided"


async def test_a_topics_own_configs_are_stored_and_shown_as_its_own() -> None:
    async with AdminWorld() as world:
        result = await create_one(world, "t", configs={"cleanup.policy": "compact, delete", "retention.ms": "60000"})
        shown = {config.name: (config.value, config.config_source) for config in result.configs}
        assert shown["cleanup.policy"] == ("compact,delete", 1)
        assert shown["retention.ms"] == ("60000", 1)
        assert world.image.topics["t"].configs["retention.ms"] == "60000"


def test_a_topic_ids_text_never_begins_like_an_option() -> None:
    class Chance(Random):
        def getrandbits(self, k: int) -> int:
            return next(draws)

    draws = iter((62 << 122, 62 << 122 | 5, 7 << 122))
    topic_id = new_topic_id(Chance())
    assert not base64.urlsafe_b64encode(topic_id.bytes).startswith(b"-")
    assert next(draws, None) is None


# --- DeleteTopics --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(1, 6))
async def test_topics_are_deleted_by_name(version: int) -> None:
    async with AdminWorld() as world:
        await create(world, topic_of(7, "a"), topic_of(7, "b"))
        answer = await world.call("DeleteTopics", version, topic_names=("a", "nope"), timeout=NO_TIME)
        codes = {result.name: result.error_code for result in answer.responses}
        assert codes == {"a": ErrorCode.none, "nope": ErrorCode.unknown_topic_or_partition}
        assert set(world.image.topics) == {"b"}


def deletions(*wanted: tuple[str | None, UUID | None]) -> tuple[Any, ...]:
    from kio.schema.delete_topics.v6.request import DeleteTopicState

    return tuple(DeleteTopicState(name=name, topic_id=topic_id) for name, topic_id in wanted)  # type: ignore[arg-type]


async def test_topics_are_deleted_by_id_and_contradictions_are_refused() -> None:
    async with AdminWorld() as world:
        await create(world, *(topic_of(7, name) for name in "abcde"))
        ids = {name: topic.topic_id for name, topic in world.image.topics.items()}
        wanted = deletions(
            (None, ids["a"]), ("b", None), ("c", ids["c"]), (None, None), (None, UUID(int=77)),
            (None, ids["d"]), ("d", None), ("e", None), ("e", None),
        )  # fmt: skip
        answer = await world.call("DeleteTopics", 6, topics=wanted, timeout=NO_TIME)
        codes = {(result.name, result.topic_id): result.error_code for result in answer.responses}
        assert codes == {
            ("a", ids["a"]): ErrorCode.none,
            ("b", ids["b"]): ErrorCode.none,
            ("c", ids["c"]): ErrorCode.invalid_request,
            (None, None): ErrorCode.invalid_request,
            (None, UUID(int=77)): ErrorCode.unknown_topic_id,
            ("d", ids["d"]): ErrorCode.invalid_request,
            ("e", None): ErrorCode.invalid_request,
        }
        assert set(world.image.topics) == {"c", "d", "e"}


@pytest.mark.parametrize(("version", "code"), [(2, ErrorCode.invalid_request), (5, ErrorCode.topic_deletion_disabled)])
async def test_deletion_can_be_switched_off(version: int, code: ErrorCode) -> None:
    async with AdminWorld(delete__topic__enable="false") as world:
        await create_one(world, "a")
        answer = await world.call("DeleteTopics", version, topic_names=("a",), timeout=NO_TIME)
        assert [result.error_code for result in answer.responses] == [code]
        assert "a" in world.image.topics


# --- CreatePartitions ----------------------------------------------------------------------------


async def add(world: AdminWorld, version: int, name: str, count: int, assignments: Any = None, **more: Any) -> Any:
    module = __import__(f"kio.schema.create_partitions.v{version}.request", fromlist=["x"])
    if assignments is not None:
        assignments = tuple(module.CreatePartitionsAssignment(broker_ids=tuple(nodes)) for nodes in assignments)
    topic = module.CreatePartitionsTopic(name=name, count=count, assignments=assignments)
    fields = {"validate_only": False} | more
    answer = await world.call("CreatePartitions", version, topics=(topic,), timeout=NO_TIME, **fields)
    (result,) = answer.results
    return result


@pytest.mark.parametrize("version", range(4))
async def test_partitions_are_added(version: int) -> None:
    async with AdminWorld() as world:
        await create_one(world, "t", 2)
        assert (await add(world, version, "t", 5)).error_code == ErrorCode.none
        assert [part.partition for part in world.image.topics["t"].partitions] == [0, 1, 2, 3, 4]


async def test_additions_that_make_no_sense_change_nothing() -> None:
    async with AdminWorld() as world:
        await create_one(world, "t", 2)
        refused = {
            ("nope", 3): ErrorCode.unknown_topic_or_partition,
            ("t", 2): ErrorCode.invalid_partitions,
            ("t", 1): ErrorCode.invalid_partitions,
        }
        for (name, count), code in refused.items():
            assert (await add(world, 3, name, count)).error_code == code
        for assignments in ([], [[1], [1]], [[2]], [[1, 1]]):
            result = await add(world, 3, "t", 3, assignments)
            assert result.error_code == ErrorCode.invalid_replica_assignment
        too_many = await add(world, 3, "t", 10_003)
        assert (too_many.error_code, too_many.error_message) == (
            ErrorCode.policy_violation, "Excessively large number of partitions per request.",
        )  # fmt: skip
        assert (await add(world, 3, "t", 3, validate_only=True)).error_code == ErrorCode.none
        assert len(world.image.topics["t"].partitions) == 2


async def test_nothing_is_assigned_by_hand_to_brokers_that_are_all_dead() -> None:
    async with AdminWorld(nodes=2) as world:
        await create_one(world, "t", 1)
        await world.metadata.unregister_node(world.identities[2])
        await world.refresh()
        for result in (
            await create_one(world, "new", -1, -1, assignments=[(0, [1]), (1, [2])]),
            await add(world, 3, "t", 2, [[2]]),
        ):
            assert result.error_code == ErrorCode.invalid_replica_assignment
            assert "for partition 1 are fenced or in controlled shutdown" in result.error_message
        assert {name: len(topic.partitions) for name, topic in world.image.topics.items()} == {"t": 1}
        assert (await add(world, 3, "t", 2, [[1]])).error_code == ErrorCode.none


# --- Metadata ------------------------------------------------------------------------------------


def metadata_request(version: int, names: tuple[str, ...] | None, **more: Any) -> dict[str, Any]:
    module = __import__(f"kio.schema.metadata.v{version}.request", fromlist=["x"])
    ids = {"topic_id": None} if version >= 10 else {}
    topics = None if names is None else tuple(module.MetadataRequestTopic(name=name, **ids) for name in names)
    known = request_class(3, version).__dataclass_fields__
    defaults = {"include_cluster_authorized_operations": False, "include_topic_authorized_operations": False}
    fields = {"allow_auto_topic_creation": False} | defaults | more
    return {"topics": topics} | {name: value for name, value in fields.items() if name in known}


@pytest.mark.parametrize("version", range(14))
async def test_metadata_shows_leaders_in_every_version(version: int) -> None:
    async with AdminWorld(nodes=2) as world:
        await create_one(world, "t", -1, -1, assignments=[(0, [1, 2]), (1, [2, 1])])
        await world.open("t")
        answer = await world.call("Metadata", version, **metadata_request(version, ("t",)))
        assert {(node.node_id, node.host, node.port) for node in answer.brokers} == {
            (1, "node-1", 9092),
            (2, "node-2", 9093),
        }
        (topic,) = answer.topics
        assert (topic.name, topic.error_code) == ("t", ErrorCode.none)
        first, second = topic.partitions
        assert (first.leader_id, first.replica_nodes, first.isr_nodes) == (1, (1, 2), (1, 2))
        assert (second.leader_id, second.replica_nodes) == (1, (2, 1))
        if version >= 2:
            assert answer.cluster_id == world.metadata.cluster_id
        if version >= 7:
            assert first.leader_epoch == 0
        if version >= 10:
            assert topic.topic_id == world.image.topics["t"].topic_id


@pytest.mark.parametrize(
    ("version", "names", "all_of_them"),
    [(0, (), True), (1, None, True), (1, (), False), (13, None, True), (13, (), False)],
)
async def test_no_topics_and_all_topics_are_told_apart(version: int, names: Any, all_of_them: bool) -> None:
    async with AdminWorld() as world:
        await create(world, topic_of(7, "a"), topic_of(7, "b"))
        answer = await world.call("Metadata", version, **metadata_request(version, names))
        assert {topic.name for topic in answer.topics} == ({"a", "b"} if all_of_them else set())


async def test_dead_replicas_are_offline_and_missing_in_version_0() -> None:
    async with AdminWorld(nodes=2) as world:
        await create_one(world, "t", -1, -1, assignments=[(0, [1, 2])])
        await world.open("t")
        other = await world.metadata.register_node(2, "memory:2", {"PLAINTEXT": "node-2:9093"})
        await world.metadata.unregister_node(other.identity)
        await world.refresh()
        newest = await world.call("Metadata", 13, **metadata_request(13, ("t",)))
        partition = newest.topics[0].partitions[0]
        assert (partition.error_code, partition.isr_nodes, partition.offline_replicas) == (ErrorCode.none, (1,), (2,))
        assert [node.node_id for node in newest.brokers] == [1]
        oldest = await world.call("Metadata", 0, **metadata_request(0, ("t",)))
        partition = oldest.topics[0].partitions[0]
        assert (partition.error_code, partition.replica_nodes) == (ErrorCode.replica_not_available, (1,))


async def test_a_partition_nobody_has_open_has_no_leader() -> None:
    async with AdminWorld() as world:
        await create_one(world, "t")
        answer = await world.call("Metadata", 13, **metadata_request(13, ("t",)))
        partition = answer.topics[0].partitions[0]
        assert (partition.error_code, partition.leader_id) == (ErrorCode.leader_not_available, -1)


@pytest.mark.parametrize("version", [0, 3, 4, 13])
async def test_unknown_topics_are_created_where_both_sides_allow_it(version: int) -> None:
    async with AdminWorld(num__partitions="2") as world:
        answer = await world.call(
            "Metadata", version, **metadata_request(version, ("new", "b@d"), allow_auto_topic_creation=True)
        )
        codes = {topic.name: topic.error_code for topic in answer.topics}
        assert codes == {"new": ErrorCode.none, "b@d": ErrorCode.invalid_topic_exception}
        assert len(world.image.topics["new"].partitions) == 2


@pytest.mark.parametrize(("enabled", "allowed"), [("false", True), ("true", False)])
async def test_topics_are_not_created_where_one_side_forbids_it(enabled: str, allowed: bool) -> None:
    async with AdminWorld(auto__create__topics__enable=enabled) as world:
        answer = await world.call("Metadata", 13, **metadata_request(13, ("new",), allow_auto_topic_creation=allowed))
        assert answer.topics[0].error_code == ErrorCode.unknown_topic_or_partition
        assert not world.image.topics


async def test_topics_are_found_by_id_from_version_12_on() -> None:
    from kio.schema.metadata.v12.request import MetadataRequestTopic

    async with AdminWorld() as world:
        await create_one(world, "t")
        topic_id = world.image.topics["t"].topic_id
        wanted = tuple(MetadataRequestTopic(topic_id=one, name=None) for one in (topic_id, UUID(int=5)))
        answer = await world.call("Metadata", 12, **metadata_request(12, None) | {"topics": wanted})
        found = {topic.topic_id: (topic.name, topic.error_code) for topic in answer.topics}
        assert found == {topic_id: ("t", ErrorCode.none), UUID(int=5): (None, ErrorCode.unknown_topic_id)}


@pytest.mark.parametrize("version", [10, 11, 12, 13])
async def test_a_request_that_makes_no_sense_learns_nothing_of_the_cluster(version: int) -> None:
    module = __import__(f"kio.schema.metadata.v{version}.request", fromlist=["x"])
    async with AdminWorld() as world:
        await create_one(world, "t")
        nameless = (module.MetadataRequestTopic(topic_id=None, name=None),)
        answer = await world.call("Metadata", version, **metadata_request(version, None) | {"topics": nameless})
        code = ErrorCode.invalid_request if version < 12 else ErrorCode.unknown_server_error
        assert [(topic.name, topic.error_code) for topic in answer.topics] == [("", code)]
        assert (answer.brokers, answer.cluster_id, answer.controller_id) == ((), None, -1)
        if version >= 13:
            assert answer.error_code == code


@pytest.mark.parametrize("name", sorted(INTERNAL_TOPICS))
async def test_a_coordinators_topic_is_created_on_first_use_in_its_own_shape(name: str) -> None:
    async with AdminWorld() as world:
        answer = await world.call("Metadata", 8, **metadata_request(8, (name,), allow_auto_topic_creation=True))
        assert (answer.topics[0].error_code, len(answer.topics[0].partitions)) == (ErrorCode.none, 50)
        policy = world.image.topics[name].configs["cleanup.policy"]
        assert policy == ("delete" if name == "__share_group_state" else "compact")


async def test_a_topic_that_cannot_be_created_on_first_use_is_unknown() -> None:
    async with AdminWorld() as world:
        await create_one(world, "dot.ted")
        answer = await world.call("Metadata", 8, **metadata_request(8, ("dot_ted",), allow_auto_topic_creation=True))
        assert answer.topics[0].error_code == ErrorCode.unknown_topic_or_partition
        assert set(world.image.topics) == {"dot.ted"}


async def test_authorized_operations_are_shown_when_asked_for() -> None:
    async with AdminWorld() as world:
        await create_one(world, "t")
        both = {"include_cluster_authorized_operations": True, "include_topic_authorized_operations": True}
        answer = await world.call("Metadata", 8, **metadata_request(8, ("t",), **both))
        assert answer.topics[0].topic_authorized_operations == 0b110111111000
        assert answer.cluster_authorized_operations == 0b1111110100000


async def test_a_kept_answer_follows_every_change() -> None:
    async with AdminWorld() as world:
        await create_one(world, "t")
        before = await world.call("Metadata", 13, **metadata_request(13, ("t",)))
        await world.open("t")
        await add(world, 3, "t", 2)
        after = await world.call("Metadata", 13, **metadata_request(13, ("t",)))
        assert [p.leader_id for p in before.topics[0].partitions] == [-1]
        assert [p.leader_id for p in after.topics[0].partitions] == [1, -1]
        await world.metadata.register_node(1, "memory:1", {"PLAINTEXT": "moved:1"})
        await world.refresh()
        moved = await world.call("Metadata", 13, **metadata_request(13, ("t",)))
        assert moved.brokers[0].host == "moved"


# --- DescribeCluster, DescribeTopicPartitions ----------------------------------------------------


@pytest.mark.parametrize("version", range(3))
async def test_the_cluster_is_described(version: int) -> None:
    async with AdminWorld(nodes=2) as world:
        other = await world.metadata.register_node(2, "memory:2", {"PLAINTEXT": "node-2:9093"})
        await world.metadata.unregister_node(other.identity)
        await world.refresh()
        fields: dict[str, Any] = {"include_cluster_authorized_operations": True}
        if version >= 2:
            fields["include_fenced_brokers"] = True
        answer = await world.call("DescribeCluster", version, **fields)
        nodes = {node.broker_id: getattr(node, "is_fenced", False) for node in answer.brokers}
        assert nodes == ({1: False, 2: True} if version >= 2 else {1: False})
        assert (answer.cluster_id, answer.controller_id) == (world.metadata.cluster_id, 1)


@pytest.mark.parametrize(
    ("endpoint", "code"), [(2, ErrorCode.mismatched_endpoint_type), (7, ErrorCode.unsupported_endpoint_type)]
)
async def test_controllers_are_not_described_by_a_broker(endpoint: int, code: ErrorCode) -> None:
    async with AdminWorld() as world:
        answer = await world.call(
            "DescribeCluster", 1, include_cluster_authorized_operations=False, endpoint_type=endpoint
        )
        assert answer.error_code == code
        assert answer.cluster_id == "", "an error tells nothing of the cluster"


async def describe(world: AdminWorld, names: tuple[str, ...], limit: int, cursor: Any = None) -> Any:
    from kio.schema.describe_topic_partitions.v0.request import TopicRequest

    topics = tuple(TopicRequest(name=name) for name in names)  # type: ignore[arg-type]
    return await world.call("DescribeTopicPartitions", 0, topics=topics, response_partition_limit=limit, cursor=cursor)


async def test_pages_of_partitions_cover_everything_once() -> None:
    from kio.schema.describe_topic_partitions.v0.request import Cursor

    async with AdminWorld() as world:
        await create(world, topic_of(7, "b", 5), topic_of(7, "a", 3), topic_of(7, "c", 2))
        seen, cursor = [], None
        while True:
            answer = await describe(world, (), 4, cursor)
            page = [(topic.name, p.partition_index) for topic in answer.topics for p in topic.partitions]
            assert len(page) <= 4
            seen += page
            if answer.next_cursor is None:
                break
            cursor = Cursor(
                topic_name=answer.next_cursor.topic_name, partition_index=answer.next_cursor.partition_index
            )
        assert seen == [(name, n) for name, count in (("a", 3), ("b", 5), ("c", 2)) for n in range(count)]


async def test_unknown_topics_and_bad_cursors() -> None:
    from kio.schema.describe_topic_partitions.v0.request import Cursor

    async with AdminWorld() as world:
        await create_one(world, "a")
        answer = await describe(world, ("a", "nope", "b@d"), 2000)
        codes = {topic.name: topic.error_code for topic in answer.topics}
        assert codes == {
            "a": ErrorCode.none,
            "nope": ErrorCode.unknown_topic_or_partition,
            "b@d": ErrorCode.invalid_topic_exception,
        }
        assert len({topic.topic_authorized_operations for topic in answer.topics}) == 1, "none tells that it is there"
        for cursor in (Cursor(topic_name="z", partition_index=0), Cursor(topic_name="a", partition_index=-1)):  # type: ignore[arg-type]
            refused = await describe(world, ("a",), 10, cursor)
            assert [topic.error_code for topic in refused.topics] == [ErrorCode.invalid_request]
