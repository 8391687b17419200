"""Requests of transactions that come once more, late: what a connection held up, and its sender has given up long ago.

They arrive on a connection of their own, at the broker they were sent to, and nobody hears the answer. Only those that
transaction.version 2 protects: an older client's delayed EndTxn, or its marker, may end its next transaction (that is
why KIP-890 came).
"""

from __future__ import annotations

import asyncio
import struct
from random import Random
from typing import Any, Final

from kio.serial import entity_reader

from brokers.protocol.messages import request_class

PRODUCE, ADD_PARTITIONS, END, WRITE_MARKERS, COMMIT_OFFSETS = 0, 24, 26, 27, 28
FIRST: Final = {PRODUCE: 12, ADD_PARTITIONS: 4, END: 5, WRITE_MARKERS: 2, COMMIT_OFFSETS: 5}
"""The versions from which on a late request is told from a new one."""
CHANCE: Final = 0.25
DELAYS_S: Final = (0.02, 0.3, 1, 5)


class Echoes:
    def __init__(self, network: Any, random: Random) -> None:
        self._network = network
        self._random = random
        self.sent = 0

    def hear(self, data: bytes, address: tuple[str, int]) -> None:
        """Something was written to a connection to `address`."""
        if not is_protected(data) or self._random.random() >= CHANCE:
            return
        delay = self._random.choice(DELAYS_S) * self._random.uniform(0.5, 1)
        loop = self._network.loop
        loop.call_later(delay, self._again, data, address, context=self._network.world)

    def _again(self, data: bytes, address: tuple[str, int]) -> None:
        loop = self._network.loop
        loop.create_task(self._send(data, address), name="echo", context=self._network.world)

    async def _send(self, data: bytes, address: tuple[str, int]) -> None:
        try:
            transport, _ = await self._network.connect(None, asyncio.Protocol, *address)
        except OSError:
            return
        self.sent += 1
        transport.write(data)


def is_protected(data: bytes) -> bool:
    if len(data) < 12:
        return False
    key, version = struct.unpack_from(">hh", data, 4)
    if version < FIRST.get(key, version + 1):
        return False
    return key != WRITE_MARKERS or _all_new(data, version)


def _all_new(data: bytes, version: int) -> bool:
    (client,) = struct.unpack_from(">h", data, 12)
    request, _ = entity_reader(request_class(WRITE_MARKERS, version))(data, 14 + max(client, 0) + 1)
    return all(marker.transaction_version >= 2 for marker in request.markers)
