"""TCP between simulated processes: bytes in order, after a while, until a process dies or a cable is cut.

A killed process's connections are reset and its ports refuse; a stopped one's kernel still accepts and takes bytes.
Hosts can be cut off from each other: then bytes vanish, connections hang, and nothing is reset.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.support.sim.processes import Process, ProcessLoop

LATENCY_S = (0.0002, 0.002)
HANG_S = 60.0
"""A connection attempt into nothing ends by itself after so long."""


class _Socket:
    """What `keep_alive` and aiohttp ask of a socket."""

    def setsockopt(self, *args: Any) -> None: ...

    def getsockname(self) -> tuple[str, int]:
        return ("0.0.0.0", 0)


class Transport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: SimNetwork, process: Process | None, protocol: Any, addresses: tuple[Any, Any]) -> None:
        super().__init__({"socket": _Socket(), "sockname": addresses[0], "peername": addresses[1]})
        self.network = network
        self.process = process
        self.protocol = protocol
        self.peer: Transport | None = None
        self.closed = False
        self._reading = True
        self._wire: deque[bytes | None] = deque()
        """On its way here."""
        self._inbox: deque[bytes | None] = deque()
        """Here, in the kernel."""
        self._arrives_at = 0.0
        self.overhear: Callable[[bytes, Any], None] | None = None
        """What is told of what is sent, and where to."""

    # --- the process's side -------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if not self.closed:
            self._send(bytes(data))

    def writelines(self, list_of_data: Sequence[Any]) -> None:  # type: ignore[override]
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._send(None)
            self.network.loop.call_soon(self._lost, None, context=self._context())

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self.network.loop.call_soon(self._deliver, context=self._context())

    def is_reading(self) -> bool:
        return self._reading

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None: ...

    def can_write_eof(self) -> bool:
        return False

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    # --- the wire -----------------------------------------------------------------------------

    def _context(self) -> Any:
        return self.network.world if self.process is None else self.process.context

    def _send(self, data: bytes | None) -> None:
        peer = self.peer
        if peer is None or self.network.is_cut(self.process, peer.process):
            return
        if data is not None and self.overhear is not None and self.process is not None:
            self.overhear(data, self.get_extra_info("peername"))
        loop = self.network.loop
        # In order: never before what was sent earlier, and timers of one time have no order.
        self._arrives_at = max(self._arrives_at, loop.time() + self.network.latency())
        peer._wire.append(data)
        loop.call_at(self._arrives_at, peer._arrived, context=peer._context())

    def _arrived(self) -> None:
        self._inbox.append(self._wire.popleft())
        if not self.closed:
            self._deliver()

    def _deliver(self) -> None:
        while self.protocol is not None and self._reading and not self.closed and self._inbox:
            data = self._inbox.popleft()
            if data is None:
                self._ended()
            elif isinstance(self.protocol, asyncio.BufferedProtocol):
                self._fill(data)
            else:
                self.protocol.data_received(data)

    def _fill(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.closed:
            if not self._reading:
                self._inbox.appendleft(bytes(view))
                return
            buffer = memoryview(self.protocol.get_buffer(len(view)))
            size = min(len(buffer), len(view))
            buffer[:size] = view[:size]
            self.protocol.buffer_updated(size)
            view = view[size:]

    def _ended(self) -> None:
        if not self.protocol.eof_received():
            self.close()

    def reset(self) -> None:
        """The other side is gone."""
        if self.protocol is None:
            self._inbox.append(None)
        elif not self.closed:
            self.closed = True
            self._lost(ConnectionResetError("connection reset by peer"))

    def _lost(self, error: Exception | None) -> None:
        self.network.forget(self)
        self.protocol.connection_lost(error)


class _Listener:
    """An asyncio.Server, as much of it as is asked for."""

    def __init__(self, network: SimNetwork, process: Process | None, factory: Callable[[], Any], at: Any) -> None:
        self._network = network
        self.process = process
        self.factory = factory
        self.at = at
        self.sockets = [_Socket()]

    def close(self) -> None:
        if self._network.listeners.get(self.at) is self:
            del self._network.listeners[self.at]

    async def wait_closed(self) -> None: ...


class SimNetwork:
    def __init__(self, loop: ProcessLoop, random: Random) -> None:
        self.loop = loop
        self.world = contextvars.copy_context()
        self.listeners: dict[tuple[str, int], _Listener] = {}
        self.cut: set[frozenset[str]] = set()
        """Pairs of names of processes that do not reach each other."""
        self.overhear: Callable[[bytes, Any], None] | None = None
        self._random = random
        self._transports: dict[Transport, None] = {}
        loop.network = self

    def latency(self) -> float:
        return self._random.uniform(*LATENCY_S)

    def is_cut(self, one: Process | None, other: Process | None) -> bool:
        return bool(self.cut) and frozenset((str(one), str(other))) in self.cut

    def listen(self, process: Process | None, factory: Callable[[], Any], host: str, port: int) -> _Listener:
        at = (host, port)
        if at in self.listeners:
            raise OSError(98, "address already in use")
        self.listeners[at] = listener = _Listener(self, process, factory, at)
        return listener

    async def connect(self, process: Process | None, factory: Callable[[], Any], host: str, port: int) -> Any:
        await asyncio.sleep(self.latency())
        listener = self.listeners.get((host, port))
        target = None if listener is None else listener.process
        if listener is not None and self.is_cut(process, target):
            await asyncio.sleep(HANG_S)
            raise TimeoutError("no answer to the connection attempt")
        await asyncio.sleep(self.latency())
        if listener is None or self.listeners.get((host, port)) is not listener:
            raise ConnectionRefusedError(111, f"nobody listens on {host}:{port}")
        protocol, there = factory(), (host, port)
        here = (str(process), 0)
        client = Transport(self, process, protocol, (here, there))
        server = Transport(self, target, None, (there, here))
        client.peer, server.peer = server, client
        client.overhear = self.overhear
        self._transports[client] = self._transports[server] = None
        self.loop.call_soon(self._accept, listener, server, context=server._context())
        protocol.connection_made(client)
        return client, protocol

    @staticmethod
    def _accept(listener: _Listener, server: Transport) -> None:
        # The kernel has accepted already: a process that was stopped meanwhile finds the connection when it wakes.
        server.protocol = listener.factory()
        server.protocol.connection_made(server)
        server._deliver()

    def died(self, process: Process) -> None:
        """Its kernel resets its connections and closes its ports."""
        for listener in [one for one in self.listeners.values() if one.process is process]:
            listener.close()
        for transport in [one for one in self._transports if one.process is process]:
            self.forget(transport)
            transport.closed = True
            peer = transport.peer
            if peer is not None and not self.is_cut(process, peer.process):
                self.loop.call_later(self.latency(), peer.reset, context=peer._context())

    def forget(self, transport: Transport) -> None:
        self._transports.pop(transport, None)
