"""StreamsGroupHeartbeat and StreamsGroupDescribe over real request bytes: what the group is asked, what is answered."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from kio.schema.create_topics.v7.response import CreatableTopicResult, CreateTopicsResponse
from kio.schema.errors import ErrorCode
from kio.schema.streams_group_heartbeat.v0 import request as wire
from kio.schema.types import TopicName

from brokers.errors import KafkaError
from brokers.groups.streams.member import Endpoint, Subscription
from brokers.groups.streams.messages import (
    DescribedStreamsMember,
    EndpointPartitions,
    Status,
    StatusCode,
    StreamsGroupDescription,
    StreamsHeartbeatAnswer,
    StreamsHeartbeatRequest,
)
from brokers.groups.streams.tasks import TaskSets
from brokers.groups.streams.topology import CopartitionGroup, Subtopology, TopicInfo, Topology
from brokers.handlers import application_topics, create_topics
from brokers.protocol.messages import NO_TIME, milliseconds
from s3stream.errors import Unavailable
from tests.support.broker_services import empty_image, make_services
from tests.support.group_client import GroupClient
from tests.support.manual_clock import ManualClock, settle

BEAT, DESCRIBE = "StreamsGroupHeartbeat", "StreamsGroupDescribe"
SERVED = SimpleNamespace(group_coordinator_rebalance_protocols=("classic", "streams"))
MISSING = Status(StatusCode.MISSING_INTERNAL_TOPICS, "Internal topics are missing: store")
STORE = TopicInfo("store", 4, 0, (("cleanup.policy", "compact"),))


class Groups:
    """Stands for the group coordinator."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, StreamsHeartbeatRequest]] = []
        self.answer = StreamsHeartbeatAnswer("m", 3)
        self.refusal: KafkaError | None = None
        self.described: dict[str, StreamsGroupDescription] = {}

    async def streams_heartbeat(self, group_id: str, request: StreamsHeartbeatRequest) -> StreamsHeartbeatAnswer:
        self.asked.append((group_id, request))
        if self.refusal is not None:
            raise self.refusal
        return self.answer

    async def describe_streams(self, group_id: str) -> StreamsGroupDescription:
        if group_id not in self.described:
            raise KafkaError(ErrorCode.group_id_not_found, f"Group {group_id} not found.")
        return self.described[group_id]


class Client(GroupClient):
    def __init__(self) -> None:
        self.groups = Groups()
        self.clock = ManualClock()
        view = SimpleNamespace(image=empty_image(features={"streams.version": 1}))
        self.services = make_services(groups=self.groups, partitions=view, config=SERVED, clock=self.clock)

    async def join(self, **changes: Any) -> Any:
        values: dict[str, Any] = {
            "group_id": "g", "member_id": "m", "member_epoch": 0, "rebalance_timeout": milliseconds(45_000),
            "topology": made(1), "active_tasks": [], "standby_tasks": [], "warmup_tasks": [], "process_id": "p",
        }  # fmt: skip
        return await self.call(BEAT, 0, **values | changes)

    async def stay(self, **changes: Any) -> Any:
        values: dict[str, Any] = {
            "group_id": "g", "member_id": "m", "member_epoch": 3, "topology": None, "active_tasks": None,
            "standby_tasks": None, "warmup_tasks": None,
        }  # fmt: skip
        return await self.call(BEAT, 0, **values | changes)


@pytest.fixture
def client() -> Client:
    return Client()


def made(epoch: int, *subtopologies: Any) -> Any:
    """A topology of the wire."""
    return wire.Topology(epoch=wire.i32(epoch), subtopologies=subtopologies)


def subtopology(name: str = "0", **changes: Any) -> Any:
    values: dict[str, Any] = {
        "source_topics": (), "source_topic_regex": (), "state_changelog_topics": (), "repartition_sink_topics": (),
        "repartition_source_topics": (), "copartition_groups": (),
    }  # fmt: skip
    return wire.Subtopology(subtopology_id=name, **values | changes)


