"""A TCP proxy in front of a PostgreSQL server that can lose an answer: what was asked is done, nobody hears of it."""

from __future__ import annotations

import contextlib
import socket

from drills.loopback import CHUNK, Loopback, end


class AnswerThief(Loopback):
    """`steal(word)`: the next request that contains `word` reaches the server; its answer does not come back, the
    connection ends instead."""

    def __init__(self, target_port: int) -> None:
        self.stolen = 0
        self._word: bytes | None = None
        self._robbed: set[socket.socket] = set()
        """Clients whose next answer is stolen."""
        super().__init__("answer thief", target_port)

    def steal(self, word: bytes) -> None:
        self._word = word

    def _serve(self, client: socket.socket) -> None:
        try:
            self._both_ways(client)
        finally:
            self._robbed.discard(client)

    def _copy(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                if answers and sink in self._robbed:
                    self.stolen += 1
                    break
                if not answers and self._word is not None and self._word in data:
                    self._word = None
                    self._robbed.add(source)
                sink.sendall(data)
        end(source)
        end(sink)
