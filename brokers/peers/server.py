"""Answers other brokers (CORRECTNESS 19): who this is, and batches of tails that are still in memory here.

Owns: the inter-broker listener and its connections. Does not own: the bytes (frames.py), the tails (storage).
Invariant: nothing is answered before the other side has named this cluster; an answer is bounded, whatever is asked
for; a request that is not understood ends its connection and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from brokers.peers import frames
from s3stream.errors import BadSetting, Corrupt
from s3stream.limits import TAIL_FRAME_BYTES
from s3stream.tasks import Tasks
from s3stream.types import Buffer, NodeIdentity, StreamBatch

log = structlog.get_logger(__name__)

CONNECTIONS_MAX: Final = 256
"""Beyond it new ones are closed: who is refused reads what it wants from objects, a little later."""

TailBatches = Callable[[int, int, int, int], Sequence[StreamBatch]]
"""(stream id, start, end, bytes_max): as `Storage.tail_batches`."""


class PeerServer:
    def __init__(
        self, cluster_id: str, identity: Callable[[], NodeIdentity], batches: TailBatches, tasks: Tasks
    ) -> None:
        self._cluster_id = cluster_id
        self._identity = identity
        self._batches = batches
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
        known = False
        try:
            while True:
                asked = frames.read_request(await read_frame(reader, frames.REQUEST_BYTES_MAX))
                error, body = self._answer(asked, known)
                known = known or (asked.api_key == frames.HELLO and error == frames.NONE)
                writer.writelines(frames.answer(asked.correlation_id, error, body))
                await writer.drain()
        except Corrupt as error:
            log.warning("a broker's connection is closed", error=str(error), peer=writer.get_extra_info("peername"))
        except (OSError, EOFError):
            pass  # It has gone.
        finally:
            writer.close()

    def _answer(self, asked: frames.Request, known: bool) -> tuple[int, list[Buffer]]:
        if asked.version != frames.VERSION or asked.api_key not in (frames.HELLO, frames.FETCH_TAILS):
            return frames.UNSUPPORTED_VERSION, []
        if asked.api_key == frames.HELLO:
            cluster_id, node_id, node_epoch = frames.read_hello(asked.body)
            if cluster_id != self._cluster_id:
                log.error("a broker of another cluster", cluster_id=cluster_id, node_id=node_id, node_epoch=node_epoch)
                return frames.INCONSISTENT_CLUSTER_ID, []
            return frames.NONE, [frames.identity(*self._identity()[:2])]
        if not known:
            return frames.CLUSTER_AUTHORIZATION_FAILED, []
        return frames.NONE, self._tails(*frames.read_fetch(asked.body))

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