def topic(name: str, partitions: int = 0) -> Any:
    return wire.TopicInfo(
        name=TopicName(name), partitions=wire.i32(partitions), replication_factor=wire.i16(2),
        topic_configs=(wire.KeyValue(key="a", value="b"),),
    )  # fmt: skip


def tasks(*pairs: tuple[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    return [{"subtopology_id": name, "partitions": parts} for name, parts in pairs]


# --- heartbeat: what is asked ------------------------------------------------------------------


async def test_a_member_that_joins(client: Client) -> None:
    group = wire.CopartitionGroup(source_topics=(0,), source_topic_regex=(), repartition_source_topics=(0,))
    sent = subtopology(
        source_topics=("in",), state_changelog_topics=(topic("store"),), repartition_sink_topics=("out",),
        repartition_source_topics=(topic("again", 4),), copartition_groups=(group,),
    )  # fmt: skip
    await client.join(
        topology=made(2, sent), rack_id="r", user_endpoint=wire.Endpoint(host="h", port=wire.u16(60_000)),
        client_tags=[{"key": "zone", "value": "z"}], endpoint_information_epoch=5, shutdown_application=True,
    )  # fmt: skip
    configs = (("a", "b"),)
    topology = Topology(
        2,
        {
            "0": Subtopology(
                ("in",), (), (TopicInfo("store", 0, 2, configs),), ("out",), (TopicInfo("again", 4, 2, configs),),
                (CopartitionGroup((0,), (), (0,)),),
            )
        },
    )  # fmt: skip
    assert client.groups.asked == [
        (
            "g",
            StreamsHeartbeatRequest(
                "m", 0, 5, "r", 45_000, topology, TaskSets(), "p", Endpoint("h", 60_000), {"zone": "z"}, True,
                "client", "/127.0.0.1",
            ),
        )
    ]  # fmt: skip


async def test_a_member_that_stays(client: Client) -> None:
    await client.stay()
    await client.stay(active_tasks=tasks(("0", (1, 0)), ("1", ())), standby_tasks=tasks(("1", (2,))), warmup_tasks=[])
    said_nothing, said = (request for _, request in client.groups.asked)
    assert said_nothing == StreamsHeartbeatRequest("m", 3, client_id="client", client_host="/127.0.0.1")
    assert said.owned == TaskSets({"0": frozenset((0, 1))}, {"1": frozenset((2,))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instance_id": "i"}, "Static membership is not yet supported."),
        ({"task_offsets": []}, "TaskOffsets are not supported yet."),
        ({"task_end_offsets": []}, "TaskEndOffsets are not supported yet."),
        ({"warmup_tasks": tasks(("0", (1,)))}, "WarmupTasks are not supported yet."),
        ({"topology": made(1, subtopology(source_topic_regex=("a.*",)))},
         "Regular expressions for source topics are not supported yet."),
        ({"member_id": " "}, "MemberId can't be empty."),
        ({"group_id": ""}, "GroupId can't be empty."),
        ({"rack_id": ""}, "RackId can't be empty."),
        ({"rebalance_timeout": milliseconds(-1)}, "RebalanceTimeoutMs must be provided in first request."),
        ({"active_tasks": None}, "ActiveTasks must be empty when (re-)joining."),
        ({"standby_tasks": tasks(("0", (1,)))}, "StandbyTasks must be empty when (re-)joining."),
        ({"warmup_tasks": None}, "WarmupTasks must be empty when (re-)joining."),
        ({"topology": None}, "Topology must be non-null when (re-)joining."),
        ({"member_epoch": -2}, "InstanceId can't be null."),
        ({"member_epoch": -3}, "MemberEpoch is -3, but must be greater than or equal to -2."),
        ({"member_epoch": 3, "active_tasks": None}, "If one task-type is non-null, all must be non-null."),
        ({"member_epoch": 3}, "Topology can only be provided when (re-)joining."),
    ],
    ids=str,
)  # fmt: skip
async def test_requests_that_are_wrong_by_themselves(client: Client, changes: dict[str, Any], message: str) -> None:
    answer = await client.join(**changes)
    assert (answer.error_code, answer.error_message) == (ErrorCode.invalid_request, message)
    assert not client.groups.asked


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (subtopology(source_topics=("__consumer_offsets", "no good")),
         "Use of Kafka internal topics __consumer_offsets in a Kafka Streams topology is prohibited."),
        (subtopology(source_topics=("no good",), repartition_sink_topics=("", "ok", "no good")),
         "Topic names no good, are not valid topic names."),
        (subtopology(repartition_source_topics=(topic("a/b"),), state_changelog_topics=(topic("c d"),)),
         "Topic names a/b,c d are not valid topic names."),
        (subtopology(state_changelog_topics=(topic("store", 2),)),
         "Changelog topic store must have an undefined partition count, but it is set to 2."),
    ],
)  # fmt: skip
async def test_topologies_that_are_wrong_by_themselves(client: Client, sent: Any, message: str) -> None:
    answer = await client.join(topology=made(1, sent))
    assert (answer.error_code, answer.error_message) == (ErrorCode.streams_invalid_topology, message)
    assert not client.groups.asked


