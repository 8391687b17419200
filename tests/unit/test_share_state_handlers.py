"""The share coordinator's five APIs over real bytes, as brokers ask each other, and asking until somebody answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers import share_state, table
from brokers.handlers.context import RequestContext
from brokers.protocol.apis import API_BY_NAME, APIS
from brokers.protocol.messages import decode_latest_request, encode, encode_response, request_class
from brokers.shares.messages import DONE, Result, StateRead, StateSummary, StateWrite
from brokers.shares.persister import Persister
from brokers.shares.records import SharePartitionKey
from s3stream.errors import Unavailable
from tests.support.broker_services import make_services
from tests.support.group_client import make
from tests.support.kafka_wire import decode_response
from tests.support.manual_clock import settle
from tests.support.shares import AVAILABLE, KEY, TOPIC_ID, ShareRig, batch

OTHER = KEY._replace(partition=1)
STATE_APIS = [name for name in API_BY_NAME if name.endswith(("ShareGroupState", "ShareGroupStateSummary"))]


class Wire:
    """Stands for the connection to a broker with the rig's coordinator, node 2."""

    def __init__(self, rig: ShareRig) -> None:
        self.rig = rig
        self.fails = 0
        """So many requests are not answered."""
        self.asked = 0

    async def ask(self, node_id: int, api_key: int, version: int, request: Any) -> Any:
        self.asked += 1
        if self.fails:
            self.fails -= 1
            raise Unavailable(f"node {node_id} is not there")
        shares = SimpleNamespace(coordinator=self.rig.coordinator)
        services = make_services(shares=shares, partitions=self.rig.view, clock=self.rig.clock)
        body = memoryview(encode(request_class(api_key, version), request))
        api = table.handler(api_key)
        ctx = RequestContext(services, api_key, version, 1, "ponor", body, lambda _: None)
        decoded = decode_latest_request(api_key, version, body)
        try:
            response = await api.handle(ctx, decoded)
        except KafkaError as error:
            assert api.error_response is not None
            response = api.error_response(decoded, error.code, version)
        return decode_response(api_key, version, encode_response(api_key, version, response))


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    rig = ShareRig()
    await rig.start()
    yield Wire(rig)
    await rig.close()


def persister(wire: Wire, node_id: int = 7) -> Persister:
    """Of another broker than the coordinator's."""
    others = share_state.OtherBrokers(wire)  # type: ignore[arg-type]
    return Persister(node_id, wire.rig.coordinator, others, wire.rig.clock)


class TestBetweenBrokers:
    @pytest.mark.parametrize("node_id", [1, 7], ids=["here", "there"])
    async def test_a_share_partitions_life(self, wire: Wire, node_id: int) -> None:
        asking = persister(wire, node_id)
        assert await asking.initialize(KEY, 1, -1) == DONE
        assert await asking.read(KEY, 3) == StateRead(ErrorCode.none, None, 1, -1)
        said = (batch(6, 9), batch(10, 10, AVAILABLE, 2))
        assert await asking.write(KEY, StateWrite(1, 3, 5, 4, said)) == DONE
        assert await asking.read(KEY, 3) == StateRead(ErrorCode.none, None, 1, 5, said)
        assert await asking.summary(KEY) == StateSummary(ErrorCode.none, None, 1, 3, 5, 4)
        refused = await asking.write(KEY, StateWrite(1, 2, 5))
        assert refused.error is ErrorCode.fenced_leader_epoch and refused.message
        assert await asking.delete(KEY) == DONE
        assert (await asking.read(KEY, 3)).error is ErrorCode.invalid_request
        assert (await asking.write(OTHER._replace(partition=9), StateWrite(1, 2, 5))).error is ErrorCode.invalid_request
        gone = OTHER._replace(topic_id=UUID(int=99))
        assert (await asking.initialize(gone, 1, 0)).error is ErrorCode.unknown_topic_or_partition
        assert bool(wire.asked) is (node_id == 7)

    async def test_a_coordinator_that_loads_or_is_not_there_is_asked_again(self, wire: Wire) -> None:
        wire.fails = 2
        asking = wire.rig.run(persister(wire).initialize(KEY, 1, 0))
        for _ in range(3):
            await settle()
            await wire.rig.clock.advance(0.2)
        assert await asking == DONE and wire.asked == 3

    async def test_patience_ends(self, wire: Wire) -> None:
        wire.rig.coordinator.resign(0)
        asking = [wire.rig.run(persister(wire, node).initialize(KEY, 1, 0)) for node in (1, 7)]
        for _ in range(40):
            await settle()
            await wire.rig.clock.advance(1)
        for waiting in asking:
            assert (
                await waiting == Result(ErrorCode.not_coordinator, "not_coordinator")
                or (await waiting).error is ErrorCode.not_coordinator
            )

    async def test_an_answer_that_leaves_the_partition_out_is_none(self, wire: Wire) -> None:
        others = share_state.OtherBrokers(SimpleNamespace(ask=_nothing))  # type: ignore[arg-type]
        with pytest.raises(Unavailable):
            await others.delete(2, KEY)


