"""Tells the other processes that share a SQLite file of a new cluster image: a datagram to each one's socket.

Owns: the folder of sockets beside the file, one's own socket in it, those of processes that are gone.
Does not own: the version, which whoever is woken reads from the database: a datagram says nothing but "look".
Invariant: nothing depends on it. A process that dies between its commit and the datagram, or whose socket cannot be
made, tells nobody, so the poll stays as it is (decision 0120).
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from s3stream.metrics import Metrics

log = structlog.get_logger(__name__)

_PATH_BYTES_MAX: Final = 90
"""A socket's address holds 108 bytes on Linux, 104 elsewhere; names in the folder are shorter than 14."""
_DRAIN_BYTES: Final = 16
_LOOK: Final = b"look"


class Neighbours:
    """Blocking calls that take microseconds; from any thread."""

    def __init__(self, database: Path) -> None:
        self.folder = database.with_name(f"{database.name}-wake")

    def wake(self) -> None:
        """Every process that listens looks at the database. Raises nothing: the poll remains."""
        with suppress(OSError):  # nobody ever listened here, or there is no descriptor left
            names = os.listdir(self.folder)
            with self._reachable() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                for name in names:
                    self._wake(sender, folder, name)

    def _wake(self, sender: socket.socket, folder: str, name: str) -> None:
        try:
            sender.sendto(_LOOK, f"{folder}/{name}")
        except ConnectionRefusedError:  # its process is gone
            with suppress(OSError):
                os.unlink(self.folder / name)
        except OSError:
            pass  # a socket that went meanwhile; or a full queue, whose owner is about to look anyway

    def bind(self, name: str) -> socket.socket:
        """Raises OSError where sockets cannot be made."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            receiver.setblocking(False)
            with self._reachable() as folder:
                receiver.bind(f"{folder}/{name}")
        except BaseException:
            receiver.close()
            raise
        return receiver

    @contextmanager
    def _reachable(self) -> Iterator[str]:
        """The folder's path, short enough for an address."""
        if len(os.fsencode(self.folder)) <= _PATH_BYTES_MAX:
            yield str(self.folder)
            return
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)


class NeighbourListener:
    """`run` until cancelled: `look()` for each wake-up."""

    listening: Final = False
    """Never sure: see the module's invariant."""

    def __init__(
        self, neighbours: Neighbours, look: Callable[[], None], metrics: Metrics, chance: random.Random
    ) -> None:
        self._neighbours = neighbours
        self._look = look
        self._random = chance
        self._wakes = metrics.counter(
            "ponor_metadata_wakes_total", "Times that another process on this host told of a new cluster image."
        )

    async def run(self) -> None:
        name = f"{self._random.getrandbits(48):012x}"
        try:
            receiver = self._neighbours.bind(name)
        except OSError as error:
            log.warning(
                "changes by other processes are polled for", folder=str(self._neighbours.folder), error=str(error)
            )
            return
        loop = asyncio.get_running_loop()
        try:
            while True:
                await loop.sock_recv(receiver, _DRAIN_BYTES)
                with suppress(BlockingIOError):
                    while True:
                        receiver.recv(_DRAIN_BYTES)
                self._wakes.inc()
                self._look()
        finally:
            receiver.close()
            with suppress(OSError):
                os.unlink(self._neighbours.folder / name)