@pytest.mark.parametrize("sent", [made(-1), made(1, subtopology(), subtopology())])
async def test_topologies_that_kafka_breaks_over(client: Client, sent: Any) -> None:
    answer = await client.join(topology=sent)
    assert (answer.error_code, answer.error_message) == (ErrorCode.unknown_server_error, None)


async def test_what_the_group_refuses(client: Client) -> None:
    client.groups.refusal = KafkaError(ErrorCode.unknown_member_id, "Who?")
    answer = await client.stay()
    assert (answer.error_code, answer.error_message) == (ErrorCode.unknown_member_id, "Who?")
    assert (answer.member_id, answer.member_epoch, answer.status) == ("", 0, ())
    assert answer.active_tasks is answer.standby_tasks is answer.warmup_tasks is None


@pytest.mark.parametrize("missing", ["feature", "setting"])
async def test_a_protocol_that_is_not_served(client: Client, missing: str) -> None:
    if missing == "feature":
        client.services = replace(client.services, partitions=SimpleNamespace(image=empty_image()))
    else:
        config = SimpleNamespace(group_coordinator_rebalance_protocols=("classic", "consumer"))
        client.services = replace(client.services, config=config)
    assert (await client.join()).error_code is ErrorCode.unsupported_version
    described = await client.call(DESCRIBE, 0, group_ids=["g"])
    assert [group.error_code for group in described.groups] == [ErrorCode.unsupported_version]


# --- heartbeat: what is answered ---------------------------------------------------------------


async def test_an_answer_with_everything(client: Client) -> None:
    endpoints = EndpointPartitions(Endpoint("h", 60_000), {"b": frozenset((1, 0)), "a": frozenset((2,))}, {})
    client.groups.answer = StreamsHeartbeatAnswer(
        "m", 4, 5_000, (Status(StatusCode.ASSIGNMENT_DELAYED, "later"),),
        TaskSets({"1": frozenset((2, 1)), "0": frozenset((0,))}, {"2": frozenset((3,))}), 7, (endpoints,),
    )  # fmt: skip
    answer = await client.stay()
    assert (answer.error_code, answer.error_message, answer.member_id) == (ErrorCode.none, None, "m")
    assert (answer.member_epoch, answer.heartbeat_interval) == (4, milliseconds(5_000))
    assert (answer.acceptable_recovery_lag, answer.task_offset_interval) == (0, NO_TIME)
    assert [(status.status_code, status.status_detail) for status in answer.status] == [(5, "later")]
    assert [(found.subtopology_id, found.partitions) for found in answer.active_tasks] == [("0", (0,)), ("1", (1, 2))]
    assert [(found.subtopology_id, found.partitions) for found in answer.standby_tasks] == [("2", (3,))]
    assert answer.warmup_tasks == () and answer.endpoint_information_epoch == 7
    (found,) = answer.partitions_by_user_endpoint
    assert (found.user_endpoint.host, found.user_endpoint.port) == ("h", 60_000)
    assert [(entry.topic, entry.partitions) for entry in found.active_partitions] == [("a", (2,)), ("b", (0, 1))]
    assert found.standby_partitions == ()