async def _nothing(*_: Any) -> Any:
    return SimpleNamespace(results=())


class TestRequests:
    @pytest.mark.parametrize("name", STATE_APIS)
    async def test_several_partitions_one_of_which_is_refused_and_none_at_all(self, wire: Wire, name: str) -> None:
        api = API_BY_NAME[name]
        for key in (KEY, OTHER):
            await wire.rig.coordinator.initialize(key, 1, 0)
        for version in range(api.min, api.max + 1):
            cls = request_class(api.key, version)
            partitions = [{"partition": 1, "state_epoch": 1}, {"partition": 5}, {"partition": 0, "state_epoch": 1}]
            topics = [{"topic_id": TOPIC_ID, "partitions": partitions}]
            answer = await wire.ask(2, api.key, version, make(cls, {"group_id": "g", "topics": topics}))
            (topic,) = answer.results
            errors = {part.partition: part.error_code for part in topic.partitions}
            assert topic.topic_id == TOPIC_ID
            assert errors[5] in (ErrorCode.unknown_topic_or_partition, ErrorCode.invalid_request)
            assert {errors[0], errors[1]} <= {ErrorCode.none, ErrorCode.fenced_leader_epoch}
            for nothing in ({"group_id": "", "topics": topics}, {"group_id": "g", "topics": []},
                            {"group_id": "g", "topics": [{"topic_id": TOPIC_ID, "partitions": []}]}):  # fmt: skip
                assert (await wire.ask(2, api.key, version, make(cls, nothing))).results == ()

    @pytest.mark.parametrize("name", STATE_APIS)
    async def test_a_request_that_failed_as_a_whole(self, wire: Wire, name: str) -> None:
        api = API_BY_NAME[name]
        request = make(
            request_class(api.key, api.max),
            {"group_id": "g", "topics": [{"topic_id": TOPIC_ID, "partitions": [{"partition": 1}]}]},
        )
        refuse = table.handler(api.key).error_response
        assert refuse is not None
        body = encode_response(api.key, api.min, refuse(request, ErrorCode.unknown_server_error, api.min))
        (topic,) = decode_response(api.key, api.min, body).results
        assert [part.error_code for part in topic.partitions] == [ErrorCode.unknown_server_error]

    async def test_find_coordinator_names_it(self, wire: Wire) -> None:
        key = API_BY_NAME["FindCoordinator"].key
        for version in range(6, APIS[key].max + 1):
            cls = request_class(key, version)
            keys = [str(KEY), str(SharePartitionKey("a:b", TOPIC_ID, 0)), "g:x:0"]
            answer = await _find(wire, key, version, make(cls, {"key_type": 2, "coordinator_keys": keys}))
            assert [(c.error_code, c.node_id) for c in answer.coordinators] == [
                (ErrorCode.none, 1), (ErrorCode.none, 1), (ErrorCode.invalid_request, -1),
            ]  # fmt: skip


async def _find(wire: Wire, key: int, version: int, request: Any) -> Any:
    shares = SimpleNamespace(coordinator=wire.rig.coordinator)
    services = make_services(shares=shares, partitions=wire.rig.view)
    ctx = RequestContext(services, key, version, 1, "c", memoryview(b""), lambda _: None)
    response = await table.handler(key).handle(ctx, request)
    return decode_response(key, version, encode_response(key, version, response))
