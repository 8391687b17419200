"""Asks other brokers over Kafka's own protocol, at the addresses they tell clients.

Owns: one connection for each broker and API, requests in flight on it. Does not own: what is asked, retries.
Invariant: nobody waits for longer than REQUEST_SECONDS_MAX; an answer that does not come fails its connection, and
with it everything that waits there: those requests may have been carried out.

A connection for each API, because a broker answers what comes on one in order: markers, which wait for disks, hold up
nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable
from typing import Any, Final

from brokers.peers.server import read_frame
from brokers.protocol.apis import APIS
from brokers.protocol.messages import decode_response, encode, request_class
from brokers.protocol.primitives import MalformedRequest
from s3stream.errors import Unavailable
from s3stream.limits import MIB
from s3stream.tasks import Tasks
from s3stream.types import NodeId

REQUEST_SECONDS_MAX: Final = 30.0
"""As request.timeout.ms: longer than any broker lets a request wait."""
IN_FLIGHT_MAX: Final = 16
"""Of one connection."""
ANSWER_BYTES_MAX: Final = 16 * MIB
CLIENT_ID: Final = b"ponor"

_HEAD = struct.Struct(">ihhih")
"""Frame length, API key, version, correlation id, length of the client id."""
_CORRELATION_ID = struct.Struct(">i")

Address = Callable[[NodeId], tuple[str, int] | None]
"""Where clients reach a living broker; None where there is none."""


class BrokerRequests:
    def __init__(self, address: Address, tasks: Tasks) -> None:
        self._address = address
        self._tasks = tasks
        self._links: dict[tuple[NodeId, int], _Link] = {}

    async def ask(self, node_id: NodeId, api_key: int, version: int, request: Any) -> Any:
        """The answer, as that version's class. Raises Unavailable: it may have been carried out or not."""
        address = self._address(node_id)
        if address is None:
            raise Unavailable(f"node {node_id} is not there")
        link = self._links.get((node_id, api_key))
        if link is None or link.address != address:
            if link is not None:
                link.close()
            link = self._links[node_id, api_key] = _Link(address, self._tasks)
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX), link.room:
                body = await link.ask(api_key, version, request)
            return decode_response(api_key, version, body)
        except (OSError, EOFError, MalformedRequest, Unavailable, TimeoutError) as error:
            link.close()
            raise Unavailable(f"node {node_id} at {address} has not answered API {api_key}: {error!r}") from error

    def close(self) -> None:
        for link in self._links.values():
            link.close()


class _Link:
    def __init__(self, address: tuple[str, int], tasks: Tasks) -> None:
        self.address = address
        self.room = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._tasks = tasks
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._numbers = itertools.count(1)

    async def ask(self, api_key: int, version: int, request: Any) -> memoryview:
        """The answer's body. Raises OSError, EOFError, Unavailable."""
        async with self._connecting:
            if self._writer is None:
                reader, self._writer = await asyncio.open_connection(*self.address)
                self._tasks.spawn(self._read(reader, self._writer), "answers of another broker")
        number = next(self._numbers) & 0x7FFFFFFF
        api = APIS[api_key]
        tags = b"\x00" if version >= api.flexible else b""
        body = CLIENT_ID + tags + encode(request_class(api_key, version), request)
        head = _HEAD.pack(_HEAD.size - 4 + len(body), api_key, version, number, len(CLIENT_ID))
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(head + body)
            frame = await answer
        finally:
            self._waiting.pop(number, None)
        header = _CORRELATION_ID.size + api.response_header_version(version)
        return memoryview(frame)[header:]

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        failure: Exception = Unavailable("the connection was closed")
        try:
            while True:
                frame = await read_frame(reader, ANSWER_BYTES_MAX)
                waiting = self._waiting.get(_CORRELATION_ID.unpack_from(frame)[0])
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame)
        except Exception as error:  # whatever it was, nothing more comes of this connection
            failure = error
        finally:
            writer.close()
            if self._writer is writer:
                self._fail(failure)

    def _fail(self, error: Exception) -> None:
        self._writer = None
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(Unavailable(f"the connection failed: {error!r}"))

    def close(self) -> None:
        writer = self._writer
        if writer is not None:
            writer.close()
            self._fail(Unavailable("closed"))