async def test_an_answer_without_news(client: Client) -> None:
    answer = await client.stay()
    assert answer.active_tasks is answer.standby_tasks is answer.warmup_tasks is None
    assert answer.partitions_by_user_endpoint is None and answer.status == ()


# --- topics of the application -----------------------------------------------------------------


class Creation:
    """Stands for CreateTopics."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Any] = []
        self.refused: dict[str, tuple[ErrorCode, str | None]] = {}
        self.failure: Exception | None = None
        monkeypatch.setattr(create_topics, "handle", self.handle)

    async def handle(self, ctx: Any, request: Any) -> Any:
        self.asked.append(request.topics)
        await settle()
        if self.failure is not None:
            raise self.failure
        results = []
        for wanted in request.topics:
            code, message = self.refused.get(wanted.name, (ErrorCode.none, None))
            results.append(
                CreatableTopicResult(
                    name=wanted.name, topic_id=None, error_code=code, error_message=message, configs=()
                )
            )
        return CreateTopicsResponse(throttle_time=NO_TIME, topics=tuple(results))


@pytest.fixture
def creation(monkeypatch: pytest.MonkeyPatch) -> Creation:
    return Creation(monkeypatch)


def lacking(*topics: TopicInfo) -> StreamsHeartbeatAnswer:
    other = Status(StatusCode.ASSIGNMENT_DELAYED, "later")
    return StreamsHeartbeatAnswer("m", 3, 5_000, (other, MISSING), to_create=topics)


async def statuses(client: Client) -> list[str]:
    answer = await client.stay()
    await settle()
    return [status.status_detail for status in answer.status]


async def test_missing_topics_are_made_once(client: Client, creation: Creation) -> None:
    client.groups.answer = lacking(STORE, TopicInfo("again", 2, 3))
    for _ in range(2):
        answer = await client.stay()
        assert [status.status_detail for status in answer.status] == ["later", MISSING.detail]
    await settle()
    ((store, again),) = creation.asked
    assert (store.name, store.num_partitions, store.replication_factor, store.assignments) == ("store", 4, -1, ())
    assert [(config.name, config.value) for config in store.configs] == [("cleanup.policy", "compact")]
    assert (again.name, again.num_partitions, again.replication_factor) == ("again", 2, 3)
    await settle()
    await statuses(client)
    assert len(creation.asked) == 2, "made, and missed again"


async def test_members_are_told_why_topics_could_not_be_made(client: Client, creation: Creation) -> None:
    creation.refused = {"store": (ErrorCode.invalid_config, "bad config"), "y": (ErrorCode.policy_violation, None)}
    client.groups.answer = lacking(STORE, TopicInfo("x", 1), TopicInfo("y", 1))
    assert await statuses(client) == ["later", MISSING.detail]
    await settle()
    told = f"{MISSING.detail}; Creation failed: store (bad config), y (POLICY_VIOLATION)."
    assert await statuses(client) == ["later", told]
    assert [[wanted.name for wanted in asked] for asked in creation.asked] == [["store", "x", "y"], ["x"]]
    await client.clock.advance(9.9)
    assert await statuses(client) == ["later", told]
    await client.clock.advance(0.2)
    assert await statuses(client) == ["later", MISSING.detail], "and they are asked for again"
    assert [wanted.name for wanted in creation.asked[-1]] == ["store", "x", "y"]


async def test_three_reasons_are_told_of_many(client: Client, creation: Creation) -> None:
    creation.failure = Unavailable("gone")
    client.groups.answer = lacking(*(TopicInfo(f"t{number}", 1) for number in range(5)))
    await statuses(client)
    await settle()
    reason = "The metadata database did not answer: gone"
    told = ", ".join(f"t{number} ({reason})" for number in range(3))
    assert (await statuses(client))[1] == f"{MISSING.detail}; Creation failed: {told} and 2 more."


async def test_refusals_and_creations_are_bounded(
    client: Client, creation: Creation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application_topics, "REFUSALS_MAX", 2)
    monkeypatch.setattr(application_topics, "UNDERWAY_MAX", 3)
    creation.failure = Unavailable("gone")
    client.groups.answer = lacking(*(TopicInfo(f"t{number}", 1) for number in range(3)))
    await statuses(client)
    await settle()
    assert "t0" not in (await statuses(client))[1] and len(client.services.application_topics._refused) == 2
    client.groups.answer = lacking(*(TopicInfo(f"u{number}", 1) for number in range(4)))
    await statuses(client)
    assert all(wanted.name[0] == "t" for asked in creation.asked for wanted in asked)


# --- describe ----------------------------------------------------------------------------------


async def test_describing(client: Client) -> None:
    said = Subscription(None, "r", "c", "/1.2.3.4", 45_000, 2, "p", Endpoint("h", 60_000), {"zone": "z"})
    subtopology = Subtopology(
        ("t", "s"), (), (TopicInfo("store", 4, 2, (("a", "b"),)),), ("y", "x"), (TopicInfo("r"), TopicInfo("q"))
    )
    client.groups.described["g"] = StreamsGroupDescription(
        "g", "Stable", 7, 6, Topology(2, {"1": Subtopology(), "0": subtopology}),
        (
            DescribedStreamsMember(
                "m", 6, said, TaskSets({"0": frozenset((1, 0))}), TaskSets({}, {"0": frozenset((2,))})
            ),
            DescribedStreamsMember("n", 6, Subscription(), TaskSets(), TaskSets()),
        ),
    )  # fmt: skip
    answer = await client.call(DESCRIBE, 0, group_ids=["g", "x"], include_authorized_operations=True)
    group, missing = answer.groups
    assert (group.error_code, group.group_id, group.group_state) == (ErrorCode.none, "g", "Stable")
    assert (group.group_epoch, group.assignment_epoch, group.authorized_operations) == (7, 6, 3400)
    assert group.topology.epoch == 2
    first, second = group.topology.subtopologies
    assert (first.subtopology_id, second.subtopology_id) == ("0", "1")
    assert (first.source_topics, first.repartition_sink_topics) == (("s", "t"), ("x", "y"))
    (store,) = first.state_changelog_topics
    assert (store.name, store.partitions, store.replication_factor) == ("store", 4, 2)
    assert [(config.key, config.value) for config in store.topic_configs] == [("a", "b")]
    assert [topic.name for topic in first.repartition_source_topics] == ["q", "r"]
    member, other = group.members
    assert (member.member_id, member.member_epoch, member.instance_id, member.rack_id) == ("m", 6, None, "r")
    assert (member.client_id, member.client_host, member.topology_epoch) == ("c", "/1.2.3.4", 2)
    assert (member.process_id, member.user_endpoint.host, member.user_endpoint.port) == ("p", "h", 60_000)
    assert [(tag.key, tag.value) for tag in member.client_tags] == [("zone", "z")]
    assert [(found.subtopology_id, found.partitions) for found in member.assignment.active_tasks] == [("0", (0, 1))]
    assert [(found.subtopology_id, found.partitions) for found in member.target_assignment.standby_tasks] == [
        ("0", (2,))
    ]
    assert other.user_endpoint is None and not member.is_classic
    assert (missing.error_code, missing.error_message) == (ErrorCode.group_id_not_found, "Group x not found.")
    assert missing.topology is None and missing.members == ()
