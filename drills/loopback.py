"""A listener on a free loopback port with a thread for each connection: what proxies of tests and drills stand on."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Final, Self

CHUNK: Final = 1 << 16


class Loopback:
    """In front of another loopback port. Nobody knows the port before the constructors are through."""

    def __init__(self, name: str, target_port: int) -> None:
        self._name = name
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name=name, daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One connection, in its own thread. OSError ends it."""
        raise NotImplementedError

    def close(self) -> None:
        end(self._listener)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._take, args=(client,), name=self._name, daemon=True).start()

    def _take(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._serve(client)

    def _both_ways(self, client: socket.socket) -> None:
        """Pass on what comes, until one side ends."""
        with socket.create_connection(self._target) as server:
            back = threading.Thread(target=self._copy, args=(server, client, True), name=self._name, daemon=True)
            back.start()
            self._copy(client, server, False)
            back.join()

    def _copy(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        """One way, until it ends. `answers`: those of the target."""
        raise NotImplementedError


def end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
