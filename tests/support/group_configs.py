"""Configs of groups, which clients of other languages than Java do not know."""

from __future__ import annotations

import asyncio

from brokers.protocol.messages import encode, request_class
from tests.support.group_client import make
from tests.support.kafka_wire import WireClient

GROUP, SET = 32, 0


def configure(port: int, group: str, **configs: str) -> None:
    """Names with `_` for `.`."""
    key, version = 44, 1
    entries = [
        {"name": name.replace("_", "."), "config_operation": SET, "value": value} for name, value in configs.items()
    ]
    resources = [{"resource_type": GROUP, "resource_name": group, "configs": entries}]
    request = make(request_class(key, version), {"resources": resources})

    async def ask() -> None:
        client = await WireClient.connect(port)
        answer = await client.call(key, version, encode(request_class(key, version), request))
        assert answer.responses[0].error_code == 0, answer
        client.writer.close()

    asyncio.run(ask())
