"""A TCP proxy in front of a PostgreSQL server that can lose an answer: what was asked is done, nobody hears of it."""

from __future__ import annotations

import contextlib
import socket
import threading

_CHUNK = 1 << 16


class AnswerThief:
    """Listens on a free loopback port. `steal(word)`: the next request that contains `word` reaches the server; its
    answer does not come back, the connection ends instead."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.stolen = 0
        self._word: bytes | None = None
        threading.Thread(target=self._accept, name="answer thief", daemon=True).start()

    def steal(self, word: bytes) -> None:
        self._word = word

    def __enter__(self) -> AnswerThief:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="answer thief", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        robbed = threading.Event()
        with client, socket.create_connection(self._target) as server, contextlib.suppress(OSError):
            back = threading.Thread(target=self._answer, args=(server, client, robbed), daemon=True)
            back.start()
            while request := client.recv(_CHUNK):
                if self._word is not None and self._word in request:
                    self._word = None
                    robbed.set()
                server.sendall(request)
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket, robbed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(_CHUNK):
                if robbed.is_set():
                    self.stolen += 1
                    break
                client.sendall(answer)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
