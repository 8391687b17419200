"""A client of the group APIs over real request bytes, without a server between."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.protocol.apis import API_BY_NAME
from brokers.protocol.messages import (
    decode_latest_request,
    decode_request,
    default_of,
    encode,
    encode_response,
    milliseconds,
    request_class,
)
from tests.support.broker_services import make_services
from tests.support.coordinator import CoordinatorRig
from tests.support.group_driver import subscription
from tests.support.kafka_wire import decode_response
from tests.support.manual_clock import settle


class GroupClient:
    """Sends requests by API name and version, with the fields that version has."""

    def __init__(self, rig: CoordinatorRig) -> None:
        self.rig = rig
        self.services = make_services(groups=rig.coordinator, partitions=rig.view, clock=rig.clock)

    async def call(self, api_name: str, version: int, **values: Any) -> Any:
        key = API_BY_NAME[api_name].key
        body = encode(request_class(key, version), make(request_class(key, version), values))
        api = table.handler(key)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        ctx = RequestContext(
            self.services, key, version, 1, "client", memoryview(body), answer.set_result, client_host="127.0.0.1"
        )
        if api.kind == table.HOT:
            api.handle(ctx)
            return decode_response(key, version, b"".join(await answer))
        request = (decode_request if api.raw else decode_latest_request)(key, version, ctx.body)
        try:
            response = await api.handle(ctx, request)
        except KafkaError as error:
            assert api.error_response is not None
            response = api.error_response(request, error.code, version)
        return decode_response(key, version, encode_response(key, version, response))


def make(cls: Any, values: dict[str, Any]) -> Any:
    """An entity from plain values; nested ones are dicts. Fields the version lacks are left out."""
    made: dict[str, Any] = {}
    for field in fields(cls):
        value = values[field.name] if field.name in values else default_of(field)
        if isinstance(value, list):
            inner = inner_class(cls, field.name)
            value = tuple(make(inner, item) if isinstance(item, dict) else item for item in value)
        made[field.name] = value
    return cls(**made)


def inner_class(cls: Any, name: str) -> Any:
    for argument in get_args(get_type_hints(cls)[name]):
        if hasattr(argument, "__version__"):
            return argument
        for inner in get_args(argument):
            if hasattr(inner, "__version__"):
                return inner
    return None


def versions(api_name: str, start: int = 0) -> Any:
    api = API_BY_NAME[api_name]
    return pytest.mark.parametrize("version", range(max(api.min, start), api.max + 1))


def join_values(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "group_id": "g",
        "session_timeout": milliseconds(10_000),
        "rebalance_timeout": milliseconds(60_000),
        "member_id": "",
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": subscription("t")}],
    }
    return values | changes


async def join(client: GroupClient, version: int = 9, **changes: Any) -> Any:
    """Through MEMBER_ID_REQUIRED, until the generation is there."""
    first = client.rig.run(client.call("JoinGroup", version, **join_values(**changes)))
    await settle()
    await client.rig.clock.advance(0.001)
    answer = await first
    if answer.error_code is not ErrorCode.member_id_required:
        return answer
    return await join(client, version, **changes | {"member_id": answer.member_id})


@pytest.fixture
def client(rig: CoordinatorRig) -> GroupClient:
    return GroupClient(rig)
