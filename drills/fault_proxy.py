"""A TCP proxy in front of an object store that answers 503, hangs, is slow, or passes everything on.

Bytes are passed as they are: the Host header, which S3 signatures cover, is the proxy's own address on both sides.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import threading
import time

from drills.loopback import CHUNK, Loopback, end

_BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_BODY)
) + _BODY


class Mode(enum.Enum):
    PASS = "pass"
    REFUSE = "refuse"
    """Every request is read whole and answered 503 SlowDown."""
    HANG = "hang"
    """Connections are accepted, requests taken in, nothing is answered."""
    SLOW = "slow"
    """Everything is passed on, each answer later by `latency_seconds`."""


class FaultProxy(Loopback):
    """Listens on a free loopback port. `mode` changes are felt by every connection, also those that are open."""

    def __init__(self, target_port: int, latency_seconds: float = 0.0) -> None:
        self.latency_seconds = latency_seconds
        self.refused = 0
        """Requests answered 503."""
        self.hung = 0
        """Connections taken in and left without an answer."""
        self._mode = Mode.PASS
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__("fault proxy", target_port)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, mode: Mode) -> None:
        """Connections of the old mode end, except that hanging means that nobody hears anything, not even an end."""
        with self._lock:
            self._mode = mode
            ended = [] if mode is Mode.HANG else list(self._open)
        for each in ended:
            end(each)

    def close(self) -> None:
        super().close()
        self.set(Mode.PASS)

    # --- one connection ------------------------------------------------------------------------

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            mode = self._mode
            self._open.add(client)
        try:
            if mode is Mode.REFUSE:
                self._refuse(client)
            elif mode is Mode.HANG:
                self.hung += 1
                while client.recv(CHUNK):
                    pass
            else:
                self._both_ways(client)
        finally:
            with self._lock:
                self._open.discard(client)

    def _refuse(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = client.recv(CHUNK)
            if not received:
                return
            head += received
        head, _, body = head.partition(b"\r\n\r\n")
        left = _content_length(head) - len(body)
        while left > 0 and (received := client.recv(min(left, CHUNK))):
            left -= len(received)
        self.refused += 1
        client.sendall(_REFUSAL)

    def _copy(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        """Until one side ends; while the proxy hangs, what was read stays here."""
        with contextlib.suppress(OSError):
            while received := source.recv(CHUNK):
                if self._mode is Mode.HANG:
                    continue
                if self._mode is Mode.SLOW and answers:
                    time.sleep(self.latency_seconds)
                sink.sendall(received)
        if self._mode is not Mode.HANG:
            end(source)
            end(sink)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0
