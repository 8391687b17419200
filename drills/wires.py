"""What a broker is reached by and reaches others by, each through a proxy of its own, so that one can be cut off alone.

Invariant: a cut wire passes nothing, either way, and says nothing of it: connections stay open, as when a switch dies.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from drills.fault_proxy import FaultProxy, Mode


class Wire(Enum):
    DATABASE = "database"
    STORE = "object store"
    LISTENER = "clients and other brokers"


class Wires:
    """Of one broker; its ports are what it is told instead of the servers' own."""

    def __init__(self, database_port: int, store_port: int, listener_port: int) -> None:
        self._proxies = {
            Wire.DATABASE: FaultProxy(database_port),
            Wire.STORE: FaultProxy(store_port),
            Wire.LISTENER: FaultProxy(listener_port),
        }

    def port(self, wire: Wire) -> int:
        return self._proxies[wire].port

    def cut(self, wires: Collection[Wire]) -> None:
        for wire in wires:
            self._proxies[wire].set(Mode.HANG)

    def mend(self) -> None:
        """Connections that were cut end now: both sides hear of it."""
        for proxy in self._proxies.values():
            proxy.set(Mode.PASS)

    def close(self) -> None:
        for proxy in self._proxies.values():
            proxy.close()
