"""Asks other brokers (CORRECTNESS 19) for the tails of streams that they have closed, and tells them of partitions on
their way (`words.Others`).

Owns: one connection to each broker that was asked, and its requests, one at a time. Does not own: what becomes of the
batches (s3stream/tails.py), who is asked (the tail's row says).
Invariant: nothing here is waited for longer than its bound: whoever asks has another way, and producers wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import structlog

from brokers.partitions.words import Closed, Opened
from brokers.peers import frames
from brokers.peers.server import read_frame
from s3stream.errors import Corrupt, Unavailable
from s3stream.types import NodeId, NodeIdentity, StreamBatch, StreamId, TailRow

log = structlog.get_logger(__name__)

T = TypeVar("T")

GREET_SECONDS_MAX: Final = 0.2
"""To connect and hear who answers, before a stream is closed to be handed over. Then it is flushed first, as ever."""
FETCH_SECONDS_MAX: Final = 2.0
"""For all tails of one source: nobody serves the streams meanwhile, and their source commits them all the same."""

Address = Callable[[NodeId], tuple[str, int] | None]
"""Where other brokers reach a node; None where it has no such listener, or is not there."""


class Peers:
    def __init__(self, cluster_id: str, identity: Callable[[], NodeIdentity], address: Address) -> None:
        self._cluster_id = cluster_id
        self._identity = identity
        self._address = address
        self._links: dict[NodeId, _Link] = {}

    async def reachable(self, node_id: NodeId) -> bool:
        """Whether that broker answers at once."""
        try:
            async with asyncio.timeout(GREET_SECONDS_MAX):
                link = self._link(node_id)
                async with link.turn:
                    return (await link.greet(self._hello())) is not None
        except (Unavailable, TimeoutError):
            return False

    async def fetch(self, tails: Sequence[TailRow], bytes_max: int) -> Mapping[StreamId, list[StreamBatch]]:
        """As `FetchTails`."""
        source = tails[0].node_id
        link = self._link(source)
        try:
            async with asyncio.timeout(FETCH_SECONDS_MAX), link.turn:
                epoch = await link.greet(self._hello())
                if epoch != tails[0].node_epoch:
                    raise Unavailable(f"node {source} has epoch {epoch} by now, its tails are of {tails[0].node_epoch}")
                return await _fetch_all(link, tails, bytes_max)
        except TimeoutError as error:
            await link.close()
            raise Unavailable(f"node {source} has not given its tails in {FETCH_SECONDS_MAX} s") from error

    async def tell_closed(self, node_id: NodeId, told: Sequence[Closed]) -> None:
        await self._tell(node_id, frames.TELL_CLOSED, [frames.closed(some) for some in _words(told)])

    async def tell_opened(self, node_id: NodeId, told: Sequence[Opened]) -> None:
        await self._tell(node_id, frames.TELL_OPENED, [frames.opened(some) for some in _words(told)])

    async def _tell(self, node_id: NodeId, api_key: int, bodies: Sequence[bytes]) -> None:
        """What is not heard at once is not worth saying: the image comes to say it."""
        try:
            async with asyncio.timeout(GREET_SECONDS_MAX):
                link = self._link(node_id)
                async with link.turn:
                    if not link.is_connected:
                        await link.greet(self._hello())
                    for body in bodies:
                        await link.ask(api_key, body)
        except (Unavailable, TimeoutError) as error:
            log.info("a broker does not hear where partitions are", node=node_id, error=repr(error))

    async def close(self) -> None:
        for link in list(self._links.values()):
            await link.close()

    def _hello(self) -> bytes:
        return frames.hello(self._cluster_id, *self._identity()[:2])

    def _link(self, node_id: NodeId) -> _Link:
        address = self._address(node_id)
        if address is None:
            raise Unavailable(f"node {node_id} has no listener for brokers")
        link = self._links.get(node_id)
        if link is None or link.address != address:
            link = self._links[node_id] = _Link(node_id, address)
        return link


class _Link:
    """One connection. Used under `turn`; a request that fails or is given up closes it."""

    def __init__(self, node_id: NodeId, address: tuple[str, int]) -> None:
        self.node_id = node_id
        self.address = address
        self.turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._correlation_id = 0

    @property
    def is_connected(self) -> bool:
        """As far as is known here, and to who was meant: it has answered a greeting."""
        return self._streams is not None

    async def greet(self, hello: bytes) -> int | None:
        """The node epoch of who answers. Raises Unavailable."""
        try:
            return await self._greet(hello)
        except Unavailable:
            # It may have been idle for so long that it broke unheard: once more on a new one.
            return await self._greet(hello)

    async def _greet(self, hello: bytes) -> int:
        node_id, node_epoch = frames.read_identity(await self.ask(frames.HELLO, hello))
        if node_id != self.node_id:
            await self.close()
            raise Unavailable(f"node {node_id} answers at the address of node {self.node_id}")
        return node_epoch

    async def ask(self, api_key: int, body: bytes) -> memoryview:
        """Raises Unavailable."""
        self._correlation_id += 1
        done = False
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self.address)
            reader, writer = self._streams
            writer.write(frames.request(api_key, self._correlation_id, body))
            correlation_id, error, answer = frames.read_answer(await read_frame(reader, frames.ANSWER_BYTES_MAX))
            if correlation_id != self._correlation_id or error != frames.NONE:
                raise Unavailable(f"node {self.node_id} answers {correlation_id} with error {error}")
            done = True
            return answer
        except (OSError, EOFError, Corrupt) as error:
            raise Unavailable(f"node {self.node_id} at {self.address} cannot be asked: {error!r}") from error
        finally:
            if not done:
                await self.close()

    async def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()


def _words(told: Sequence[T]) -> Iterator[Sequence[T]]:
    step = frames.PARTITIONS_PER_WORD_MAX
    return (told[start : start + step] for start in range(0, len(told), step))


async def _fetch_all(link: _Link, tails: Sequence[TailRow], bytes_max: int) -> dict[StreamId, list[StreamBatch]]:
    """Answer by answer. What is not there any more is left out, as is what would be too much."""
    found: dict[StreamId, list[StreamBatch]] = {}
    left = [frames.Wanted(tail.stream_id, tail.start, tail.end) for tail in tails]
    while left and bytes_max > 0:
        asked = left[: frames.TAILS_PER_REQUEST_MAX]
        try:
            answer = frames.read_found(await link.ask(frames.FETCH_TAILS, frames.fetch(asked, bytes_max)))
        except Corrupt as error:
            raise Unavailable(f"node {link.node_id} gives what cannot be read: {error}") from error
        rest: list[frames.Wanted] = []
        for want, (stream_id, batches) in zip(asked, answer, strict=False):
            if stream_id != want.stream_id or not answer:
                raise Unavailable(f"node {link.node_id} answers for stream {stream_id}, not for {want.stream_id}")
            if not batches:
                found.pop(stream_id, None)
                continue
            found.setdefault(stream_id, []).extend(batches)
            bytes_max -= sum(len(batch.payload) for batch in batches)
            end = batches[-1].end_offset
            if end < want.end:
                rest.append(frames.Wanted(stream_id, end, want.end))
        if not answer:
            raise Unavailable(f"node {link.node_id} gives nothing of {len(asked)} tails")
        left = rest + left[len(answer) :]
    return found
