"""Answers other brokers (CORRECTNESS 19): who this is, and batches of tails that are still in memory here. Hears what
they tell of partitions on their way.

Owns: the inter-broker listener and its connections. Does not own: the bytes (frames.py), the tails (storage).
Invariant: nothing is answered before the other side has named this cluster; an answer is bounded, whatever is asked
for; a request that is not understood ends its connection and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from brokers.partitions.words import Closed, Opened, TailBatches, Teller
from brokers.peers import frames
from s3stream.errors import BadSetting, Corrupt
from s3stream.limits import TAIL_FRAME_BYTES
from s3stream.tasks import Tasks
from s3stream.types import Buffer, NodeIdentity

log = structlog.get_logger(__name__)

CONNECTIONS_MAX: Final = 256
"""Beyond it new ones are closed: who is refused reads what it wants from objects, a little later."""


class Hearer(Protocol):
    """Who is told what other brokers say. Plain code."""

    def hear_closed(self, teller: Teller, told: Sequence[Closed]) -> None: ...

    def hear_opened(self, teller: Teller, told: Sequence[Opened]) -> None: ...


class PeerServer:
    def __init__(
        self,
        cluster_id: str,
        identity: Callable[[], NodeIdentity],
        batches: TailBatches,
        hearer: Callable[[], Hearer],
        tasks: Tasks,
    ) -> None:
        self._cluster_id = cluster_id
        self._identity = identity
        self._batches = batches
        self._hearer = hearer
        self._tasks = tasks
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, a free one for 0. Raises BadSetting."""
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=1 << 16)
        except OSError as error:
            raise BadSetting(
                f"the port for other brokers: cannot listen on {host}:{port}: {error.strerror or error}"
            ) from error
        return port or int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        serving = list(self._open.values())
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            writer.close()
            return
        task = self._tasks.spawn(self._serve(reader, writer), "serve a broker")
        self._open[writer] = task
        task.add_done_callback(lambda _: self._open.pop(writer, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asker: Teller | None = None
        try:
            while True:
                asked = frames.read_request(await read_frame(reader, frames.REQUEST_BYTES_MAX))
                if asked.api_key == frames.HELLO and asked.version == frames.VERSION:
                    asker = self._greeted(asked.body)
                error, body = self._answer(asked, asker)
                writer.writelines(frames.answer(asked.correlation_id, error, body))
                await writer.drain()
        except Corrupt as error:
            log.warning("a broker's connection is closed", error=str(error), peer=writer.get_extra_info("peername"))
        except (OSError, EOFError):
            pass  # It has gone.
        finally:
            writer.close()

    def _greeted(self, body: memoryview) -> Teller | None:
        """Who asks, if it is of this cluster."""
        cluster_id, *asker = frames.read_hello(body)
        if cluster_id == self._cluster_id:
            return Teller(*asker)
        log.error("a broker of another cluster", cluster_id=cluster_id, node_id=asker[0], node_epoch=asker[1])
        return None

    def _answer(self, asked: frames.Request, asker: Teller | None) -> tuple[int, list[Buffer]]:
        if asked.version != frames.VERSION or not frames.HELLO <= asked.api_key <= frames.TELL_OPENED:
            return frames.UNSUPPORTED_VERSION, []
        if asker is None:
            greeting = asked.api_key == frames.HELLO
            return frames.INCONSISTENT_CLUSTER_ID if greeting else frames.CLUSTER_AUTHORIZATION_FAILED, []
        if asked.api_key == frames.HELLO:
            return frames.NONE, [frames.identity(*self._identity()[:2])]
        if asked.api_key == frames.FETCH_TAILS:
            return frames.NONE, self._tails(*frames.read_fetch(asked.body))
        if asked.api_key == frames.TELL_CLOSED:
            self._hearer().hear_closed(asker, frames.read_closed(asked.body))
        else:
            self._hearer().hear_opened(asker, frames.read_opened(asked.body))
        return frames.NONE, []

    def _tails(self, wanted: Sequence[frames.Wanted], bytes_max: int) -> list[Buffer]:
        room = min(bytes_max, TAIL_FRAME_BYTES)
        parts: list[Buffer] = []
        for number, one in enumerate(wanted):
            if room <= 0 and number:
                break
            batches = self._batches(one.stream_id, one.start, one.end, max(0, room))
            size = sum(len(batch.payload) for batch in batches)
            if size > room and number:
                break  # One batch larger than what is left: it is the next answer's first.
            room -= size
            parts += frames.found(one.stream_id, batches)
        return parts


async def read_frame(reader: asyncio.StreamReader, bytes_max: int) -> bytes:
    """Raises EOFError or OSError when the other side is gone, Corrupt when the frame is none."""
    [size] = frames.SIZE.unpack(await reader.readexactly(frames.SIZE.size))
    if not 0 < size <= bytes_max:
        raise Corrupt(f"a broker sends a frame of {size} bytes, {bytes_max} may be")
    return await reader.readexactly(size)
